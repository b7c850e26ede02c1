// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vring of the frontend's guest, on the backend's side (virtio 1.2 §2.7).
//!
//! The guest of the frontend writes the ring while it is read: each value is
//! loaded once, checked, and then used.

mod chain;
mod ring;

use core::sync::atomic::{fence, Ordering};

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use thiserror::Error;
use vhost_guest_msg::{VirtioFeatures, VringAddr};

use crate::inflight::Record;
use crate::log::DirtyLog;
use crate::memory::Memory;
use crate::queue::need_event;
use crate::window::{Window, WindowError, Word};

pub use chain::Chain;
pub use ring::Ring;

use chain::Segment;

const NO_NOTIFY: u16 = 1;
const NO_INTERRUPT: u16 = 1;

/// How the frontend's guest broke a vring. The vring stays out of use until
/// the frontend starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RingFault {
    /// The available index is further ahead than the ring is long.
    #[error("the available index {0} jumps")]
    AvailableIndex(u16),
    /// A descriptor index is beyond its table.
    #[error("there is no descriptor {0}")]
    DescriptorIndex(u16),
    /// A chain is longer than its table: a loop.
    #[error("a descriptor chain loops")]
    Loop,
    /// An indirect descriptor inside an indirect table, with a next one, or
    /// without the feature.
    #[error("an indirect descriptor where none may be")]
    Indirect,
    /// An indirect table of impossible length.
    #[error("an indirect table of {0} bytes")]
    IndirectLen(u32),
    /// A device-readable descriptor follows a device-writable one.
    #[error("device-readable after device-writable descriptors")]
    Direction,
    /// An address outside the memory that the frontend shares.
    #[error("there is no memory at {0:#x}")]
    Address(u64),
    /// The dirty log has no bit for an address that would be written.
    #[error("the dirty log does not reach {0:#x}")]
    Log(u64),
    /// More pieces of memory, or bytes, than a request may have.
    #[error("a descriptor chain is too long")]
    TooLong,
    /// The ring itself left the memory.
    #[error(transparent)]
    Memory(#[from] WindowError),
}

/// Where the three parts of a vring are in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    descriptors: u64,
    available: u64,
    used: u64,
}

/// A vring, with what the frontend has said about it.
#[derive(Debug, Default)]
pub(crate) struct Vring {
    num: u16,
    address: Option<VringAddr>,
    /// Known, and in the frontend's memory, while the vring runs.
    parts: Option<Parts>,
    window: Option<Window>,
    /// Writes are logged.
    log: Option<DirtyLog>,
    /// Something was logged since the frontend was told so.
    pub logged: bool,
    /// Where the requests that are taken are recorded, from the next start
    /// on.
    pub record: Option<Record>,
    /// Requests that an earlier backend took and did not complete.
    resubmit: VecDeque<u16>,
    next_avail: u16,
    used_idx: u16,
    /// `used_idx` at the last look at the guest's wishes; `None`: at none yet.
    called_idx: Option<u16>,
    features: VirtioFeatures,
    pub enabled: bool,
    /// The frontend left no kick: look again and again.
    pub polled: bool,
    /// The frontend wants calls.
    call: bool,
    /// The frontend wants errors.
    pub err: bool,
    started: bool,
    fault: Option<RingFault>,
    /// Room for the pieces of the next chain.
    spare: Vec<Segment>,
}

impl Vring {
    /// SET_VRING_NUM; `false` for a number that a split vring cannot have, or
    /// while it runs.
    pub fn set_num(&mut self, num: u16) -> bool {
        let valid = num.is_power_of_two() && !self.started;
        if valid {
            self.num = num;
        }
        valid
    }

    /// SET_VRING_ADDR; `false` if the parts are misaligned or not in the
    /// frontend's memory. A vring that runs moves on there.
    pub fn set_address(&mut self, address: VringAddr, memory: &Memory) -> bool {
        let Some(parts) = self.locate(&address, memory) else {
            return false;
        };
        self.address = Some(address);
        if self.started {
            self.place(Some(parts), memory);
        }
        true
    }

    /// SET_VRING_BASE; `false` while the vring runs.
    pub fn set_base(&mut self, base: u16) -> bool {
        if !self.started {
            self.next_avail = base;
        }
        !self.started
    }

