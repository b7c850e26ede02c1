// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::ffi::OsString;

use crate::loopback::failure::Failure;

/// Text of `--help`.
pub const HELP: &str = "\
One frontend after the other works on a disk that is served from inside a
guest, and dies in one way or another. In the end the VMM's process must hold
exactly what it held in the beginning: descriptors, mappings, threads,
ioeventfds, interrupt sources, and memory, up to a small limit.

Usage: cycles [OPTIONS]

  --cycles N     frontends (default: 10000)
  --seed N       seed of the workload and of the deaths (default: 1)
  --leak WHAT    lose something in each cycle, to see that it is found:
                 descriptor, mapping, memory, thread, ioeventfd, source, or
                 window
  --help         this text

Exit code: 0 if all went well; 1 on a leak, a hang, a checksum mismatch or any
other failure, with one line that says so; 2 if the command line is wrong.
";

/// What the program loses on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leak {
    /// An open file.
    Descriptor,
    /// A page of address space.
    Mapping,
    /// 100 KiB of heap.
    Memory,
    /// A thread that sleeps.
    Thread,
    /// A doorbell.
    Ioeventfd,
    /// An interrupt source.
    Source,
    /// A page in the window.
    Window,
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Only the help text.
    pub help: bool,
    /// Frontends.
    pub cycles: u64,
    /// Seed.
    pub seed: u64,
    /// Lost in each cycle.
    pub leak: Option<Leak>,
}

impl Options {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut options = Self {
            help: false,
            cycles: 10_000,
            seed: 1,
            leak: None,
        };
        let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
        while let Some(name) = arguments.next() {
            if name == "--help" {
                options.help = true;
                continue;
            }
            if !["--cycles", "--seed", "--leak"].contains(&&*name) {
                return Err(Failure::Usage(format!("unknown option {name}")));
            }
            let missing = || Failure::Usage(format!("{name} needs a value"));
            let value = arguments.next().ok_or_else(missing)?;
            let bad = |what| Failure::Usage(format!("{name} {value}: not {what}"));
            match name.as_str() {
                "--cycles" => options.cycles = value.parse().map_err(|_| bad("a number"))?,
                "--seed" => options.seed = value.parse().map_err(|_| bad("a number"))?,
                _ => options.leak = Some(leak(&value).ok_or_else(|| bad("what can leak"))?),
            }
        }
        Ok(options)
    }
}

fn leak(name: &str) -> Option<Leak> {
    Some(match name {
        "descriptor" => Leak::Descriptor,
        "mapping" => Leak::Mapping,
        "memory" => Leak::Memory,
        "thread" => Leak::Thread,
        "ioeventfd" => Leak::Ioeventfd,
        "source" => Leak::Source,
        "window" => Leak::Window,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Options, Failure> {
        Options::parse(arguments.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_every_option() {
        let options = parse("--cycles 5 --seed 7 --leak thread").unwrap();
        let expected = Options {
            help: false,
            cycles: 5,
            seed: 7,
            leak: Some(Leak::Thread),
        };
        assert_eq!(options, expected);
        assert_eq!(parse("").unwrap().cycles, 10_000);
        assert!(parse("--help").unwrap().help);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for wrong in ["--cycles", "--cycles x", "--leak water", "--fast 1"] {
            assert!(matches!(parse(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }
}
