// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The cycles example: in a process of its own, whose descriptors and
//! mappings are nobody else's.

use std::path::PathBuf;
use std::process::Command;

/// `cargo test` builds the examples next to the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/cycles");
    assert!(path.exists(), "{path:?}: run `cargo test` without --test");
    path
}

fn run(arguments: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(program());
    let output = command.args(arguments.split_whitespace()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn holds_nothing_of_frontends_that_have_died() {
    let (code, table, errors) = run("--cycles 300");
    assert_eq!(code, Some(0), "{errors}");
    // Every way to die was among them.
    assert_eq!(table.matches(" died: ").count(), 10, "{table}");
}

/// The negative control: each count is one that can be wrong.
#[test]
fn finds_whatever_is_lost() {
    for (leak, found) in [
        ("descriptor", "descriptors: anon_inode:[eventfd]: "),
        ("mapping", "mappings: "),
        ("memory", " KiB resident before, "),
        ("thread", "threads: "),
        ("ioeventfd", "ioeventfds: "),
        ("source", "interrupt sources: "),
        ("window", "window mappings: "),
    ] {
        let (code, _, errors) = run(&format!("--cycles 15 --leak {leak}"));
        assert_eq!(code, Some(1), "{leak} was not found: {errors}");
        assert!(errors.contains("leak: "), "{leak}: {errors}");
        assert!(errors.contains(found), "{leak}: {errors}");
    }
}

#[test]
fn explains_itself() {
    let (code, help, _) = run("--help");
    assert_eq!(code, Some(0));
    assert!(help.contains("--leak WHAT"));
    let (code, _, errors) = run("--cycles none");
    assert_eq!(code, Some(2));
    assert!(errors.contains("--cycles none"), "{errors}");
}
