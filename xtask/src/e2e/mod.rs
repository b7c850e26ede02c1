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
mod pattern;
mod vm;

use crate::arguments::Arguments;
use crate::error::Result;

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let name = arguments.positional();
    if arguments.flag("--help") {
        print!("{}", blk::HELP);
        return Ok(());
    }
    match name.as_deref() {
        Some("qemu-blk") => blk::run(arguments),
        Some(other) => Err(format!("no such test: {other} (there is qemu-blk)").into()),
        None => Err("which test? (there is qemu-blk)".into()),
    }
}
