// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The area of a packed ring, with the layout of DPDK. Used descriptors
//! overwrite available ones there, so that the record has copies of those
//! that are taken:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | le64 | features: 0 |
//! | 8 | le16 | version: 1, or 0 before the first use |
//! | 10 | le16 | desc_num: entries |
//! | 12, 14 | le16 | free_head, old_free_head: first entry that is free |
//! | 16, 18 | le16 | used_idx, old_used_idx: where the vring stands |
//! | 20, 21 | u8 | used_wrap_counter, old_used_wrap_counter |
//! | 32 + 32 i | u8 | inflight: 1 if a request in flight begins here |
//! | 34 + 32 i | le16 | next: entry behind this one in its list, of free ones or of one request; desc_num behind the last free one |
//! | 36 + 32 i | le16 | last: last entry of the request |
//! | 38 + 32 i | le16 | num: its entries |
//! | 40 + 32 i | le64 | counter: in which order they were taken |
//! | 48 + 32 i | le16 | id |
//! | 50 + 32 i | le16 | flags |
//! | 52 + 32 i | le32 | len |
//! | 56 + 32 i | le64 | addr |
//!
//! The old values are those of the last request that is certainly complete,
//! the others those of the one that is about to be: the ring says whether it
//! is. Values that belong together are stored together here, since none of
//! them means anything alone. DPDK stores one after the other, the heads of
//! the free entries before what belongs to them: first the new one, before
//! the ring says that a request is complete, then the old one, when it has.
//!
//! The ring itself does not say where it stands, so this does, unless the
//! frontend knows.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Area, Unsound, VERSION};
use crate::vring::{is_available, Descriptor, Request};
use crate::window::WindowError;

const FEATURES_AT: u64 = 0;
const VERSION_AT: u64 = 8;
const DESC_NUM_AT: u64 = 10;
/// Both heads, and both positions with what pads them.
const FREE_AT: u64 = 12;
const USED_AT: u64 = 16;
pub(super) const HEADER_LEN: u64 = 32;

pub(super) const ENTRY_LEN: u64 = 32;
const INFLIGHT_AT: u64 = 0;
const NEXT_AT: u64 = 2;
const LAST_AT: u64 = 4;
const NUM_AT: u64 = 6;
const COUNTER_AT: u64 = 8;
const ID_AT: u64 = 16;
const FLAGS_AT: u64 = 18;
const LEN_AT: u64 = 20;
const ADDRESS_AT: u64 = 24;

/// The wrap counter of a position.
const WRAP: u16 = 1 << 15;

/// Where a vring stands, and the requests that an earlier backend took and
/// did not complete, in the order in which it took them.
type Opened = (u16, VecDeque<Request>);

/// The area of one vring.
#[derive(Debug)]
pub(crate) struct PackedRecord {
    area: Area,
    counter: u64,
    free_head: u16,
    used: u16,
    /// What is behind each entry.
    next: Vec<u16>,
}

/// The old and the new value of something.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pair<N = u16> {
    new: N,
    old: u16,
}

impl PackedRecord {
    pub fn new(area: Area) -> Self {
        Self {
            area,
            counter: 0,
            free_head: 0,
            used: 0,
            next: Vec::new(),
        }
    }

    fn entry(&self, index: u16) -> u64 {
        HEADER_LEN + ENTRY_LEN * u64::from(index)
    }

    fn behind(&self, entry: u16) -> Result<u16, Unsound> {
        self.next.get(usize::from(entry)).copied().ok_or(Unsound)
    }

    fn store_free(&self, free: Pair) -> Result<(), WindowError> {
        let value = u32::from(free.old) << 16 | u32::from(free.new);
        self.area.store(FREE_AT, value)
    }

    fn store_used(&self, used: Pair) -> Result<(), WindowError> {
        let index = |position: u16| u64::from(position & !WRAP);
        let wrap = |position: u16| u64::from(position >> 15);
        let indices = index(used.old) << 16 | index(used.new);
        let wraps = wrap(used.old) << 8 | wrap(used.new);
        self.area.store(USED_AT, wraps << 32 | indices)
    }

    /// Where the vring stands, and where it is about to: nowhere, if that is
    /// still being stored.
    fn load_used(&self, num: u16) -> Result<Pair<Option<u16>>, Unsound> {
        let value: u64 = self.area.load(USED_AT)?;
        let [a, b, c, d, new, old, ..] = value.to_le_bytes();
        let position = |index: [u8; 2], wrap: u8| match (u16::from_le_bytes(index), wrap) {
            (_, 2..) => Err(Unsound),
            (index, _) if index >= num => Ok(None),
            (index, 0) => Ok(Some(index)),
            (index, _) => Ok(Some(index | WRAP)),
        };
        Ok(Pair {
            new: position([a, b], new)?,
            old: position([c, d], old)?.ok_or(Unsound)?,
        })
    }

