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

    /// Gets ready for a vring of `num` descriptors whose used index is
    /// `used_idx`. Returns the heads of the requests that an earlier backend
    /// took and did not complete, in the order in which it took them; `None`
    /// if there was none.
    pub fn open(&mut self, num: u16, used_idx: u16) -> Result<Option<VecDeque<u16>>, Unsound> {
        if num > self.area.desc_num {
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
        let stale = self.finish_last_batch(num, used_idx)?;
        let mut taken = self.taken(num)?;
        if stale && !taken.is_empty() {
            return Err(Unsound);
        }
        self.area.store(USED_IDX_AT, used_idx)?;
        taken.sort_unstable();
        let next = |(counter, _): &(u64, u16)| counter.wrapping_add(1);
        self.counter = taken.last().map_or(0, next);
        Ok(Some(taken.into_iter().map(|(_, head)| head).collect()))
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
    /// record does: those of the last batch. `true` if it says what cannot
    /// be, since the vring has been set up anew.
    fn finish_last_batch(&mut self, num: u16, used_idx: u16) -> Result<bool, Unsound> {
        let mut head = self.area.load::<u16>(LAST_BATCH_HEAD_AT)?;
        let batch = used_idx.wrapping_sub(self.area.load::<u16>(USED_IDX_AT)?);
        if batch > num {
            self.last_batch_head = 0;
            return Ok(true);
        }
        if head >= self.area.desc_num {
            return Err(Unsound);
        }
        self.last_batch_head = head;
        for _ in 0..batch {
            if head >= self.area.desc_num {
                return Err(Unsound);
            }
            self.area.store(self.entry(head) + INFLIGHT_AT, 0u8)?;
            head = self.area.load(self.entry(head) + NEXT_AT)?;
        }
        Ok(false)
    }

    /// The requests that were taken and not completed, with their counters.
    fn taken(&self, num: u16) -> Result<Vec<(u64, u16)>, Unsound> {
        let mut taken = Vec::new();
        for head in 0..self.area.desc_num {
            let entry = self.entry(head);
            match self.area.load::<u8>(entry + INFLIGHT_AT)? {
                0 => {}
                1 if head < num => {
                    taken.push((self.area.load(entry + COUNTER_AT)?, head));
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
