// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vring of the frontend's guest, split or packed, on the backend's side
//! (virtio 1.2 §2.7, §2.8).
//!
//! The guest of the frontend writes the ring while it is read: each value is
//! loaded once, checked, and then used.

mod chain;
mod descriptor;
mod fault;
mod notify;
mod packed;
mod ring;
mod split;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use vhost_guest_msg::{Permission, VirtioFeatures, VringAddr};

use crate::inflight::{Place, Record};
use crate::iotlb::{Lost, Miss};
use crate::log::DirtyLog;
use crate::memory::Memory;
use crate::window::{Window, Word};

pub use chain::Chain;
pub use fault::RingFault;
pub use ring::Ring;
pub(crate) use ring::{Budget, TURN_BYTES};

use chain::Segment;
pub(crate) use descriptor::{Descriptor, Request};
use fault::Halt;
pub(crate) use packed::{forward, is_available};

/// Entries of a packed ring at most (virtio 1.2 §2.8.10.1).
const MAX_PACKED: u16 = 1 << 15;
/// The wrap counter of a position in a packed ring.
const WRAP: u16 = 1 << 15;

/// Where the three parts of a vring are in the window; of a packed one, the
/// ring and the event areas of driver and device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    descriptors: u64,
    available: u64,
    used: u64,
    /// Where the ring is for the log, if it is a packed one.
    descriptors_log: u64,
    /// Where the used ring, or the device's event area, is for the log.
    used_log: u64,
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
    pub place: Option<Place>,
    /// That record, of the kind that the ring has, since it was started.
    record: Option<Record>,
    /// Requests that an earlier backend took and did not complete.
    resubmit: VecDeque<Request>,
    /// The ring is a packed one, since it was started.
    packed: bool,
    /// SET_VRING_BASE came, or the vring has run.
    placed: bool,
    /// The frontend was told where it stopped, and has it begin where it
    /// likes. Another one, after a crash, may not know.
    told: bool,
    /// Of a packed ring, index and wrap counter (bit 15), as in
    /// SET_VRING_BASE; this is so with all three.
    next_avail: u16,
    /// What [`stop`](Self::stop) would have said when the device was reset,
    /// until the vring is used again.
    before_reset: Option<u32>,
    used_idx: u16,
    /// `used_idx` at the last look at the guest's wishes; `None`: at none yet.
    called_idx: Option<u16>,
    /// In a packed ring, descriptors used since then.
    uncalled: u32,
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
    /// Room for the pieces of the next chain, and for its descriptors.
    spare: Vec<Segment>,
    spare_descriptors: Vec<Descriptor>,
}

impl Vring {
    /// SET_VRING_NUM; `false` for a number that such a vring cannot have, or
    /// while it runs. Before the frontend has said what kind of vring it is,
    /// that shows when it starts.
    pub fn set_num(&mut self, num: u16) -> bool {
        let valid = (self.features.is_empty() || self.is_size(num)) && !self.started;
        if valid {
            self.num = num;
        }
        valid
    }

    /// SET_VRING_ADDR; `false` if the parts are misaligned or not in the
    /// frontend's memory. A vring that runs moves on there. Before its size is
    /// known, that shows when it starts.
    pub fn set_address(&mut self, address: VringAddr, memory: &Memory) -> bool {
        if self.num != 0 && self.locate(&address, memory) == Err(Lost::Nowhere) {
            return false;
        }
        self.address = Some(address);
        self.memory_changed(memory);
        true
    }

    /// Whether the features, as far as they are known, are those of a packed
    /// ring.
    fn will_be_packed(&self) -> bool {
        self.features.contains(VirtioFeatures::RING_PACKED)
    }

    fn is_size(&self, num: u16) -> bool {
        let packed = num <= MAX_PACKED && self.will_be_packed();
        num.is_power_of_two() || (packed && num > 0)
    }

