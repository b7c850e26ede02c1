// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What vCPUs and the VMM have changed since the last turn, and what follows.

use vm_memory::GuestAddressSpace;

use super::Server;
use crate::error::Fault;
use crate::guest::queue::{MessageQueue, MAX_QUEUE_SIZE};
use crate::guest::virtio::common_config::QueueSetup;
use crate::guest::virtio::feature;
use crate::shared::{Condition, Shared};

impl<M: GuestAddressSpace> Server<M> {
    /// Catches up with the registers.
    ///
    /// # Errors
    ///
    /// The guest has set up a queue that is none.
    pub(super) fn look(&mut self, shared: &Shared) -> Result<(), Fault> {
        self.look_at_the_frontend(shared);
        self.close_queues(shared);
        self.open_queues(shared)
    }

    /// Whether the frontend has to go, and why; and whether something of one that
    /// is gone is left.
    fn look_at_the_frontend(&mut self, shared: &Shared) {
        let (loss, over, left) = {
            let mut registers = shared.registers.lock();
            let over = registers.needs_reset() || shared.condition() != Condition::Alive;
            (registers.take_loss(), over, registers.has_frontend())
        };
        if let Some(loss) = loss {
            self.tell(shared, &loss);
        }
        let epoch = self
            .connection
            .as_ref()
            .map(|connection| connection.epoch());
        let stale = epoch.is_some_and(|epoch| epoch != shared.epochs.current());
        if self.connection.is_some() && (over || stale) {
            self.close_connection(shared);
        } else if self.connection.is_none() && left {
            self.detach_some(shared);
        }
    }

    /// The driver resets queues: buffers of theirs are dropped, messages kept.
    pub(super) fn close_queues(&mut self, shared: &Shared) {
        let resetting = shared.registers.lock().resetting_queues();
        for queue in resetting {
            self.queues.close(queue);
            self.unopened.remove(&queue);
            if let Some(connection) = &mut self.connection {
                connection.forget_buffer(queue);
            }
            shared.registers.lock().queue_reset_done(queue);
        }
    }

    /// The driver has enabled queues, or the VMM has restored some.
    fn open_queues(&mut self, shared: &Shared) -> Result<(), Fault> {
        let (enabled, features) = {
            let registers = shared.registers.lock();
            if registers.needs_reset() {
                return Ok(());
            }
            (registers.enabled_queues(), registers.features())
        };
        for (queue, rings) in enabled {
            if self.queues.position(queue).is_none() {
                self.open_queue(queue, rings, features)?;
            }
        }
        Ok(())
    }

    /// Opens a queue, where it was left if it was restored.
    fn open_queue(&mut self, index: u16, rings: QueueSetup, features: u64) -> Result<(), Fault> {
        let event_idx = features & feature::EVENT_IDX != 0;
        let memory = self.guest.view(features);
        let mut queue = MessageQueue::open(index, MAX_QUEUE_SIZE, rings, event_idx, &memory)?;
        queue.set_position(self.unopened.remove(&index).unwrap_or_default());
        self.queues.open(index, queue);
        Ok(())
    }
}
