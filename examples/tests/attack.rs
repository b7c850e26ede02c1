// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The attack example, of which `cargo xtask attack` runs everything: that it
//! finds nothing where nothing is, and what there is.

#![cfg(target_arch = "x86_64")]

use std::path::PathBuf;
use std::process::Command;

/// `cargo test` builds the examples next to the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/attack");
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
fn a_device_lives_on_and_gives_everything_back() {
    for arguments in ["run wakeup-paths --calm", "run wakeup-paths"] {
        let (code, found, errors) = run(arguments);
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!(found.matches("probe ").count(), 6, "{found}");
        assert!(!found.contains("fault "), "{found}");
    }
}

/// The negative control: each check can fail.
#[test]
fn finds_what_a_device_with_one_lock_does_wrong() {
    for (attack, wrong) in [
        ("wakeup-paths", "the device is dead"),
        (
            "unwatchable",
            "memory that was truncated stays in the window",
        ),
        ("no-huge-pages", "a vCPU cannot go on"),
        ("io-lock", "the next frontend is not served"),
    ] {
        let (code, found, errors) = run(&format!("run {attack} --double"));
        assert_eq!(code, Some(0), "{attack}: {errors}");
        assert!(found.contains(wrong), "{attack}: {found}");
    }
}

#[test]
fn explains_itself() {
    let (code, help, _) = run("--help");
    assert_eq!(code, Some(0));
    assert!(help.contains("--double"));
    let (code, _, errors) = run("run water");
    assert_eq!(code, Some(2));
    assert!(errors.contains("no attack water"), "{errors}");
}
