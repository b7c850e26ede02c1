// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::loopback::failure::Failure;

/// Text of `--help`.
pub const HELP: &str = "\
One run of an attack on a device, or of the same without the attack, and what
other threads of the VMM saw of it. `cargo xtask attack` compares the runs.

Usage: attack list
       attack run NAME [--calm] [--double]

  --calm     the frontend and the guest do the same, but do not attack
  --double   the victim is a device as one would write it first: one lock, and
             everything is done under it

Output of a run: a line for each probe with its longest duration in
microseconds, and one for each thing that is not as it has to be.
";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Only the help text.
    Help,
    /// The names of all attacks.
    List,
    /// One run.
    Run(String),
    /// The attacker's process of a run.
    Strike(String, PathBuf),
    /// A process of the frontend's that maps its file.
    Map,
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is to be done.
    pub task: Task,
    /// There is an attack.
    pub hostile: bool,
    /// The victim is the double.
    pub double: bool,
}

impl Options {
    /// Reads the arguments after the program's name.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut words: Vec<String> = arguments
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let mut flag = |name: &str| {
            let before = words.len();
            words.retain(|word| word != name);
            words.len() < before
        };
        let (calm, double, help) = (flag("--calm"), flag("--double"), flag("--help"));
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let task = match words[..] {
            _ if help => Task::Help,
            ["list"] => Task::List,
            ["run", name] => Task::Run(name.to_owned()),
            ["strike", name, socket] => Task::Strike(name.to_owned(), socket.into()),
            ["map"] => Task::Map,
            _ => return Err(Failure::Usage("what is to be done?".into())),
        };
        Ok(Self {
            task,
            hostile: !calm,
            double,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Options, Failure> {
        Options::parse(arguments.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_every_option() {
        let options = parse("run io-lock --calm --double").unwrap();
        assert_eq!(options.task, Task::Run("io-lock".into()));
        assert!(options.double && !options.hostile);
        assert!(parse("strike x /s").unwrap().hostile);
        assert_eq!(parse("list").unwrap().task, Task::List);
        assert_eq!(parse("--help").unwrap().task, Task::Help);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for wrong in ["", "run", "run a b", "walk", "list --fast"] {
            assert!(matches!(parse(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }
}
