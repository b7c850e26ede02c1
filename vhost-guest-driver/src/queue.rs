// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The driver's side of a split virtqueue of the device itself
//! (virtio 1.2 §2.7), with one message buffer for each descriptor.
//!
//! What the driver knows about the ring it knows from its own shadow: the
//! device can write the memory of the ring, so nothing is ever read back
//! from there but the used ring, and that is checked.

use core::sync::atomic::{fence, Ordering};

use alloc::vec::Vec;

use crate::common::QueueAddresses;
use crate::error::Error;
use crate::transport::DmaMemory;

/// Most buffers of one virtqueue.
pub(crate) const QUEUE_SIZE: u16 = 16;
/// Length of a message buffer (vhost-guest specification, virtqueues: at
/// least the smaller of `max_message_size` and 4 KiB).
pub(crate) const BUFFER_LEN: u32 = 4096;

const RING_LEN: usize = 4096;
/// DMA memory of one virtqueue: a page for the ring, then the buffers.
pub(crate) const QUEUE_LEN: usize = RING_LEN + QUEUE_SIZE as usize * BUFFER_LEN as usize;

// Offsets in the ring's page, for the largest size.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 1024;
const USED: u64 = 2048;

const DESCRIPTOR_WRITE: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// Which way the buffers of a queue go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    DeviceReadable,
    DeviceWritable,
}

pub(crate) struct Virtqueue {
    index: u16,
    direction: Direction,
    dma: DmaMemory,
    size: u16,
    event_idx: bool,
    interrupts: bool,
    avail_idx: u16,
    /// `avail_idx` when the device was last notified, or need not be.
    notified_idx: u16,
    used_idx: u16,
    /// Whether the device has the buffer of a descriptor.
    available: Vec<bool>,
}

impl Virtqueue {
    /// A queue in `dma`, of [`QUEUE_LEN`] bytes, that the device does not
    /// have yet.
    pub fn new(index: u16, direction: Direction, dma: DmaMemory) -> Self {
        Self {
            index,
            direction,
            dma,
            size: 0,
            event_idx: false,
            interrupts: false,
            avail_idx: 0,
            notified_idx: 0,
            used_idx: 0,
            available: Vec::new(),
        }
    }

    /// Empties the queue; the device must be reset. `max_size` is what the
    /// device can do.
    pub fn reset(&mut self, max_size: u16, event_idx: bool) -> Result<QueueAddresses, Error> {
        // Split queues have a power of two as their size.
        let size = match max_size.min(QUEUE_SIZE).checked_ilog2() {
            Some(log) => 1 << log,
            None => return Err(Error::BadQueue { queue: self.index }),
        };
        self.size = size;
        self.event_idx = event_idx;
        (self.avail_idx, self.notified_idx, self.used_idx) = (0, 0, 0);
        self.available.clear();
        self.available.resize(usize::from(size), false);
        for offset in (0..RING_LEN as u64).step_by(8) {
            self.dma.memory.store_le(offset, 0u64)?;
        }
        for id in 0..size {
            self.write_descriptor(id, 0)?;
        }
        self.set_interrupts(self.direction == Direction::DeviceWritable)?;
        Ok(QueueAddresses {
            size,
            descriptors: self.dma.address + DESCRIPTORS,
            available: self.dma.address + AVAILABLE,
            used: self.dma.address + USED,
        })
    }

    fn buffer(id: u16) -> u64 {
        RING_LEN as u64 + u64::from(id) * u64::from(BUFFER_LEN)
    }

    fn write_descriptor(&self, id: u16, len: u32) -> Result<(), Error> {
        let at = DESCRIPTORS + 16 * u64::from(id);
        let flags = match self.direction {
            Direction::DeviceReadable => 0,
            Direction::DeviceWritable => DESCRIPTOR_WRITE,
        };
        let memory = &self.dma.memory;
        memory.store_le(at, self.dma.address + Self::buffer(id))?;
        memory.store_le(at + 8, len)?;
        memory.store_le(at + 12, flags)?;
        memory.store_le(at + 14, 0u16)?;
        Ok(())
    }

    /// Makes the buffer `id` available to the device.
    fn offer(&mut self, id: u16, len: u32) -> Result<(), Error> {
        self.write_descriptor(id, len)?;
        let slot = u64::from(self.avail_idx % self.size);
        let memory = &self.dma.memory;
        memory.store_le(AVAILABLE + 4 + 2 * slot, id)?;
        if let Some(available) = self.available.get_mut(usize::from(id)) {
            *available = true;
        }
        self.avail_idx = self.avail_idx.wrapping_add(1);
        // The entry before the index (virtio 1.2 §2.7.13.3).
        fence(Ordering::Release);
        memory.store_le(AVAILABLE + 2, self.avail_idx)?;
        Ok(())
    }

