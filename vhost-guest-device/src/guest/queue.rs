// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device's end of one of its own virtqueues: whole messages in guest
//! buffers.
//!
//! One message is one buffer: header and payload, nothing behind it
//! (vhost-guest specification, virtqueues). `virtio-queue` walks the rings and
//! chains; it ends a malformed chain silently, so each chain is checked here
//! before a byte is moved: every descriptor in the right direction, inside
//! guest memory, no more of them than announced, and an end.

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use crate::error::{Fault, GuestFault, QueueFault};
use crate::guest::virtio::common_config::QueueSetup;

/// Descriptors that one buffer may consist of. Announced to the driver as
/// `max_chained_rx_descriptors` and `max_chained_tx_descriptors`.
/// Largest size of one of the device's own virtqueues.
pub(crate) const MAX_QUEUE_SIZE: u16 = 128;
pub(crate) const MAX_CHAIN: u16 = 16;

/// Bytes that a message may have: a piece of device state. What a buffer has
/// beyond is not looked at, since each page of it might have to be translated.
const LARGEST_MESSAGE: usize = 1 << 20;

/// Virtqueues of a device without migration queues.
pub(crate) const QUEUES: u16 = 4;

/// Virtqueues of a device with them.
pub(crate) const QUEUES_WITH_MIGRATION: u16 = 6;

/// A guest buffer that waits for a message.
#[derive(Debug)]
pub(crate) struct Reserved {
    head: u16,
    pieces: Vec<(GuestAddress, usize)>,
}

impl Reserved {
    /// Bytes that fit.
    pub(crate) fn capacity(&self) -> usize {
        let sizes = self.pieces.iter().map(|(_, length)| *length);
        sizes.fold(0, usize::saturating_add)
    }
}

/// One of the device's own virtqueues, while it is enabled.
#[derive(Debug)]
pub(crate) struct MessageQueue {
    index: u16,
    queue: Queue,
}

impl MessageQueue {
    /// Takes over a queue that the driver has enabled.
    ///
    /// # Errors
    ///
    /// The guest's fault if the rings are misaligned or not in its memory.
    pub(crate) fn open<M: GuestMemory>(
        index: u16,
        max_size: u16,
        rings: QueueSetup,
        event_idx: bool,
        memory: &M,
    ) -> Result<Self, Fault> {
        let bad = |rule| Fault::from(GuestFault::Queue { queue: index, rule });
        let mut queue = Queue::new(max_size).map_err(|_| bad(QueueFault::Size))?;
        queue
            .try_set_size(rings.size)
            .map_err(|_| bad(QueueFault::Size))?;
        let place = [
            queue.try_set_desc_table_address(GuestAddress(rings.descriptors)),
            queue.try_set_avail_ring_address(GuestAddress(rings.avail)),
            queue.try_set_used_ring_address(GuestAddress(rings.used)),
        ];
        if place.iter().any(Result::is_err) {
            return Err(bad(QueueFault::Misaligned));
        }
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        // virtio-queue takes an available ring at address 0 for "no queue".
        if rings.avail == 0 || !queue.is_valid(memory) {
            return Err(bad(QueueFault::RingOutside));
        }
        Ok(Self { index, queue })
    }

    /// How far it is in the available and in the used ring.
    pub(crate) fn position(&self) -> (u16, u16) {
        (self.queue.next_avail(), self.queue.next_used())
    }

    /// Goes on where another was.
    pub(crate) fn set_position(&mut self, (next_avail, next_used): (u16, u16)) {
        self.queue.set_next_avail(next_avail);
        self.queue.set_next_used(next_used);
    }

    /// The next available chain that satisfies the rules of this direction, for
    /// a message of at most `most` bytes.
    fn pop<M: GuestMemory>(
        &mut self,
        memory: &M,
        writable: bool,
        most: usize,
    ) -> Result<Option<Reserved>, Fault> {
        let index = self.index;
        let fault = |rule| Fault::from(GuestFault::Queue { queue: index, rule });
        let avail = self.queue.iter(memory);
        let mut avail = avail.map_err(|error| fault(QueueFault::Avail(error)))?;
        let Some(chain) = avail.next() else {
            return self.check_next(memory).map(|()| None);
        };
        let head = chain.head_index();
        check_chain(chain, memory, writable, most)
            .map(|pieces| Some(Reserved { head, pieces }))
            .map_err(fault)
    }

