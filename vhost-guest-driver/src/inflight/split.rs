// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The area of a split ring, with the layout that libvhost-user and DPDK
//! have, too:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | le64 | features: 0 |
//! | 8 | le16 | version: 1, or 0 before the first use |
//! | 10 | le16 | desc_num: entries |
//! | 12 | le16 | last_batch_head: the request completed last |
//! | 14 | le16 | used_idx: used index of the vring when it was complete |
//! | 16 + 16 i | u8 | inflight: 1 if the request with head i is |
//! | 22 + 16 i | le16 | next: completed before it in the same batch |
//! | 24 + 16 i | le64 | counter: in which order they were taken |

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Area, Unsound, VERSION};
use crate::window::WindowError;

const FEATURES_AT: u64 = 0;
const VERSION_AT: u64 = 8;
const DESC_NUM_AT: u64 = 10;
const LAST_BATCH_HEAD_AT: u64 = 12;
const USED_IDX_AT: u64 = 14;
pub(super) const HEADER_LEN: u64 = 16;

pub(super) const ENTRY_LEN: u64 = 16;
const INFLIGHT_AT: u64 = 0;
const NEXT_AT: u64 = 6;
const COUNTER_AT: u64 = 8;

/// What is available in a vring: the index that the guest has come to, and
/// the heads on the way there.
pub(crate) struct Available<F> {
    pub index: u16,
    pub num: u16,
    /// The head in a slot.
    pub head: F,
}

