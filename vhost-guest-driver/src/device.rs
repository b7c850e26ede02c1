// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vhost-guest device as its driver sees it.

mod config;
mod events;

use alloc::vec::Vec;
use core::time::Duration;

use vhost_guest_msg::Endian;

use crate::common::{self, Common};
use crate::error::Error;
use crate::pci::Capabilities;
use crate::queue::{Direction, Virtqueue, QUEUE_LEN};
use crate::transport::{DmaMemory, Transport};
use crate::window::Window;

pub use config::Status;
pub use events::Events;
use events::Vectors;

const F_BIG_ENDIAN: u64 = 1 << 0;
const F_RING_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;
const F_ACCESS_PLATFORM: u64 = 1 << 33;
/// What the driver accepts when it is offered. Buffers are single
/// descriptors, so that indirect ones would be of no use.
const FEATURES: u64 = F_BIG_ENDIAN | F_RING_EVENT_IDX | F_VERSION_1 | F_ACCESS_PLATFORM;

/// A reset that takes longer is a broken device.
const RESET_WAITS: u32 = 5000;
const RESET_WAIT: Duration = Duration::from_millis(1);

/// Virtqueues (vhost-guest specification, virtqueues): those for messages,
/// then those for device state, which a device need not have.
const QUEUES: [Direction; 6] = [
    Direction::DeviceWritable,
    Direction::DeviceReadable,
    Direction::DeviceWritable,
    Direction::DeviceReadable,
    Direction::DeviceReadable,
    Direction::DeviceWritable,
];
const MESSAGE_QUEUES: usize = 4;

const REQUESTS: usize = 0;
const REPLIES: usize = 1;
const BACKEND_REPLIES: usize = 2;
const BACKEND_REQUESTS: usize = 3;
const SAVE: usize = 4;
const LOAD: usize = 5;

/// A queue towards the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inbound {
    /// Queue 0: requests of the frontend.
    Requests,
    /// Queue 2: the frontend's replies to requests of the backend.
    Replies,
    /// Queue 5: device state that the backend loads, in pieces; an empty one
    /// is the end. Only if [`Device::state_piece`] is not 0.
    State,
}

/// A queue towards the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outbound {
    /// Queue 1: the backend's replies to requests of the frontend.
    Replies,
    /// Queue 3: requests of the backend.
    Requests,
    /// Queue 4: device state that the backend saves, in pieces; an empty one
    /// is the end. Only if [`Device::state_piece`] is not 0.
    State,
}

/// A vhost-guest device, initialised and ready to be given a backend.
///
/// This is the level of single messages, doorbells and interrupts. Most
/// users hand it on to [`serve`](crate::serve) at once.
///
/// Dropping it resets the device.
pub struct Device<T: Transport> {
    transport: T,
    capabilities: Capabilities,
    window: Window,
    queues: Vec<Virtqueue>,
    notifications: Vec<u16>,
    vectors: Vectors,
    features: u64,
    max_queues: u16,
    max_message_size: usize,
    state_piece: usize,
}

impl<T: Transport> Device<T> {
    /// Finds the structures of the device, resets and initialises it.
    ///
    /// # Errors
    ///
    /// If the function is not a usable vhost-guest device; it is left reset,
    /// with the status FAILED.
    pub fn open(transport: T) -> Result<Self, Error> {
        let capabilities = Capabilities::find(&transport)?;
        let shared = capabilities.shared_memory;
        let window = transport
            .window(shared.bar, shared.offset, shared.len)
            .filter(|window| window.len() == shared.len)
            .ok_or(Error::NoWindow)?;
        let common = Common {
            transport: &transport,
            location: capabilities.common,
        };
        let count = match usize::from(common.num_queues()) < QUEUES.len() {
            true => MESSAGE_QUEUES,
            false => QUEUES.len(),
        };
        let dma = transport
            .allocate_dma(QUEUE_LEN * count)
            .filter(|dma| dma.address.checked_add(dma.memory.len()).is_some())
            .ok_or(Error::NoDmaMemory)?;
        let mut queues = Vec::new();
        for (index, direction) in (0..).zip(QUEUES).take(count) {
            let offset = u64::from(index) * QUEUE_LEN as u64;
            let part = DmaMemory {
                memory: dma.memory.slice(offset, QUEUE_LEN as u64)?,
                address: dma.address + offset,
            };
            queues.push(Virtqueue::new(index, direction, part));
        }
        let mut this = Self {
            transport,
            capabilities,
            window,
            notifications: queues.iter().map(|_| 0).collect(),
            queues,
            vectors: Vectors::default(),
            features: 0,
            max_queues: 0,
            max_message_size: 0,
            state_piece: 0,
        };
        this.reset()?;
        Ok(this)
    }

