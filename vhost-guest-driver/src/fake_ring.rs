// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A frontend's guest for the tests: it has one vring in the window, and
//! fills it as it likes.

use vhost_guest_msg::{Region, VirtioFeatures, VringAddr};

use crate::memory::Memory;
use crate::vring::{Budget, Ring, Vring, TURN_BYTES};
use crate::window::Window;

/// Guest physical address of the memory, and where that is in the window.
pub(crate) const GPA: u64 = 0x4000_0000;
pub(crate) const USER: u64 = 0x20_0000;
pub(crate) const LEN: u64 = 0x10_0000;

const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// More than a test has requests.
pub(crate) const TURN: Budget = Budget {
    requests: 64,
    bytes: TURN_BYTES,
};

/// A vring of the frontend's guest, its own side.
pub(crate) struct GuestRing {
    pub window: Window,
    pub num: u16,
    /// Where ring and descriptors are from the start of the memory.
    pub base: u64,
    pub avail_idx: u16,
    pub next_desc: u16,
    seen: u16,
}

impl GuestRing {
    pub fn new(window: Window, num: u16, base: u64) -> Self {
        let ring = Self {
            window,
            num,
            base,
            avail_idx: 0,
            next_desc: 0,
            seen: 0,
        };
        for offset in (0..0x4000).step_by(8) {
            ring.window.store_le(USER + base + offset, 0u64).unwrap();
        }
        ring
    }

    /// An empty ring whose indices are at `index`.
    pub fn start_at(&mut self, index: u16) {
        (self.avail_idx, self.seen) = (index, index);
        for part in [0x2002, 0x3002] {
            let at = USER + self.base + part;
            self.window.store_le(at, index).unwrap();
        }
    }

    pub fn address(&self, index: u8) -> VringAddr {
        VringAddr {
            index,
            log_used: false,
            descriptor: USER + self.base,
            available: USER + self.base + 0x2000,
            used: USER + self.base + 0x3000,
            log: 0,
        }
    }

    pub fn put(&self, slot: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = USER + self.base + 16 * u64::from(slot);
        self.put_at(at, address, len, flags, next);
    }

    /// Writes a descriptor anywhere in the window.
    pub fn put_at(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        self.window.store_le(at, address).unwrap();
        self.window.store_le(at + 8, len).unwrap();
        self.window.store_le(at + 12, flags).unwrap();
        self.window.store_le(at + 14, next).unwrap();
    }

    /// Makes `head` available.
    pub fn offer(&mut self, head: u16) {
        let avail = USER + self.base + 0x2000;
        let slot = u64::from(self.avail_idx % self.num);
        self.window.store_le(avail + 4 + 2 * slot, head).unwrap();
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.window.store_le(avail + 2, self.avail_idx).unwrap();
    }

    /// Makes a chain of (address, length, flags) available; returns its head.
    pub fn add(&mut self, chain: &[(u64, u32, u16)]) -> u16 {
        let head = self.next_desc % self.num;
        for (i, (address, len, flags)) in chain.iter().enumerate() {
            let slot = self.next_desc % self.num;
            self.next_desc = self.next_desc.wrapping_add(1);
            let more = if i + 1 < chain.len() { NEXT } else { 0 };
            let next = self.next_desc % self.num;
            self.put(slot, *address, *len, flags | more, next);
        }
        self.offer(head);
        head
    }

    /// The next used entry: head and length.
    pub fn used(&mut self) -> Option<(u32, u32)> {
        let used = USER + self.base + 0x3000;
        if self.window.load_le::<u16>(used + 2).unwrap() == self.seen {
            return None;
        }
        let at = used + 4 + 8 * u64::from(self.seen % self.num);
        self.seen = self.seen.wrapping_add(1);
        Some((
            self.window.load_le(at).unwrap(),
            self.window.load_le(at + 4).unwrap(),
        ))
    }

    pub fn avail_flags(&self, flags: u16) {
        let at = USER + self.base + 0x2000;
        self.window.store_le(at, flags).unwrap();
    }

    pub fn used_event(&self, event: u16) {
        let at = USER + self.base + 0x2004 + 2 * u64::from(self.num);
        self.window.store_le(at, event).unwrap();
    }

    pub fn used_flags(&self) -> u16 {
        self.window.load_le(USER + self.base + 0x3000).unwrap()
    }

    pub fn avail_event(&self) -> u16 {
        let at = USER + self.base + 0x3004 + 8 * u64::from(self.num);
        self.window.load_le(at).unwrap()
    }

    pub fn write(&self, gpa: u64, data: &[u8]) {
        self.window.write(gpa - GPA + USER, data).unwrap();
    }

    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.window.read(gpa - GPA + USER, &mut data).unwrap();
        data
    }
}

/// A vring with both sides, without a server.
pub(crate) struct Bench {
    pub guest: GuestRing,
    pub vring: Vring,
    pub memory: Memory,
}

impl Bench {
    pub fn new(num: u16, features: VirtioFeatures) -> Self {
        Self::within(Window::allocate(0x40_0000).unwrap(), num, features)
    }

    /// The same in memory that there is.
    pub fn within(window: Window, num: u16, features: VirtioFeatures) -> Self {
        let guest = GuestRing::new(window.clone(), num, 0);
        let mut memory = Memory::new(window);
        assert!(memory.add(&Region::new(GPA, LEN, USER, 0).unwrap()));
        let mut vring = Vring::default();
        assert!(vring.set_num(num));
        assert!(vring.set_address(guest.address(0), &memory));
        assert!(vring.set_base(0));
        assert!(vring.start(&memory, features));
        vring.enabled = true;
        vring.set_call(true);
        Self {
            guest,
            vring,
            memory,
        }
    }

    pub fn ring(&mut self) -> Ring<'_> {
        Ring::new(&mut self.vring, &self.memory, TURN)
    }

    /// Takes and completes all requests, answering what they read; returns
    /// (what was read, writable length) of each.
    pub fn drain(&mut self) -> Vec<(Vec<u8>, u32)> {
        let mut requests = Vec::new();
        let mut ring = self.ring();
        while let Some(mut chain) = ring.next_chain() {
            let mut data = vec![0; chain.readable_len() as usize];
            assert_eq!(chain.read(&mut data), data.len());
            let writable = chain.writable_len();
            let answer = vec![0xa5; writable as usize];
            assert_eq!(chain.write(&answer), answer.len());
            requests.push((data, writable));
            ring.complete(chain, writable);
        }
        requests
    }
}

/// Numbers without order, the same in every run.
pub(crate) struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(2 * seed + 1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
