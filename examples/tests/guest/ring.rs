// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's guest: memory that is shared, and a ring in it, split
//! (virtio 1.2 §2.7) or packed (§2.8).
//!
//! Requests are made in slots, each of which has room for its data and for
//! its descriptors.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use vhost_guest_msg::{MemTable, Region, VringAddr};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::frontend::Request;

/// Descriptors of the ring.
pub const NUM: u16 = 32;
/// Requests that there can be at a time.
pub const SLOTS: u16 = NUM / SLOT_DESCRIPTORS;
const SLOT_DESCRIPTORS: u16 = 4;
const SLOT_LEN: u64 = 0x400;

pub const GPA: u64 = 0x4000_0000;
pub const LEN: u64 = 0x1_0000;
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

/// A part of a request: where it is in the slot, its length, and whether the
/// backend writes it.
pub type Part = (u64, u32, bool);

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
    /// Descriptors of the request in each slot.
    counts: [u16; SLOTS as usize],
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
        Self {
            memory,
            file,
            kind,
            counts: [0; SLOTS as usize],
        }
    }

    fn load<T: vm_memory::AtomicAccess>(&self, at: u64) -> T {
        let at = GuestAddress(GPA + at);
        self.memory.load(at, Ordering::SeqCst).unwrap()
    }

    fn store<T: vm_memory::AtomicAccess>(&self, at: u64, value: T) {
        let at = GuestAddress(GPA + at);
        self.memory.store(value, at, Ordering::SeqCst).unwrap();
    }

    /// Where the data of a slot is in the memory.
    pub fn data(slot: u16) -> u64 {
        DATA + SLOT_LEN * u64::from(slot)
    }

    /// Writes to the data of a slot.
    pub fn write(&self, slot: u16, at: u64, bytes: &[u8]) {
        let at = GuestAddress(GPA + Self::data(slot) + at);
        self.memory.write_slice(bytes, at).unwrap();
    }

    /// Reads from it.
    pub fn read(&self, slot: u16, at: u64, bytes: &mut [u8]) {
        let at = GuestAddress(GPA + Self::data(slot) + at);
        self.memory.read_slice(bytes, at).unwrap();
    }

    /// Reads from anywhere in the memory.
    pub fn peek(&self, at: u64, bytes: &mut [u8]) {
        self.memory
            .read_slice(bytes, GuestAddress(GPA + at))
            .unwrap();
    }

    /// The same guest elsewhere, with what arrived there as its memory.
    pub fn arrived(self, memory: &[u8]) -> Self {
        let mut there = Self::new(matches!(self.kind, Kind::Packed { .. }));
        there.memory.write_slice(memory, GuestAddress(GPA)).unwrap();
        (there.kind, there.counts) = (self.kind, self.counts);
        there
    }

    /// Makes a request in `slot`, which must be free.
    pub fn offer(&mut self, slot: u16, parts: &[Part]) {
        self.counts[usize::from(slot)] = parts.len() as u16;
        match self.kind {
            Kind::Split { available, seen } => {
                let head = SLOT_DESCRIPTORS * slot;
                for (i, part) in parts.iter().enumerate() {
                    let more = i + 1 < parts.len();
                    self.put_split(head + i as u16, slot, *part, more);
                }
                let at = AVAILABLE + 4 + 2 * u64::from(available % NUM);
                let available = available.wrapping_add(1);
                self.store(at, head);
                self.store(AVAILABLE + 2, available);
                self.kind = Kind::Split { available, seen };
            }
            Kind::Packed { next, seen } => {
                // The first one last: it makes all of them available.
                for (i, part) in parts.iter().enumerate().rev() {
                    let more = i + 1 < parts.len();
                    self.put_packed(forward(next, i as u16), slot, *part, more);
                }
                let next = forward(next, parts.len() as u16);
                self.kind = Kind::Packed { next, seen };
            }
        }
    }

    fn put(&self, at: u64, slot: u16, (offset, len, _): Part) {
        self.store(at, GPA + Self::data(slot) + offset);
        self.store(at + 8, len);
    }

    fn put_split(&self, index: u16, slot: u16, part: Part, more: bool) {
        let at = DESCRIPTORS + 16 * u64::from(index);
        self.put(at, slot, part);
        self.store(at + 12, flags(part, more));
        self.store(at + 14, index + 1);
    }

    fn put_packed(&self, position: u16, slot: u16, part: Part, more: bool) {
        let at = DESCRIPTORS + 16 * u64::from(position & !START);
        self.put(at, slot, part);
        self.store(at + 12, slot);
        let fresh = match position & START {
            0 => F_USED,
            _ => F_AVAILABLE,
        };
        self.store(at + 14, flags(part, more) | fresh);
    }

    /// The slot that was used next.
    pub fn used(&mut self) -> Option<u16> {
        match self.kind {
            Kind::Split { available, seen } => {
                if self.load::<u16>(USED + 2) == seen {
                    return None;
                }
                let at = USED + 4 + 8 * u64::from(seen % NUM);
                let seen = seen.wrapping_add(1);
                self.kind = Kind::Split { available, seen };
                Some(self.load::<u32>(at) as u16 / SLOT_DESCRIPTORS)
            }
            Kind::Packed { next, seen } => {
                let at = DESCRIPTORS + 16 * u64::from(seen & !START);
                let flags: u16 = self.load(at + 14);
                let used = [F_AVAILABLE, F_USED].map(|flag| flags & flag != 0);
                if used != [seen & START != 0; 2] {
                    return None;
                }
                let slot: u16 = self.load(at + 12);
                let count = self.counts.get(usize::from(slot)).copied();
                let seen = forward(seen, count.unwrap_or(1));
                self.kind = Kind::Packed { next, seen };
                Some(slot)
            }
        }
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
        self.logged_address(false)
    }

    /// The same, with writes to the used ring logged or not.
    pub fn logged_address(&self, log_used: bool) -> Request {
        Request::SetVringAddr(VringAddr {
            index: 0,
            log_used,
            descriptor: USER + DESCRIPTORS,
            available: USER + AVAILABLE,
            used: USER + USED,
            log: if log_used { GPA + USED } else { 0 },
        })
    }
}

/// The position `count` descriptors behind `position`.
fn forward(position: u16, count: u16) -> u16 {
    let index = (position & !START) + count;
    match index.checked_sub(NUM) {
        Some(index) => (position & START ^ START) | index,
        None => position & START | index,
    }
}

fn flags((_, _, writable): Part, more: bool) -> u16 {
    let write = if writable { WRITE } else { 0 };
    write | if more { NEXT } else { 0 }
}
