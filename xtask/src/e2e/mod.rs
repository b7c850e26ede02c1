// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e`: tests with real parts, which need Debian's packages and
//! seconds rather than milliseconds.

mod backend;
mod blk;
mod cpio;
pub mod frontend_guest;
mod host;
mod initramfs;
mod kvm_lab;
mod lab;
mod migrate;
mod module_lab;
mod net_lab;
mod net_migrate;
mod pattern;
mod relay_lab;
mod steps;
mod testpmd;
mod vm;

use crate::arguments::Arguments;
use crate::error::Result;

const HELP: &str = "\
Runs a test with real parts, and names the packages that it misses.

Usage: cargo xtask e2e TEST [OPTIONS]

`cargo xtask e2e TEST --help` tells what a test does, and its options.
";

/// What a test is called, what its `--help` says, and what runs it.
type Test = (&'static str, &'static str, fn(&mut Arguments) -> Result<()>);

const TESTS: [Test; 7] = [
    ("qemu-blk", blk::HELP, blk::run),
    ("qemu-migrate", migrate::HELP, migrate::run),
    ("kvm-lab", kvm_lab::HELP, kvm_lab::run),
    ("module", module_lab::HELP, module_lab::run),
    ("relay", relay_lab::HELP, relay_lab::run),
    ("net", net_lab::HELP, net_lab::run),
    ("net-migrate", net_migrate::HELP, net_migrate::run),
];

/// What the tests are called.
pub fn names() -> impl Iterator<Item = &'static str> {
    TESTS.iter().map(|(name, ..)| *name)
}

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let known = || names().collect::<Vec<_>>().join(", ");
    let Some(name) = arguments.positional() else {
        if arguments.flag("--help") {
            print!("{HELP}\nTests: {}\n", known());
            return Ok(());
        }
        return Err(format!("e2e: which test? There are {}", known()).into());
    };
    let Some((_, help, run)) = TESTS.iter().find(|(known, ..)| *known == name) else {
        return Err(format!("e2e {name}: no such test; there are {}", known()).into());
    };
    if arguments.flag("--help") {
        print!("{help}");
        return Ok(());
    }
    run(arguments)
}
