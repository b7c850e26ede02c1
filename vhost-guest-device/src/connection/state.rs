// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Device state: bytes between the guest's migration queues and a channel of
//! the frontend's (`SET_DEVICE_STATE_FD`).
//!
//! The bytes are not looked at, and their division into buffers means nothing.
//! Threads of their own touch the channel ([`Pump`](crate::fd::Pump)); here
//! one chunk at a time goes between them and a queue.

use vhost_guest_msg::{DeviceStateReply, Transfer};
use vm_memory::GuestAddressSpace;

use crate::connection::{Connection, Step, MIGRATION_LOAD, MIGRATION_SAVE};
use crate::device::Device;
use crate::error::Fault;
use crate::fd::Next;

impl<M: GuestAddressSpace> Device<M> {
    /// Moves one buffer of device state, in the direction of the transfer.
    pub(crate) fn step_device_state(&mut self) -> Result<Step, Fault> {
        let stream = self.connection.as_ref().and_then(|c| c.stream.as_ref());
        match stream.map(|stream| stream.direction()) {
            // Buffers that come before a transfer stay unread.
            None => Ok(Step::Idle),
            Some(Transfer::Save) => self.step_save(),
            Some(Transfer::Load) => self.step_load(),
        }
    }

    /// The most bytes in one buffer, as the driver was told.
    fn most_state_bytes(&self) -> usize {
        self.pump.as_ref().map_or(0, |pump| pump.chunk())
    }

    fn step_save(&mut self) -> Result<Step, Fault> {
        let most = self.most_state_bytes();
        let Some(Connection {
            stream: Some(stream),
            ..
        }) = &mut self.connection
        else {
            return Ok(Step::Idle);
        };
        if !stream.has_room() {
            return Ok(Step::Idle);
        }
        let mut chunk = Vec::new();
        let memory = self.guest.view(self.registers.features());
        let taken = self
            .queues
            .take(MIGRATION_SAVE, &memory, most, &mut chunk)?;
        let Some(interrupt) = taken else {
            return Ok(Step::Idle);
        };
        if interrupt {
            self.registers.signal_queue(MIGRATION_SAVE);
        }
        self.statistics.state_bytes += chunk.len() as u64;
        stream.save(chunk);
        Ok(Step::Moved)
    }

    fn step_load(&mut self) -> Result<Step, Fault> {
        let most = self.most_state_bytes();
        let Some(Connection {
            stream: Some(stream),
            ..
        }) = &mut self.connection
        else {
            return Ok(Step::Idle);
        };
        let bytes = match stream.next() {
            Next::Nothing => return Ok(Step::Idle),
            Next::Bytes(bytes) => bytes,
            // A used buffer of length 0 is the end.
            Next::End => &[],
        };
        let memory = self.guest.view(self.registers.features());
        let Some(buffer) = self.queues.reserve(MIGRATION_LOAD, &memory)? else {
            return Ok(Step::Idle);
        };
        let room = buffer.capacity().min(most);
        if room == 0 && !bytes.is_empty() {
            // Nothing in a buffer would mean the end.
            return Err(Fault::guest("a buffer for device state has no room"));
        }
        let now = bytes.get(..room).unwrap_or(bytes);
        let interrupt = self.queues.deliver(MIGRATION_LOAD, &memory, buffer, now)?;
        let moved = now.len();
        stream.loaded(moved);
        if interrupt {
            self.registers.signal_queue(MIGRATION_LOAD);
        }
        self.statistics.state_bytes += moved as u64;
        Ok(Step::Moved)
    }

    /// The guest has answered `SET_DEVICE_STATE_FD`: whatever it says, it has
    /// no descriptor to return. If it cannot, the channel is closed.
    pub(crate) fn answer_transfer(&mut self, number: u64, reply: &mut DeviceStateReply) {
        if !reply.is_success() {
            if let Some(connection) = &mut self.connection {
                let current = connection.stream.take();
                connection.stream = current.filter(|stream| stream.number() != number);
            }
        }
        *reply = reply.without_fd();
    }
}
