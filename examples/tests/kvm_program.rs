// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kvm example, as its user sees it when something is missing. What it does
//! when everything is there is tested by `kvm/tests`, and by
//! `cargo xtask e2e kvm-lab`.

#![cfg(target_arch = "x86_64")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vmm_sys_util::tempdir::TempDir;

/// `cargo test` builds the examples next to the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/kvm");
    assert!(path.exists(), "{path:?}: run `cargo test` without --test");
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it says when it fails: one line.
fn failure(output: &Output, code: i32) -> String {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

/// Whether what needs KVM can be tried: it must be where `CI=true`.
fn has_kvm() -> bool {
    let kvm = Path::new("/dev/kvm");
    let usable = fs::OpenOptions::new().read(true).write(true).open(kvm);
    match usable {
        Ok(_) => true,
        Err(error) if std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("SKIPPED: /dev/kvm: {error}");
            false
        }
        Err(error) => panic!("/dev/kvm: {error}"),
    }
}

#[test]
fn helps() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for option in [
        "--kernel",
        "--initramfs",
        "--cmdline",
        "--memory",
        "--vhost-guest socket=PATH[,queues=N][,window=SIZE]",
        "--no-irqfd",
        "--no-ioeventfd",
        "--help",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
}

#[test]
fn says_what_is_wrong_with_the_command_line() {
    let error = failure(&run(&[]), 2);
    assert_eq!(error, "kvm: --kernel is missing (try --help)\n");
    let error = failure(&run(&["--kernel", "k", "--queues", "1"]), 2);
    assert!(error.contains("unknown option --queues"), "{error}");
}

#[test]
fn names_the_file_that_is_missing() {
    if !has_kvm() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let path = |name: &str| {
        let path = directory.as_path().join(name);
        path.to_str().unwrap().to_owned()
    };
    let (none, text) = (path("none"), path("text"));
    fs::write(&text, "not a kernel").unwrap();
    let error = failure(&run(&["--kernel", &none]), 1);
    assert!(error.contains(&none), "{error}");
    assert!(error.contains("No such file"), "{error}");
    let error = failure(&run(&["--kernel", &text]), 1);
    assert!(error.contains(&text), "{error}");
    assert!(error.contains("not a bzImage"), "{error}");
    let socket = path("none/socket");
    let device = format!("socket={socket}");
    let error = failure(&run(&["--kernel", &none, "--vhost-guest", &device]), 1);
    assert!(error.contains(&socket), "{error}");
}

/// Whatever comes after the first device was made: a second one whose socket
/// cannot be bound, or that cannot be made, or a kernel that cannot be loaded.
#[test]
fn leaves_no_socket_behind_when_it_fails() {
    if !has_kvm() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.as_path().join(name).display().to_string();
    let (first, second, kernel) = (path("first"), path("second"), path("kernel"));
    fs::write(&kernel, "not a kernel").unwrap();
    let device = |rest: &str| format!("socket={rest}");
    for (last, message) in [
        (device(&path("none/socket")), "none/socket"),
        (device(&first), "busy"),
        (device(&format!("{second},window=4K")), "window of 0x1000"),
        (device(&second), "not a bzImage"),
    ] {
        let arguments = ["--kernel", &kernel, "--vhost-guest", &device(&first)];
        let output = run(&[&arguments[..], &["--vhost-guest", &last]].concat());
        let error = failure(&output, 1);
        assert!(error.contains(message), "{error}");
        for socket in [&first, &second] {
            assert!(!Path::new(socket).exists(), "{socket} is left: {error}");
        }
    }
}

/// One that was there before is not this program's to remove.
#[test]
fn leaves_a_file_that_it_did_not_make() {
    if !has_kvm() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let file = directory.as_path().join("file").display().to_string();
    fs::write(&file, "").unwrap();
    let device = format!("socket={file}");
    let error = failure(&run(&["--kernel", "none", "--vhost-guest", &device]), 1);
    assert!(error.contains("not a socket"), "{error}");
    assert!(Path::new(&file).exists());
}

/// In a mount namespace of its own, with an empty /dev.
#[test]
fn says_that_there_is_no_kvm() {
    let script = "mount -t tmpfs none /dev && exec \"$0\" --kernel none";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(program())
        .output()
        .unwrap();
    let error = text(&output.stderr);
    if error.starts_with("unshare:") && std::env::var("CI").as_deref() != Ok("true") {
        eprintln!("SKIPPED: {error}");
        return;
    }
    let error = failure(&output, 1);
    assert!(error.starts_with("kvm: cannot open /dev/kvm: "), "{error}");
    assert!(error.contains("is KVM there"), "{error}");
}
