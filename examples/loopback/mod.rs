// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk served from inside a guest, through a vhost-guest device, with all
//! parts in one program: `cargo run --release --example loopback`.

mod backend;
pub(crate) mod failure;
pub(crate) mod frontend;
mod guest;
pub(crate) mod journal;
mod latency;
mod options;
mod places;
mod report;
mod resources;
pub(crate) mod signals;
pub(crate) mod socket;
mod summary;
mod wakeups;

use std::process::ExitCode;

use failure::Failure;
use options::{Options, HELP};

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args_os().skip(1)).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("loopback: {failure}");
            ExitCode::from(code(&failure))
        }
    }
}

fn run(options: Options) -> Result<(), Failure> {
    if options.help {
        print!("{HELP}");
        return Ok(());
    }
    if options.frontend_of.is_some() {
        return frontend::run(&options);
    }
    backend::run(&options)
}

fn code(failure: &Failure) -> u8 {
    match failure {
        Failure::Usage(_) => 2,
        Failure::Interrupted => 130,
        _ => 1,
    }
}

/// Ends the process from a thread that nobody waits for.
pub(crate) fn fail(failure: &Failure) -> ! {
    eprintln!("loopback: {failure}");
    std::process::exit(code(failure).into())
}
