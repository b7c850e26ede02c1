// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::{disk_help, number, Disk};
use crate::loopback::failure::Failure;

/// Text of `--help`.
pub const HELP: &str = concat!(
    "\
A disk served from inside a guest, through a vhost-guest device.

A small userspace VMM with an emulated guest runs the driver and a virtio-blk
backend over a disk image, behind a vhost-user socket. A frontend, in a process
of its own, runs a verified random workload on the disk, disconnects, connects
again and verifies what it wrote.

Usage: loopback [OPTIONS]

  --disk PATH           disk image, made if absent; the workload overwrites it
                        (default: a temporary one)
  --size SIZE           size of an image that is made: bytes, or with K, M, G
                        (default: 64M)
",
    disk_help!(),
    "\
\x20 --socket PATH         vhost-user socket (default: a temporary one). One that
                        is left behind by another program is replaced
  --listen              no frontend of our own: serve any that connects to the
                        socket, one after the other, until Ctrl-C. After SIGUSR1
                        the disk is as large as its image is then
  --no-irqfd            a thread of the VMM forwards the frontend's kicks
  --no-ioeventfd        the guest's doorbell stores go through the device
  --lose-dirty-log      keep what the guest marks in QEMU's dirty log from QEMU:
                        a VM that is migrated gets stale memory, to see a test
                        fail
  --seconds N           length of the workload (default: 5); not with --listen, as
                        the next two
  --requests N          length of the workload in requests instead
  --seed N              seed of the workload (default: 1)
  --help                this text

Exit code: 0 if all went well; 1 on a checksum mismatch, a hang, a leak, wake-ups
of the VMM's threads that must not be, or any other failure, with one line that
says so; 2 if the command line is wrong; 130 after Ctrl-C (0 with --listen).

A frontend that truncates memory that it shares kills this program (SIGBUS): it
touches that memory itself, in the role of the guest. A VMM on KVM survives.
"
);

/// How long the measured part of the workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Until this time is over.
    Time(Duration),
    /// Until this many requests are done.
    Requests(u64),
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only the help text.
    pub help: bool,
    /// The disk image, unless temporary.
    pub image: Option<PathBuf>,
    /// Size in bytes of an image that is made.
    pub size: u64,
    /// The disk on it.
    pub disk: Disk,
    /// The vhost-user socket, unless temporary.
    pub socket: Option<PathBuf>,
    /// Serve frontends from outside.
    pub listen: bool,
    /// Kicks reach the guest without a thread of the VMM.
    pub irqfd: bool,
    /// Doorbell stores signal without the device.
    pub ioeventfd: bool,
    /// Dirty logs are lost.
    pub lose_dirty_log: bool,
    /// Length of the workload.
    pub length: Length,
    /// Seed of the workload.
    pub seed: u64,
    /// Set in the process that plays the frontend: the VMM's process.
    pub frontend_of: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            help: false,
            image: None,
            size: 64 << 20,
            disk: Disk::new(2),
            socket: None,
            listen: false,
            irqfd: true,
            ioeventfd: true,
            lose_dirty_log: false,
            length: Length::Time(Duration::from_secs(5)),
            seed: 1,
            frontend_of: None,
        }
    }
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut arguments = Arguments { rest: arguments };
        // Options of the workload.
        let mut workload = Vec::new();
        while let Some(argument) = arguments.rest.next() {
            let name = argument.to_string_lossy();
            if matches!(&*name, "--seconds" | "--requests" | "--seed") {
                workload.push(name.to_string());
            }
            match &*name {
                "--help" | "-h" => options.help = true,
                "--disk" => options.image = Some(arguments.value(&name)?.into()),
                "--size" => options.size = arguments.size(&name)?,
                "--read-only" => options.disk.read_only = true,
                name if Disk::has(name) => {
                    let value = arguments.value(name)?;
                    options.disk.set(name, &value).map_err(Failure::Usage)?;
                }
                "--socket" => options.socket = Some(arguments.value(&name)?.into()),
                "--listen" => options.listen = true,
                "--no-irqfd" => options.irqfd = false,
                "--no-ioeventfd" => options.ioeventfd = false,
                "--lose-dirty-log" => options.lose_dirty_log = true,
                "--seconds" => {
                    let seconds = arguments.number(&name, 1, 86_400)?;
                    options.length = Length::Time(Duration::from_secs(seconds));
                }
                "--requests" => {
                    let requests = arguments.number(&name, 1, u64::MAX)?;
                    options.length = Length::Requests(requests);
                }
                "--seed" => options.seed = arguments.number(&name, 0, u64::MAX)?,
                // Not for users: how the program starts itself as the frontend.
                "--frontend-of" => {
                    let pid = arguments.number(&name, 1, u32::MAX.into())?;
                    options.frontend_of = Some(pid as u32);
                }
                _ => return Err(Failure::Usage(format!("unknown option {name}"))),
            }
        }
        if options.listen && options.socket.is_none() {
            return Err(Failure::Usage("--listen needs --socket".into()));
        }
        check_workload(&workload, options.listen)?;
        Ok(options)
    }

    /// The arguments for the process that plays the frontend.
    pub fn for_frontend(&self, socket: &Path, disk: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--socket".into(), socket.into()];
        arguments.extend(["--disk".into(), disk.into()]);
        let (name, length) = match self.length {
            Length::Time(time) => ("--seconds", time.as_secs()),
            Length::Requests(requests) => ("--requests", requests),
        };
        let numbers = [
            (name, length),
            ("--queues", self.disk.queues.into()),
            ("--seed", self.seed),
            ("--frontend-of", std::process::id().into()),
        ];
        for (name, number) in numbers {
            arguments.extend([name.into(), number.to_string().into()]);
        }
        arguments
    }
}