    /// Makes all buffers of a device-writable queue available.
    pub fn fill(&mut self) -> Result<(), Error> {
        (0..self.size).try_for_each(|id| self.offer(id, BUFFER_LEN))
    }

    /// Takes the next used buffer: its descriptor and length.
    fn take_used(&mut self) -> Result<Option<(u16, u32)>, Error> {
        let queue = self.index;
        let memory = &self.dma.memory;
        let index: u16 = memory.load_le(USED + 2)?;
        let returned = index.wrapping_sub(self.used_idx);
        if returned == 0 {
            return Ok(None);
        }
        if returned > self.avail_idx.wrapping_sub(self.used_idx) {
            return Err(Error::UsedIndex { queue, index });
        }
        // The index before the entry.
        fence(Ordering::Acquire);
        let at = USED + 4 + 8 * u64::from(self.used_idx % self.size);
        let id: u32 = memory.load_le(at)?;
        let len: u32 = memory.load_le(at + 4)?;
        let available = usize::try_from(id)
            .ok()
            .and_then(|id| self.available.get_mut(id))
            .filter(|available| **available)
            .ok_or(Error::UsedId { queue, id })?;
        if self.direction == Direction::DeviceWritable && len > BUFFER_LEN {
            return Err(Error::UsedLen { queue, len });
        }
        *available = false;
        self.used_idx = self.used_idx.wrapping_add(1);
        if self.interrupts {
            self.write_used_event(self.used_idx)?;
        }
        // `id` is below the size, or it would not have been available.
        Ok(Some((id as u16, len)))
    }

    /// Takes the next message out of a device-writable queue; `false` if
    /// there is none. The buffer goes back to the device.
    pub fn receive(&mut self, message: &mut Vec<u8>) -> Result<bool, Error> {
        let Some((id, len)) = self.take_used()? else {
            return Ok(false);
        };
        message.clear();
        message.resize(len as usize, 0);
        self.dma.memory.read(Self::buffer(id), message)?;
        self.offer(id, BUFFER_LEN)?;
        Ok(true)
    }

    /// Puts a message into a device-readable queue; `false` if it is full.
    pub fn send(&mut self, message: &[u8]) -> Result<bool, Error> {
        let len = u32::try_from(message.len())
            .ok()
            .filter(|len| *len <= BUFFER_LEN)
            .ok_or(Error::MessageTooLarge(message.len()))?;
        let id = match self.free_buffer()? {
            Some(id) => id,
            None => {
                // One may come back just before the device sees the wish to
                // be told.
                self.set_interrupts(true)?;
                match self.free_buffer()? {
                    Some(id) => id,
                    None => return Ok(false),
                }
            }
        };
        if self.interrupts {
            self.set_interrupts(false)?;
        }
        self.dma.memory.write(Self::buffer(id), message)?;
        self.offer(id, len)?;
        Ok(true)
    }

    fn free_buffer(&mut self) -> Result<Option<u16>, Error> {
        while self.take_used()?.is_some() {}
        let free = self.available.iter().position(|available| !available);
        Ok(free.map(|id| id as u16))
    }

    /// Asks for used buffer notifications, or for none.
    fn set_interrupts(&mut self, on: bool) -> Result<(), Error> {
        self.interrupts = on;
        if self.event_idx {
            // An event index just passed will not come again for long.
            let event = if on {
                self.used_idx
            } else {
                self.used_idx.wrapping_sub(1)
            };
            self.write_used_event(event)
        } else {
            let flags = if on { 0 } else { NO_INTERRUPT };
            self.dma.memory.store_le(AVAILABLE, flags)?;
            fence(Ordering::SeqCst);
            Ok(())
        }
    }

    fn write_used_event(&self, event: u16) -> Result<(), Error> {
        if self.event_idx {
            let at = AVAILABLE + 4 + 2 * u64::from(self.size);
            self.dma.memory.store_le(at, event)?;
            // Before the used index is looked at again.
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// Whether the device must be notified of what was made available since
    /// the last call.
    pub fn needs_notification(&mut self) -> Result<bool, Error> {
        let (new, old) = (self.avail_idx, self.notified_idx);
        if new == old {
            return Ok(false);
        }
        self.notified_idx = new;
        // The available index before the device's wishes.
        fence(Ordering::SeqCst);
        let memory = &self.dma.memory;
        if self.event_idx {
            let at = USED + 4 + 8 * u64::from(self.size);
            let event: u16 = memory.load_le(at)?;
            Ok(need_event(event, new, old))
        } else {
            Ok(memory.load_le::<u16>(USED)? & NO_NOTIFY == 0)
        }
    }
}

/// Whether the step from `old` to `new` passed `event` (virtio 1.2 §2.7.10).
pub(crate) fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests;
