// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A frontend's guest for the tests that has a packed ring in the window
//! (virtio 1.2 §2.8), the driver's side of it.

use std::collections::BTreeMap;

use vhost_guest_msg::{Region, VirtioFeatures, VringAddr};

use crate::fake_ring::{GPA, LEN, TURN, USER};
use crate::memory::Memory;
use crate::vring::{forward, Ring, Vring};
use crate::window::Window;

pub(crate) const START: u16 = 1 << 15;
const INDEX: u16 = START - 1;
const NEXT: u16 = 1;
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const DRIVER_EVENT: u64 = 0x2000;
const DEVICE_EVENT: u64 = 0x3000;

/// A packed ring of the frontend's guest, its own side.
pub(crate) struct PackedRing {
    pub window: Window,
    pub num: u16,
    /// Where it is from the start of the memory.
    pub base: u64,
    /// Where the next descriptor goes, and where the next used one comes.
    pub next: u16,
    pub seen: u16,
    /// Descriptors of each request that is not used, by buffer ID.
    pub counts: BTreeMap<u16, u16>,
}

impl PackedRing {
    pub fn new(window: Window, num: u16, base: u64) -> Self {
        for offset in (0..0x4000).step_by(8) {
            window.store_le(USER + base + offset, 0u64).unwrap();
        }
        Self {
            window,
            num,
            base,
            next: START,
            seen: START,
            counts: BTreeMap::new(),
        }
    }

    /// An empty ring that stands at `position`.
    pub fn start_at(&mut self, position: u16) {
        (self.next, self.seen) = (position, position);
        for slot in 0..self.num {
            // Used in this round, or in the one before.
            let now = slot < position & INDEX;
            let wrap = (position & START != 0) == now;
            let flags = if wrap { AVAILABLE | USED } else { 0 };
            self.window.store_le(self.slot(slot) + 14, flags).unwrap();
        }
    }

    pub fn address(&self, index: u8) -> VringAddr {
        VringAddr {
            index,
            log_used: false,
            descriptor: USER + self.base,
            available: USER + self.base + DRIVER_EVENT,
            used: USER + self.base + DEVICE_EVENT,
            log: 0,
        }
    }

    /// Where a descriptor is in the window.
    pub fn slot(&self, position: u16) -> u64 {
        USER + self.base + 16 * u64::from(position & INDEX)
    }

    pub fn put(&self, position: u16, address: u64, len: u32, id: u16, flags: u16) {
        let at = self.slot(position);
        self.window.store_le(at, address).unwrap();
        self.window.store_le(at + 8, len).unwrap();
        self.window.store_le(at + 12, id).unwrap();
        self.window.store_le(at + 14, flags).unwrap();
    }

    /// The flags that make a descriptor at `position` available.
    pub fn available(position: u16) -> u16 {
        match position & START {
            0 => USED,
            _ => AVAILABLE,
        }
    }

    /// Descriptors that are free.
    pub fn room(&self) -> u16 {
        self.num - self.counts.values().sum::<u16>()
    }

    /// Makes a chain of (address, length, flags) available as `id`; the flags
    /// of its first descriptor last.
    pub fn add(&mut self, id: u16, chain: &[(u64, u32, u16)]) {
        let count = chain.len() as u16;
        assert!(count <= self.room() && self.counts.insert(id, count).is_none());
        let first = self.next;
        let mut last = None;
        for (i, (address, len, flags)) in chain.iter().enumerate().rev() {
            let position = forward(first, i as u16, self.num);
            let more = last.map_or(0, |_: u16| NEXT);
            let flags = flags | more | Self::available(position);
            // Only the last one's is looked at.
            let id = last.map_or(id, |_| 0xbad);
            self.put(position, *address, *len, id, flags);
            last = Some(position);
        }
        self.next = forward(first, count, self.num);
    }

    /// The next used request: its ID and length.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let at = self.slot(self.seen);
        let flags: u16 = self.window.load_le(at + 14).unwrap();
        let wrap = self.seen & START != 0;
        if (flags & AVAILABLE != 0) != wrap || (flags & USED != 0) != wrap {
            return None;
        }
        let id = self.window.load_le(at + 12).unwrap();
        let count = self.counts.remove(&id);
        let count = count.expect("used twice, or never available");
        self.seen = forward(self.seen, count, self.num);
        Some((id, self.window.load_le(at + 8).unwrap()))
    }

    /// The driver's event area: position and flags.
    pub fn want(&self, position: u16, flags: u16) {
        let at = USER + self.base + DRIVER_EVENT;
        self.window.store_le(at, position).unwrap();
        self.window.store_le(at + 2, flags).unwrap();
    }

    /// The device's.
    pub fn wanted(&self) -> (u16, u16) {
        let at = USER + self.base + DEVICE_EVENT;
        (
            self.window.load_le(at).unwrap(),
            self.window.load_le(at + 2).unwrap(),
        )
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

/// A packed ring with both sides, without a server.
pub(crate) struct PackedBench {
    pub guest: PackedRing,
    pub vring: Vring,
    pub memory: Memory,
}

impl PackedBench {
    pub fn new(num: u16, features: VirtioFeatures) -> Self {
        Self::within(Window::allocate(0x40_0000).unwrap(), num, features)
    }

    /// The same in memory that there is.
    pub fn within(window: Window, num: u16, features: VirtioFeatures) -> Self {
        let guest = PackedRing::new(window.clone(), num, 0);
        let mut memory = Memory::new(window);
        assert!(memory.add(&Region::new(GPA, LEN, USER, 0).unwrap()));
        let mut this = Self {
            guest,
            vring: Vring::default(),
            memory,
        };
        let base = u32::from(START) << 16 | u32::from(START);
        assert!(this.start(features, base));
        this
    }

    /// The vring begins to run at `base`.
    pub fn start(&mut self, features: VirtioFeatures, base: u32) -> bool {
        let features = features | VirtioFeatures::RING_PACKED;
        let (vring, memory) = (&mut self.vring, &self.memory);
        vring.set_features(features);
        assert!(vring.set_num(self.guest.num) && vring.set_base(base));
        assert!(vring.set_address(self.guest.address(0), memory));
        vring.enabled = true;
        vring.set_call(true);
        vring.start(memory, features)
    }

    pub fn ring(&mut self) -> Ring<'_> {
        Ring::new(&mut self.vring, &self.memory, TURN)
    }

    /// Takes and completes all requests; returns (what was read, writable
    /// length) of each.
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
