// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vring of the frontend's guest, on the backend's side (virtio 1.2 §2.7).
//!
//! The guest of the frontend writes the ring while it is read: each value is
//! loaded once, checked, and then used.

mod chain;
mod notify;
mod ring;

use core::sync::atomic::{fence, Ordering};

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use thiserror::Error;
use vhost_guest_msg::{Permission, VirtioFeatures, VringAddr};

use crate::inflight::Record;
use crate::iotlb::{Lost, Miss};
use crate::log::DirtyLog;
use crate::memory::Memory;
use crate::window::{Window, WindowError, Word};

pub use chain::Chain;
pub use ring::Ring;

use chain::Segment;

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
    /// The record of requests in flight is none that a backend has written.
    #[error("the record of requests in flight is unsound")]
    Record,
    /// More pieces of memory, or bytes, than a request may have.
    #[error("a descriptor chain is too long")]
    TooLong,
    /// The ring itself left the memory.
    #[error(transparent)]
    Memory(#[from] WindowError),
}

/// Why a request is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Halt {
    Fault(RingFault),
    Miss(Miss),
}

impl Halt {
    /// It needs `address`.
    fn new(lost: Lost, address: u64) -> Self {
        match lost {
            Lost::Nowhere => Self::Fault(RingFault::Address(address)),
            Lost::Miss(miss) => Self::Miss(miss),
        }
    }
}

