// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e qemu-migrate`: a VM goes from one device to another and
//! back, while its guest uses the disk.
//!
//! Two processes of writers run all the time. Beside them, a reader has a
//! buffer that is in its memory, and so on the target, before the device
//! writes other data into it. Nothing but the dirty log tells QEMU that.

mod migration;
mod progress;
pub mod qmp;

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::backend::{Backend, Kind};
use super::blk::{print_tail, Scratch};
use super::host::Host;
use super::initramfs::{self, Role};
use super::pattern::{self, BLOCK};
use super::vm::{Disk, Vm};
use crate::arguments::Arguments;
use crate::error::{Context, Result};
use crate::process::output;
use crate::workspace;

use progress::{put_numbered, Progress};
use qmp::Qmp;

/// How long each VM may take; it takes a few seconds.
const VM_LIMIT: Duration = Duration::from_secs(240);
const QUEUES: u16 = 2;
/// The disk: four parts of this size, which the reader holds. The writers have
/// the first one.
const HELD: usize = 8 << 20;
const PARTS: usize = 4;
/// Blocks that each writer must have written where it arrives.
const BLOCKS: usize = 20;
/// The logs of a run: the backends', and the console of each VM.
const LOGS: [&str; 5] = ["backend-a", "backend-b", "vm-0", "vm-1", "vm-2"];

pub const HELP: &str = "\
Boots a stock VM (QEMU without KVM, Debian's cloud kernel) on a disk that
loopback serves from behind the device, and while its guest writes and reads:
cancels a migration, migrates it to a QEMU that uses another device, and back.
Checks the guest's memory that the devices have written to, and the disk.

Usage: cargo xtask e2e qemu-migrate [OPTIONS]

Options:
  --seed N         Seed of the pattern on the disk (default: 1)
  --backend NAME   loopback (default), or qemu-storage-daemon: the same without
                   the device, as a control of the test itself
  --control        The first device loses what the guest marks in the dirty
                   log: passes if that ruins the memory of the migrated guest

Logs and consoles are kept in target/e2e/.
";

struct Options {
    seed: u64,
    backend: Kind,
    control: bool,
}

impl Options {
    fn parse(arguments: &mut Arguments) -> Result<Self> {
        let options = Self {
            seed: arguments.option("--seed")?.unwrap_or(1),
            backend: arguments.option("--backend")?.unwrap_or(Kind::Loopback),
            control: arguments.flag("--control"),
        };
        arguments.finish()?;
        if options.control && options.backend != Kind::Loopback {
            return Err("--control is for loopback".into());
        }
        Ok(options)
    }
}

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let bench = Bench::new(Options::parse(arguments)?)?;
    let result = bench.run();
    if result.is_err() {
        for name in LOGS {
            print_tail(&bench.log(name));
        }
    }
    result
}

/// All that the VMs have in common.
struct Bench {
    options: Options,
    host: Host,
    program: PathBuf,
    pattern: Vec<u8>,
    /// Holds image, initramfs and sockets; removed in the end.
    scratch: Scratch,
    /// Kept in the end.
    logs: PathBuf,
    started: Instant,
}

