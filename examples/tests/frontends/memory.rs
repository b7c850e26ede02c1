// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The memory that a script shares, with split rings in it (virtio 1.2 §2.7).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::still::PATTERN;

/// A region of memory, as a frontend describes it.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub guest: u64,
    pub size: u64,
    pub user: u64,
    /// Which of the files it is in, and where.
    pub file: usize,
    pub offset: u64,
}

/// All memory of a frontend.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Lengths of the files.
    pub files: &'static [u64],
    pub regions: &'static [Region],
    /// Guest address of the first ring.
    pub rings: u64,
    /// Descriptors of each ring.
    pub num: u16,
}

/// What each ring takes: descriptors, available ring, used ring, and one
/// request's header, data and status.
pub const RING: u64 = 0x2000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x1400;
const HEADER: u64 = 0x1d00;
const STATUS: u64 = 0x1d10;
const DATA: u64 = 0x1e00;
pub const SECTOR: u32 = 512;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// The parts of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

impl Parts {
    fn at(base: u64) -> Self {
        Self {
            descriptors: base,
            available: base + AVAILABLE,
            used: base + USED,
        }
    }
}

/// The memory, mapped.
pub struct Memory {
    plan: &'static Plan,
    files: Vec<File>,
    memory: GuestMemoryMmap,
    /// Requests made in each ring, and those that were answered.
    pub made: Vec<u16>,
    pub seen: Vec<u16>,
}

impl Memory {
    pub fn new(plan: &'static Plan, rings: usize) -> Self {
        assert!(plan.num <= 128, "the parts would overlap");
        let file = |len: &u64| {
            let file = memfd_create("frontend", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&file, *len).unwrap();
            File::from(file)
        };
        let files: Vec<_> = plan.files.iter().map(file).collect();
        let ranges = plan.regions.iter().map(|region| {
            let file = files[region.file].try_clone().unwrap();
            let offset = FileOffset::new(file, region.offset);
            let (at, size) = (GuestAddress(region.guest), region.size as usize);
            (at, size, Some(offset))
        });
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        Self {
            plan,
            files,
            memory,
            made: vec![0; rings],
            seen: vec![0; rings],
        }
    }

    /// A descriptor of the file of a region.
    pub fn file(&self, region: usize) -> BorrowedFd<'_> {
        self.files[self.plan.regions[region].file].as_fd()
    }

    pub fn plan(&self) -> &'static Plan {
        self.plan
    }

    fn ring(&self, ring: u32) -> u64 {
        self.plan.rings + RING * u64::from(ring)
    }

    /// Where a ring is for the guest.
    pub fn guest_parts(&self, ring: u32) -> Parts {
        Parts::at(self.ring(ring))
    }

    /// And for the frontend.
    pub fn user_parts(&self, ring: u32) -> Parts {
        let guest = self.ring(ring);
        let user = self.user(guest).expect("a ring in a region");
        Parts::at(user)
    }

    /// The user address of a guest address.
    pub fn user(&self, guest: u64) -> Option<u64> {
        let regions = self.plan.regions.iter();
        let mut inside = regions.filter(|r| (r.guest..r.guest + r.size).contains(&guest));
        inside.next().map(|r| guest - r.guest + r.user)
    }

    pub fn load(&self, at: u64) -> u16 {
        self.memory
            .load(GuestAddress(at), Ordering::SeqCst)
            .unwrap()
    }

    fn store<T: vm_memory::AtomicAccess>(&self, at: u64, value: T) {
        let at = GuestAddress(at);
        self.memory.store(value, at, Ordering::SeqCst).unwrap();
    }

    /// Asks for the first sector, in `ring`; the data goes to the last bytes of
    /// `region`, or beside the ring.
    pub fn request(&mut self, ring: u32, region: Option<usize>) {
        let (base, parts) = (self.ring(ring), self.guest_parts(ring));
        let data = self.data(ring, region);
        self.memory
            .write_slice(&[0; SECTOR as usize], GuestAddress(data))
            .unwrap();
        self.store(base + HEADER, 0u64);
        self.store(base + HEADER + 8, 0u64);
        self.store(base + STATUS, 0xffu8);
        let made = &mut self.made[ring as usize];
        // One request at a time, but in other descriptors each time.
        let head = 3 * (*made % (self.plan.num / 3));
        let slot = u64::from(*made % self.plan.num);
        *made = made.wrapping_add(1);
        let index = *made;
        let chain = [
            (base + HEADER, 16, NEXT),
            (data, SECTOR, NEXT | WRITE),
            (base + STATUS, 1, WRITE),
        ];
        for (number, (address, len, flags)) in (head..).zip(chain) {
            let at = parts.descriptors + 16 * u64::from(number);
            self.store(at, address);
            self.store(at + 8, len);
            self.store(at + 12, flags);
            self.store(at + 14, number + 1);
        }
        self.store(parts.available + 4 + 2 * slot, head);
        // With VIRTIO_F_EVENT_IDX: a call for this one.
        let used_event = parts.available + 4 + 2 * u64::from(self.plan.num);
        self.store(used_event, index.wrapping_sub(1));
        self.store(parts.available + 2, index);
    }

    fn data(&self, ring: u32, region: Option<usize>) -> u64 {
        let Some(region) = region else {
            return self.ring(ring) + DATA;
        };
        let region = self.plan.regions[region];
        // As near to its end as words allow.
        (region.guest + region.size - u64::from(SECTOR)) & !7
    }

    /// Whether all requests of a ring were answered; each is checked.
    pub fn answered(&mut self, ring: u32) -> bool {
        let used = self.load(self.guest_parts(ring).used + 2);
        let (made, seen) = (self.made[ring as usize], &mut self.seen[ring as usize]);
        let ahead = made.wrapping_sub(*seen);
        let done = used.wrapping_sub(*seen);
        assert!(done <= ahead, "ring {ring}: more answers than requests");
        *seen = used;
        done == ahead
    }

    /// The data and the status of the last request have to be right.
    pub fn check(&self, ring: u32, region: Option<usize>) {
        let mut data = [0; SECTOR as usize];
        let at = GuestAddress(self.data(ring, region));
        self.memory.read_slice(&mut data, at).unwrap();
        assert!(data == [PATTERN; SECTOR as usize], "wrong data");
        let mut status = [0xff];
        let at = GuestAddress(self.ring(ring) + STATUS);
        self.memory.read_slice(&mut status, at).unwrap();
        assert_eq!(status, [0], "status of ring {ring}");
    }
}
