// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Split rings (virtio 1.2 §2.7).

use core::sync::atomic::{fence, Ordering};

use super::{Parts, Request, RingFault, Vring};
use crate::inflight::{Available, Record};
use crate::window::Word;

impl Vring {
    pub(super) fn open_split(&mut self, parts: Parts) -> Result<(), RingFault> {
        let Some(window) = &self.window else {
            return Ok(());
        };
        // What was used before a backend went away is in the ring.
        self.used_idx = window.load_le(parts.used + 2)?;
        let taken = match &mut self.record {
            Some(Record::Split(record)) => {
                let slots = parts.available + 4;
                let available = Available {
                    index: window.load_le(parts.available + 2)?,
                    num: self.num,
                    head: |slot| window.load_le(slots + 2 * u64::from(slot)),
                };
                record.open(self.used_idx, &available)
            }
            Some(Record::Packed(_)) => return Err(RingFault::Record),
            None => Ok(None),
        };
        if let Some(taken) = taken? {
            // What was neither used nor taken is still available. The base
            // that the frontend has sent does not count what was taken. As
            // many as descriptors: 16 bits.
            self.next_avail = self.used_idx.wrapping_add(taken.len() as u16);
            let request = |id| Request {
                id,
                ..Request::default()
            };
            self.resubmit = taken.into_iter().map(request).collect();
        }
        Ok(())
    }

    pub(super) fn resubmits_are_first_in_split(&self) -> bool {
        let Some((window, parts)) = self.memory() else {
            return false;
        };
        let mut index = self.used_idx;
        for request in &self.resubmit {
            let slot = u64::from(index % self.num.max(1));
            if window.load_le(parts.available + 4 + 2 * slot) != Ok(request.id) {
                return false;
            }
            index = index.wrapping_add(1);
        }
        !self.resubmit.is_empty() && index == self.next_avail
    }

    pub(super) fn pending_in_split(&self) -> Result<bool, RingFault> {
        let Some((window, parts)) = self.memory() else {
            return Ok(false);
        };
        let index: u16 = window.load_le(parts.available + 2)?;
        match index.wrapping_sub(self.next_avail) {
            0 => Ok(false),
            ahead if ahead > self.num => Err(RingFault::AvailableIndex(index)),
            _ => Ok(true),
        }
    }

    pub(super) fn peek_in_split(&self) -> Result<Option<Request>, RingFault> {
        if !self.pending_in_split()? {
            return Ok(None);
        }
        let Some((window, parts)) = self.memory() else {
            return Ok(None);
        };
        // The index before the entry. A full fence here and when something is
        // used: where the window is mapped write-combining, less orders
        // nothing (x86).
        fence(Ordering::SeqCst);
        let slot = u64::from(self.next_avail % self.num.max(1));
        let id = window.load_le(parts.available + 4 + 2 * slot)?;
        Ok(Some(Request {
            id,
            ..Request::default()
        }))
    }

    /// Stores `value` at `offset` of the used ring.
    pub(super) fn store_used<W: Word>(&self, offset: u64, value: W) -> Result<(), RingFault> {
        match self.parts {
            Some(parts) => self.store((parts.used, parts.used_log), offset, value),
            None => Ok(()),
        }
    }

    pub(super) fn push_to_split(
        &mut self,
        request: &Request,
        written: u32,
    ) -> Result<(), RingFault> {
        let slot = u64::from(self.used_idx % self.num.max(1));
        self.store_used(4 + 8 * slot, u32::from(request.id))?;
        self.store_used(8 + 8 * slot, written)?;
        if let Some(Record::Split(record)) = &mut self.record {
            record.begin_batch(request.id)?;
        }
        let used_idx = self.used_idx.wrapping_add(1);
        // The data and the entry before the index.
        fence(Ordering::SeqCst);
        self.store_used(2, used_idx)?;
        self.used_idx = used_idx;
        if let Some(Record::Split(record)) = &mut self.record {
            record.end_batch(request.id, used_idx)?;
        }
        Ok(())
    }
}