/// A VM with its monitor, and how far its guest is.
struct Guest {
    number: usize,
    vm: Vm,
    qmp: Qmp,
    progress: Progress,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let (host, []) = Host::find([])?;
        let program = options.backend.program()?;
        let logs = workspace::target().join("e2e");
        fs::create_dir_all(&logs).path_context("cannot create", &logs)?;
        Ok(Self {
            pattern: pattern::generate(options.seed, PARTS * HELD),
            options,
            host,
            program,
            scratch: Scratch::new()?,
            logs,
            started: Instant::now(),
        })
    }

    fn run(&self) -> Result<()> {
        for name in LOGS {
            // There is none before the first run.
            let _ = fs::remove_file(self.log(name));
        }
        write(&self.path("disk.img"), &self.pattern)?;
        self.pack_initramfs()?;
        let lossy: &[&str] = match self.options.control {
            true => &["--lose-dirty-log"],
            false => &[],
        };
        let mut a = self.start_backend("a", lossy)?;
        let mut b = self.start_backend("b", &[])?;
        let mut guest = self.boot("a")?;
        self.say("the guest uses device A");
        if self.options.control {
            let kept = self.migrate(guest, "b", 1)?.1;
            if kept {
                return Err("nothing was ruined: this test does not see a lost log".into());
            }
            self.say("so the guest's memory is ruined, as it must be");
            return Ok(());
        }

        self.cancel(&mut guest)?;
        a.check()?;
        self.say("a migration was cancelled; it goes on");
        for (backend, part) in [("b", 1), ("a", 2)] {
            let (migrated, kept) = self.migrate(guest, backend, part)?;
            if !kept {
                return Err("the device wrote to memory, and the target does not have it".into());
            }
            guest = migrated;
            a.check()?;
            b.check()?;
            self.say(&format!(
                "migrated to device {}: it goes on, with its memory whole",
                backend.to_uppercase()
            ));
        }
        self.finish(guest)?;
        for backend in [a, b] {
            backend.stop()?;
        }
        self.say("passed");
        Ok(())
    }

    fn pack_initramfs(&self) -> Result<()> {
        let settings = [
            ("SIZE", self.pattern.len().to_string()),
            ("QUEUES", QUEUES.to_string()),
            ("SEED", self.options.seed.to_string()),
            ("HELD", HELD.to_string()),
            ("WRITERS", self.writers().to_string()),
            ("BLOCKS", (HELD / BLOCK).to_string()),
        ];
        let archive = initramfs::pack(&self.host, Role::Migrate, &settings, &[])?;
        write(&self.path("initramfs"), &archive)
    }

    /// None in the control: what the device says of their requests would not
    /// arrive either, and the guest would fail before it can tell what it has.
    fn writers(&self) -> usize {
        match self.options.control {
            true => 0,
            false => 2,
        }
    }

    fn start_backend(&self, name: &str, options: &[&str]) -> Result<Backend> {
        Backend::start(
            self.options.backend,
            &self.program,
            &self.path("disk.img"),
            &self.path(&format!("{name}.sock")),
            QUEUES,
            options,
            &self.log(&format!("backend-{name}")),
        )
    }

    /// Starts a QEMU whose disk is at `backend`, either to boot or to take a
    /// VM that is migrated.
    fn start_vm(&self, number: usize, backend: &str, incoming: bool) -> Result<(Vm, Qmp)> {
        let disk = self.path(&format!("{backend}.sock"));
        let kind = Disk {
            queues: QUEUES,
            packed: false,
            reconnects: false,
        };
        let mut command = Vm::command(&self.host, &disk, &kind, &self.path("initramfs"))?;
        let monitor = self.path(&format!("monitor-{number}"));
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()));
        if incoming {
            command.arg("-incoming").arg(self.stream());
        }
        let vm = Vm::run(&mut command, &self.log(&format!("vm-{number}")), VM_LIMIT)?;
        Ok((vm, Qmp::connect(&monitor)?))
    }

    fn boot(&self, backend: &str) -> Result<Guest> {
        let (vm, qmp) = self.start_vm(0, backend, false)?;
        let mut guest = Guest {
            number: 0,
            vm,
            qmp,
            progress: Progress::default(),
        };
        guest.expect("ready")?;
        if !self.options.control {
            guest.go_on()?;
        }
        Ok(guest)
    }

    /// Migrates the VM to nowhere, and calls it off in the midst of it.
    fn cancel(&self, guest: &mut Guest) -> Result<()> {
        let nowhere = self.path("stream");
        let listener = UnixListener::bind(&nowhere).path_context("cannot listen at", &nowhere)?;
        let swallow = move || {
            let (mut stream, _) = listener.accept()?;
            io::copy(&mut stream, &mut io::sink())
        };
        let swallowing = thread::spawn(swallow);
        guest.qmp.start_migration(&self.stream())?;
        guest.progress.restart();
        guest.go_on()?;
        guest.qmp.execute("migrate_cancel", "")?;
        guest.qmp.wait_for_migration("cancelled")?;
        let swallowed = swallowing.join();
        if !swallowed.is_ok_and(|bytes| bytes.is_ok_and(|bytes| bytes > 0)) {
            return Err("nothing was migrated".into());
        }
        fs::remove_file(&nowhere).path_context("cannot remove", &nowhere)?;
        guest.progress.restart();
        guest.go_on()
    }

    /// Migrates the VM to a new QEMU at `backend`; and whether the reader's
    /// memory arrived as the device left it: with `part` + 1 of the disk.
    fn migrate(&self, mut guest: Guest, backend: &str, part: usize) -> Result<(Guest, bool)> {
        guest.vm.tell(&format!("prepare {part}"))?;
        guest.expect("prepared")?;
        let number = guest.number + 1;
        let (vm, qmp) = self.start_vm(number, backend, true)?;
        guest.qmp.start_migration(&self.stream())?;
        guest.vm.tell("read")?;
        guest.expect("read")?;
        guest.qmp.end_migration()?;

        guest.qmp.execute("quit", "")?;
        let mut progress = guest.progress;
        while let Some(line) = guest.vm.next()? {
            progress.note(&line)?;
        }
        if !guest.vm.status()?.success() {
            return Err("the QEMU that the VM has left failed".into());
        }
        progress.migrated();
        let mut guest = Guest {
            number,
            vm,
            qmp,
            progress,
        };
        guest.vm.tell("check")?;
        let held = guest.expect("held ")?;
        if held == self.sum(self.part(part + 1))? {
            guest.go_on()?;
            return Ok((guest, true));
        }
        self.say("the reader's memory is not what the device wrote to it");
        Ok((guest, false))
    }

    /// Ends the guest's work, and looks at the disk with it.
    fn finish(&self, mut guest: Guest) -> Result<()> {
        guest.vm.tell("stop")?;
        let next = guest.expect("next ")?;
        let next: Vec<u64> = next.split(' ').filter_map(|n| n.parse().ok()).collect();
        if !guest.progress.agrees_with(&next) {
            return Err(
                format!("the guest reported other blocks than those before {next:?}").into(),
            );
        }
        let mut disk = self.pattern.clone();
        put_numbered(&mut disk, (HELD / BLOCK) as u64, self.options.seed, &next);
        if guest.expect("disk ")? != self.sum(&disk)? {
            return Err("the guest read other blocks than it wrote".into());
        }
        let written = guest.progress.total();
        guest.vm.finish()?;
        let image = self.path("disk.img");
        let image = fs::read(&image).path_context("cannot read", &image)?;
        pattern::check_pattern(&image, &disk)?;
        self.say(&format!(
            "all {written} blocks are on the disk, for the guest and for the host"
        ));
        Ok(())
    }

    fn part(&self, part: usize) -> &[u8] {
        self.pattern.chunks(HELD).nth(part).unwrap_or_default()
    }

    fn sum(&self, bytes: &[u8]) -> Result<String> {
        let path = self.path("sum");
        write(&path, bytes)?;
        let sum = output(Command::new("sha256sum").arg(&path))?;
        Ok(sum.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Where a VM's state goes through.
    fn stream(&self) -> String {
        format!("unix:{}", self.path("stream").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("qemu-migrate-{name}.log"))
    }

    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }
}

impl Guest {
    /// Waits for a line that begins with `wanted`; returns the rest.
    fn expect(&mut self, wanted: &str) -> Result<String> {
        while let Some(line) = self.vm.next()? {
            self.progress.note(&line)?;
            if let Some(rest) = line.strip_prefix(wanted) {
                return Ok(rest.to_owned());
            }
        }
        Err(format!("the guest ended instead of saying \"{wanted}\"").into())
    }

    /// Both writers must go on.
    fn go_on(&mut self) -> Result<()> {
        while self.progress.since() < BLOCKS {
            self.expect("flushed ")?;
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).path_context("cannot write", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&mut Arguments::new(words.iter().copied()))
    }

    #[test]
    fn rejects_a_control_without_the_device() {
        assert!(parse(&["--control"]).unwrap().control);
        assert!(parse(&["--control", "--backend", "qemu-storage-daemon"]).is_err());
        assert!(parse(&["--seed", "7", "--back"]).is_err());
    }
}
