// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vfio-user example, as its user sees it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{kill_process, Pid, Signal};
use vfio_user::Client;
use vmm_sys_util::tempdir::TempDir;

/// `cargo test` builds the examples next to the tests.
fn program() -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/vfio_user");
    assert!(path.exists(), "{path:?}: run `cargo test` without --test");
    Command::new(path)
}

#[test]
fn serves_one_client_after_the_other_and_cleans_up() {
    let directory = TempDir::new().unwrap();
    let (clients, frontends) = (
        directory.as_path().join("vfio-user"),
        directory.as_path().join("vhost-user"),
    );
    let mut command = program();
    let sockets = command.arg("--socket").arg(&clients);
    let options = sockets.arg("--vhost-user").arg(&frontends);
    let mut child = options.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("vfio-user on "));
    for _ in 0..2 {
        let mut client = Client::new(&clients).unwrap();
        let mut identity = [0; 4];
        client.region_read(7, 0, &mut identity).unwrap();
        assert_eq!(identity, [0xF4, 0x1A, 0x75, 0x10]);
        drop(client);
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with("the client is gone"), "{line}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!clients.exists() && !frontends.exists());
}

#[test]
fn explains_itself() {
    let output = program().arg("--help").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout)
        .unwrap()
        .contains("--vhost-user PATH"));
    let output = program().args(["--queues", "none"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("--queues none"), "{errors}");
}
