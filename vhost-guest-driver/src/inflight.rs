// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Records of the requests that are in flight, in memory that outlives the
//! backend (vhost-user, inflight I/O tracking).
//!
//! One area for each vring, as long as a multiple of 64 bytes. Each request
//! that is completed is a batch of its own here. Others write records, too,
//! and promise less: what is taken over is checked against the ring.
//!
//! The stores of one request need no fences between them: nobody reads a
//! record at the same time, and whatever kills a backend kills it between
//! two instructions.

mod packed;
mod split;

use vhost_guest_msg::Inflight;

use crate::vring::Request;
use crate::window::{Window, WindowError, Word};

pub(crate) use packed::PackedRecord;
pub(crate) use split::{Available, SplitRecord};

const VERSION: u16 = 1;

/// Length of the area for a vring.
fn area_len(queue_size: u16, packed: bool) -> u64 {
    let (header, entry) = match packed {
        false => (split::HEADER_LEN, split::ENTRY_LEN),
        true => (packed::HEADER_LEN, packed::ENTRY_LEN),
    };
    (header + entry * u64::from(queue_size)).next_multiple_of(64)
}

/// Length of the record for `num_queues` vrings of `queue_size`.
pub(crate) fn record_len(num_queues: u16, queue_size: u16, packed: bool) -> u64 {
    if queue_size == 0 {
        return 0;
    }
    u64::from(num_queues) * area_len(queue_size, packed)
}

/// A record that no backend has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsound;

impl From<WindowError> for Unsound {
    fn from(_: WindowError) -> Self {
        Self
    }
}

/// Where the record of one vring is.
#[derive(Debug)]
pub(crate) struct Area {
    window: Window,
    offset: u64,
    desc_num: u16,
}

impl Area {
    fn load<W: Word>(&self, at: u64) -> Result<W, WindowError> {
        self.window.load_le(self.offset + at)
    }

    fn store<W: Word>(&self, at: u64, value: W) -> Result<(), WindowError> {
        self.window.store_le(self.offset + at, value)
    }
}

/// Whose record is where. What it looks like, the kind of ring decides, which
/// may not be known yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub inflight: Inflight,
    /// Of the vring.
    pub index: u16,
}

/// The record of one vring, of one kind or the other.
#[derive(Debug)]
pub(crate) enum Record {
    Split(SplitRecord),
    Packed(PackedRecord),
}

impl Record {
    /// The area of a vring in the window; `None` if it is empty, misaligned
    /// or not inside.
    pub fn new(window: &Window, place: &Place, packed: bool) -> Option<Self> {
        let Place { inflight, index } = place;
        let desc_num = inflight.queue_size();
        let end = record_len(index + 1, desc_num, packed);
        let start = inflight.mmap_offset();
        if desc_num == 0 || end > inflight.mmap_size() || !start.is_multiple_of(8) {
            return None;
        }
        window.check(start, end).ok()?;
        let area = Area {
            window: window.clone(),
            offset: start + end - area_len(desc_num, packed),
            desc_num,
        };
        Some(match packed {
            false => Self::Split(SplitRecord::new(area)),
            true => Self::Packed(PackedRecord::new(area)),
        })
    }

    /// `request` is taken.
    pub fn take(&mut self, request: &mut Request) -> Result<(), Unsound> {
        match self {
            Self::Split(record) => Ok(record.take(request.id)?),
            Self::Packed(record) => record.take(request),
        }
    }
}

#[cfg(test)]
mod foreign;
#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod packed_tests;
#[cfg(test)]
mod tests;
