// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The loopback example, as its user sees it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{kill_process, Pid, Signal};
use vmm_sys_util::tempdir::TempDir;

/// `cargo test` builds the examples next to the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/loopback");
    assert!(path.exists(), "{path:?}: run `cargo test` without --test");
    path
}

fn loopback(arguments: &str) -> Command {
    let mut command = Command::new(program());
    command.args(arguments.split_whitespace());
    command
}

fn run(arguments: &str) -> (Option<i32>, String, String) {
    let output: Output = loopback(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The number in front of `what` in the table.
fn figure(table: &str, what: &str) -> u64 {
    let before = table.split(what).next().unwrap();
    let number = before.split_whitespace().next_back().unwrap();
    number.parse().unwrap_or_else(|_| panic!("{what}: {table}"))
}

/// A program that serves until it is told to stop.
struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(arguments: &str) -> Self {
        let mut command = loopback(arguments);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn listening(mut self) -> Self {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening"), "{line}");
        self
    }

    fn signal(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

fn listen(socket: &Path, disk: &Path) -> String {
    let (socket, disk) = (socket.display(), disk.display());
    format!("--listen --size 8M --socket {socket} --disk {disk}")
}

#[test]
fn serves_without_waking_a_thread_of_the_vmm() {
    let (code, table, errors) = run("--requests 4000 --size 16M --queues 3");
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(figure(&table, " wake-ups"), 0);
    assert!(figure(&table, " interrupts by irqfd") > 0);
    assert!(figure(&table, " doorbells by ioeventfd") > 0);
    assert_eq!(figure(&table, " in "), 4000);
}

#[test]
fn counts_the_wakeups_of_userspace_notification() {
    let (code, table, errors) = run("--requests 2000 --size 16M --no-irqfd");
    assert_eq!(code, Some(0), "{errors}");
    assert!(figure(&table, " wake-ups") > 0);
    assert_eq!(figure(&table, " interrupts by irqfd"), 0);

    let (code, table, errors) = run("--requests 2000 --size 16M --no-ioeventfd");
    assert_eq!(code, Some(0), "{errors}");
    assert!(figure(&table, " wake-ups") > 0);
    assert_eq!(figure(&table, " doorbells by ioeventfd"), 0);
}

#[test]
fn leaves_a_read_only_disk_alone() {
    let dir = TempDir::new().unwrap();
    let disk = dir.as_path().join("disk");
    let content: Vec<u8> = (0..1 << 21).map(|i| (i / 3) as u8).collect();
    fs::write(&disk, &content).unwrap();
    let disk_option = disk.display();
    let (code, _, errors) = run(&format!("--read-only --requests 500 --disk {disk_option}"));
    assert_eq!(code, Some(0), "{errors}");
    assert!(fs::read(&disk).unwrap() == content);
}

#[test]
fn serves_one_frontend_after_the_other_and_cleans_up() {
    let dir = TempDir::new().unwrap();
    let (socket, disk) = (dir.as_path().join("s"), dir.as_path().join("d"));
    let mut server = Server::start(&listen(&socket, &disk)).listening();
    let pid = server.child.id();
    let frontend = format!("--socket {} --frontend-of {pid}", socket.display());
    for _ in 0..2 {
        let disk = disk.display();
        let (code, _, errors) = run(&format!("{frontend} --requests 500 --disk {disk}"));
        assert_eq!(code, Some(0), "{errors}");
    }
    // A frontend that dies in the middle of its work is only a lost one.
    let mut dying = loopback(&format!("{frontend} --seconds 60"));
    let mut dying = dying.stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(dying.stderr.take().unwrap()).lines();
    assert!(progress.next().unwrap().unwrap().starts_with("connected"));
    dying.kill().unwrap();
    dying.wait().unwrap();

    // Another image than the one that is served does not hold the data.
    let other = dir.as_path().join("other");
    fs::write(&other, vec![0; 8 << 20]).unwrap();
    let other = other.display();
    let (code, _, errors) = run(&format!("{frontend} --requests 500 --disk {other}"));
    assert_eq!(code, Some(1));
    assert!(errors.contains("checksum mismatch: block "), "{errors}");

    assert_eq!(server.signal(Signal::INT), Some(0));
    assert!(!socket.exists());
}

#[test]
fn takes_over_a_socket_that_was_left_behind_and_no_other() {
    let dir = TempDir::new().unwrap();
    let (socket, disk) = (dir.as_path().join("s"), dir.as_path().join("d"));
    let listener = UnixListener::bind(&socket).unwrap();
    let arguments = listen(&socket, &disk);
    let (code, _, errors) = run(&arguments);
    assert_eq!(code, Some(1));
    assert!(errors.contains("busy"), "{errors}");
    assert!(!disk.exists(), "made for nothing");
    drop(listener);
    for _ in 0..2 {
        let mut server = Server::start(&arguments).listening();
        assert_eq!(server.signal(Signal::KILL), None);
        assert!(socket.exists());
    }
    let mut server = Server::start(&arguments).listening();
    assert_eq!(server.signal(Signal::TERM), Some(0));
    assert!(!socket.exists());
}

#[test]
fn ends_with_its_frontend_and_its_files_on_ctrl_c() {
    let dir = TempDir::new().unwrap();
    let (socket, disk) = (dir.as_path().join("s"), dir.as_path().join("d"));
    let (socket_option, disk_option) = (socket.display(), disk.display());
    let arguments = format!("--seconds 60 --socket {socket_option} --disk {disk_option}");
    let mut command = loopback(&arguments);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(progress.next().unwrap().unwrap().starts_with("connected"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The last holder of the other end of the pipe is gone, too.
    assert_eq!(progress.last().unwrap().unwrap(), "loopback: interrupted");
    assert!(!socket.exists());
}

#[test]
fn explains_itself() {
    let (code, help, _) = run("--help");
    assert_eq!(code, Some(0));
    assert!(help.contains("--no-irqfd"));
    let (code, _, errors) = run("--queues none");
    assert_eq!(code, Some(2));
    assert!(errors.contains("--queues none"), "{errors}");
}
