// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Packed rings (virtio 1.2 §2.8).
//!
//! A position is an index with a wrap counter in bit 15. Requests take their
//! descriptors one behind the other; used ones, in whatever order, give back
//! as many.

use core::sync::atomic::{fence, Ordering};

use super::descriptor::{DESCRIPTOR_LEN, NEXT, WRITE};
use super::{Descriptor, Parts, Request, RingFault, Vring, WRAP};
use crate::inflight::Record;
use crate::window::{Window, WindowError};

const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const LEN_AT: u64 = 8;
const ID_AT: u64 = 12;
const FLAGS_AT: u64 = 14;

/// The position `count`, at most `num`, descriptors behind `position` in a
/// ring of `num`, at most 2^15.
pub(crate) fn forward(position: u16, count: u16, num: u16) -> u16 {
    let index = u32::from(position & !WRAP) + u32::from(count);
    let wrap = position & WRAP;
    match index.checked_sub(num.into()) {
        // Below `num`, 15 bits.
        Some(index) => index as u16 | (wrap ^ WRAP),
        None => index as u16 | wrap,
    }
}

/// Whether a descriptor with `flags` at `position` is available.
pub(crate) fn is_available(flags: u16, position: u16) -> bool {
    let wrap = position & WRAP != 0;
    (flags & AVAILABLE != 0) == wrap && (flags & USED != 0) != wrap
}

fn index(position: u16) -> u16 {
    position & !WRAP
}

/// Where the descriptor at `position` is behind the start of the ring.
fn offset(position: u16) -> u64 {
    DESCRIPTOR_LEN * u64::from(index(position))
}

fn load_flags(window: &Window, parts: Parts, position: u16) -> Result<u16, WindowError> {
    window.load_le(parts.descriptors + offset(position) + FLAGS_AT)
}

fn load(window: &Window, parts: Parts, position: u16) -> Result<Descriptor, WindowError> {
    let mut bytes = [0; DESCRIPTOR_LEN as usize];
    window.read(parts.descriptors + offset(position), &mut bytes)?;
    Ok(Descriptor::packed(bytes))
}

impl Vring {
    pub(super) fn open_packed(&mut self, parts: Parts) -> Result<(), RingFault> {
        let Some(window) = self.window.clone() else {
            return Ok(());
        };
        let opened = match &mut self.record {
            Some(Record::Packed(record)) => {
                let flags = |position| load_flags(&window, parts, position);
                record.open(self.num, self.used_idx, self.told, flags)
            }
            Some(Record::Split(_)) => return Err(RingFault::Record),
            None => Ok(None),
        };
        self.told = false;
        if let Some((used, taken)) = opened? {
            // Nothing in the ring says where it stands, and what the frontend
            // knows may be old.
            let count = taken.iter().map(Request::count).sum();
            (self.used_idx, self.next_avail) = (used, forward(used, count, self.num));
            self.resubmit = taken;
        }
        for position in [self.used_idx, self.next_avail] {
            if index(position) >= self.num {
                return Err(RingFault::AvailableIndex(position));
            }
        }
        Ok(())
    }

    /// How many descriptors are taken and not used.
    fn taken(&self) -> u16 {
        let (next, used) = (self.next_avail, self.used_idx);
        let ahead = if (next ^ used) & WRAP == 0 {
            0
        } else {
            self.num
        };
        (ahead + index(next)).saturating_sub(index(used))
    }

    pub(super) fn resubmits_are_first_in_packed(&self) -> bool {
        let Some((window, parts)) = self.memory() else {
            return false;
        };
        let mut position = self.used_idx;
        for descriptor in self.resubmit.iter().flat_map(|r| &r.descriptors) {
            if load(window, parts, position) != Ok(*descriptor) {
                return false;
            }
            position = forward(position, 1, self.num);
        }
        !self.resubmit.is_empty() && position == self.next_avail
    }

    pub(super) fn pending_in_packed(&self) -> Result<bool, RingFault> {
        let Some((window, parts)) = self.memory() else {
            return Ok(false);
        };
        let flags = load_flags(window, parts, self.next_avail)?;
        if !is_available(flags, self.next_avail) {
            return Ok(false);
        }
        match self.taken() < self.num {
            true => Ok(true),
            false => Err(RingFault::TooManyAvailable),
        }
    }

    pub(super) fn peek_in_packed(&mut self) -> Result<Option<Request>, RingFault> {
        if !self.pending_in_packed()? {
            return Ok(None);
        }
        let mut descriptors = core::mem::take(&mut self.spare_descriptors);
        descriptors.clear();
        let Some((window, parts)) = self.memory() else {
            return Ok(None);
        };
        // The flags before the rest, as with split rings.
        fence(Ordering::SeqCst);
        let room = self.num - self.taken();
        let mut position = self.next_avail;
        loop {
            if descriptors.len() == usize::from(room) {
                return Err(RingFault::Loop);
            }
            let descriptor = load(window, parts, position)?;
            descriptors.push(descriptor);
            if descriptor.flags & NEXT == 0 {
                return Ok(Some(Request {
                    id: descriptor.tag,
                    descriptors,
                    entry: 0,
                }));
            }
            position = forward(position, 1, self.num);
        }
    }

    pub(super) fn push_to_packed(
        &mut self,
        request: &Request,
        written: u32,
    ) -> Result<(), RingFault> {
        let Some(parts) = self.parts else {
            return Ok(());
        };
        let at = offset(self.used_idx);
        let wrap = self.used_idx & WRAP != 0;
        let ring = (parts.descriptors, parts.descriptors_log);
        let used_idx = forward(self.used_idx, request.count(), self.num);
        if let Some(Record::Packed(record)) = &mut self.record {
            record.begin(request, used_idx)?;
        }
        self.store(ring, at + ID_AT, request.id)?;
        self.store(ring, at + LEN_AT, written)?;
        let mut flags = if wrap { AVAILABLE | USED } else { 0 };
        if written > 0 {
            flags |= WRITE;
        }
        // The data and the rest of the descriptor before the flags.
        fence(Ordering::SeqCst);
        self.store(ring, at + FLAGS_AT, flags)?;
        self.used_idx = used_idx;
        self.uncalled += u32::from(request.count());
        if let Some(Record::Packed(record)) = &mut self.record {
            record.end(request, used_idx)?;
        }
        Ok(())
    }
}
