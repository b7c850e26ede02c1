// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backends of others for the tests: how they write their records, store by
//! store. They take and complete what they are told to, until they crash.

use crate::fake_ring::USER;
use crate::vring::{forward, is_available};
use crate::window::Window;

/// Where the rings of the tests are.
const AVAILABLE: u64 = USER + 0x2000;
const USED: u64 = USER + 0x3000;
const DATA: u64 = USER + 0x5000;
const WRAP: u16 = 1 << 15;

/// Whose records those of a split ring are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// Of libvhost-user, and of SPDK, on DPDK's library.
    LibvhostUser,
    /// Of the backends on DPDK's library alone.
    Dpdk,
    /// Of a backend that does as vhost-user has it, in batches of two.
    Document,
}

/// A backend with a split ring.
pub(super) struct SplitBackend {
    writer: Split,
    window: Window,
    area: u64,
    num: u16,
    next_avail: u16,
    used_idx: u16,
    counter: u64,
    taken: Vec<u16>,
}

impl SplitBackend {
    /// The first one, of a ring of `num` that stands at `index`: the area is
    /// all zero.
    pub fn new(writer: Split, window: Window, area: u64, num: u16, index: u16) -> Self {
        let this = Self {
            writer,
            window,
            area,
            num,
            next_avail: index,
            used_idx: index,
            counter: 0,
            taken: Vec::new(),
        };
        this.store16(area + 10, num);
        if writer == Split::Document {
            this.store16(area + 14, index);
        }
        this.store16(area + 8, 1);
        this
    }

    fn store16(&self, at: u64, value: u16) {
        self.window.store_le(at, value).unwrap();
    }

    fn load16(&self, at: u64) -> u16 {
        self.window.load_le(at).unwrap()
    }

    fn entry(&self, head: u16) -> u64 {
        self.area + 16 + 16 * u64::from(head)
    }

    /// Takes the next request, if there is one.
    pub fn take(&mut self) {
        if self.load16(AVAILABLE + 2) == self.next_avail {
            return;
        }
        let slot = u64::from(self.next_avail % self.num);
        let head = self.load16(AVAILABLE + 4 + 2 * slot);
        self.next_avail = self.next_avail.wrapping_add(1);
        let counter = self.entry(head) + 8;
        self.window.store_le(counter, self.counter).unwrap();
        self.window.store_le(self.entry(head), 1u8).unwrap();
        self.counter += 1;
        self.taken.push(head);
    }

    /// Completes one of the requests that are taken, if there is one; of the
    /// writer with batches, two.
    pub fn complete(&mut self, which: usize) {
        let mut batch = Vec::new();
        let len = if self.writer == Split::Document { 2 } else { 1 };
        while batch.len() < len && !self.taken.is_empty() {
            batch.push(self.taken.remove(which % self.taken.len()));
        }
        let mut last_batch_head = self.load16(self.area + 12);
        let indices = (0..).map(|i| self.used_idx.wrapping_add(i));
        for (index, head) in indices.zip(&batch) {
            if self.writer == Split::Dpdk {
                self.store16(self.area + 12, *head);
            }
            self.answer(index % self.num, *head);
            if self.writer == Split::Document {
                self.store16(self.entry(*head) + 6, last_batch_head);
                last_batch_head = *head;
            }
            self.store16(self.area + 12, *head);
        }
        self.used_idx = self.used_idx.wrapping_add(batch.len() as u16);
        if !batch.is_empty() {
            self.store16(USED + 2, self.used_idx);
            for head in batch {
                self.window.store_le(self.entry(head), 0u8).unwrap();
            }
            self.store16(self.area + 14, self.used_idx);
        }
    }

    fn answer(&self, slot: u16, head: u16) {
        let data = DATA + 4 * u64::from(head);
        let tag: u32 = self.window.load_le(data).unwrap();
        self.window.store_le(data + 4, tag).unwrap();
        let at = USED + 4 + 8 * u64::from(slot);
        self.window.store_le(at, u32::from(head)).unwrap();
        self.window.store_le(at + 4, 4u32).unwrap();
    }
}

/// Whose records those of a packed ring are: both are on DPDK's library, which
/// is told at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packed {
    /// Before anything of the answer is in the ring.
    Dpdk,
    /// When all but the flags is.
    Spdk,
}

#[derive(Clone, Copy)]
struct Taken {
    entry: u16,
    id: u16,
    count: u16,
}

/// A backend with a packed ring.
pub(super) struct PackedBackend {
    writer: Packed,
    window: Window,
    area: u64,
    num: u16,
    next_avail: u16,
    used: u16,
    counter: u64,
    taken: Vec<Taken>,
}

/// Offsets of the fields of an area, and of an entry.
const FREE: u64 = 12;
const OLD_FREE: u64 = 14;
const USED_IDX: u64 = 16;
const OLD_USED_IDX: u64 = 18;
const USED_WRAP: u64 = 20;
const OLD_USED_WRAP: u64 = 21;
const NEXT: u64 = 2;
const LAST: u64 = 4;
const NUM: u64 = 6;

