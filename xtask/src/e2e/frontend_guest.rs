// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask frontend-guest`: a guest for whoever tries a device by hand.

use std::fs;
use std::path::PathBuf;

use super::host::Host;
use super::initramfs::{self, Role};
use crate::arguments::Arguments;
use crate::error::{Context, Result};

pub const HELP: &str = "\
Makes a guest for a VM whose disk, network card or vsock is to be tried: a kernel
(Debian's cloud kernel) and an initramfs with a shell on the serial console, for
QEMU's -kernel and -initrd.

Usage: cargo xtask frontend-guest [DIRECTORY]

It puts 'vmlinuz' and 'initramfs' into the directory (default: target/frontend).
";

const DIRECTORY: &str = "target/frontend";
/// What other devices than disks need, in the order in which they are loaded.
const MODULES: [&str; 6] = [
    "failover",
    "net_failover",
    "virtio_net",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
];

pub fn run(arguments: &mut Arguments) -> Result<()> {
    if arguments.flag("--help") {
        print!("{HELP}");
        return Ok(());
    }
    let directory = arguments.positional();
    arguments.finish()?;
    let directory = PathBuf::from(directory.as_deref().unwrap_or(DIRECTORY));
    let (mut host, []) = Host::find([])?;
    fs::create_dir_all(&directory).path_context("cannot create", &directory)?;
    let kernel = directory.join("vmlinuz");
    fs::copy(&host.kernel, &kernel).path_context("cannot write", &kernel)?;
    let initramfs = directory.join("initramfs");
    host.modules.extend(host.find_modules(&MODULES)?);
    let any = [("ANY_DEVICE", "yes".to_owned())];
    let archive = initramfs::pack(&host, Role::Shell, &any, &[])?;
    fs::write(&initramfs, archive).path_context("cannot write", &initramfs)?;
    println!("{} and {}", kernel.display(), initramfs.display());
    Ok(())
}
