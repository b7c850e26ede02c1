// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The project's own commands: `cargo xtask help`.
//!
//! Each subcommand is a module. They use the standard library and the
//! programs that a developer has anyway, so that a first `cargo xtask` costs a
//! second of compilation and nothing to trust.

#![forbid(unsafe_code)]

mod arguments;
mod attack;
mod commits;
mod confined;
mod coverage;
mod documented;
mod e2e;
mod error;
mod fuzz;
mod process;
mod seeds;
mod workspace;

use std::process::ExitCode;

use arguments::Arguments;
use error::Result;

const HELP: &str = "\
The project's own commands.

Usage: cargo xtask COMMAND [OPTIONS]

Commands:
  attack [NAME...]   Attack the device, and measure what others see of it
  commits [RANGE]    Check the format of the commits (default: all of HEAD)
  confined [FILTER]  Run the device's tests as a user who may do little
  coverage           Measure the line coverage of the tests
  e2e qemu-blk       Boot stock VMs on a disk that the device serves
  e2e qemu-migrate   Live-migrate a VM whose disk the device serves
  e2e kvm-lab        Serve a disk from a guest to a VM, on an emulated KVM host
  e2e module         Test the Linux driver, and serve a disk with it
  e2e relay          Put stock backends behind the relay, in a guest
  e2e net            Serve network cards from a guest, with DPDK's testpmd
  e2e net-migrate    Live-migrate a VM with a network card of DPDK's testpmd
  frontend-guest     Make a guest for a VM whose device is to be tried
  fuzz [TARGET]      Run the fuzz targets, on the stable toolchain
  help               Print this

`cargo xtask COMMAND --help` tells a command's options.
";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_env();
    match run(&mut arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &mut Arguments) -> Result<()> {
    match arguments.positional().as_deref() {
        Some("attack") => attack::run(arguments),
        Some("commits") => commits::run(arguments),
        Some("confined") => confined::run(arguments),
        Some("coverage") => coverage::run(arguments),
        Some("e2e") => e2e::run(arguments),
        Some("frontend-guest") => e2e::frontend_guest::run(arguments),
        Some("fuzz") => fuzz::run(arguments),
        Some("help") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(format!("no such command: {other} (try cargo xtask help)").into()),
        None if arguments.flag("--help") => {
            print!("{HELP}");
            Ok(())
        }
        None => Err("which command? (try cargo xtask help)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_test_with_real_parts() {
        for name in e2e::names() {
            assert!(HELP.contains(&format!("\n  e2e {name} ")), "{name}");
        }
    }
}
