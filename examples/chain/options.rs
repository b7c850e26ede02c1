// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use vhost_guest_relay::device_type;

use crate::disk::number;
use crate::loopback::failure::Failure;

/// Text of `--help`.
pub const HELP: &str = "\
A stock vhost-user frontend and a stock backend of this machine, with all of this
project between them: the frontend's socket, a vhost-guest device, an emulated guest
with the relay in it, and the backend's socket. It needs no KVM.

Usage: chain --socket PATH --backend PATH --type TYPE [OPTIONS]

  --socket PATH      vhost-user socket, to which frontends connect, one after the
                     other. One that is left behind by another program is replaced
  --backend PATH     the backend's socket, on which it listens
  --type TYPE        what the backend is, in the words of vhost-guest-relay: net,
                     blk, fs and so on, or the number of a virtio device type
  --queues N         vrings that a frontend may use, 1 to 256 (default: 4)
  --lose-dirty-log   keep what the backend marks in QEMU's dirty log from QEMU: a
                     VM that is migrated gets stale memory, to see a test fail
  --help             this text

It waits until the backend is there, and serves until Ctrl-C.

Exit code: 0 after Ctrl-C, 1 after a failure, 2 if the command line is wrong.
";

/// What the user asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only the help text.
    pub help: bool,
    /// The frontends' socket.
    pub socket: PathBuf,
    /// The backend's socket.
    pub backend: PathBuf,
    /// The virtio type of the backend.
    pub device_type: u16,
    /// Vrings.
    pub queues: u16,
    /// Dirty logs are lost.
    pub lose_dirty_log: bool,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut options = Self {
            queues: 4,
            ..Self::default()
        };
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy();
            let mut value = || {
                let value = arguments.next().filter(|value| !value.is_empty());
                value.ok_or_else(|| Failure::Usage(format!("{name} needs a value")))
            };
            match &*name {
                "--help" | "-h" => {
                    options.help = true;
                    return Ok(options);
                }
                "--socket" => options.socket = value()?.into(),
                "--backend" => options.backend = value()?.into(),
                "--type" => {
                    let named = value()?;
                    let named = named.to_string_lossy();
                    let unknown = || format!("--type {named}: not a type of device");
                    let number = device_type(&named);
                    options.device_type = number.ok_or_else(|| Failure::Usage(unknown()))?;
                }
                "--queues" => {
                    let queues = number(&name, &value()?, 1, 256);
                    options.queues = queues.map_err(Failure::Usage)? as u16;
                }
                "--lose-dirty-log" => options.lose_dirty_log = true,
                _ => return Err(Failure::Usage(format!("unknown option {name}"))),
            }
        }
        for (name, missing) in [
            ("--socket", options.socket.as_os_str().is_empty()),
            ("--backend", options.backend.as_os_str().is_empty()),
            ("--type", options.device_type == 0),
        ] {
            if missing {
                return Err(Failure::Usage(format!("{name} is missing")));
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Failure> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_every_option() {
        let options =
            parse("--socket a --backend b --type net --queues 256 --lose-dirty-log").unwrap();
        let expected = Options {
            help: false,
            socket: "a".into(),
            backend: "b".into(),
            device_type: 1,
            queues: 256,
            lose_dirty_log: true,
        };
        assert_eq!(options, expected);
        let options = parse("--type 2 --backend b --socket a").unwrap();
        assert_eq!((options.queues, options.lose_dirty_log), (4, false));
        assert!(parse("--socket a --help").unwrap().help);
    }

    #[test]
    fn names_the_option_that_makes_no_sense() {
        for (line, named) in [
            ("--backend b --type 1", "--socket is missing"),
            ("--socket a --type 1", "--backend is missing"),
            ("--socket a --backend b", "--type is missing"),
            ("--socket", "--socket needs a value"),
            ("--type 0", "--type 0"),
            ("--type card", "--type card"),
            ("--queues 257", "--queues 257"),
            ("a", "unknown option a"),
        ] {
            let failure = parse(line).unwrap_err();
            assert!(matches!(failure, Failure::Usage(_)), "{line}");
            assert!(failure.to_string().contains(named), "{line}: {failure}");
        }
    }
}
