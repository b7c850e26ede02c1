// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Attacks on a device and its VMM, and what other threads see of them:
//! `cargo xtask attack` runs this program.
//!
//! Each attack is a file of `list`. One process is the VMM (`run`): a
//! `Machine` with a guest, and threads that do what vCPUs
//! and the VMM do (`probes`). Another one attacks (`attacker`), in rounds:
//! it strikes, the VMM takes everything from it, it leaves but keeps what holds
//! others up, the next frontend has to be served, and it lets go.

mod attacker;
mod double;
mod frontend;
mod guest;
mod knob;
mod list;
mod machine;
mod options;
mod probes;
mod run;
mod stage;
mod victim;

use std::process::ExitCode;

use crate::loopback::failure::Failure;
use list::{Attack, ATTACKS};
use options::{Options, Task, HELP};

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args_os().skip(1)).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("attack: {failure}");
            ExitCode::from(if matches!(failure, Failure::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}

fn run(options: Options) -> Result<(), Failure> {
    match &options.task {
        Task::Help => {
            print!("{HELP}");
            Ok(())
        }
        Task::List => {
            for attack in ATTACKS {
                println!("{:20} {}", attack.name, attack.what);
            }
            Ok(())
        }
        Task::Map => list::map_for_mappings(),
        Task::Run(name) => run::run(find(name)?, &options),
        Task::Strike(name, socket) => attacker::main(find(name)?, socket, options.hostile),
    }
}

fn find(name: &str) -> Result<&'static Attack, Failure> {
    let found = ATTACKS.iter().copied().find(|attack| attack.name == name);
    found.ok_or_else(|| Failure::Usage(format!("no attack {name}")))
}
