// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The table of messages in the README is the catalog.

use std::fmt::Write;

use vhost_guest_msg::{FdRule, Gate, ReplyRule, Row, Verdict, BACKEND_ROWS, FRONTEND_ROWS};

/// The rows of one channel as Markdown.
fn render(rows: &[Row]) -> String {
    let mut table = String::from(
        "| number | message | payload | descriptors | needs | reply | device |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let gate = match row.gate {
            Gate::Always => String::new(),
            Gate::Offered(feature) => names(feature.iter_names()) + ", offered",
            Gate::Virtio(feature) => names(feature.iter_names()),
            Gate::Protocol(feature) => names(feature.iter_names()),
        };
        let fds = match row.fds {
            FdRule::None => "",
            FdRule::One => "1",
            FdRule::OnePerRegion => "1 per region",
            FdRule::OneUnlessNoFd => "1 or (bit 8) 0",
            FdRule::OneIfShared => "1 with LOG_SHMFD",
            FdRule::AtMostOneIgnored => "0, or 1 ignored",
            FdRule::Any => "any",
        };
        let reply = match row.reply {
            ReplyRule::Ack => "on request",
            ReplyRule::Iotlb => "on request, or unasked",
            ReplyRule::Log => "with LOG_SHMFD",
            _ => "always",
        };
        let verdict = match row.verdict {
            Verdict::Forward => "forwards".to_string(),
            Verdict::Handle => "handles".to_string(),
            Verdict::Refuse(why) => format!("refuses: {why}"),
        };
        let Row {
            code, name, layout, ..
        } = row;
        let line =
            format!("| {code} | {name} | {layout:?} | {fds} | {gate} | {reply} | {verdict} |");
        writeln!(
            table,
            "{}",
            line.replace("|  |", "| |").replace("|  |", "| |")
        )
        .unwrap();
    }
    table
}

fn names<T>(names: impl Iterator<Item = (&'static str, T)>) -> String {
    names.map(|(name, _)| name).collect()
}

#[test]
fn the_table_in_the_readme_is_the_catalog() {
    let readme = include_str!("../README.md");
    for rows in [FRONTEND_ROWS, BACKEND_ROWS] {
        let table = render(rows);
        assert!(readme.contains(&table), "the README should have:\n{table}");
    }
}