impl PackedBackend {
    /// The first one, of a new ring of `num`: the area is all zero.
    pub fn new(writer: Packed, window: Window, area: u64, num: u16) -> Self {
        let this = Self {
            writer,
            window,
            area,
            num,
            next_avail: WRAP,
            used: WRAP,
            counter: 0,
            taken: Vec::new(),
        };
        this.store8(area + USED_WRAP, 1);
        this.store8(area + OLD_USED_WRAP, 1);
        for entry in 0..num {
            this.store16(this.entry(entry) + NEXT, entry + 1);
        }
        this.store16(area + 10, num);
        this.store16(area + 8, 1);
        this
    }

    fn store8(&self, at: u64, value: u8) {
        self.window.store_le(at, value).unwrap();
    }

    fn store16(&self, at: u64, value: u16) {
        self.window.store_le(at, value).unwrap();
    }

    fn load8(&self, at: u64) -> u8 {
        self.window.load_le(at).unwrap()
    }

    fn load16(&self, at: u64) -> u16 {
        self.window.load_le(at).unwrap()
    }

    fn entry(&self, index: u16) -> u64 {
        self.area + 32 + 32 * u64::from(index)
    }

    fn slot(position: u16) -> u64 {
        USER + 16 * u64::from(position & !WRAP)
    }

    /// Takes the next request, if there is one.
    pub fn take(&mut self) {
        if !is_available(
            self.load16(Self::slot(self.next_avail) + 14),
            self.next_avail,
        ) {
            return;
        }
        let (mut count, mut position) = (1, self.next_avail);
        while self.load16(Self::slot(position) + 14) & 1 != 0 {
            position = forward(position, 1, self.num);
            count += 1;
        }
        let id = self.load16(Self::slot(position) + 12);
        let first = self.load16(self.area + OLD_FREE);
        let entry = self.entry(first);
        self.store16(entry + NUM, 0);
        self.window.store_le(entry + 8, self.counter).unwrap();
        self.counter += 1;
        self.store8(entry, 1);
        let mut free = first;
        for i in 0..count {
            let from = Self::slot(forward(self.next_avail, i, self.num));
            let to = self.entry(free);
            self.store16(entry + NUM, i + 1);
            let address: u64 = self.window.load_le(from).unwrap();
            self.window.store_le(to + 24, address).unwrap();
            let len: u32 = self.window.load_le(from + 8).unwrap();
            self.window.store_le(to + 20, len).unwrap();
            self.store16(to + 18, self.load16(from + 14));
            self.store16(to + 16, self.load16(from + 12));
            self.store16(entry + LAST, free);
            free = self.load16(to + NEXT);
            self.store16(self.area + FREE, free);
        }
        self.store16(self.area + OLD_FREE, free);
        self.next_avail = forward(self.next_avail, count, self.num);
        let entry = first;
        self.taken.push(Taken { entry, id, count });
    }

    /// Completes one of the requests that are taken, if there is one.
    pub fn complete(&mut self, which: usize) {
        if self.taken.is_empty() {
            return;
        }
        let taken = self.taken.remove(which % self.taken.len());
        let slot = Self::slot(self.used);
        let data = DATA + 8 * u64::from(taken.id);
        let tag: u32 = self.window.load_le(data).unwrap();
        self.window.store_le(data + 4, tag).unwrap();
        if self.writer == Packed::Dpdk {
            self.announce(taken);
        }
        self.window.store_le(slot, 0u64).unwrap();
        self.window.store_le(slot + 8, 4u32).unwrap();
        self.store16(slot + 14, self.load16(slot + 14) | 2);
        self.store16(slot + 12, taken.id);
        if self.writer == Packed::Spdk {
            self.announce(taken);
        }
        let flags = self.load16(slot + 14);
        let both = 1 << 7 | 1 << 15;
        let wrap = self.used & WRAP != 0;
        self.store16(slot + 14, if wrap { flags | both } else { flags & !both });
        self.store8(self.entry(taken.entry), 0);
        self.store16(self.area + OLD_FREE, self.load16(self.area + FREE));
        let used_idx = self.load16(self.area + USED_IDX);
        self.store16(self.area + OLD_USED_IDX, used_idx);
        let used_wrap = self.load8(self.area + USED_WRAP);
        self.store8(self.area + OLD_USED_WRAP, used_wrap);
        self.used = forward(self.used, taken.count, self.num);
    }

    /// The request is about to be complete.
    fn announce(&self, taken: Taken) {
        let last = self.load16(self.entry(taken.entry) + LAST);
        let free = self.load16(self.area + FREE);
        self.store16(self.entry(last) + NEXT, free);
        self.store16(self.area + FREE, taken.entry);
        let used_idx = self.load16(self.area + USED_IDX) + taken.count;
        self.store16(self.area + USED_IDX, used_idx);
        if used_idx >= self.num {
            self.store16(self.area + USED_IDX, used_idx - self.num);
            let wrap = self.load8(self.area + USED_WRAP);
            self.store8(self.area + USED_WRAP, 1 - wrap);
        }
    }
}
