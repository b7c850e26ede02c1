// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stock VM with a network card, emulated.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::super::host::Host;
use super::super::migrate::qmp::Qmp;
use super::super::vm::Vm;
use crate::documented::{Documented, BACKENDS};
use crate::error::Result;
use crate::process::dying_with_us;

/// How long a VM may take; it takes some seconds.
const LIMIT: Duration = Duration::from_secs(240);
/// 128 MiB and 8 KiB, for the reason that the tests of disks have.
const MEMORY: &str = "131080K";

/// A VM, and its monitor.
pub struct Card {
    pub vm: Vm,
    pub qmp: Qmp,
}

/// Where the parts of a VM are.
pub struct Places<'a> {
    pub initramfs: &'a Path,
    pub socket: &'a Path,
    pub monitor: &'a Path,
    pub console: &'a Path,
}

impl Card {
    /// Starts the guide's QEMU with a card. Its address ends with `address`; with
    /// `incoming`, a VM comes there.
    pub fn start(
        host: &Host,
        places: &Places<'_>,
        address: u8,
        incoming: Option<&str>,
    ) -> Result<Self> {
        let mut command = command(host, places, address)?;
        command.arg("-qmp").arg(format!(
            "unix:{},server=on,wait=off",
            places.monitor.display()
        ));
        if let Some(incoming) = incoming {
            command.args(["-incoming", incoming]);
        }
        let vm = Vm::run(&mut command, places.console, LIMIT)?;
        let qmp = Qmp::connect(places.monitor)?;
        Ok(Self { vm, qmp })
    }

    /// Has the guest do something.
    pub fn order(&mut self, order: &str, answer: &str) -> Result<String> {
        self.vm.tell(order)?;
        self.hear(answer)
    }

    /// Waits for a line that begins with `wanted`; returns the rest.
    pub fn hear(&mut self, wanted: &str) -> Result<String> {
        while let Some(line) = self.vm.next()? {
            if let Some(rest) = line.strip_prefix(wanted) {
                return Ok(rest.trim().to_owned());
            }
        }
        Err(format!("the guest ended instead of saying \"{wanted}\"").into())
    }

    /// Ends it, as its monitor can.
    pub fn quit(mut self) -> Result<()> {
        self.qmp.execute("quit", "")?;
        while self.vm.next()?.is_some() {}
        let status = self.vm.status()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("QEMU: {status}").into()),
        }
    }
}

fn command(host: &Host, places: &Places<'_>, address: u8) -> Result<Command> {
    let path = |path: &Path| path.display().to_string();
    let card = format!(
        "guest_announce=off,rx_queue_size=1024,tx_queue_size=1024,romfile=,\
         mac=52:54:00:00:00:{address:02x}"
    );
    let documented = Documented::find(BACKENDS, "qemu-system-x86_64", "-user,id=net")?
        .replace("accel=kvm", "accel=tcg,vmport=off")?
        .replace("256M", MEMORY)?
        .replace("/run/card0.sock", &path(places.socket))?
        // QEMU 7.2 takes irqfds for granted where it unmasks a vector.
        .replace("vectors=6", "vectors=0")?
        .replace("guest_announce=off", &card)?
        .replace("target/frontend/vmlinuz", &path(&host.kernel))?
        .replace("target/frontend/initramfs", &path(places.initramfs))?;
    let mut command = dying_with_us(&host.qemu);
    command.args(documented.arguments());
    // The last one of each counts.
    command.args(["-cpu", "qemu64", "-smp", "2"]);
    command.arg("-append");
    // On a busy machine, an emulated timer may be too late for Linux's check of it.
    command.arg(format!(
        "console=ttyS0 panic=-1 quiet no_timer_check maxcpus=1 address={address}"
    ));
    Ok(command)
}