/// Options that would have no effect are a mistake.
fn check_workload(names: &[String], listen: bool) -> Result<(), Failure> {
    if let Some(name) = names.first().filter(|_| listen) {
        return Err(Failure::Usage(format!("{name} goes without --listen")));
    }
    let has = |wanted| names.iter().any(|name| name == wanted);
    match has("--seconds") && has("--requests") {
        true => Err(Failure::Usage("--requests goes without --seconds".into())),
        false => Ok(()),
    }
}

struct Arguments<I> {
    rest: I,
}

impl<I: Iterator<Item = OsString>> Arguments<I> {
    fn value(&mut self, name: &str) -> Result<OsString, Failure> {
        let value = self.rest.next();
        value.ok_or_else(|| Failure::Usage(format!("{name} needs a value")))
    }

    fn number(&mut self, name: &str, least: u64, most: u64) -> Result<u64, Failure> {
        let value = self.value(name)?;
        number(name, &value, least, most).map_err(Failure::Usage)
    }

    fn size(&mut self, name: &str) -> Result<u64, Failure> {
        let value = self.value(name)?;
        let bytes = value.to_str().and_then(size_in_bytes);
        bytes
            .filter(|bytes| bytes % 4096 == 0 && (1 << 20..=1 << 50).contains(bytes))
            .ok_or_else(|| {
                let value = value.to_string_lossy();
                Failure::Usage(format!("{name} {value}: not a multiple of 4K from 1M on"))
            })
    }
}

fn size_in_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Failure> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_every_option() {
        let line = "--disk a --size 1G --read-only --queues 4 --block-size 4096 --serial x \
                    --socket s --no-irqfd --no-ioeventfd --lose-dirty-log --requests 7 --seed 9";
        let expected = Options {
            image: Some("a".into()),
            size: 1 << 30,
            disk: Disk {
                read_only: true,
                queues: 4,
                block_size: 4096,
                serial: Some("x".into()),
            },
            socket: Some("s".into()),
            irqfd: false,
            ioeventfd: false,
            lose_dirty_log: true,
            length: Length::Requests(7),
            seed: 9,
            ..Options::default()
        };
        assert_eq!(parse(line).unwrap(), expected);
        assert_eq!(parse("").unwrap(), Options::default());
        assert!(parse("--socket s --listen").unwrap().listen);
    }

    #[test]
    fn starts_the_frontend_with_the_same_workload() {
        let options = parse("--requests 7 --seed 9 --queues 3 --no-irqfd").unwrap();
        let arguments = options.for_frontend(Path::new("s"), Path::new("d"));
        let frontend = Options::parse(arguments.into_iter()).unwrap();
        assert_eq!(frontend.socket, Some("s".into()));
        assert_eq!(frontend.image, Some("d".into()));
        assert_eq!(frontend.frontend_of, Some(std::process::id()));
        let workload = |options: &Options| (options.length, options.seed, options.disk.queues);
        assert_eq!(workload(&frontend), workload(&options));
    }

    #[test]
    fn rejects_what_makes_no_sense() {
        for line in [
            "--queues 0",
            "--queues 65",
            "--queues",
            "--size 1",
            "--size 1Mé",
            "--size 99999999999G",
            "--listen",
            "--listen --socket s --seed 1",
            "--seconds 1 --listen --socket s",
            "--seconds 1 --requests 1",
            "--requests 1 --seconds 1",
            "disk.img",
        ] {
            assert!(matches!(parse(line), Err(Failure::Usage(_))), "{line}");
        }
    }
}
