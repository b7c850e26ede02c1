// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The file is as long as the region, and its file system has no page left for
//! it. The guest's access faults, and KVM does not say where. The VMM asks the
//! device, and the vCPU has to go on.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use vhost_guest_driver::Pieces;

use super::Attack;
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::guest::{Faults, Guest};
use crate::attack::machine::{Setup, FIRST};
use crate::attack::stage::Stage;
use crate::attack::victim::Victim;
use crate::loopback::failure::{Context, Failure};

pub const ATTACK: Attack = Attack {
    name: "no-pages",
    what: "shared memory on a file system without room for its pages",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: touches,
    prepare: |hostile| Ok(Box::new(NoPages::new(hostile)?)),
};

const SIZE: u64 = 16 << 20;
const PAGE: u64 = 4096;
/// Mounts a small file system that nobody else sees, and keeps it until its
/// standard input ends.
const MOUNT: &str = "mount -t tmpfs -o size=64k none /mnt && echo mounted && read _";

/// A file on a file system of 16 pages.
struct NoPages {
    shell: Child,
    file: File,
}

impl NoPages {
    fn new(hostile: bool) -> io::Result<Self> {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", MOUNT]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn()?;
        let mut line = String::new();
        let output = shell.stdout.take().ok_or(io::ErrorKind::Other)?;
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() != "mounted" {
            return Err(io::Error::other("no file system can be mounted"));
        }
        let place = format!("/proc/{}/root/mnt/memory", shell.id());
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).open(place)?;
        file.set_len(match hostile {
            true => SIZE,
            false => PAGE,
        })?;
        Ok(Self { shell, file })
    }
}

impl Drop for NoPages {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Strike for NoPages {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        let size = self.file.metadata()?.len();
        frontend.add_memory(self.file.as_fd(), size)?;
        attacker.until_told()?;
        Ok(Vec::new())
    }
}

/// A guest that touches the memory of its frontends.
pub fn touches(stage: &Stage, mut guest: Guest, _: bool) -> Result<Guest, Failure> {
    // The kernel accesses it as it does for a vCPU: what faults is an error, and
    // no signal.
    let memory = File::open("/proc/self/mem").context("memory")?;
    if let Some(slots) = stage.slots() {
        let victim = stage.victim();
        guest.add_vcpu(move |faults| touch_all(&*victim, &*slots, &memory, faults));
    }
    Ok(guest)
}

fn touch_all(victim: &dyn Victim, slots: &dyn Pieces, memory: &File, faults: &Faults) {
    for offset in (FIRST..FIRST + SIZE).step_by(PAGE as usize) {
        if touch(slots, memory, offset) {
            continue;
        }
        // As KVM: it does not say where. The memory may be gone meanwhile.
        if !victim.fault(false) && !touch(slots, memory, offset) {
            faults.add("a vCPU cannot go on after a fault in the window");
            thread::sleep(Duration::from_secs(1));
        }
    }
    thread::sleep(Duration::from_millis(1));
}

/// Whether an access does not fault, be it that there is nothing.
fn touch(slots: &dyn Pieces, memory: &File, offset: u64) -> bool {
    let mut done = true;
    slots.look(offset, &mut |address, _| {
        if let Some(address) = address {
            let address = address.addr().get() as u64;
            done = memory.read_at(&mut [0], address).is_ok();
        }
    });
    done
}
