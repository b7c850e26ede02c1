// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Device state: bytes between the guest's migration queues and a channel of
//! the frontend's (`SET_DEVICE_STATE_FD`).
//!
//! The bytes are not looked at, and their division into buffers means nothing.
//! Threads of their own touch the channel ([`Pump`](crate::fd::Pump)); here
//! one chunk at a time goes between them and a queue.

use vhost_guest_msg::{DeviceState, FrontendRequest, Reply, Transfer};
use vm_memory::GuestMemory;

use super::forward::{not_carried, Forward, Then};
use super::{Connection, DriverQueues, Resources, Step, MIGRATION_LOAD, MIGRATION_SAVE};
use crate::error::{EnvironmentFault, Fault, GuestFault, Refusal, Unfulfillable};
use crate::fd::{ForeignFd, Next, PumpError, StateFd, Stream};

// Requests.

impl Connection {
    pub(super) fn set_device_state_fd(
        &mut self,
        state: DeviceState<ForeignFd>,
        on: &mut Resources<'_>,
    ) -> Result<Forward, Refusal> {
        let Some(pump) = &mut on.pump else {
            return Err(not_carried(&FrontendRequest::SetDeviceStateFd(state)).into());
        };
        let DeviceState { direction, fd } = state;
        let stream = pump.start(direction, StateFd::check(fd, direction)?)?;
        let then = Then::AnswerTransfer(stream.number());
        // One before it is over, finished or not.
        self.stream = Some(stream);
        let request = FrontendRequest::SetDeviceStateFd(DeviceState { direction, fd: () });
        Ok(Forward::then(request, then))
    }
}

/// It has waited for the end of the transfer.
pub(super) fn check_device_state() -> Forward {
    Forward::plain(FrontendRequest::CheckDeviceState)
}

// What has to wait.

impl Connection {
    /// Whether the state has arrived is known when all of it has.
    pub(super) fn state_is_under_way(&self) -> bool {
        let stream = self.stream.as_ref();
        stream.is_some_and(|stream| !stream.is_done())
    }
}

// What the reply does.

impl Connection {
    /// The guest has answered `SET_DEVICE_STATE_FD`: whatever it says, it has
    /// no descriptor to return. If it cannot, the channel is closed.
    pub(super) fn answer_transfer(&mut self, number: u64, reply: &mut Reply) {
        let Reply::DeviceState(reply) = reply else {
            return;
        };
        if !reply.is_success() {
            let current = self.stream.take();
            self.stream = current.filter(|stream| stream.number() != number);
        }
        *reply = reply.without_fd();
    }
}

// The state itself.

impl Connection {
    /// Moves one buffer of device state, in the direction of the transfer.
    pub(super) fn step_device_state(
        &mut self,
        on: &mut Resources<'_>,
        queues: &mut DriverQueues<'_, impl GuestMemory>,
    ) -> Result<Step, Fault> {
        // Buffers that come before a transfer stay unread.
        let Some(stream) = &mut self.stream else {
            return Ok(Step::Idle);
        };
        match stream.direction() {
            Transfer::Save => save(stream, on, queues),
            Transfer::Load => load(stream, on, queues),
        }
    }
}

fn save(
    stream: &Stream,
    on: &mut Resources<'_>,
    queues: &mut DriverQueues<'_, impl GuestMemory>,
) -> Result<Step, Fault> {
    if !stream.has_room() {
        return Ok(Step::Idle);
    }
    let most = most_bytes(on);
    let Some(chunk) = queues.take(MIGRATION_SAVE, most, on.shared)? else {
        return Ok(Step::Idle);
    };
    on.shared.counters.state_bytes.add(chunk.len() as u64);
    stream.save(chunk);
    Ok(Step::Moved)
}

fn load(
    stream: &mut Stream,
    on: &mut Resources<'_>,
    queues: &mut DriverQueues<'_, impl GuestMemory>,
) -> Result<Step, Fault> {
    let bytes = match stream.next() {
        Next::Nothing => return Ok(Step::Idle),
        Next::Bytes(bytes) => bytes,
        // A used buffer of length 0 is the end.
        Next::End => &[],
    };
    let Some(buffer) = queues.reserve(MIGRATION_LOAD)? else {
        return Ok(Step::Idle);
    };
    let room = buffer.capacity().min(most_bytes(on));
    if room == 0 && !bytes.is_empty() {
        // Nothing in a buffer would mean the end.
        return Err(GuestFault::StateBuffer.into());
    }
    let now = bytes.get(..room).unwrap_or(bytes);
    queues.deliver(MIGRATION_LOAD, buffer, now, on.shared)?;
    let moved = now.len();
    stream.loaded(moved);
    on.shared.counters.state_bytes.add(moved as u64);
    Ok(Step::Moved)
}

/// The most bytes in one buffer, as the driver was told.
fn most_bytes(on: &Resources<'_>) -> usize {
    on.pump.as_ref().map_or(0, |pump| pump.chunk())
}

// Refusals.

impl From<PumpError> for Refusal {
    fn from(error: PumpError) -> Self {
        match error {
            PumpError::Environment(_) => EnvironmentFault::Transfer(error).into(),
            PumpError::Stuck => Unfulfillable::Transfer(error).into(),
        }
    }
}
