// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Replies of the backend: which are due, and what is changed in them.
//!
//! | reply to | change |
//! |---|---|
//! | GET_PROTOCOL_FEATURES | features that need more than a guest has are taken out |
//! | GET_QUEUE_NUM, GET_MAX_MEM_SLOTS | no more than the device carries |
//! | GET_INFLIGHT_FD | the descriptor is dropped: the device makes the memory |
//! | SET_DEVICE_STATE_FD | a descriptor takes the place of ours; "no descriptor" is set |
//!
//! A backend knows nothing of the device, and announces what it can do itself.

use std::os::fd::OwnedFd;

use vhost_guest_driver::Carried;
use vhost_guest_msg::{
    frontend, Accepted, Channel, DeviceStateReply, Endian, Frame, FrontendRequest, HeaderFlags,
    Limits, Reply, ReplyExpectation, ReplyTracker, HEADER_SIZE,
};

use crate::error::End;

/// What a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    /// The frontend wants it.
    wanted: bool,
    effect: Effect,
}

/// What a reply means for a vring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// It is enabled now.
    Enables(u8),
    /// It has stopped.
    Stops(u8),
}

impl Effect {
    /// What comes of a request.
    pub fn of(request: &FrontendRequest<()>) -> Self {
        match request {
            FrontendRequest::SetVringEnable(vring) if vring.enable => Self::Enables(vring.index),
            request => request.stops_vring().map_or(Self::None, Self::Stops),
        }
    }
}

/// The replies that the backend owes.
pub struct Replies {
    tracker: ReplyTracker<Ticket>,
    carried: Carried,
}

/// A reply of the backend.
#[derive(Debug)]
pub struct Incoming {
    /// The message for the frontend, if it is for that.
    pub bytes: Option<Vec<u8>>,
    /// What becomes of the state that is about to move.
    pub state: State,
    /// What becomes of a vring.
    pub effect: Effect,
}

/// What a reply says of the channel for device state.
#[derive(Debug)]
pub enum State {
    /// Nothing.
    Untouched,
    /// It is not used.
    Refused,
    /// The backend wants this one instead.
    Replaced(OwnedFd),
}

impl Replies {
    /// None is due; `carried` is what the device carries.
    pub fn new(carried: Carried) -> Self {
        let capacity = ReplyTracker::<Ticket>::DEFAULT_CAPACITY;
        Self {
            tracker: ReplyTracker::new(Channel::Main, capacity),
            carried,
        }
    }

    /// Whether so many are due that the next request has to wait.
    pub fn is_full(&self) -> bool {
        self.tracker.is_full()
    }

    /// The oldest request whose reply is owed.
    pub fn owed(&self) -> Option<u32> {
        self.tracker.owed()
    }

    /// Takes note of a request that the backend is about to get. `wanted`: the
    /// frontend waits for the reply.
    pub fn expect(&mut self, code: u32, due: ReplyExpectation, wanted: bool, effect: Effect) {
        // Nobody asks while there is no room.
        let _ = self.tracker.expect(code, due, Ticket { wanted, effect });
    }

    /// Takes note of the reply, a number, to a request that the backend does not
    /// get.
    pub fn answer(&mut self, code: u32, reply: Reply) {
        let _ = self.tracker.expect_local(code, reply);
    }

    /// A reply that is not the backend's, if its turn has come.
    pub fn next_of_ours(&mut self) -> Option<Vec<u8>> {
        let (code, reply) = self.tracker.pop_local()?;
        Some(encode(code, false, &reply, HEADER_SIZE + size_of::<u64>()))
    }

    /// Takes a reply of the backend.
    pub fn take(
        &mut self,
        mut frame: Frame<'_, OwnedFd>,
        limits: &Limits,
    ) -> Result<Incoming, End> {
        let header = frame.header;
        let accepted = self
            .tracker
            .accept(&header, frame.body, Endian::NATIVE, limits);
        let Accepted {
            mut reply, ticket, ..
        } = accepted.map_err(|error| End::BackendFault(error.to_string()))?;
        let state = self.change(header.code, &mut reply, &mut frame);
        let refused = matches!(reply, Reply::Ack(error) if error != 0);
        let effect = if refused { Effect::None } else { ticket.effect };
        let need_reply = header.flags.contains(HeaderFlags::NEED_REPLY);
        let most = HEADER_SIZE + frame.body.len();
        let bytes = || encode(header.code, need_reply, &reply, most);
        Ok(Incoming {
            bytes: ticket.wanted.then(bytes),
            state,
            effect,
        })
    }

    fn change(&self, code: u32, reply: &mut Reply, frame: &mut Frame<'_, OwnedFd>) -> State {
        match reply {
            Reply::ProtocolFeatures(features) => {
                *features = self.carried.protocol_features(*features);
            }
            Reply::U64(most) if code == frontend::GET_QUEUE_NUM => {
                *most = self.carried.queues(*most).into();
            }
            Reply::U64(most) if code == frontend::GET_MAX_MEM_SLOTS => {
                *most = self.carried.memory_slots(*most);
            }
            Reply::DeviceState(value) => return device_state(value, frame),
            _ => {}
        }
        State::Untouched
    }
}

fn device_state(reply: &mut DeviceStateReply, frame: &mut Frame<'_, OwnedFd>) -> State {
    if !reply.is_success() {
        return State::Refused;
    }
    let state = match frame.fds.take_one() {
        Some(fd) if *reply == DeviceStateReply(0) => State::Replaced(fd),
        _ => State::Untouched,
    };
    *reply = reply.without_fd();
    state
}

/// A reply for the frontend, of `most` bytes at most: it is no longer than what it
/// was decoded from.
fn encode(code: u32, need_reply: bool, reply: &Reply, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; most];
    let length = reply.encode(code, need_reply, Endian::NATIVE, &mut bytes);
    bytes.truncate(length.unwrap_or_default());
    bytes
}
