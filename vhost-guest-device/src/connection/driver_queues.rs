// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's queues as a connection uses them: with its memory as it is now,
//! and with the interrupts that the driver wants.

use vm_memory::GuestMemory;

use crate::error::Fault;
use crate::guest::queue::{Queues, Reserved};
use crate::shared::Shared;

/// The driver's queues, and its memory.
pub(crate) struct DriverQueues<'a, V> {
    queues: &'a mut Queues,
    memory: V,
}

impl<'a, V: GuestMemory> DriverQueues<'a, V> {
    /// Queues in `memory`.
    pub(crate) fn new(queues: &'a mut Queues, memory: V) -> Self {
        Self { queues, memory }
    }

    /// Reserves a buffer for a message to the guest, if there is one.
    pub(super) fn reserve(&mut self, queue: u16) -> Result<Option<Reserved>, Fault> {
        self.queues.reserve(queue, &self.memory)
    }

    /// Puts a message into its buffer.
    pub(super) fn deliver(
        &mut self,
        queue: u16,
        buffer: Reserved,
        message: &[u8],
        shared: &Shared,
    ) -> Result<(), Fault> {
        if self.queues.deliver(queue, &self.memory, buffer, message)? {
            shared.registers.lock().signal_queue(queue);
        }
        Ok(())
    }

    /// Takes a message of the guest's that has at most `most` bytes, if there is
    /// one.
    pub(super) fn take(
        &mut self,
        queue: u16,
        most: usize,
        shared: &Shared,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let mut message = Vec::new();
        let taken = self.queues.take(queue, &self.memory, most, &mut message)?;
        let Some(interrupt) = taken else {
            return Ok(None);
        };
        if interrupt {
            shared.registers.lock().signal_queue(queue);
        }
        Ok(Some(message))
    }
}
