// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's guest: memory that is shared, and a ring in it, split
//! (virtio 1.2 §2.7) or packed (§2.8).
//!
//! Each request has two descriptors: four bytes that the backend reads, and
//! four that it writes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use vhost_guest_msg::{MemTable, Region, VringAddr};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::frontend::Request;

/// Descriptors of the ring.
pub const NUM: u16 = 16;
/// Requests that there can be at a time.
pub const SLOTS: u16 = NUM / 2;

const GPA: u64 = 0x4000_0000;
const LEN: u64 = 0x1_0000;
/// What a frontend calls a user address means nothing to anybody else.
const USER: u64 = 0x7f12_3456_0000;

const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const DATA: u64 = 0x3000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const F_AVAILABLE: u16 = 1 << 7;
const F_USED: u16 = 1 << 15;

/// Where a packed ring begins: both wrap counters are 1.
const START: u16 = 1 << 15;

/// Where the guest stands in its ring.
enum Kind {
    Split { available: u16, seen: u16 },
    Packed { next: u16, seen: u16 },
}

/// The guest's memory with its ring.
pub struct Ring {
    memory: GuestMemoryMmap,
    file: File,
    kind: Kind,
}

impl Ring {
    pub fn new(packed: bool) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = memfd_create("guest", flags).unwrap();
        ftruncate(&memfd, LEN).unwrap();
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW).unwrap();
        let file = File::from(memfd);
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let range = (GuestAddress(GPA), LEN as usize, Some(offset));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let kind = match packed {
            false => Kind::Split {
                available: 0,
                seen: 0,
            },
            true => Kind::Packed {
                next: START,
                seen: START,
            },
        };
        Self { memory, file, kind }
    }

    fn load<T: vm_memory::AtomicAccess>(&self, at: u64) -> T {
        let at = GuestAddress(GPA + at);
        self.memory.load(at, Ordering::SeqCst).unwrap()
    }

    fn store<T: vm_memory::AtomicAccess>(&self, at: u64, value: T) {
        let at = GuestAddress(GPA + at);
        self.memory.store(value, at, Ordering::SeqCst).unwrap();
    }

    fn data(slot: u16) -> u64 {
        DATA + 8 * u64::from(slot)
    }

    /// Makes a request in `slot`, which must be free.
    pub fn offer(&mut self, slot: u16, tag: u32) {
        self.store(Self::data(slot), tag);
        self.store(Self::data(slot) + 4, 0u32);
        match &mut self.kind {
            Kind::Split { available, .. } => {
                let (head, at) = (2 * slot, 4 + 2 * u64::from(*available % NUM));
                *available = available.wrapping_add(1);
                let index = *available;
                self.put_split(head, Self::data(slot), NEXT, head + 1);
                self.put_split(head + 1, Self::data(slot) + 4, WRITE, 0);
                self.store(AVAILABLE + at, head);
                self.store(AVAILABLE + 2, index);
            }
            Kind::Packed { next, .. } => {
                let first = *next;
                *next = forward(first);
                self.put_packed(first + 1, Self::data(slot) + 4, slot, WRITE | fresh(first));
                self.put_packed(first, Self::data(slot), slot, NEXT | fresh(first));
            }
        }
    }

    fn put_split(&self, index: u16, address: u64, flags: u16, next: u16) {
        let at = DESCRIPTORS + 16 * u64::from(index);
        self.store(at, GPA + address);
        self.store(at + 8, 4u32);
        self.store(at + 12, flags);
        self.store(at + 14, next);
    }

    fn put_packed(&self, position: u16, address: u64, id: u16, flags: u16) {
        let at = DESCRIPTORS + 16 * u64::from(position & !START);
        self.store(at, GPA + address);
        self.store(at + 8, 4u32);
        self.store(at + 12, id);
        self.store(at + 14, flags);
    }

    /// The slot that was used next, with its answer.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let slot = match self.kind {
            Kind::Split { available, seen } => {
                if self.load::<u16>(USED + 2) == seen {
                    return None;
                }
                let at = USED + 4 + 8 * u64::from(seen % NUM);
                let seen = seen.wrapping_add(1);
                self.kind = Kind::Split { available, seen };
                self.load::<u32>(at) as u16 / 2
            }
            Kind::Packed { next, seen } => {
                let at = DESCRIPTORS + 16 * u64::from(seen & !START);
                let flags: u16 = self.load(at + 14);
                let used = [F_AVAILABLE, F_USED].map(|flag| flags & flag != 0);
                if used != [seen & START != 0; 2] {
                    return None;
                }
                let seen = forward(seen);
                self.kind = Kind::Packed { next, seen };
                self.load(at + 12)
            }
        };
        assert!(slot < SLOTS);
        Some((slot, self.load(Self::data(slot) + 4)))
    }

    /// What a frontend knows of where the ring stands when nobody has told
    /// it: QEMU takes the used index of a split ring, and what it knew before
    /// of a packed one.
    pub fn known_base(&self) -> u32 {
        match self.kind {
            Kind::Split { .. } => self.load::<u16>(USED + 2).into(),
            Kind::Packed { .. } => u32::from(START) << 16 | u32::from(START),
        }
    }

    /// Whether a backend at `base` has taken everything.
    pub fn is_all_taken(&self, base: u32) -> bool {
        match self.kind {
            Kind::Split { available, .. } => base == u32::from(available),
            Kind::Packed { next, .. } => base & 0xffff == u32::from(next),
        }
    }

    /// SET_MEM_TABLE.
    pub fn table(&self) -> Request {
        let region = Region::new(GPA, LEN, USER, 0).unwrap();
        Request::SetMemTable(MemTable::new(vec![(region, ())]).unwrap())
    }

    /// The file of the memory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// SET_VRING_ADDR.
    pub fn address(&self) -> Request {
        Request::SetVringAddr(VringAddr {
            index: 0,
            log_used: false,
            descriptor: USER + DESCRIPTORS,
            available: USER + AVAILABLE,
            used: USER + USED,
            log: 0,
        })
    }
}

/// The position one request behind `position`: two descriptors, and the size
/// of the ring is even.
fn forward(position: u16) -> u16 {
    let index = (position & !START) + 2;
    match index == NUM {
        true => position & START ^ START,
        false => position & START | index,
    }
}

/// Flags of an available descriptor.
fn fresh(position: u16) -> u16 {
    match position & START {
        0 => F_USED,
        _ => F_AVAILABLE,
    }
}
