// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e`: tests with real parts, which need Debian's packages and
//! seconds rather than milliseconds.

mod backend;
mod blk;
mod cpio;
mod host;
mod initramfs;
mod kvm_lab;
mod lab;
mod migrate;
mod module_lab;
mod pattern;
mod relay_lab;
mod vm;

use crate::arguments::Arguments;
use crate::error::Result;

const TESTS: &str = "there are qemu-blk, qemu-migrate, kvm-lab, module and relay";

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let name = arguments.positional();
    let (help, run): (_, fn(&mut Arguments) -> Result<()>) = match name.as_deref() {
        Some("qemu-blk") => (blk::HELP, blk::run),
        Some("qemu-migrate") => (migrate::HELP, migrate::run),
        Some("module") => (module_lab::HELP, module_lab::run),
        Some("relay") => (relay_lab::HELP, relay_lab::run),
        Some("kvm-lab") => (kvm_lab::HELP, kvm_lab::run),
        Some(other) => return Err(format!("no such test: {other} ({TESTS})").into()),
        None => return Err(format!("which test? ({TESTS})").into()),
    };
    if arguments.flag("--help") {
        print!("{help}");
        return Ok(());
    }
    run(arguments)
}
