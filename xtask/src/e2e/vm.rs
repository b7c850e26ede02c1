// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock QEMU, emulated (no KVM), whose disk is a vhost-user socket, and the
//! console of its guest.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::host::Host;
use crate::documented::{Documented, README};
use crate::error::{Context, Result};
use crate::process::{dying_with_us, Running};

/// 256 MiB and 8 KiB: QEMU before 9.0, emulating, loses stores of a guest that
/// is migrated, unless the number of its pages is no multiple of 64.
const MEMORY: &str = "262152K";
/// What the guest's scripts put before what is for us.
const MARK: &str = "e2e: ";
/// How much of a line is kept: a console is no place for more.
const LINE_MAX: u64 = 4096;

/// The disk of a VM.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    pub queues: u16,
    /// Its queues are packed ones.
    pub packed: bool,
    /// QEMU connects again when the backend is gone.
    pub reconnects: bool,
}

/// A running VM.
pub struct Vm {
    qemu: Running,
    said: Receiver<String>,
    deadline: Instant,
    limit: Duration,
}

impl Vm {
    /// The command that starts a VM with a disk: README's, on this disk.
    pub fn command(host: &Host, socket: &Path, disk: &Disk, initramfs: &Path) -> Result<Command> {
        let path = |path: &Path| path.display().to_string();
        let reconnect = if disk.reconnects { ",reconnect=1" } else { "" };
        let packed = if disk.packed { "on" } else { "off" };
        let device = format!("num-queues={},packed={packed}", disk.queues);
        let documented = Documented::find(README, "qemu-system-x86_64", "vhost-user-blk")?
            .replace("256M", MEMORY)?
            .replace("/tmp/disk.sock,reconnect=1", &(path(socket) + reconnect))?
            .replace("num-queues=2", &device)?
            .replace("target/frontend/vmlinuz", &path(&host.kernel))?
            .replace("target/frontend/initramfs", &path(initramfs))?;
        let mut command = dying_with_us(&host.qemu);
        command.args(documented.arguments());
        Ok(command)
    }

    /// Runs a command that starts a VM with its console on standard input and
    /// output; it may take `limit` altogether. The console goes to the log
    /// `console`, as QEMU's own messages do.
    pub fn run(command: &mut Command, console: &Path, limit: Duration) -> Result<Self> {
        let log = File::create(console).path_context("cannot create", console)?;
        let errors = log.try_clone().path_context("cannot open", console)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut qemu = Running::spawn("QEMU", command)?;
        let output = qemu.child().stdout.take().ok_or("QEMU has no output")?;
        let (sender, said) = mpsc::channel();
        thread::spawn(move || follow(output, log, &sender));
        Ok(Self {
            qemu,
            said,
            deadline: Instant::now() + limit,
            limit,
        })
    }

    /// Types a line on the guest's console.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.qemu.child().stdin.as_mut();
        let input = input.ok_or("QEMU has no input")?;
        writeln!(input, "{line}").context("cannot type on the console")
    }

    /// Types nothing on the guest's console, once in `period`, as long as it runs:
    /// an interrupt of a serial port, that is. There is no typing then.
    pub fn interrupt_each(&mut self, period: Duration) -> Result<()> {
        let input = self.qemu.child().stdin.take();
        let mut input = input.ok_or("QEMU has no input")?;
        thread::spawn(move || {
            while input.write_all(b"\n").is_ok() {
                thread::sleep(period);
            }
        });
        Ok(())
    }

    /// What the guest says next; `None` once its console is closed. It is an
    /// error if the guest says that it failed, or says nothing for too long.
    pub fn next(&mut self) -> Result<Option<String>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.said.recv_timeout(left) {
            Ok(line) => match line.strip_prefix("failed: ") {
                Some(why) => Err(format!("the guest failed: {why}").into()),
                None => Ok(Some(line)),
            },
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("the guest did not end within {:?}", self.limit).into())
            }
        }
    }

    /// How QEMU ended, once the console is closed.
    pub fn status(&mut self) -> Result<ExitStatus> {
        self.qemu.wait(Duration::from_secs(30))
    }

    /// All that the guest says until it powers off, which it must do after it
    /// has said "done".
    pub fn finish(mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        while let Some(line) = self.next()? {
            lines.push(line);
        }
        let status = self.status()?;
        if !status.success() {
            return Err(format!("QEMU: {status}").into());
        }
        if lines.last().is_none_or(|line| line != "done") {
            return Err("the guest ended before it was done".into());
        }
        Ok(lines)
    }

    /// SIGKILL; returns what the guest had said up to then.
    pub fn kill(mut self) -> Result<Vec<String>> {
        self.qemu.kill()?;
        let mut lines = Vec::new();
        while let Some(line) = self.next()? {
            lines.push(line);
        }
        Ok(lines)
    }
}

/// Copies the console to the log and passes on what is for us.
fn follow(output: ChildStdout, mut log: File, sender: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // A full disk must not stop the test.
        let _ = log.write_all(&line);
        // A line cut short by the end of the VM says nothing reliable.
        if !line.ends_with(b"\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        if let Some((_, said)) = text.split_once(MARK) {
            if sender.send(said.trim_end().to_owned()).is_err() {
                return;
            }
        }
    }
}
