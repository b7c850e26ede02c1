// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The driver's side of a split virtqueue (virtio 1.2 §2.7).
//!
//! Small on purpose: requests use fixed descriptors, so there is nothing to
//! allocate and no free list.

use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::memory::{QueueLayout, RING_SIZE};

const AVAIL_RING: u64 = 4;
const USED_RING: u64 = 4;
const USED_EVENT: u64 = AVAIL_RING + 2 * RING_SIZE as u64;
const AVAIL_EVENT: u64 = USED_RING + 8 * RING_SIZE as u64;

/// What went wrong with a ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Our own memory; not expected.
    #[error("ring memory: {0}")]
    Memory(#[from] GuestMemoryError),
    /// The backend returned what it was not given.
    #[error("used ring names descriptor {0}")]
    Head(u32),
    /// The backend returned more buffers than it was given.
    #[error("used index moved by {0}")]
    Index(u16),
}

/// One part of a request.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Guest physical address.
    pub address: GuestAddress,
    /// Bytes.
    pub length: u32,
    /// The device writes it.
    pub writable: bool,
}

/// A split virtqueue, seen from the driver.
pub struct Ring {
    memory: Arc<GuestMemoryMmap>,
    layout: QueueLayout,
    event_idx: bool,
    avail_idx: u16,
    /// avail_idx at the last kick or decision against one.
    kicked_idx: u16,
    used_idx: u16,
}

impl Ring {
    /// Starts with an empty ring; the memory's old content does not matter.
    pub fn new(
        memory: Arc<GuestMemoryMmap>,
        layout: QueueLayout,
        event_idx: bool,
    ) -> Result<Self, RingError> {
        memory.write_slice(&[0; AVAIL_EVENT as usize], layout.available)?;
        memory.write_slice(&[0; AVAIL_EVENT as usize + 2], layout.used)?;
        Ok(Self {
            memory,
            layout,
            event_idx,
            avail_idx: 0,
            kicked_idx: 0,
            used_idx: 0,
        })
    }

    /// Makes a chain of `parts` in the descriptors from `head` on available.
    /// It becomes visible to the device with [`publish`](Self::publish).
    pub fn add(&mut self, head: u16, parts: &[Part]) -> Result<(), RingError> {
        const NEXT: u16 = 1;
        const WRITE: u16 = 2;
        for (i, part) in parts.iter().enumerate() {
            let index = head + i as u16;
            let last = i + 1 == parts.len();
            let flags = if last { 0 } else { NEXT } | if part.writable { WRITE } else { 0 };
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&part.address.raw_value().to_le_bytes());
            descriptor[8..12].copy_from_slice(&part.length.to_le_bytes());
            descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
            descriptor[14..].copy_from_slice(&(index + 1).to_le_bytes());
            let at = self.layout.descriptors.unchecked_add(16 * u64::from(index));
            self.memory.write_slice(&descriptor, at)?;
        }
        let entry = AVAIL_RING + 2 * u64::from(self.avail_idx % RING_SIZE);
        let at = self.layout.available.unchecked_add(entry);
        self.memory.store(head.to_le(), at, Ordering::Relaxed)?;
        self.avail_idx = self.avail_idx.wrapping_add(1);
        Ok(())
    }

    /// Shows all chains added so far to the device. Tells whether it wants a
    /// kick for them.
    pub fn publish(&mut self) -> Result<bool, RingError> {
        let before = std::mem::replace(&mut self.kicked_idx, self.avail_idx);
        if before == self.avail_idx {
            return Ok(false);
        }
        let at = self.layout.available.unchecked_add(2);
        self.memory
            .store(self.avail_idx.to_le(), at, Ordering::Release)?;
        // The index goes out before the device's wish is read; the device
        // writes its wish before it reads the index (virtio 1.2 §2.7.13.4).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.load(self.layout.used.unchecked_add(AVAIL_EVENT))?;
            let since_event = self.avail_idx.wrapping_sub(event).wrapping_sub(1);
            return Ok(since_event < self.avail_idx.wrapping_sub(before));
        }
        let flags = self.load(self.layout.used)?;
        Ok(flags & 1 == 0)
    }

    /// Takes one used chain: its head, and the bytes that the device wrote.
    pub fn take_used(&mut self) -> Result<Option<(u16, u32)>, RingError> {
        let idx = self.load(self.layout.used.unchecked_add(2))?;
        let ready = idx.wrapping_sub(self.used_idx);
        if ready == 0 {
            return Ok(None);
        }
        if ready > RING_SIZE {
            return Err(RingError::Index(ready));
        }
        let entry = USED_RING + 8 * u64::from(self.used_idx % RING_SIZE);
        let mut used = [0; 8];
        let at = self.layout.used.unchecked_add(entry);
        self.memory.read_slice(&mut used, at)?;
        let [h0, h1, h2, h3, l0, l1, l2, l3] = used;
        let head = u32::from_le_bytes([h0, h1, h2, h3]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        self.used_idx = self.used_idx.wrapping_add(1);
        let head = u16::try_from(head).map_err(|_| RingError::Head(head))?;
        Ok(Some((head, length)))
    }

    /// Asks for a call when the next chain is used. Tells whether one is used
    /// already; then there may be no call.
    pub fn ask_for_call(&mut self) -> Result<bool, RingError> {
        if self.event_idx {
            let at = self.layout.available.unchecked_add(USED_EVENT);
            self.memory
                .store(self.used_idx.to_le(), at, Ordering::Relaxed)?;
            fence(Ordering::SeqCst);
        }
        let idx = self.load(self.layout.used.unchecked_add(2))?;
        Ok(idx != self.used_idx)
    }

    fn load(&self, address: GuestAddress) -> Result<u16, RingError> {
        let value: u16 = self.memory.load(address, Ordering::Acquire)?;
        Ok(u16::from_le(value))
    }
}