    /// Gets ready for a vring of `num` descriptors that stands at `used`,
    /// unless there is a record that knows better: the frontend is `told` if
    /// it knows all but what is in flight. `flags` are those of the descriptor
    /// at a position.
    pub fn open(
        &mut self,
        num: u16,
        used: u16,
        told: bool,
        flags: impl FnOnce(u16) -> Result<u16, WindowError>,
    ) -> Result<Option<Opened>, Unsound> {
        let desc_num = self.area.desc_num;
        if num > desc_num || desc_num > WRAP || used & !WRAP >= num {
            return Err(Unsound);
        }
        match self.area.load::<u16>(VERSION_AT)? {
            0 => {
                self.initialise(used)?;
                return Ok(None);
            }
            VERSION => {}
            _ => return Err(Unsound),
        }
        let features: u64 = self.area.load(FEATURES_AT)?;
        if features != 0 || self.area.load::<u16>(DESC_NUM_AT)? != desc_num {
            return Err(Unsound);
        }
        self.settle(num, flags)?;
        self.next.clear();
        for entry in 0..desc_num {
            self.next.push(self.area.load(self.entry(entry) + NEXT_AT)?);
        }
        let mut claimed = self.free_entries()?;
        let mut taken = self.taken(&mut claimed)?;
        let count: usize = taken.iter().map(|(_, r)| r.descriptors.len()).sum();
        if count > usize::from(num) {
            return Err(Unsound);
        }
        self.reclaim(&claimed)?;
        if told && taken.is_empty() {
            // The guest may have begun anew with its ring.
            self.area.store(VERSION_AT, 0u16)?;
            self.initialise(used)?;
            return Ok(None);
        }
        taken.sort_unstable_by_key(|(counter, request)| (*counter, request.entry));
        let next = |(counter, _): &(u64, Request)| counter.wrapping_add(1);
        self.counter = taken.last().map_or(0, next);
        let taken = taken.into_iter().map(|(_, request)| request).collect();
        Ok(Some((self.used, taken)))
    }

    fn initialise(&mut self, used: u16) -> Result<(), WindowError> {
        let desc_num = self.area.desc_num;
        self.next = (1..=desc_num).collect();
        for entry in 0..desc_num {
            let at = self.entry(entry);
            self.area.store(at + INFLIGHT_AT, 0u8)?;
            self.area.store(at + NEXT_AT, entry + 1)?;
        }
        self.area.store(FEATURES_AT, 0u64)?;
        self.area.store(DESC_NUM_AT, desc_num)?;
        (self.free_head, self.used) = (0, used);
        self.store_free(Pair { new: 0, old: 0 })?;
        self.store_used(Pair {
            new: used,
            old: used,
        })?;
        // The last store: an area is initialised, or it is not.
        self.area.store(VERSION_AT, VERSION)
    }

    /// Finds out what became of the last request that was being completed,
    /// if one was, and of one that was being taken.
    fn settle(
        &mut self,
        num: u16,
        flags: impl FnOnce(u16) -> Result<u16, WindowError>,
    ) -> Result<(), Unsound> {
        let mut free = Pair {
            new: self.area.load(FREE_AT)?,
            old: self.area.load(FREE_AT + 2)?,
        };
        let mut used = self.load_used(num)?;
        // The order is that of a request that is completed, or of none: this
        // may be cut short as well.
        match used.new.filter(|new| *new != used.old) {
            // The guest has it.
            Some(new) if free.new == free.old || !is_available(flags(used.old)?, used.old) => {
                (free.old, used.old) = (free.new, new);
                self.store_free(free)?;
                self.store_used(Pair { new, old: new })?;
            }
            _ => {
                free.new = free.old;
                self.store_used(Pair {
                    new: used.old,
                    old: used.old,
                })?;
                self.store_free(free)?;
            }
        }
        (self.free_head, self.used) = (free.old, used.old);
        Ok(())
    }

    /// Which entries are free. They are not in flight, whatever they say.
    fn free_entries(&self) -> Result<Vec<bool>, Unsound> {
        let mut free: Vec<bool> = self.next.iter().map(|_| false).collect();
        let mut entry = self.free_head;
        while entry != self.area.desc_num {
            let claimed = free.get_mut(usize::from(entry)).ok_or(Unsound)?;
            if core::mem::replace(claimed, true) {
                return Err(Unsound);
            }
            let at = self.entry(entry) + INFLIGHT_AT;
            if self.area.load::<u8>(at)? != 0 {
                self.area.store(at, 0u8)?;
            }
            entry = self.behind(entry)?;
        }
        Ok(free)
    }

