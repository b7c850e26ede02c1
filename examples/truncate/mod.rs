// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A hostile frontend: it shares memory with a ring in it, and truncates the
//! file while the backend uses the ring. `truncate SOCKET`
//!
//! A backend that is a process may die of it (SIGBUS). Behind a vhost-guest
//! device on KVM, the frontend has to be disconnected, and no more.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vhost::vhost_user::message::VhostUserVirtioFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

const MEMORY: usize = 2 << 20;
const RING_SIZE: u16 = 16;
const VERSION_1: u64 = 1 << 32;
/// Time in which the backend is sure to have looked at its ring.
const PAUSE: Duration = Duration::from_millis(500);
/// Time in which it has to notice.
const LIMIT: Duration = Duration::from_secs(100);

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [socket] = &arguments[..] else {
        eprintln!("Usage: truncate SOCKET");
        return ExitCode::from(2);
    };
    match run(Path::new(socket)) {
        Ok(()) => {
            println!("truncate: disconnected");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("truncate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(socket: &Path) -> io::Result<()> {
    // Without ALLOW_SEALING nobody can make sure that the file keeps its size.
    let file = File::from(memfd_create("truncate", MemfdFlags::CLOEXEC)?);
    ftruncate(&file, MEMORY as u64)?;
    let mapped = FileOffset::new(file.try_clone()?, 0);
    let range = (GuestAddress(0), MEMORY, Some(mapped));
    let memory =
        GuestMemoryMmap::<()>::from_ranges_with_files([range]).map_err(io::Error::other)?;
    let kick = EventFd::new(EFD_NONBLOCK)?;
    let frontend = share(socket, &memory, &kick).map_err(io::Error::other)?;
    kick.write(1)?;
    thread::sleep(PAUSE);
    // Still there, and content with everything.
    frontend.get_features().map_err(io::Error::other)?;

    ftruncate(&file, 0)?;
    kick.write(1)?;
    let deadline = Instant::now() + LIMIT;
    while frontend.get_features().is_ok() {
        if Instant::now() >= deadline {
            return Err(io::Error::other("still connected"));
        }
        thread::sleep(PAUSE / 10);
    }
    Ok(())
}

/// Shares the memory, and starts an empty ring in it.
fn share(socket: &Path, memory: &GuestMemoryMmap, kick: &EventFd) -> vhost::Result<Frontend> {
    let mut frontend = Frontend::connect(socket, 1)?;
    frontend.set_owner()?;
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let features = frontend.get_features()? & (protocol | VERSION_1);
    frontend.get_protocol_features()?;
    frontend.set_protocol_features(VhostUserProtocolFeatures::empty())?;
    frontend.set_features(features)?;
    let table: vhost::Result<Vec<_>> = memory
        .iter()
        .map(VhostUserMemoryRegionInfo::from_guest_region)
        .collect();
    frontend.set_mem_table(&table?)?;
    let address = |offset| {
        let pointer = memory.get_host_address(GuestAddress(offset));
        // All offsets below are inside.
        pointer.map_or(0, |pointer| pointer as u64)
    };
    let ring = VringConfigData {
        queue_max_size: RING_SIZE,
        queue_size: RING_SIZE,
        flags: 0,
        desc_table_addr: address(0),
        avail_ring_addr: address(0x1000),
        used_ring_addr: address(0x2000),
        log_addr: None,
    };
    frontend.set_vring_num(0, RING_SIZE)?;
    frontend.set_vring_addr(0, &ring)?;
    frontend.set_vring_base(0, 0)?;
    frontend.set_vring_kick(0, kick)?;
    frontend.set_vring_enable(0, true)?;
    Ok(frontend)
}