    /// virtio-queue takes an available ring that it cannot read for an empty
    /// one.
    fn check_next<M: GuestMemory>(&self, memory: &M) -> Result<(), Fault> {
        let slot = self.queue.next_avail().checked_rem(self.queue.size());
        let offset = 4 + 2 * u64::from(slot.unwrap_or(0));
        let address = self.queue.avail_ring().checked_add(offset);
        let found = address
            .is_some_and(|address| memory.check_range(GuestAddress(address), 2, Permissions::Read));
        match found {
            true => Ok(()),
            false => Err(self.fault(QueueFault::AvailOutside)),
        }
    }

    /// Reserves a device-writable buffer for a message, if there is one.
    ///
    /// # Errors
    ///
    /// The guest's fault, if it broke the rules of the ring.
    pub(crate) fn reserve<M: GuestMemory>(
        &mut self,
        memory: &M,
    ) -> Result<Option<Reserved>, Fault> {
        if let Some(reserved) = self.pop(memory, true, LARGEST_MESSAGE)? {
            return Ok(Some(reserved));
        }
        // Empty: ask for a notification, and look again, since the driver may
        // have added a buffer just before it could see that we want to know.
        let more = self
            .queue
            .enable_notification(memory)
            .map_err(|e| self.fault(QueueFault::Ring(e)))?;
        if more {
            self.pop(memory, true, LARGEST_MESSAGE)
        } else {
            Ok(None)
        }
    }

    /// Puts `message` into a reserved buffer and gives it to the driver.
    /// Returns whether the driver wants an interrupt.
    ///
    /// # Errors
    ///
    /// The guest's fault if the message does not fit.
    pub(crate) fn deliver<M: GuestMemory>(
        &mut self,
        memory: &M,
        reserved: Reserved,
        message: &[u8],
    ) -> Result<bool, Fault> {
        let mut rest = message;
        for (address, length) in &reserved.pieces {
            let (now, later) = rest.split_at((*length).min(rest.len()));
            memory
                .write_slice(now, *address)
                .map_err(|e| self.fault(QueueFault::Buffer(e)))?;
            rest = later;
        }
        if !rest.is_empty() {
            return Err(self.fault(QueueFault::BufferTooSmall(message.len())));
        }
        // A message is at most a few KiB, see `Limits`.
        let written = u32::try_from(message.len()).unwrap_or(u32::MAX);
        self.give_back(memory, reserved.head, written)
    }

    /// Takes the next message that the driver sent: appends it to `message`,
    /// at most `limit` bytes, and gives the buffer back. Returns `None` if
    /// there is no message, otherwise whether the driver wants an interrupt.
    ///
    /// # Errors
    ///
    /// The guest's fault, if it broke the rules of the ring or sent more.
    pub(crate) fn take<M: GuestMemory>(
        &mut self,
        memory: &M,
        limit: usize,
        message: &mut Vec<u8>,
    ) -> Result<Option<bool>, Fault> {
        let mut popped = self.pop(memory, false, limit)?;
        if popped.is_none() {
            let more = self
                .queue
                .enable_notification(memory)
                .map_err(|e| self.fault(QueueFault::Ring(e)))?;
            if more {
                popped = self.pop(memory, false, limit)?;
            }
        }
        let Some(buffer) = popped else {
            return Ok(None);
        };
        for (address, length) in &buffer.pieces {
            let start = message.len();
            message.resize(start.saturating_add(*length), 0);
            if let Some(piece) = message.get_mut(start..) {
                memory
                    .read_slice(piece, *address)
                    .map_err(|e| self.fault(QueueFault::Buffer(e)))?;
            }
        }
        self.give_back(memory, buffer.head, 0).map(Some)
    }

    fn give_back<M: GuestMemory>(
        &mut self,
        memory: &M,
        head: u16,
        written: u32,
    ) -> Result<bool, Fault> {
        self.queue
            .add_used(memory, head, written)
            .map_err(|e| self.fault(QueueFault::Ring(e)))?;
        self.queue
            .needs_notification(memory)
            .map_err(|e| self.fault(QueueFault::Ring(e)))
    }

