// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e qemu-blk`: five VMs, one after the other, on one disk.
//!
//! 0. does what README tells its reader to type;
//! 1. fills the disk and reads it back; the image is compared on the host;
//! 2. finds, on the device that still runs, what the first has written;
//! 3. is killed while it writes numbered blocks, after its backend was, some
//!    times: it goes on with the requests that were under way;
//! 4. finds every block whose flush the third has reported.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::backend::{Backend, Kind};
use super::host::Host;
use super::initramfs::{self, Role};
use super::pattern;
use super::vm::{Disk, Vm};
use crate::arguments::Arguments;
use crate::documented::{self, README};
use crate::error::{Context, Result};
use crate::process::output;
use crate::workspace;

/// How long a VM may take, power-off included; it takes a few seconds.
const VM_LIMIT: Duration = Duration::from_secs(240);
/// The third VM is killed once it has reported this many blocks.
const KILL_AFTER: usize = 100;
/// The logs of a run: the backend's, and the console of each VM.
const LOGS: [&str; 6] = [
    "backend",
    Role::Shell.name(),
    Role::Fill.name(),
    Role::Verify.name(),
    Role::WriteNumbered.name(),
    Role::CheckNumbered.name(),
];
/// How much of a log is printed when something failed.
const TAIL: usize = 40;

pub const HELP: &str = "\
Boots stock VMs (QEMU without KVM, Debian's cloud kernel) one after the other
on a disk that loopback serves from behind the device, with the command of README:
one does what README says, one fills the disk, one finds the data, one is killed while it writes, after its backend was killed and
started again, one finds what had been flushed.

Usage: cargo xtask e2e qemu-blk [OPTIONS]

Options:
  --size MIB       Size of the disk (default: 32)
  --queues N       Queues of the disk, at least 2 (default: 2)
  --packed         Packed queues
  --kills N        Times that the backend is killed, up to 9 (default: 3)
  --seed N         Seed of the pattern (default: 1)
  --backend NAME   loopback (default), or qemu-storage-daemon: the same without
                   the device, as a control of the test itself

Logs and consoles are kept in target/e2e/.
";

struct Options {
    size: usize,
    queues: u16,
    packed: bool,
    kills: usize,
    seed: u64,
    backend: Kind,
}

impl Options {
    fn parse(arguments: &mut Arguments) -> Result<Self> {
        let mebibytes = arguments.option("--size")?.unwrap_or(32);
        let options = Self {
            size: mebibytes << 20,
            queues: arguments.option("--queues")?.unwrap_or(2),
            packed: arguments.flag("--packed"),
            kills: arguments.option("--kills")?.unwrap_or(3),
            seed: arguments.option("--seed")?.unwrap_or(1),
            backend: arguments.option("--backend")?.unwrap_or(Kind::Loopback),
        };
        arguments.finish()?;
        // The pattern travels in the guest's initramfs, and so in its memory.
        if !(1..=64).contains(&mebibytes) {
            return Err("--size: 1 to 64 MiB".into());
        }
        if !(2..=8).contains(&options.queues) {
            return Err("--queues: 2 to 8".into());
        }
        if options.kills > 9 {
            return Err("--kills: up to 9".into());
        }
        Ok(options)
    }
}

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let options = Options::parse(arguments)?;
    let mut bench = Bench::new(options)?;
    let result = bench.run();
    if result.is_err() {
        bench.print_tails();
    }
    result
}

