// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What serves the disk: the loopback example, in which a guest does it behind
//! the device, or a stock backend as the control that shows what the rest of
//! the test is worth.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::process::{dying_with_us, find, run, Running};
use crate::workspace;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Which program serves the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `examples/loopback --listen`: the device, and a guest with the driver.
    Loopback,
    /// QEMU's own vhost-user-blk backend, without the device.
    QemuStorageDaemon,
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        match name {
            "loopback" => Ok(Self::Loopback),
            "qemu-storage-daemon" => Ok(Self::QemuStorageDaemon),
            _ => Err(()),
        }
    }
}

impl Kind {
    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::QemuStorageDaemon => "qemu-storage-daemon",
        }
    }

    /// Finds the program, and builds it if it is ours.
    pub fn program(self) -> Result<PathBuf> {
        match self {
            Self::Loopback => {
                run(Command::new(workspace::cargo())
                    .args(["build", "--quiet", "--release"])
                    .args(["--package", "vhost-guest-examples"])
                    .args(["--example", "loopback"]))?;
                Ok(workspace::target().join("release/examples/loopback"))
            }
            Self::QemuStorageDaemon => find("qemu-storage-daemon").ok_or_else(|| {
                "missing packages: qemu-system-common\n    apt-get install qemu-system-common"
                    .into()
            }),
        }
    }
}

/// A running backend that listens.
pub struct Backend {
    kind: Kind,
    running: Running,
    socket: PathBuf,
}

impl Backend {
    /// Starts it and waits until it listens at `socket`; `options` are more
    /// that it is given.
    pub fn start(
        kind: Kind,
        program: &Path,
        image: &Path,
        socket: &Path,
        queues: u16,
        options: &[&str],
        log: &Path,
    ) -> Result<Self> {
        // Behind that of one that was killed.
        let output = File::options().create(true).append(true).open(log);
        let output = output.path_context("cannot create", log)?;
        let errors = output.try_clone().path_context("cannot open", log)?;
        let mut command = dying_with_us(program);
        match kind {
            Kind::Loopback => command
                .args(["--listen", "--queues", &queues.to_string()])
                .arg("--socket")
                .arg(socket)
                .arg("--disk")
                .arg(image),
            Kind::QemuStorageDaemon => command
                .arg("--blockdev")
                // Another may serve the image, too: a VM is migrated from one to
                // the other.
                .arg(format!(
                    "driver=file,node-name=file,locking=off,filename={}",
                    image.display()
                ))
                .args(["--blockdev", "driver=raw,node-name=disk,file=file"])
                .arg("--export")
                .arg(format!(
                    "type=vhost-user-blk,id=export,node-name=disk,writable=on,\
                     num-queues={queues},addr.type=unix,addr.path={}",
                    socket.display()
                )),
        };
        command.args(options);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut backend = Self {
            kind,
            running: Running::spawn(kind.name(), &mut command)?,
            socket: socket.to_owned(),
        };
        backend.wait_for_socket()?;
        Ok(backend)
    }

    /// Connecting would make us a frontend, so the path has to do.
    fn wait_for_socket(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !self.socket.exists() {
            self.check()?;
            if Instant::now() >= deadline {
                let name = self.kind.name();
                return Err(format!("{name} did not listen within {START_LIMIT:?}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// It must still be there.
    pub fn check(&mut self) -> Result<()> {
        match self.running.ended()? {
            None => Ok(()),
            Some(status) => Err(format!("{} has ended: {status}", self.kind.name()).into()),
        }
    }

    /// SIGKILL. What is left of its socket goes, for the next to listen there.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()?;
        std::fs::remove_file(&self.socket).path_context("cannot remove", &self.socket)
    }

    /// Asks it to end; the device's own must leave nothing behind.
    pub fn stop(mut self) -> Result<()> {
        let status = self.running.terminate(STOP_LIMIT)?;
        if !status.success() {
            return Err(format!("{}: {status}", self.kind.name()).into());
        }
        if self.kind == Kind::Loopback && self.socket.exists() {
            return Err("loopback has left its socket behind".into());
        }
        Ok(())
    }
}