    /// Resets the device and initialises it again (virtio 1.2 §3.1.1): the
    /// way back from [`Status::needs_reset`].
    ///
    /// With the reset, the memory of the last frontend leaves the window.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.clear()?;
        let result = self.initialise();
        if result.is_err() {
            let common = self.common();
            common.set_status(common.status() | common::FAILED);
        }
        result
    }

    fn common(&self) -> Common<'_, T> {
        Common {
            transport: &self.transport,
            location: self.capabilities.common,
        }
    }

    /// Resets the device. It may take its time, and reads as non-zero until
    /// it is done (virtio 1.2 §2.4).
    fn clear(&self) -> Result<(), Error> {
        let common = self.common();
        common.set_status(0);
        for _ in 0..RESET_WAITS {
            if common.status() == 0 {
                return Ok(());
            }
            self.transport.wait(Some(RESET_WAIT));
        }
        Err(Error::ResetTimeout)
    }

    fn initialise(&mut self) -> Result<(), Error> {
        let mut status = common::ACKNOWLEDGE;
        self.common().set_status(status);
        status |= common::DRIVER;
        self.common().set_status(status);
        self.negotiate(&mut status)?;
        self.read_limits()?;
        self.set_up_vectors();
        self.set_up_queues()?;
        status |= common::DRIVER_OK;
        self.common().set_status(status);
        self.notify_queues()
    }

    fn negotiate(&mut self, status: &mut u8) -> Result<(), Error> {
        let common = self.common();
        let offered = common.device_features();
        let features = offered & FEATURES;
        if features & F_VERSION_1 == 0 {
            return Err(Error::FeaturesRefused(features));
        }
        // Without the feature, addresses are physical (virtio 1.2 §6.1).
        if self.transport.is_behind_iommu() && features & F_ACCESS_PLATFORM == 0 {
            return Err(Error::PastIommu);
        }
        common.set_driver_features(features);
        *status |= common::FEATURES_OK;
        common.set_status(*status);
        // The device may take FEATURES_OK back (virtio 1.2 §3.1.1, step 6).
        if common.status() & common::FEATURES_OK == 0 {
            return Err(Error::FeaturesRefused(features));
        }
        self.features = features;
        Ok(())
    }

    fn set_up_queues(&mut self) -> Result<(), Error> {
        let common = Common {
            transport: &self.transport,
            location: self.capabilities.common,
        };
        if usize::from(common.num_queues()) < self.queues.len() {
            return Err(Error::BadQueue {
                queue: common.num_queues(),
            });
        }
        let event_idx = self.features & F_RING_EVENT_IDX != 0;
        let mut polling = false;
        for (index, queue) in (0..).zip(&mut self.queues) {
            let max_size = common.select_queue(index);
            let addresses = queue.reset(max_size, event_idx)?;
            polling |= !common.set_queue_vector(self.vectors.queue(index));
            let notification = common.queue_notify_off();
            if !self.capabilities.notify.has(notification) {
                return Err(Error::BadQueue { queue: index });
            }
            if let Some(slot) = self.notifications.get_mut(usize::from(index)) {
                *slot = notification;
            }
            common.enable_queue(&addresses);
            if QUEUES.get(usize::from(index)) == Some(&Direction::DeviceWritable) {
                queue.fill()?;
            }
        }
        self.vectors.polling |= polling;
        Ok(())
    }

    /// Tells the device of new available buffers, where it wants to know.
    fn notify_queues(&mut self) -> Result<(), Error> {
        for ((index, queue), notification) in (0..).zip(&mut self.queues).zip(&self.notifications) {
            if queue.needs_notification()? {
                let notify = &self.capabilities.notify;
                notify.notify(&self.transport, *notification, index);
            }
        }
        Ok(())
    }

    /// Takes the next message out of `queue`; `false` if there is none.
    ///
    /// Its length is that of the message, header included; nothing about
    /// its contents has been checked.
    pub fn receive(&mut self, queue: Inbound, message: &mut Vec<u8>) -> Result<bool, Error> {
        let index = match queue {
            Inbound::Requests => REQUESTS,
            Inbound::Replies => BACKEND_REPLIES,
            Inbound::State => LOAD,
        };
        let Some(queue) = self.queues.get_mut(index) else {
            return Ok(false);
        };
        let received = queue.receive(message)?;
        if received {
            self.notify_queues()?;
        }
        Ok(received)
    }

    /// Puts a message into `queue`; `false` if there is no room now, and an
    /// interrupt will tell when there is.
    pub fn send(&mut self, queue: Outbound, message: &[u8]) -> Result<bool, Error> {
        let (index, most) = match queue {
            Outbound::Replies => (REPLIES, self.max_message_size),
            Outbound::Requests => (BACKEND_REQUESTS, self.max_message_size),
            Outbound::State => (SAVE, self.state_piece),
        };
        if message.len() > most {
            return Err(Error::MessageTooLarge(message.len()));
        }
        let Some(queue) = self.queues.get_mut(index) else {
            return Ok(false);
        };
        let sent = queue.send(message)?;
        if sent {
            self.notify_queues()?;
        }
        Ok(sent)
    }

    /// Calls the frontend's guest: vring `index` has used buffers.
    ///
    /// Of no effect before the frontend has sent SET_VRING_CALL.
    pub fn call(&self, index: u16) {
        if index < self.max_queues {
            self.ring_doorbell(index);
        }
    }

    /// Reports an error in vring `index` to the frontend.
    pub fn signal_error(&self, index: u16) {
        if index < self.max_queues {
            self.ring_doorbell(self.max_queues + index);
        }
    }

    /// Tells the frontend that something was written to the dirty log.
    pub fn signal_log(&self) {
        self.ring_doorbell(2 * self.max_queues);
    }

    fn ring_doorbell(&self, doorbell: u16) {
        // Any width up to 8 rings, the value is ignored; 16 bits are what
        // queue notifications have, too.
        let doorbells = &self.capabilities.doorbells;
        doorbells.notify(&self.transport, doorbell, doorbell);
    }

    /// The device's shared memory, in which the memory of the frontend's
    /// guest appears. User addresses in messages are offsets in it.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The most bytes in a piece of device state; 0 if the device carries
    /// none.
    pub fn state_piece(&self) -> usize {
        self.state_piece
    }

    /// How many vrings the device carries.
    pub fn max_queues(&self) -> u16 {
        self.max_queues
    }

    /// Byte order of messages.
    pub fn endian(&self) -> Endian {
        if self.features & F_BIG_ENDIAN != 0 {
            Endian::Big
        } else {
            Endian::Little
        }
    }

    /// The transport that the device is driven over.
    pub fn transport(&self) -> &T {
        &self.transport
    }
}

impl<T: Transport> Drop for Device<T> {
    fn drop(&mut self) {
        // The queues' memory goes away with the transport: the device must
        // not use it any more. Should it not finish, nobody is left to care.
        let _ = self.clear();
    }
}

#[cfg(test)]
mod tests;
