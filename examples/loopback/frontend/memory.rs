// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The memory that the frontend shares: the "RAM" of its guest.
//!
//! One sealed memfd in two regions with a hole between them, as a PC has it:
//! rings and request headers low, data buffers from 4 GiB on.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{ftruncate, memfd_create, MemfdFlags, SealFlags};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::loopback::failure::{Context, Failure};

/// Requests that a queue has under way at most.
pub const DEPTH: u16 = 16;
/// Bytes of data that one request moves at most.
pub const REQUEST_BYTES: u64 = 32 << 10;
/// Descriptors of a ring; three for each request fit.
pub const RING_SIZE: u16 = 64;

const RINGS: GuestAddress = GuestAddress(0);
const DATA: GuestAddress = GuestAddress(4 << 30);
const RINGS_PER_QUEUE: u64 = 16 << 10;
const DATA_PER_QUEUE: u64 = DEPTH as u64 * REQUEST_BYTES;
const MIB: u64 = 1 << 20;

/// Where the parts of one queue are, as guest physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct QueueLayout {
    /// The descriptor table.
    pub descriptors: GuestAddress,
    /// The available ring.
    pub available: GuestAddress,
    /// The used ring.
    pub used: GuestAddress,
    headers: GuestAddress,
    data: GuestAddress,
}

impl QueueLayout {
    /// The layout of queue `index`.
    pub fn new(index: u16) -> Self {
        let rings = RINGS.unchecked_add(u64::from(index) * RINGS_PER_QUEUE);
        Self {
            descriptors: rings,
            available: rings.unchecked_add(0x1000),
            used: rings.unchecked_add(0x2000),
            headers: rings.unchecked_add(0x3000),
            data: DATA.unchecked_add(u64::from(index) * DATA_PER_QUEUE),
        }
    }

    /// The 16-byte request header of a slot.
    pub fn header(&self, slot: u16) -> GuestAddress {
        self.headers.unchecked_add(u64::from(slot) * 64)
    }

    /// The status byte of a slot.
    pub fn status(&self, slot: u16) -> GuestAddress {
        self.header(slot).unchecked_add(32)
    }

    /// The data buffer of a slot.
    pub fn data(&self, slot: u16) -> GuestAddress {
        self.data.unchecked_add(u64::from(slot) * REQUEST_BYTES)
    }
}

/// Makes the memory for `queues` queues, filled with zeros.
pub fn allocate(queues: u16) -> Result<Arc<GuestMemoryMmap>, Failure> {
    let low = (u64::from(queues) * RINGS_PER_QUEUE).next_multiple_of(2 * MIB);
    let high = (u64::from(queues) * DATA_PER_QUEUE).next_multiple_of(2 * MIB);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = memfd_create("loopback-frontend", flags).context("memory of the frontend")?;
    ftruncate(&memfd, low + high).context("memory of the frontend")?;
    // Says to the VMM that maps it: this will not be pulled from under you.
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW)
        .context("sealing the memory of the frontend")?;

    let file = Arc::new(File::from(memfd));
    let ranges = [
        (
            RINGS,
            low as usize,
            Some(FileOffset::from_arc(file.clone(), 0)),
        ),
        (DATA, high as usize, Some(FileOffset::from_arc(file, low))),
    ];
    let memory = GuestMemoryMmap::from_ranges_with_files(ranges)
        .map_err(std::io::Error::other)
        .context("mapping the memory of the frontend")?;
    Ok(Arc::new(memory))
}

/// The table for SET_MEM_TABLE.
pub fn table(memory: &GuestMemoryMmap) -> Result<Vec<VhostUserMemoryRegionInfo>, vhost::Error> {
    memory
        .iter()
        .map(VhostUserMemoryRegionInfo::from_guest_region)
        .collect()
}

/// What the vhost-user protocol calls a user address: ours.
pub fn user_address(memory: &GuestMemoryMmap, address: GuestAddress) -> Result<u64, Failure> {
    let pointer = memory.get_host_address(address);
    let pointer = pointer.map_err(std::io::Error::other);
    Ok(pointer.context("address of a ring")? as u64)
}