    fn locate(&self, address: &VringAddr, memory: &Memory) -> Option<Parts> {
        let num = u64::from(self.num);
        // The event index fields included: a frontend that negotiates them
        // later has room for them, as virtio 1.2 §2.7.2 has it.
        let parts = [
            (address.descriptor, 16 * num, 16),
            (address.available, 6 + 2 * num, 2),
            (address.used, 6 + 8 * num, 4),
        ];
        let valid = |(offset, len, align): (u64, u64, u64)| {
            offset.is_multiple_of(align) && memory.has_user(offset, len)
        };
        (self.num != 0 && parts.into_iter().all(valid)).then_some(Parts {
            descriptors: address.descriptor,
            available: address.available,
            used: address.used,
        })
    }

    /// Whether the frontend has started the vring, enabled or not.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// How many requests of an earlier backend can be handled now.
    pub fn resubmits(&self) -> usize {
        if self.is_active() {
            self.resubmit.len()
        } else {
            0
        }
    }

    /// The vring is there from now on, and its writes are logged as the
    /// memory's are. Without a place, or with a log that is still to come, it
    /// rests.
    fn place(&mut self, parts: Option<Parts>, memory: &Memory) {
        self.parts = parts.filter(|_| !memory.awaits_log());
        self.log = memory.log().cloned();
    }

    /// SET_VRING_KICK: the vring runs from now on, if it is enabled; `false`
    /// if it lacks a size or an address, or the record of its requests is
    /// unsound.
    pub fn start(&mut self, memory: &Memory, features: VirtioFeatures) -> bool {
        if self.started {
            return true;
        }
        let parts = self.address.and_then(|a| self.locate(&a, memory));
        let window = memory.window();
        let used_idx = parts.and_then(|p| window.load_le::<u16>(p.used + 2).ok());
        let (Some(parts), Some(used_idx)) = (parts, used_idx) else {
            return false;
        };
        if let Some(record) = &mut self.record {
            let Ok(taken) = record.open(self.num, used_idx) else {
                return false;
            };
            if let Some(taken) = taken {
                // What was neither used nor taken is still available. The
                // base that the frontend has sent does not count what was
                // taken. As many as descriptors: 16 bits.
                self.next_avail = used_idx.wrapping_add(taken.len() as u16);
                self.resubmit = taken;
            }
        }
        self.window = Some(window.clone());
        self.place(Some(parts), memory);
        // What was used before a backend went away is in the ring.
        self.used_idx = used_idx;
        self.called_idx = None;
        self.features = features;
        self.fault = None;
        self.started = true;
        true
    }

    /// Whether there may be something to do.
    pub fn is_active(&self) -> bool {
        self.started && self.enabled && self.parts.is_some() && self.fault.is_none()
    }

    /// GET_VRING_BASE: the vring stops; returns where it would go on.
    pub fn stop(&mut self) -> u16 {
        self.started = false;
        self.resubmit.clear();
        self.parts = None;
        self.window = None;
        self.log = None;
        self.polled = false;
        // The frontend sends kick and call again when it starts it again.
        self.call = false;
        self.next_avail
    }

    /// The device is reset: the vring stops and is as it was at first, but
    /// for where the frontend is notified.
    pub fn reset(&mut self) {
        let (call, err, record) = (self.call, self.err, self.record.take());
        *self = Self {
            call,
            err,
            record,
            ..Self::default()
        };
    }

    /// SET_FEATURES may change while vrings run.
    pub fn set_features(&mut self, features: VirtioFeatures) {
        self.features = features;
    }

    /// The frontend's memory, or its log, has changed; a vring that is no
    /// longer in it rests until it has a new address.
    pub fn memory_changed(&mut self, memory: &Memory) {
        if self.started {
            let parts = self.address.and_then(|a| self.locate(&a, memory));
            self.place(parts, memory);
        }
    }

    /// Why the vring is out of use.
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    fn memory(&self) -> Option<(&Window, Parts)> {
        self.window.as_ref().zip(self.parts)
    }

    fn event_idx(&self) -> bool {
        self.features.contains(VirtioFeatures::RING_EVENT_IDX)
    }

    /// Whether there are requests; a fault if there cannot be so many.
    fn pending(&self) -> Result<bool, RingFault> {
        let Some((window, parts)) = self.memory() else {
            return Ok(false);
        };
        if !self.resubmit.is_empty() {
            return Ok(true);
        }
        let index: u16 = window.load_le(parts.available + 2)?;
        match index.wrapping_sub(self.next_avail) {
            0 => Ok(false),
            ahead if ahead > self.num => Err(RingFault::AvailableIndex(index)),
            _ => Ok(true),
        }
    }