impl<F: Into<RingFault>> From<F> for Halt {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

/// Where the three parts of a vring are in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    descriptors: u64,
    available: u64,
    used: u64,
    /// Where the used ring is for the log.
    log: u64,
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
    /// What is in the ring itself has been looked at since the start.
    opened: bool,
    /// The vring waits for a translation.
    miss: Option<Miss>,
    /// The last translation that the frontend was asked for.
    asked: Option<Miss>,
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
        if self.locate(&address, memory) == Err(Lost::Nowhere) {
            return false;
        }
        self.address = Some(address);
        self.memory_changed(memory);
        true
    }

    /// SET_VRING_BASE; `false` while the vring runs.
    pub fn set_base(&mut self, base: u16) -> bool {
        if !self.started {
            self.next_avail = base;
        }
        !self.started
    }

    fn locate(&self, address: &VringAddr, memory: &Memory) -> Result<Parts, Lost> {
        let num = u64::from(self.num);
        // The event index fields included: a frontend that negotiates them
        // later has room for them, as virtio 1.2 §2.7.2 has it.
        let parts = [
            (address.descriptor, 16 * num, 16, Permission::Read),
            (address.available, 6 + 2 * num, 2, Permission::Read),
            (address.used, 6 + 8 * num, 4, Permission::ReadWrite),
        ];
        if num == 0 {
            return Err(Lost::Nowhere);
        }
        let mut offsets = [0; 3];
        let mut log = address.log;
        for (slot, (start, len, align, permission)) in offsets.iter_mut().zip(parts) {
            *slot = start;
            if memory.translates() {
                let place = memory.place_whole(start, len, permission)?;
                // The log's address is an I/O virtual one, too: this one.
                (*slot, log) = (place.offset, place.address);
            } else if !memory.has_user(start, len) {
                return Err(Lost::Nowhere);
            }
            if !slot.is_multiple_of(align) {
                return Err(Lost::Nowhere);
            }
        }
        let [descriptors, available, used] = offsets;
        Ok(Parts {
            descriptors,
            available,
            used,
            log,
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

    /// SET_VRING_KICK: the vring runs from now on, if it is enabled; `false`
    /// if it lacks a size or an address, or the record of its requests is
    /// unsound.
    pub fn start(&mut self, memory: &Memory, features: VirtioFeatures) -> bool {
        if self.started {
            return true;
        }
        self.called_idx = None;
        self.features = features;
        self.fault = None;
        self.started = true;
        self.window = Some(memory.window().clone());
        self.memory_changed(memory);
        // It may have to wait for its place.
        let placed = self.opened || self.miss.is_some();
        let started = placed && self.fault.is_none();
        if !started {
            let call = self.call;
            self.stop();
            self.call = call;
        }
        started
    }

    /// Looks at what an earlier backend left in the ring.
    fn open(&mut self, parts: Parts) -> Result<(), RingFault> {
        let Some(window) = &self.window else {
            return Ok(());
        };
        // What was used before a backend went away is in the ring.
        self.used_idx = window.load_le(parts.used + 2)?;
        if let Some(record) = &mut self.record {
            let taken = record.open(self.num, self.used_idx);
            if let Some(taken) = taken.map_err(|_| RingFault::Record)? {
                // What was neither used nor taken is still available. The
                // base that the frontend has sent does not count what was
                // taken. As many as descriptors: 16 bits.
                self.next_avail = self.used_idx.wrapping_add(taken.len() as u16);
                self.resubmit = taken;
            }
        }
        self.opened = true;
        Ok(())
    }

    /// Whether there may be something to do.
    pub fn is_active(&self) -> bool {
        let able = self.fault.is_none() && self.miss.is_none();
        self.started && self.enabled && self.parts.is_some() && able
    }

    /// GET_VRING_BASE: the vring stops; returns where it would go on.
    pub fn stop(&mut self) -> u16 {
        if self.can_hand_back() {
            self.next_avail = self.used_idx;
        }
        self.started = false;
        self.opened = false;
        (self.miss, self.asked) = (None, None);
        self.resubmit.clear();
        self.parts = None;
        self.window = None;
        self.log = None;
        self.polled = false;
        // The frontend sends kick and call again when it starts it again.
        self.call = false;
        self.next_avail
    }

    /// Whether what an earlier backend took, and this one did not get to, is
    /// the first that is available but not used. Then it need not count as
    /// taken: whoever goes on without the record, after a migration, finds
    /// it there. Requests that were completed in another order than taken
    /// are only in the record.
    fn can_hand_back(&self) -> bool {
        let Some((window, parts)) = self.memory() else {
            return false;
        };
        let mut index = self.used_idx;
        for head in &self.resubmit {
            let slot = u64::from(index % self.num.max(1));
            if window.load_le(parts.available + 4 + 2 * slot) != Ok(*head) {
                return false;
            }
            index = index.wrapping_add(1);
        }
        !self.resubmit.is_empty() && index == self.next_avail
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

    /// The frontend's memory, its log or its translations have changed. A
    /// vring that is no longer in it rests until it has a new address or a
    /// translation; also while a log is due, for what it writes must be
    /// logged.
    pub fn memory_changed(&mut self, memory: &Memory) {
        if !self.started {
            return;
        }
        self.log = memory.log().cloned();
        (self.parts, self.miss) = (None, None);
        match self.address.map(|address| self.locate(&address, memory)) {
            Some(Ok(parts)) => {
                let opened = if self.opened {
                    Ok(())
                } else {
                    self.open(parts)
                };
                self.note(opened);
                self.parts = Some(parts).filter(|_| !memory.awaits_log());
            }
            Some(Err(Lost::Miss(miss))) => self.miss = Some(miss),
            Some(Err(Lost::Nowhere)) | None => {}
        }
    }

    /// The request with `head` is not to be had, now or at all.
    fn halt(&mut self, halt: Halt, head: u16, again: bool) {
        match halt {
            Halt::Fault(fault) => self.fault = Some(fault),
            Halt::Miss(miss) => {
                self.miss = Some(miss);
                if again {
                    self.resubmit.push_front(head);
                } else {
                    self.next_avail = self.next_avail.wrapping_sub(1);
                }
            }
        }
    }

    /// The translation that the vring waits for, if nobody has asked for it.
    pub fn miss(&self) -> Option<Miss> {
        self.miss.filter(|_| self.miss != self.asked)
    }

    /// The frontend has been asked.
    pub fn miss_asked(&mut self) {
        self.asked = self.miss;
    }

    /// What it was asked for may be lost.
    pub fn ask_again(&mut self) {
        self.asked = None;
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
        // The index before the entry. A full fence here and in `push`: where
        // the window is mapped write-combining, less orders nothing (x86).
        fence(Ordering::SeqCst);
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
        let at = parts.log.wrapping_add(offset);
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
        fence(Ordering::SeqCst);
        self.store_used(2, used_idx)?;
        self.used_idx = used_idx;
        if let Some(record) = &mut self.record {
            record.end_batch(head, used_idx)?;
        }
        self.logged |= self.log.is_some();
        Ok(())
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
