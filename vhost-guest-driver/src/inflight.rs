// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Records of the requests that are in flight, in memory that outlives the
//! backend (vhost-user, inflight I/O tracking).
//!
//! One area for each vring, as long as a multiple of 64 bytes, with the
//! layout for split vrings that libvhost-user and DPDK have, too:
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
//!
//! Each request that is completed is a batch of its own here.
//!
//! The stores of one request need no fences between them: nobody reads a
//! record at the same time, and whatever kills a backend kills it between
//! two instructions.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::window::{Window, WindowError};

const VERSION: u16 = 1;

const FEATURES_AT: u64 = 0;
const VERSION_AT: u64 = 8;
const DESC_NUM_AT: u64 = 10;
const LAST_BATCH_HEAD_AT: u64 = 12;
const USED_IDX_AT: u64 = 14;
const HEADER_LEN: u64 = 16;

const ENTRY_LEN: u64 = 16;
const INFLIGHT_AT: u64 = 0;
const NEXT_AT: u64 = 6;
const COUNTER_AT: u64 = 8;

/// Length of the area for a vring.
fn area_len(queue_size: u16) -> u64 {
    (HEADER_LEN + ENTRY_LEN * u64::from(queue_size)).next_multiple_of(64)
}

/// Length of the record for `num_queues` vrings of `queue_size`.
pub(crate) fn record_len(num_queues: u16, queue_size: u16) -> u64 {
    if queue_size == 0 {
        return 0;
    }
    u64::from(num_queues) * area_len(queue_size)
}

/// A record that no backend has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsound;

impl From<WindowError> for Unsound {
    fn from(_: WindowError) -> Self {
        Self
    }
}

/// The area of one vring.
#[derive(Debug)]
pub(crate) struct Record {
    window: Window,
    offset: u64,
    desc_num: u16,
    counter: u64,
    last_batch_head: u16,
}

impl Record {
    /// The area of vring `index` in the record `inflight` in the window;
    /// `None` if it is empty, misaligned or not inside.
    pub fn new(window: &Window, inflight: &vhost_guest_msg::Inflight, index: u16) -> Option<Self> {
        let desc_num = inflight.queue_size();
        let end = record_len(index + 1, desc_num);
        let start = inflight.mmap_offset();
        if desc_num == 0 || end > inflight.mmap_size() || !start.is_multiple_of(8) {
            return None;
        }
        window.check(start, end).ok()?;
        Some(Self {
            window: window.clone(),
            offset: start + end - area_len(desc_num),
            desc_num,
            counter: 0,
            last_batch_head: 0,
        })
    }

    fn entry(&self, head: u16) -> u64 {
        self.offset + HEADER_LEN + ENTRY_LEN * u64::from(head)
    }

    fn field(&self, at: u64) -> Result<u16, WindowError> {
        self.window.load_le(self.offset + at)
    }

    fn set_field(&self, at: u64, value: u16) -> Result<(), WindowError> {
        self.window.store_le(self.offset + at, value)
    }

    /// Gets ready for a vring of `num` descriptors whose used index is
    /// `used_idx`. Returns the heads of the requests that an earlier backend
    /// took and did not complete, in the order in which it took them; `None`
    /// if there was none.
    pub fn open(&mut self, num: u16, used_idx: u16) -> Result<Option<VecDeque<u16>>, Unsound> {
        if num > self.desc_num {
            return Err(Unsound);
        }
        match self.field(VERSION_AT)? {
            0 => {
                self.initialise(used_idx)?;
                return Ok(None);
            }
            VERSION => {}
            _ => return Err(Unsound),
        }
        let features: u64 = self.window.load_le(self.offset + FEATURES_AT)?;
        if features != 0 || self.field(DESC_NUM_AT)? != self.desc_num {
            return Err(Unsound);
        }
        let stale = self.finish_last_batch(num, used_idx)?;
        let mut taken = self.taken(num)?;
        if stale && !taken.is_empty() {
            return Err(Unsound);
        }
        self.set_field(USED_IDX_AT, used_idx)?;
        taken.sort_unstable();
        let next = |(counter, _): &(u64, u16)| counter.wrapping_add(1);
        self.counter = taken.last().map_or(0, next);
        Ok(Some(taken.into_iter().map(|(_, head)| head).collect()))
    }

    fn initialise(&mut self, used_idx: u16) -> Result<(), WindowError> {
        for head in 0..self.desc_num {
            let at = self.entry(head) + INFLIGHT_AT;
            if self.window.load_le::<u8>(at)? != 0 {
                self.window.store_le(at, 0u8)?;
            }
        }
        self.window.store_le(self.offset + FEATURES_AT, 0u64)?;
        self.set_field(DESC_NUM_AT, self.desc_num)?;
        self.set_field(LAST_BATCH_HEAD_AT, 0)?;
        self.set_field(USED_IDX_AT, used_idx)?;
        // The last store: an area is initialised, or it is not.
        self.set_field(VERSION_AT, VERSION)
    }

    /// The used index may say that more requests are complete than the
    /// record does: those of the last batch. `true` if it says what cannot
    /// be, since the vring has been set up anew.
    fn finish_last_batch(&mut self, num: u16, used_idx: u16) -> Result<bool, Unsound> {
        let mut head = self.field(LAST_BATCH_HEAD_AT)?;
        let batch = used_idx.wrapping_sub(self.field(USED_IDX_AT)?);
        if batch > num {
            self.last_batch_head = 0;
            return Ok(true);
        }
        if head >= self.desc_num {
            return Err(Unsound);
        }
        self.last_batch_head = head;
        for _ in 0..batch {
            if head >= self.desc_num {
                return Err(Unsound);
            }
            self.window.store_le(self.entry(head) + INFLIGHT_AT, 0u8)?;
            head = self.window.load_le(self.entry(head) + NEXT_AT)?;
        }
        Ok(false)
    }

    /// The requests that were taken and not completed, with their counters.
    fn taken(&self, num: u16) -> Result<Vec<(u64, u16)>, Unsound> {
        let mut taken = Vec::new();
        for head in 0..self.desc_num {
            let entry = self.entry(head);
            match self.window.load_le::<u8>(entry + INFLIGHT_AT)? {
                0 => {}
                1 if head < num => {
                    taken.push((self.window.load_le(entry + COUNTER_AT)?, head));
                }
                _ => return Err(Unsound),
            }
        }
        Ok(taken)
    }

    /// The request with `head`, below `num`, is taken.
    pub fn take(&mut self, head: u16) -> Result<(), WindowError> {
        let entry = self.entry(head);
        self.window.store_le(entry + COUNTER_AT, self.counter)?;
        self.counter = self.counter.wrapping_add(1);
        self.window.store_le(entry + INFLIGHT_AT, 1u8)
    }

    /// The used index is about to say that the request with `head` is
    /// complete.
    pub fn begin_batch(&mut self, head: u16) -> Result<(), WindowError> {
        let next = self.entry(head) + NEXT_AT;
        self.window.store_le(next, self.last_batch_head)?;
        self.last_batch_head = head;
        self.set_field(LAST_BATCH_HEAD_AT, head)
    }

    /// It does.
    pub fn end_batch(&mut self, head: u16, used_idx: u16) -> Result<(), WindowError> {
        self.window.store_le(self.entry(head) + INFLIGHT_AT, 0u8)?;
        self.set_field(USED_IDX_AT, used_idx)
    }
}

#[cfg(test)]
mod tests;