    /// Entries that are neither free nor of a request were lost on the way:
    /// they are free.
    fn reclaim(&mut self, claimed: &[bool]) -> Result<(), WindowError> {
        for (entry, _) in (0..).zip(claimed).filter(|(_, claimed)| !**claimed) {
            let behind = self.free_head;
            self.area.store(self.entry(entry) + NEXT_AT, behind)?;
            if let Some(next) = self.next.get_mut(usize::from(entry)) {
                *next = behind;
            }
            self.free_head = entry;
        }
        self.store_free(Pair {
            new: self.free_head,
            old: self.free_head,
        })
    }

    /// The requests that were taken and not completed, with their counters.
    fn taken(&self, claimed: &mut [bool]) -> Result<Vec<(u64, Request)>, Unsound> {
        let mut taken = Vec::new();
        for entry in 0..self.area.desc_num {
            let at = self.entry(entry);
            match self.area.load::<u8>(at + INFLIGHT_AT)? {
                0 => {}
                1 => {
                    let request = self.request(entry, claimed)?;
                    taken.push((self.area.load(at + COUNTER_AT)?, request));
                }
                _ => return Err(Unsound),
            }
        }
        Ok(taken)
    }

    /// The request that begins with `first`.
    fn request(&self, first: u16, claimed: &mut [bool]) -> Result<Request, Unsound> {
        let at = self.entry(first);
        let num: u16 = self.area.load(at + NUM_AT)?;
        let last: u16 = self.area.load(at + LAST_AT)?;
        let mut request = Request {
            entry: first,
            ..Request::default()
        };
        let mut entry = first;
        for _ in 0..num {
            let claimed = claimed.get_mut(usize::from(entry)).ok_or(Unsound)?;
            if core::mem::replace(claimed, true) {
                return Err(Unsound);
            }
            let at = self.entry(entry);
            request.descriptors.push(Descriptor {
                address: self.area.load(at + ADDRESS_AT)?,
                len: self.area.load(at + LEN_AT)?,
                flags: self.area.load(at + FLAGS_AT)?,
                tag: self.area.load(at + ID_AT)?,
            });
            if entry == last {
                break;
            }
            entry = self.behind(entry)?;
        }
        request.id = request.descriptors.last().ok_or(Unsound)?.tag;
        match entry == last && request.count() == num {
            true => Ok(request),
            false => Err(Unsound),
        }
    }

    /// `request` is taken.
    pub fn take(&mut self, request: &mut Request) -> Result<(), Unsound> {
        let first = self.free_head;
        let at = self.entry(first);
        let (mut entry, mut last) = (first, first);
        for descriptor in &request.descriptors {
            // There is an entry for each descriptor of the ring.
            let next = self.behind(entry)?;
            let at = self.entry(entry);
            self.area.store(at + ADDRESS_AT, descriptor.address)?;
            self.area.store(at + LEN_AT, descriptor.len)?;
            self.area.store(at + FLAGS_AT, descriptor.flags)?;
            self.area.store(at + ID_AT, descriptor.tag)?;
            (last, entry) = (entry, next);
        }
        self.area.store(at + NUM_AT, request.count())?;
        self.area.store(at + LAST_AT, last)?;
        self.area.store(at + COUNTER_AT, self.counter)?;
        self.area.store(at + INFLIGHT_AT, 1u8)?;
        // Only now it counts.
        self.store_free(Pair {
            new: entry,
            old: entry,
        })?;
        self.counter = self.counter.wrapping_add(1);
        self.free_head = entry;
        request.entry = first;
        Ok(())
    }

    /// The ring is about to say that `request` is complete, and to stand at
    /// `used`.
    pub fn begin(&mut self, request: &Request, used: u16) -> Result<(), Unsound> {
        let mut last = request.entry;
        for _ in 1..request.count() {
            last = self.behind(last)?;
        }
        let old = self.free_head;
        self.area.store(self.entry(last) + NEXT_AT, old)?;
        if let Some(next) = self.next.get_mut(usize::from(last)) {
            *next = old;
        }
        self.free_head = request.entry;
        self.store_free(Pair {
            new: request.entry,
            old,
        })?;
        self.store_used(Pair {
            new: used,
            old: self.used,
        })?;
        Ok(())
    }

    /// It does.
    pub fn end(&mut self, request: &Request, used: u16) -> Result<(), WindowError> {
        let entry = request.entry;
        self.area.store(self.entry(entry) + INFLIGHT_AT, 0u8)?;
        self.store_free(Pair {
            new: entry,
            old: entry,
        })?;
        self.used = used;
        self.store_used(Pair {
            new: used,
            old: used,
        })
    }
}
