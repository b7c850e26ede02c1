// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::loopback::failure::Failure;

/// Text of `--help`.
pub const HELP: &str = "\
A vhost-guest device as a vfio-user server: for a VMM that knows nothing of it.

Usage: vfio_user --socket PATH --vhost-user PATH [OPTIONS]

  --socket PATH      vfio-user socket, for the VMM that gets the device
  --vhost-user PATH  vhost-user socket, for frontends
  --queues N         vrings that a frontend may use, 1 to 256 (default: 4)
  --window SIZE      most memory that a frontend can share: a power of two from
                     4M on, in bytes or with K, M, G (default: 4G)
  --help             this text

The device in a guest of QEMU (10.1 or newer), whose memory has to be shared:

  qemu-system-x86_64 … -m 1G -object memory-backend-memfd,id=m,size=1G,share=on \\
    -machine q35,memory-backend=m \\
    -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"PATH\"}}'

This program accesses the frontend's memory in the name of the guest. It accepts
only files that cannot be truncated (F_SEAL_SHRINK), as those of QEMU's
memory-backend-memfd. It is slow: each access of the guest's to the window and
each doorbell is a message, and each kick goes through a thread.

It serves one VMM after the other, until Ctrl-C.
";

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only the help text.
    pub help: bool,
    /// The vfio-user socket.
    pub socket: PathBuf,
    /// The vhost-user socket.
    pub vhost_user: PathBuf,
    /// Vrings.
    pub queues: u16,
    /// Bytes of the window.
    pub window: u64,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut options = Self {
            help: false,
            socket: PathBuf::new(),
            vhost_user: PathBuf::new(),
            queues: 4,
            window: 4 << 30,
        };
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy();
            if matches!(&*name, "--help" | "-h") {
                options.help = true;
                return Ok(options);
            }
            let known = ["--socket", "--vhost-user", "--queues", "--window"];
            if !known.contains(&&*name) {
                return Err(Failure::Usage(format!("unknown option {name}")));
            }
            let missing = || Failure::Usage(format!("{name} needs a value"));
            let value = arguments.next().ok_or_else(missing)?;
            let text = value.to_string_lossy();
            let bad = |what| Failure::Usage(format!("{name} {text}: not {what}"));
            match &*name {
                "--socket" => options.socket = PathBuf::from(&value),
                "--vhost-user" => options.vhost_user = PathBuf::from(&value),
                "--queues" => {
                    let queues = text.parse().ok();
                    let queues = queues.filter(|queues| (1..=256).contains(queues));
                    options.queues = queues.ok_or_else(|| bad("a number from 1 to 256"))?;
                }
                _ => {
                    let bytes = size_in_bytes(&text);
                    let bytes = bytes.filter(|bytes| bytes.is_power_of_two() && *bytes >= 4 << 20);
                    options.window = bytes.ok_or_else(|| bad("a power of two from 4M on"))?;
                }
            }
        }
        for (name, path) in [
            ("--socket", &options.socket),
            ("--vhost-user", &options.vhost_user),
        ] {
            if path.as_os_str().is_empty() {
                return Err(Failure::Usage(format!("{name} is missing")));
            }
        }
        Ok(options)
    }
}

fn size_in_bytes(text: &str) -> Option<u64> {
    let shift = match text.chars().last()? {
        'K' | 'k' => 10,
        'M' | 'm' => 20,
        'G' | 'g' => 30,
        _ => 0,
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.len() - digits.len();
    let number = digits.parse::<u64>().ok();
    let number = number.filter(|_| suffix == usize::from(shift != 0));
    number?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Failure> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_every_option() {
        let expected = Options {
            help: false,
            socket: "a".into(),
            vhost_user: "b".into(),
            queues: 256,
            window: 16 << 20,
        };
        let line = "--socket a --vhost-user b --queues 256 --window 16M";
        assert_eq!(parse(line).unwrap(), expected);
        assert!(parse("--help").unwrap().help);
    }

    #[test]
    fn rejects_what_makes_no_sense() {
        for line in [
            "",
            "--socket a",
            "--vhost-user b",
            "--socket a --vhost-user b --queues 0",
            "--socket a --vhost-user b --queues 257",
            "--socket a --vhost-user b --window 3G",
            "--socket a --vhost-user b --window 2M",
            "--socket a --vhost-user b --window 16MM",
            "--socket a --vhost-user b --window é",
            "--socket",
            "disk",
        ] {
            assert!(matches!(parse(line), Err(Failure::Usage(_))), "{line}");
        }
    }
}