#[cfg(test)]
mod tests {
    use virtio_queue::{Queue, QueueOwnedT, QueueT};

    use super::super::memory::allocate;
    use super::*;

    /// The ring, and a device on it that is known to be right.
    fn pair(event_idx: bool) -> (Ring, Queue) {
        let memory = allocate(1).unwrap();
        let layout = QueueLayout::new(0);
        let mut queue = Queue::new(RING_SIZE).unwrap();
        queue.set_size(RING_SIZE);
        let low = |address: GuestAddress| Some(address.raw_value() as u32);
        queue.set_desc_table_address(low(layout.descriptors), Some(0));
        queue.set_avail_ring_address(low(layout.available), Some(0));
        queue.set_used_ring_address(low(layout.used), Some(0));
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&*memory));
        (Ring::new(memory, layout, event_idx).unwrap(), queue)
    }

    fn parts() -> [Part; 2] {
        let layout = QueueLayout::new(0);
        [(layout.header(0), 16, false), (layout.data(0), 4096, true)].map(
            |(address, length, writable)| Part {
                address,
                length,
                writable,
            },
        )
    }

    #[test]
    fn carries_chains_both_ways_past_the_end_of_the_ring() {
        let (mut ring, mut queue) = pair(false);
        let memory = ring.memory.clone();
        for round in 0..3 * RING_SIZE {
            let head = 2 * (round % 4);
            ring.add(head, &parts()).unwrap();
            assert!(ring.publish().unwrap());
            let chain = queue.iter(&*memory).unwrap().next().unwrap();
            assert_eq!(chain.head_index(), head);
            let seen: Vec<_> = chain
                .map(|d| (d.addr(), d.len(), d.is_write_only()))
                .collect();
            let given = parts().map(|part| (part.address, part.length, part.writable));
            assert_eq!(seen, given);
            assert!(!ring.ask_for_call().unwrap());
            queue.add_used(&*memory, head, 77).unwrap();
            assert!(ring.ask_for_call().unwrap());
            assert_eq!(ring.take_used().unwrap(), Some((head, 77)));
            assert_eq!(ring.take_used().unwrap(), None);
        }
    }

    #[test]
    fn kicks_and_is_called_only_when_asked_for_with_event_idx() {
        let (mut ring, mut queue) = pair(true);
        let memory = ring.memory.clone();
        // The device begins with avail_event 0: it wants the first kick.
        ring.add(0, &parts()).unwrap();
        assert!(ring.publish().unwrap());
        ring.add(2, &parts()).unwrap();
        assert!(!ring.publish().unwrap());
        assert!(!ring.publish().unwrap());
        while queue.iter(&*memory).unwrap().next().is_some() {}
        assert!(!queue.enable_notification(&*memory).unwrap());
        ring.add(4, &parts()).unwrap();
        assert!(ring.publish().unwrap());

        ring.ask_for_call().unwrap();
        queue.add_used(&*memory, 0, 0).unwrap();
        assert!(queue.needs_notification(&*memory).unwrap());
        queue.add_used(&*memory, 2, 0).unwrap();
        assert!(!queue.needs_notification(&*memory).unwrap());
    }

    #[test]
    fn refuses_more_than_it_gave() {
        let (mut ring, _) = pair(false);
        let at = ring.layout.used.unchecked_add(2);
        ring.memory
            .store(RING_SIZE + 1, at, Ordering::Release)
            .unwrap();
        assert!(matches!(ring.take_used(), Err(RingError::Index(_))));
    }
}