    /// Takes the head of the next available chain.
    fn pop(&mut self) -> Result<Option<u16>, RingFault> {
        if !self.pending()? {
            return Ok(None);
        }
        let Some((window, parts)) = self.memory() else {
            return Ok(None);
        };
        // The index before the entry.
        fence(Ordering::Acquire);
        let slot = u64::from(self.next_avail % self.num.max(1));
        let head: u16 = window.load_le(parts.available + 4 + 2 * slot)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(head))
    }

    /// Stores `value` at `offset` of the used ring, and logs it if the used
    /// ring is to be logged (vhost-user, SET_VRING_ADDR).
    fn store_used<W: Word>(&self, offset: u64, value: W) -> Result<(), RingFault> {
        let Some((window, parts)) = self.memory() else {
            return Ok(());
        };
        window.store_le(parts.used + offset, value)?;
        let Some((log, address)) = self.log.as_ref().zip(self.address) else {
            return Ok(());
        };
        let at = address.log.wrapping_add(offset);
        if address.log_used && !log.mark(at, size_of::<W>() as u64) {
            return Err(RingFault::Log(at));
        }
        Ok(())
    }

    /// Puts a chain into the used ring.
    fn push(&mut self, head: u16, written: u32) -> Result<(), RingFault> {
        if self.parts.is_none() {
            return Ok(());
        }
        let slot = u64::from(self.used_idx % self.num.max(1));
        self.store_used(4 + 8 * slot, u32::from(head))?;
        self.store_used(8 + 8 * slot, written)?;
        if let Some(record) = &mut self.record {
            record.begin_batch(head)?;
        }
        let used_idx = self.used_idx.wrapping_add(1);
        // The data and the entry before the index.
        fence(Ordering::Release);
        self.store_used(2, used_idx)?;
        self.used_idx = used_idx;
        if let Some(record) = &mut self.record {
            record.end_batch(head, used_idx)?;
        }
        self.logged |= self.log.is_some();
        Ok(())
    }

    /// Asks the frontend's guest not to kick: somebody is looking.
    pub fn suppress_kicks(&mut self) {
        if !self.event_idx() {
            let result = self.store_used(0, NO_NOTIFY);
            self.note(result);
        }
    }

    /// Asks the frontend's guest to kick from now on; `true` if a request
    /// came in before it could know, so that nobody will kick for it.
    pub fn request_kicks(&mut self) -> bool {
        let result = self.try_request_kicks();
        self.note(result).unwrap_or(false)
    }

    fn try_request_kicks(&self) -> Result<bool, RingFault> {
        if self.event_idx() {
            self.store_used(4 + 8 * u64::from(self.num), self.next_avail)?;
        } else {
            self.store_used(0, 0u16)?;
        }
        // The wish before the look.
        fence(Ordering::SeqCst);
        self.pending()
    }

    /// Whether the frontend's guest wants to be called for what was used
    /// since the last call.
    pub fn take_call(&mut self) -> bool {
        let result = self.wants_call();
        let wants = self.note(result).unwrap_or(false);
        self.called_idx = Some(self.used_idx);
        wants && self.call
    }

    /// SET_VRING_CALL. Calls that went nowhere before are made up for.
    pub fn set_call(&mut self, call: bool) {
        self.call = call;
        self.called_idx = None;
    }

    fn wants_call(&self) -> Result<bool, RingFault> {
        let Some((window, parts)) = self.memory() else {
            return Ok(false);
        };
        if self.called_idx == Some(self.used_idx) {
            return Ok(false);
        }
        // The used index before the wishes.
        fence(Ordering::SeqCst);
        if !self.event_idx() {
            let flags: u16 = window.load_le(parts.available)?;
            return Ok(flags & NO_INTERRUPT == 0);
        }
        let event = parts.available + 4 + 2 * u64::from(self.num);
        let event: u16 = window.load_le(event)?;
        Ok(match self.called_idx {
            Some(called) => need_event(event, self.used_idx, called),
            None => true,
        })
    }

    /// Remembers a fault; the vring is out of use with it.
    fn note<R>(&mut self, result: Result<R, RingFault>) -> Option<R> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fault = Some(fault);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
