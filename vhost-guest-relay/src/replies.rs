// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Replies of the backend: what is changed in them.
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
    frontend, DeviceStateReply, Endian, Frame, HeaderFlags, Limits, Reply, ReplyShape,
};

use crate::error::End;

/// A reply for the frontend.
#[derive(Debug)]
pub struct Incoming {
    /// The message.
    pub bytes: Vec<u8>,
    /// What becomes of the state that is about to move.
    pub state: State,
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

/// Takes a reply of the backend.
pub fn take(
    frame: Frame<'_, OwnedFd>,
    limits: &Limits,
    carried: &Carried,
) -> Result<Incoming, End> {
    if !frame.header.flags.contains(HeaderFlags::REPLY) {
        let code = frame.header.code;
        let text = format!("request {code} on the socket for replies");
        return Err(End::BackendFault(text));
    }
    match frame.header.code {
        frontend::GET_PROTOCOL_FEATURES => protocol_features(&frame, limits, carried),
        frontend::GET_QUEUE_NUM => number(&frame, limits, |most| carried.queues(most).into()),
        frontend::GET_MAX_MEM_SLOTS => number(&frame, limits, |most| carried.memory_slots(most)),
        frontend::SET_DEVICE_STATE_FD => device_state(frame, limits),
        _ => Ok(unchanged(&frame)),
    }
}

/// All but the descriptors.
fn unchanged(frame: &Frame<'_, OwnedFd>) -> Incoming {
    let mut bytes = frame.header.emit(Endian::NATIVE).to_vec();
    bytes.extend_from_slice(frame.body);
    Incoming {
        bytes,
        state: State::Untouched,
    }
}

fn changed(frame: &Frame<'_, OwnedFd>, reply: &Reply, state: State) -> Result<Incoming, End> {
    let header = frame.header;
    let mut bytes = vec![0; vhost_guest_msg::HEADER_SIZE + frame.body.len()];
    let need_reply = header.flags.contains(HeaderFlags::NEED_REPLY);
    reply
        .encode(header.code, need_reply, Endian::NATIVE, &mut bytes)
        .map_err(|e| End::BackendFault(e.to_string()))?;
    Ok(Incoming { bytes, state })
}

fn decode(frame: &Frame<'_, OwnedFd>, shape: ReplyShape, limits: &Limits) -> Result<Reply, End> {
    Reply::decode(shape, frame.body, Endian::NATIVE, limits).map_err(|reason| {
        let code = frame.header.code;
        End::BackendFault(format!("reply to request {code}: {reason}"))
    })
}

fn protocol_features(
    frame: &Frame<'_, OwnedFd>,
    limits: &Limits,
    carried: &Carried,
) -> Result<Incoming, End> {
    let mut reply = decode(frame, ReplyShape::ProtocolFeatures, limits)?;
    if let Reply::ProtocolFeatures(features) = &mut reply {
        *features = carried.protocol_features(*features);
    }
    changed(frame, &reply, State::Untouched)
}

fn number(
    frame: &Frame<'_, OwnedFd>,
    limits: &Limits,
    clamp: impl FnOnce(u64) -> u64,
) -> Result<Incoming, End> {
    let mut reply = decode(frame, ReplyShape::U64, limits)?;
    if let Reply::U64(most) = &mut reply {
        *most = clamp(*most);
    }
    changed(frame, &reply, State::Untouched)
}

fn device_state(mut frame: Frame<'_, OwnedFd>, limits: &Limits) -> Result<Incoming, End> {
    let mut reply = decode(&frame, ReplyShape::DeviceState, limits)?;
    let mut state = State::Refused;
    if let Reply::DeviceState(value) = &mut reply {
        if value.is_success() {
            state = match frame.fds.take_one() {
                Some(fd) if *value == DeviceStateReply(0) => State::Replaced(fd),
                _ => State::Untouched,
            };
            *value = value.without_fd();
        }
    }
    changed(&frame, &reply, state)
}