    fn fault(&self, rule: QueueFault) -> Fault {
        let queue = self.index;
        GuestFault::Queue { queue, rule }.into()
    }
}

/// The device's virtqueues, by index; those that the driver has not enabled
/// are absent.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    list: [Option<MessageQueue>; QUEUES_WITH_MIGRATION as usize],
}

impl Queues {
    fn queue(&mut self, index: u16) -> Option<&mut MessageQueue> {
        self.list.get_mut(usize::from(index))?.as_mut()
    }

    /// The driver enabled queue `index`.
    pub(crate) fn open(&mut self, index: u16, queue: MessageQueue) {
        if let Some(slot) = self.list.get_mut(usize::from(index)) {
            *slot = Some(queue);
        }
    }

    /// How far queue `index` is in its rings, if it is open.
    pub(crate) fn position(&self, index: u16) -> Option<(u16, u16)> {
        let queue = self.list.get(usize::from(index))?.as_ref()?;
        Some(queue.position())
    }

    /// The driver reset queue `index`.
    pub(crate) fn close(&mut self, index: u16) {
        if let Some(slot) = self.list.get_mut(usize::from(index)) {
            *slot = None;
        }
    }

    /// The driver reset the device.
    pub(crate) fn clear(&mut self) {
        self.list = Default::default();
    }

    /// See [`MessageQueue::reserve`]. A queue that is not enabled has nothing.
    pub(crate) fn reserve<M: GuestMemory>(
        &mut self,
        index: u16,
        memory: &M,
    ) -> Result<Option<Reserved>, Fault> {
        self.queue(index)
            .map_or(Ok(None), |queue| queue.reserve(memory))
    }

    /// See [`MessageQueue::deliver`].
    ///
    /// # Errors
    ///
    /// Also if the queue was reset, and the buffer is gone.
    pub(crate) fn deliver<M: GuestMemory>(
        &mut self,
        index: u16,
        memory: &M,
        reserved: Reserved,
        message: &[u8],
    ) -> Result<bool, Fault> {
        let rule = QueueFault::Gone;
        let gone = GuestFault::Queue { queue: index, rule };
        let queue = self.queue(index).ok_or(gone)?;
        queue.deliver(memory, reserved, message)
    }

    /// See [`MessageQueue::take`]. A queue that is not enabled has nothing.
    pub(crate) fn take<M: GuestMemory>(
        &mut self,
        index: u16,
        memory: &M,
        limit: usize,
        message: &mut Vec<u8>,
    ) -> Result<Option<bool>, Fault> {
        self.queue(index)
            .map_or(Ok(None), |queue| queue.take(memory, limit, message))
    }
}

/// Walks a chain and returns its pieces, if it keeps to the rules: of one that
/// the device writes, what a message of `most` bytes needs.
fn check_chain<'m, M: GuestMemory>(
    chain: DescriptorChain<&'m M>,
    memory: &'m M,
    writable: bool,
    most: usize,
) -> Result<Vec<(GuestAddress, usize)>, QueueFault> {
    let access = if writable {
        Permissions::Write
    } else {
        Permissions::Read
    };
    let mut pieces = Vec::new();
    let mut room = most;
    let mut count = 0u16;
    let mut last: Option<Descriptor> = None;
    for descriptor in chain {
        count += 1;
        if count > MAX_CHAIN {
            return Err(QueueFault::ChainTooLong);
        }
        if descriptor.is_write_only() != writable {
            return Err(QueueFault::Direction);
        }
        let length = descriptor.len() as usize;
        if length > room && !writable {
            return Err(QueueFault::MessageTooLarge);
        }
        let length = length.min(room);
        room -= length;
        if length > 0 && !memory.check_range(descriptor.addr(), length, access) {
            return Err(QueueFault::BufferOutside);
        }
        if length > 0 {
            pieces.push((descriptor.addr(), length));
        }
        last = Some(descriptor);
    }
    match last {
        None => Err(QueueFault::NoDescriptor),
        Some(last) if last.has_next() => Err(QueueFault::NoEnd),
        Some(_) => Ok(pieces),
    }
}

#[cfg(test)]
mod tests;