/// All that the four VMs have in common.
struct Bench {
    options: Options,
    host: Host,
    program: PathBuf,
    pattern: Vec<u8>,
    /// Holds image, initramfs and socket; removed in the end.
    scratch: Scratch,
    /// Kept in the end.
    logs: PathBuf,
    started: Instant,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let (host, []) = Host::find([])?;
        let program = options.backend.program()?;
        let logs = workspace::target().join("e2e");
        fs::create_dir_all(&logs).path_context("cannot create", &logs)?;
        Ok(Self {
            pattern: pattern::generate(options.seed, options.size),
            options,
            host,
            program,
            scratch: Scratch::new()?,
            logs,
            started: Instant::now(),
        })
    }

    fn run(&mut self) -> Result<()> {
        for name in LOGS {
            // There is none before the first run.
            let _ = fs::remove_file(self.log(name));
        }
        let image = self.image();
        // Not zeroes, so that a block that nobody wrote shows.
        fs::write(&image, vec![0xA5; self.options.size]).path_context("cannot write", &image)?;
        let pattern_file = self.scratch.0.join("pattern");
        fs::write(&pattern_file, &self.pattern).path_context("cannot write", &pattern_file)?;
        let sum = output(Command::new("sha256sum").arg(&pattern_file))?;
        let sum = sum.split(' ').next().unwrap_or_default().to_owned();

        self.say(&format!(
            "{} serves {} MiB with {} {} queues, seed {}",
            self.options.backend.name(),
            self.options.size >> 20,
            self.options.queues,
            if self.options.packed {
                "packed"
            } else {
                "split"
            },
            self.options.seed
        ));
        let mut backend = self.serve()?;
        self.type_as_documented(&sum)?;
        backend.check()?;
        self.fill(&sum)?;
        backend.check()?;
        self.verify(&sum)?;
        backend.check()?;
        let flushed = self.write_and_kill(&sum, &mut backend)?;
        backend.check()?;
        self.check_numbered(&sum, &flushed)?;
        backend.check()?;
        backend.stop()?;
        self.say("passed");
        Ok(())
    }

    fn serve(&self) -> Result<Backend> {
        Backend::start(
            self.options.backend,
            &self.program,
            &self.image(),
            &self.socket(),
            self.options.queues,
            &[],
            &self.log("backend"),
        )
    }

    /// What README's reader types, who has to see what was written.
    fn type_as_documented(&self, sum: &str) -> Result<()> {
        let mut vm = self.start(Role::Shell, sum, &[])?;
        // What is typed before its kernel has a console is lost.
        while !vm.next()?.ok_or("the guest has no shell")?.contains("exit") {}
        for line in documented::lines(README, "/dev/vda")? {
            vm.tell(line)?;
        }
        vm.finish()?;
        let log = self.log(Role::Shell.name());
        let console = fs::read(&log).path_context("cannot read", &log)?;
        let console = String::from_utf8_lossy(&console);
        if !console
            .lines()
            .any(|line| line.trim_end() == "hello, other VM")
        {
            return Err("the guest did not read what it wrote".into());
        }
        self.say("VM 0 did what README says");
        Ok(())
    }

    fn fill(&self, sum: &str) -> Result<()> {
        let pattern = [("pattern", self.pattern.as_slice())];
        let lines = self.start(Role::Fill, sum, &pattern)?.finish()?;
        let packed = format!("packed {}", u8::from(self.options.packed));
        if !lines.contains(&packed) {
            return Err(format!("the guest does not say {packed}").into());
        }
        self.check_queues(&lines)?;
        pattern::check_pattern(&self.read_image()?, &self.pattern)?;
        self.say("VM 1 wrote, flushed and read the pattern; the image holds it, byte for byte");
        Ok(())
    }

    fn verify(&self, sum: &str) -> Result<()> {
        self.start(Role::Verify, sum, &[])?.finish()?;
        self.say("VM 2, on the same device, found it");
        Ok(())
    }

    fn write_and_kill(&self, sum: &str, backend: &mut Backend) -> Result<BTreeSet<u64>> {
        let mut vm = self.start(Role::WriteNumbered, sum, &[])?;
        let mut flushed = BTreeSet::new();
        let mut kills = 0;
        while flushed.len() < KILL_AFTER {
            let line = vm.next()?.ok_or("the guest ended instead of writing")?;
            flushed.extend(flushed_number(&line));
            let due = KILL_AFTER * (kills + 1) / (self.options.kills + 1);
            if kills < self.options.kills && flushed.len() >= due {
                kills += 1;
                backend.kill()?;
                *backend = self.serve()?;
            }
        }
        let rest = vm.kill()?;
        flushed.extend(rest.iter().filter_map(|line| flushed_number(line)));
        self.say(&format!(
            "VM 3 was killed after it had reported {} flushed blocks, with {kills} backends killed \
             on the way",
            flushed.len()
        ));
        Ok(flushed)
    }

    fn check_numbered(&self, sum: &str, flushed: &BTreeSet<u64>) -> Result<()> {
        let numbers: String = flushed.iter().map(|number| format!("{number}\n")).collect();
        let numbers = [("numbers", numbers.as_bytes())];
        let lines = self.start(Role::CheckNumbered, sum, &numbers)?.finish()?;
        let expected = format!("checked {}", flushed.len());
        if !lines.contains(&expected) {
            return Err(format!("the guest has not {expected}").into());
        }
        let image = self.read_image()?;
        let unseen = pattern::check_numbered(&image, &self.pattern, self.options.seed, flushed)?;
        self.say(&format!(
            "VM 4 found all {} of them, as does the host ({unseen} more were under way)",
            flushed.len()
        ));
        Ok(())
    }

    fn start(&self, role: Role, sum: &str, files: &[(&str, &[u8])]) -> Result<Vm> {
        let settings = [
            ("SIZE", self.options.size.to_string()),
            ("QUEUES", self.options.queues.to_string()),
            ("SEED", self.options.seed.to_string()),
            ("SHA256", sum.to_owned()),
        ];
        let initramfs = self.scratch.0.join("initramfs");
        let archive = initramfs::pack(&self.host, role, &settings, files)?;
        fs::write(&initramfs, archive).path_context("cannot write", &initramfs)?;
        let disk = Disk {
            queues: self.options.queues,
            packed: self.options.packed,
            reconnects: role == Role::WriteNumbered,
        };
        let mut command = Vm::command(&self.host, &self.socket(), &disk, &initramfs)?;
        Vm::run(&mut command, &self.log(role.name()), VM_LIMIT)
    }

    /// Two CPUs have written, so two queues must have been used.
    fn check_queues(&self, lines: &[String]) -> Result<()> {
        let used = lines
            .iter()
            .filter_map(|line| line.strip_prefix("interrupts "))
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, count)| *count != "0")
            .count();
        if used < 2 {
            return Err(format!("interrupts came from {used} queues only").into());
        }
        Ok(())
    }

    fn read_image(&self) -> Result<Vec<u8>> {
        let image = self.image();
        fs::read(&image).path_context("cannot read", &image)
    }

    fn image(&self) -> PathBuf {
        self.scratch.0.join("disk.img")
    }

    fn socket(&self) -> PathBuf {
        self.scratch.0.join("disk.sock")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("qemu-blk-{name}.log"))
    }

    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// The ends of the logs that this run has written.
    fn print_tails(&self) {
        for name in LOGS {
            print_tail(&self.log(name));
        }
    }
}

fn flushed_number(line: &str) -> Option<u64> {
    line.strip_prefix("flushed ")?.parse().ok()
}

pub fn print_tail(path: &Path) {
    let Ok(bytes) = fs::read(path) else {
        return;
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("--- {}", path.display());
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("{line}");
    }
}

/// A directory of our own, with a name short enough for a socket in it.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Result<Self> {
        let name = format!("vhost-guest-e2e-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).path_context("cannot create", &path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in a directory for what may be lost.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&mut Arguments::new(words.iter().copied()))
    }

    #[test]
    fn rejects_what_the_guests_cannot_do() {
        assert!(parse(&["--size", "65"]).is_err());
        assert!(parse(&["--queues", "1"]).is_err());
        assert!(parse(&["--backend", "none"]).is_err());
        assert!(parse(&["--kills", "10"]).is_err());
        assert_eq!(parse(&["--size", "2"]).unwrap().size, 2 << 20);
    }

    #[test]
    fn keeps_only_numbers_that_were_flushed() {
        assert_eq!(flushed_number("flushed 12"), Some(12));
        assert_eq!(flushed_number("flushed"), None);
        assert_eq!(flushed_number("written 12"), None);
    }
}