impl<F: Fn(u16) -> Result<u16, WindowError>> Available<F> {
    /// Whether `taken` are the requests from `start` on, one behind the
    /// other. Slots that the guest has used again by now do not count.
    fn begins_with(&self, start: u16, taken: &[Taken]) -> Result<bool, WindowError> {
        for (position, taken) in (0..).map(|i| start.wrapping_add(i)).zip(taken) {
            let ahead = self.index.wrapping_sub(position);
            if ahead == 0 || ahead > self.num.saturating_add(1) {
                return Ok(false);
            }
            if ahead <= self.num && (self.head)(position % self.num)? != taken.head {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A request that the record says was taken and not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Taken {
    counter: u64,
    head: u16,
}

/// The area of one vring.
#[derive(Debug)]
pub(crate) struct SplitRecord {
    area: Area,
    counter: u64,
    last_batch_head: u16,
}

impl SplitRecord {
    pub fn new(area: Area) -> Self {
        Self {
            area,
            counter: 0,
            last_batch_head: 0,
        }
    }

    fn entry(&self, head: u16) -> u64 {
        HEADER_LEN + ENTRY_LEN * u64::from(head)
    }

    /// Gets ready for a vring whose used index is `used_idx`. Returns the
    /// heads of the requests that an earlier backend took and did not
    /// complete, in the order in which it took them; `None` if there was
    /// none.
    pub fn open(
        &mut self,
        used_idx: u16,
        available: &Available<impl Fn(u16) -> Result<u16, WindowError>>,
    ) -> Result<Option<VecDeque<u16>>, Unsound> {
        if available.num > self.area.desc_num {
            return Err(Unsound);
        }
        match self.area.load::<u16>(VERSION_AT)? {
            0 => {
                self.initialise(used_idx)?;
                return Ok(None);
            }
            VERSION => {}
            _ => return Err(Unsound),
        }
        let features: u64 = self.area.load(FEATURES_AT)?;
        if features != 0 || self.area.load::<u16>(DESC_NUM_AT)? != self.area.desc_num {
            return Err(Unsound);
        }
        let mut taken = self.taken(available.num)?;
        taken.sort_unstable();
        for head in self.last_batch(used_idx, &taken, available)? {
            self.area.store(self.entry(head) + INFLIGHT_AT, 0u8)?;
        }
        taken.retain(|taken| self.is_inflight(taken.head) == Ok(true));
        let last: u16 = self.area.load(LAST_BATCH_HEAD_AT)?;
        self.last_batch_head = if last < self.area.desc_num { last } else { 0 };
        self.area.store(USED_IDX_AT, used_idx)?;
        let next = |taken: &Taken| taken.counter.wrapping_add(1);
        self.counter = taken.last().map_or(0, next);
        Ok(Some(taken.into_iter().map(|taken| taken.head).collect()))
    }

    fn initialise(&mut self, used_idx: u16) -> Result<(), WindowError> {
        for head in 0..self.area.desc_num {
            let at = self.entry(head) + INFLIGHT_AT;
            if self.area.load::<u8>(at)? != 0 {
                self.area.store(at, 0u8)?;
            }
        }
        self.area.store(FEATURES_AT, 0u64)?;
        self.area.store(DESC_NUM_AT, self.area.desc_num)?;
        self.area.store(LAST_BATCH_HEAD_AT, 0u16)?;
        self.area.store(USED_IDX_AT, used_idx)?;
        // The last store: an area is initialised, or it is not.
        self.area.store(VERSION_AT, VERSION)
    }

    /// The used index may say that more requests are complete than the
    /// record does: those of the last batch, which are returned.
    ///
    /// libvhost-user and DPDK leave the record's used index at 0 until a
    /// first request is complete, wherever the ring stands. Until then, what
    /// was ever taken is in the ring, one behind the other: from the used
    /// index on, or one before it if one of them is complete, which may be
    /// the only one that the record no longer says is in flight.
    fn last_batch(
        &self,
        used_idx: u16,
        taken: &[Taken],
        available: &Available<impl Fn(u16) -> Result<u16, WindowError>>,
    ) -> Result<Vec<u16>, Unsound> {
        let recorded: u16 = self.area.load(USED_IDX_AT)?;
        if recorded == 0 && !taken.is_empty() {
            let mut known = taken.to_vec();
            known.extend(self.cleared_last()?);
            known.sort_unstable();
            let before = used_idx.wrapping_sub(1);
            for (ever, start, completed) in [
                (taken, used_idx, 0),
                (taken, before, 1),
                (&known, before, 1),
            ] {
                // Nothing is being taken while something is completed.
                let taking = completed == 0;
                if self.is_all(ever, taking)? && available.begins_with(start, ever)? {
                    return self.batch(completed);
                }
            }
        }
        self.batch(used_idx.wrapping_sub(recorded))
    }

    /// The request completed last, if it is not in flight.
    fn cleared_last(&self) -> Result<Option<Taken>, Unsound> {
        let head: u16 = self.area.load(LAST_BATCH_HEAD_AT)?;
        if head >= self.area.desc_num || self.is_inflight(head)? {
            return Ok(None);
        }
        let counter = self.area.load(self.entry(head) + COUNTER_AT)?;
        Ok(Some(Taken { counter, head }))
    }

    /// Whether `taken` is all that was ever taken, as far as can be seen, but
    /// for one that an earlier backend was `taking`: its counter comes first.
    fn is_all(&self, taken: &[Taken], taking: bool) -> Result<bool, WindowError> {
        if !(0..).zip(taken).all(|(i, taken)| taken.counter == i) {
            return Ok(false);
        }
        let next = taken.len() as u64;
        for head in 0..self.area.desc_num {
            let counter = self.area.load(self.entry(head) + COUNTER_AT)?;
            let known = counter == 0 || (taking && counter == next);
            if !known && !taken.contains(&Taken { counter, head }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_inflight(&self, head: u16) -> Result<bool, WindowError> {
        Ok(self.area.load::<u8>(self.entry(head) + INFLIGHT_AT)? != 0)
    }

    /// The heads of the last batch, if it has `len` requests; nothing, if
    /// what is there is none: each request is in it once.
    fn batch(&self, len: u16) -> Result<Vec<u16>, Unsound> {
        let mut batch = Vec::new();
        if len > self.area.desc_num {
            return Ok(batch);
        }
        let mut seen = alloc::vec![false; usize::from(self.area.desc_num)];
        let mut head = self.area.load(LAST_BATCH_HEAD_AT)?;
        for _ in 0..len {
            let seen = seen.get_mut(usize::from(head));
            if seen.is_none_or(|seen| core::mem::replace(seen, true)) {
                return Ok(Vec::new());
            }
            batch.push(head);
            head = self.area.load(self.entry(head) + NEXT_AT)?;
        }
        Ok(batch)
    }

    /// The requests that were taken and not completed.
    fn taken(&self, num: u16) -> Result<Vec<Taken>, Unsound> {
        let mut taken = Vec::new();
        for head in 0..self.area.desc_num {
            let entry = self.entry(head);
            match self.area.load::<u8>(entry + INFLIGHT_AT)? {
                0 => {}
                1 if head < num => {
                    let counter = self.area.load(entry + COUNTER_AT)?;
                    taken.push(Taken { counter, head });
                }
                _ => return Err(Unsound),
            }
        }
        Ok(taken)
    }

    /// The request with `head`, below `num`, is taken.
    pub fn take(&mut self, head: u16) -> Result<(), WindowError> {
        let entry = self.entry(head);
        self.area.store(entry + COUNTER_AT, self.counter)?;
        self.counter = self.counter.wrapping_add(1);
        self.area.store(entry + INFLIGHT_AT, 1u8)
    }

    /// The used index is about to say that the request with `head` is
    /// complete.
    pub fn begin_batch(&mut self, head: u16) -> Result<(), WindowError> {
        let next = self.entry(head) + NEXT_AT;
        self.area.store(next, self.last_batch_head)?;
        self.last_batch_head = head;
        self.area.store(LAST_BATCH_HEAD_AT, head)
    }

    /// It does.
    pub fn end_batch(&mut self, head: u16, used_idx: u16) -> Result<(), WindowError> {
        self.area.store(self.entry(head) + INFLIGHT_AT, 0u8)?;
        self.area.store(USED_IDX_AT, used_idx)
    }
}
