// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest → frontend: replies.
//!
//! A reply is matched with the oldest request that it can answer. What the
//! request left to do is done before the reply goes to the frontend: memory
//! that it took away is off the guest when the frontend hears of it.

use std::os::fd::OwnedFd;

use vhost_guest_msg::{decode_whole, Accepted, Endian, HeaderFlags, Reply};
use vm_memory::GuestMemory;

use super::forward::Then;
use super::{memory, Connection, DriverQueues, Duty, Resources, Step, REPLIES};
use crate::error::{Fault, GuestFault};

/// A reply of the guest's on its way.
#[derive(Debug)]
pub(super) struct Answer {
    code: u32,
    reply: Reply,
    need_reply: bool,
    fd: Option<OwnedFd>,
    /// The frontend is waiting for it.
    pass: bool,
    /// Memory that the request took away goes first.
    settles: bool,
}

impl Connection {
    /// Moves one reply to the frontend: the device's own whose turn has come,
    /// or the guest's next one.
    pub(super) fn step_reply(
        &mut self,
        on: &mut Resources<'_>,
        queues: &mut DriverQueues<'_, impl GuestMemory>,
    ) -> Result<Step, Fault> {
        self.socket.flush()?;
        if self.socket.is_sending() {
            return Ok(Step::Idle);
        }
        if let Some(answer) = self.answer.take() {
            self.pass_on(answer, on)?;
            return Ok(Step::Moved);
        }
        if let Some((code, reply)) = self.replies.pop_local() {
            self.send(code, &reply, false, None)?;
            return Ok(Step::Moved);
        }
        let most = self.session.limits().max_message_size;
        let Some(message) = queues.take(REPLIES, most, on.shared)? else {
            return Ok(Step::Idle);
        };
        self.take_reply(&message, on)?;
        Ok(Step::Moved)
    }

    /// Matches a reply of the guest's, does what it is for, and passes it on.
    fn take_reply(&mut self, message: &[u8], on: &mut Resources<'_>) -> Result<(), Fault> {
        let limits = self.session.limits();
        let frame = decode_whole(message, Endian::NATIVE, limits);
        let frame = frame.map_err(GuestFault::Frame)?;
        let header = frame.header;
        let accepted = self
            .replies
            .accept(&header, frame.body, Endian::NATIVE, limits);
        let Accepted {
            mut reply, ticket, ..
        } = accepted.map_err(GuestFault::Reply)?;
        self.session.observe_reply(&reply);
        let Duty { pass, then } = ticket;
        let settles = matches!(then, Then::Settle(..) | Then::ShowLog(..));
        let fd = self.fulfil(then, &mut reply, on)?;
        let answer = Answer {
            code: header.code,
            reply,
            need_reply: header.flags.contains(HeaderFlags::NEED_REPLY),
            fd,
            pass,
            settles,
        };
        self.pass_on(answer, on)
    }

    /// Passes a reply on, once what it is for is done.
    fn pass_on(&mut self, answer: Answer, on: &mut Resources<'_>) -> Result<(), Fault> {
        if answer.settles && !memory::is_settled(on)? {
            self.answer = Some(answer);
            return Ok(());
        }
        if !answer.pass {
            on.shared.counters.own_messages.add(1);
            return Ok(());
        }
        on.shared.counters.replies.add(1);
        let Answer {
            code,
            reply,
            need_reply,
            fd,
            ..
        } = answer;
        self.send(code, &reply, need_reply, fd)
    }

    /// Sends a reply to the frontend.
    fn send(
        &mut self,
        code: u32,
        reply: &Reply,
        need_reply: bool,
        fd: Option<OwnedFd>,
    ) -> Result<(), Fault> {
        let mut message = [0; 4096];
        let length = reply.encode(code, need_reply, Endian::NATIVE, &mut message);
        // A reply is no longer than the message that it was decoded from.
        let length = length.map_err(GuestFault::LongReply)?;
        self.socket
            .send(message.get(..length).unwrap_or_default(), fd)
    }
}