    /// SET_VRING_BASE; `false` for a number that is none of such a vring, or
    /// while it runs.
    pub fn set_base(&mut self, base: u32) -> bool {
        let [a, b, c, d] = base.to_le_bytes();
        let (low, high) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let packed = self.features.is_empty() || self.will_be_packed();
        let valid = (high == 0 || packed) && !self.started;
        if valid {
            (self.next_avail, self.used_idx) = (low, high);
            self.placed = true;
            self.before_reset = None;
        }
        valid
    }

    fn locate(&self, address: &VringAddr, memory: &Memory) -> Result<Parts, Lost> {
        let num = u64::from(self.num);
        // The event index fields included: a frontend that negotiates them
        // later has room for them, as virtio 1.2 §2.7.2 has it.
        let packed = if self.started {
            self.packed
        } else {
            self.will_be_packed()
        };
        let (ring, available, used) = match packed {
            false => (Permission::Read, (6 + 2 * num, 2), (6 + 8 * num, 4)),
            true => (Permission::ReadWrite, (4, 4), (4, 4)),
        };
        let parts = [
            (address.descriptor, (16 * num, 16), ring),
            (address.available, available, Permission::Read),
            (address.used, used, Permission::ReadWrite),
        ];
        if num == 0 {
            return Err(Lost::Nowhere);
        }
        let mut places = [(0, 0); 3];
        for (slot, (start, (len, align), permission)) in places.iter_mut().zip(parts) {
            *slot = if memory.translates() {
                let place = memory.place_whole(start, len, permission)?;
                (place.offset, place.address)
            } else {
                (
                    start,
                    memory.guest_address(start, len).ok_or(Lost::Nowhere)?,
                )
            };
            if !slot.0.is_multiple_of(align) {
                return Err(Lost::Nowhere);
            }
        }
        let [(descriptors, descriptors_log), (available, _), (used, used_log)] = places;
        // With an IOMMU the log's address is an I/O virtual one, too: that of
        // the used ring.
        let given = !memory.translates() && !packed;
        Ok(Parts {
            descriptors,
            available,
            used,
            descriptors_log,
            used_log: if given { address.log } else { used_log },
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
        // Without protocol features there is no SET_VRING_ENABLE.
        self.enabled |= !features.contains(VirtioFeatures::PROTOCOL_FEATURES);
        if self.started {
            return true;
        }
        self.called_idx = None;
        self.before_reset = None;
        self.features = features;
        self.packed = self.will_be_packed();
        if !self.is_size(self.num) || !self.find_record(memory) {
            return false;
        }
        if self.packed && !self.placed {
            // Both wrap counters begin with 1 (virtio 1.2 §2.8.1).
            (self.next_avail, self.used_idx) = (WRAP, WRAP);
        }
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

    /// Whether requests of an earlier backend wait, which only the record has.
    pub fn has_resubmits(&self) -> bool {
        !self.resubmit.is_empty()
    }

    /// SET_INFLIGHT_FD: where requests are recorded from now on, if they are;
    /// `false` if the vring runs, and that is unsound: it is out of use then.
    pub fn set_place(&mut self, place: Option<Place>, memory: &Memory) -> bool {
        self.place = place;
        if self.started {
            if !self.find_record(memory) {
                self.fault = Some(RingFault::Record);
            }
            // Nothing is in flight: it is as if it had started here.
            (self.opened, self.told) = (false, true);
            self.memory_changed(memory);
        }
        !self.started || self.fault != Some(RingFault::Record)
    }

    /// The features are known when a vring starts, and need not be when
    /// SET_INFLIGHT_FD comes. `false` if there is no room for the record.
    fn find_record(&mut self, memory: &Memory) -> bool {
        let window = memory.window();
        let find = |place: Place| Record::new(window, &place, self.packed);
        self.record = self.place.and_then(find);
        self.record.is_some() == self.place.is_some()
    }

    /// Looks at what an earlier backend left in the ring.
    fn open(&mut self, parts: Parts) -> Result<(), RingFault> {
        if self.packed {
            self.open_packed(parts)?;
        } else {
            self.open_split(parts)?;
        }
        (self.opened, self.placed) = (true, true);
        Ok(())
    }

    /// Whether there may be something to do.
    pub fn is_active(&self) -> bool {
        let able = self.fault.is_none() && self.miss.is_none();
        self.started && self.enabled && self.parts.is_some() && able
    }

    /// GET_VRING_BASE: the vring stops; returns where it would go on. After a
    /// reset, that is where it would have gone on without: QEMU before 8.0
    /// resets a device before it asks, and then migrates its guest.
    ///
    /// What an earlier backend took, and this one did not get to, need not
    /// count as taken if it is the first that is available but not used:
    /// whoever goes on without the record, after a migration, finds it
    /// there. Requests that were completed in another order than taken are
    /// only in the record.
    pub fn stop(&mut self) -> u32 {
        let first = match self.packed {
            true => self.resubmits_are_first_in_packed(),
            false => self.resubmits_are_first_in_split(),
        };
        if first {
            self.next_avail = self.used_idx;
        }
        self.told |= self.opened;
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
        let used = if self.packed { self.used_idx } else { 0 };
        let base = u32::from(used) << 16 | u32::from(self.next_avail);
        self.before_reset.unwrap_or(base)
    }

    /// The device is reset: the vring stops and is as it was at first, but
    /// for where the frontend is notified, and what [`stop`](Self::stop) says.
    pub fn reset(&mut self) {
        let call = self.call;
        let before_reset = Some(self.stop());
        *self = Self {
            call,
            err: self.err,
            place: self.place,
            features: self.features,
            told: self.told,
            before_reset,
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

    /// A request, that an earlier backend took or not, is not to be had, now
    /// or at all.
    fn halt(&mut self, halt: Halt, request: Request, again: bool) {
        match halt {
            Halt::Fault(fault) => {
                self.fault = Some(fault);
                if !again {
                    self.advance(&request);
                }
            }
            Halt::Miss(miss) => {
                self.miss = Some(miss);
                if again {
                    self.resubmit.push_front(request);
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
        if !self.resubmit.is_empty() {
            return Ok(true);
        }
        if self.packed {
            self.pending_in_packed()
        } else {
            self.pending_in_split()
        }
    }

    /// The next available request; it stays the next.
    fn peek(&mut self) -> Result<Option<Request>, RingFault> {
        if self.packed {
            self.peek_in_packed()
        } else {
            self.peek_in_split()
        }
    }

    /// `request` is no longer the next.
    fn advance(&mut self, request: &Request) {
        self.next_avail = if self.packed {
            forward(self.next_avail, request.count(), self.num)
        } else {
            self.next_avail.wrapping_add(1)
        };
    }

    /// `request`, of which so many bytes were written, is used.
    fn push(&mut self, request: &Request, written: u32) -> Result<(), RingFault> {
        if self.parts.is_none() {
            return Ok(());
        }
        if self.packed {
            self.push_to_packed(request, written)?;
        } else {
            self.push_to_split(request, written)?;
        }
        self.logged |= self.log.is_some();
        Ok(())
    }

    /// Stores `value` at `offset` behind `part` of the window, which the log
    /// knows as `address`, and logs it if this vring is to be logged
    /// (vhost-user, SET_VRING_ADDR).
    fn store<W: Word>(
        &self,
        (part, address): (u64, u64),
        offset: u64,
        value: W,
    ) -> Result<(), RingFault> {
        let Some(window) = &self.window else {
            return Ok(());
        };
        window.store_le(part + offset, value)?;
        let logged = self.address.is_some_and(|address| address.log_used);
        let Some(log) = self.log.as_ref().filter(|_| logged) else {
            return Ok(());
        };
        let at = address.wrapping_add(offset);
        match log.mark(at, size_of::<W>() as u64) {
            true => Ok(()),
            false => Err(RingFault::Log(at)),
        }
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
mod packed_tests;
#[cfg(test)]
mod tests;
