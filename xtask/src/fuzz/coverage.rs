// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much of a crate a fuzz target reached: of the lines at which the compiler
//! has put a counter, so many. The program tells its counters as addresses
//! (`fuzz/src/coverage.rs`), binutils know the lines.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::error::{Context, Result};

/// What is measured: crates, by their directories.
const CRATES: [&str; 2] = ["vhost-guest-device", "vhost-guest-msg"];

/// Lines of a crate's.
#[derive(Debug, PartialEq)]
pub struct Coverage {
    name: &'static str,
    reached: BTreeSet<String>,
    all: BTreeSet<String>,
}

impl Coverage {
    /// Reads libFuzzer's full report. Crates that are not in the program are left
    /// out.
    pub fn measure(program: &Path, report: &[String]) -> Result<Vec<Self>> {
        let (reached, missed) = counters(report);
        let lines = lines(program, &[&reached[..], &missed[..]].concat())?;
        let all = CRATES.map(|name| Self::new(name, &lines, reached.len()));
        Ok(all.into_iter().filter(|c| !c.all.is_empty()).collect())
    }

    /// Of the places of all counters, those that were reached first.
    fn new(name: &'static str, places: &[String], reached: usize) -> Self {
        let lines = |places: &[String]| places.iter().filter_map(|at| line(name, at)).collect();
        Self {
            name,
            reached: lines(places.get(..reached).unwrap_or_default()),
            all: lines(places),
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reached, all) = (self.reached.len(), self.all.len());
        let percent = 100.0 * reached as f64 / all.max(1) as f64;
        let name = self.name;
        write!(
            f,
            "{name}: {reached} of {all} lines with a counter, {percent:.1} %"
        )
    }
}

/// Addresses of the counters: those that were reached, the others. For each
/// function libFuzzer writes a line with U and one with C.
fn counters(report: &[String]) -> (Vec<&str>, Vec<&str>) {
    let of = |kind: &'static str| {
        let lines = report
            .iter()
            .filter_map(move |line| line.strip_prefix(kind));
        let addresses = lines.flat_map(str::split_whitespace);
        addresses
            .filter(|address| address.starts_with("0x"))
            .collect()
    };
    (of("C "), of("U "))
}

/// Places of addresses, one for each.
fn lines(program: &Path, addresses: &[&str]) -> Result<Vec<String>> {
    let mut child = Command::new("addr2line")
        .arg("-e")
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run addr2line")?;
    let mut input = child.stdin.take().ok_or("no input")?;
    let question = addresses.join("\n") + "\n";
    // Both pipes may fill.
    let asking = thread::spawn(move || input.write_all(question.as_bytes()));
    let output = child.wait_with_output().context("addr2line")?;
    let asked = asking.join().map_err(|_| "a thread panicked")?;
    asked.context("addr2line")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match lines.len() == addresses.len() && !lines.is_empty() {
        true => Ok(lines),
        false => Err("addr2line does not know the program's counters".into()),
    }
}

/// "FILE:NUMBER" within a crate, of "PATH:NUMBER (discriminator 1)".
fn line(name: &str, place: &str) -> Option<String> {
    let (_, place) = place.split_once(&format!("/{name}/src/"))?;
    let place = place.split(' ').next()?;
    let (_, number) = place.rsplit_once(':')?;
    (number.parse() != Ok(0)).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_a_line_once_and_in_its_own_crate() {
        let report = [
            "FULL COVERAGE:",
            "U 0x1 0x2",
            "C",
            "U",
            "C 0x3 0x4",
            "Done 5",
        ];
        let report = report.map(str::to_owned);
        let (reached, missed) = counters(&report);
        assert_eq!(
            (&reached[..], &missed[..]),
            (&["0x3", "0x4"][..], &["0x1", "0x2"][..])
        );
        let places = [
            "/x/vhost-guest-device/src/a.rs:1",
            "/x/vhost-guest-msg/src/a.rs:7",
            "/x/vhost-guest-device/src/a.rs:1 (discriminator 2)",
            "/x/vhost-guest-device/src/b.rs:1",
            "/x/vhost-guest-device/src/b.rs:0",
            "??:?",
        ];
        let places = places.map(str::to_owned);
        let of = |name| Coverage::new(name, &places, 2).to_string();
        assert_eq!(
            CRATES.map(of),
            [
                "vhost-guest-device: 1 of 2 lines with a counter, 50.0 %",
                "vhost-guest-msg: 1 of 1 lines with a counter, 100.0 %",
            ]
        );
    }
}
