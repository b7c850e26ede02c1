// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The backend channel: requests of the guest's, and their replies.
//!
//! It is a connection of its own beside the main one. If the frontend closes
//! it, requests that are open or come later are answered with a failure, and
//! the main connection goes on. Its socket is a thread's affair, with which one
//! message at a time is exchanged in each direction ([`Channels`](crate::fd::Channels)).

use vhost_guest_msg::{
    decode_whole, BackendRequest, Channel as Direction, Endian, FrontendRequest, Message, OnlyFd,
    Reply, ReplyExpectation, RequestName, Verdict,
};
use vm_memory::GuestMemory;

use super::forward::Forward;
use super::session::Session;
use super::{Connection, DriverQueues, Resources, Step, CHANNEL_REPLIES, CHANNEL_REQUESTS};
use crate::error::{
    ChannelRule, EnvironmentFault, Fault, FrontendFault, GuestFault, Refusal, Unfulfillable,
};
use crate::fd::Channel as Socket;
use crate::fd::{ChannelEnd, ChannelSocket, ForeignFd, NoChannel, Received};

/// The answer to a request that the frontend does not get.
const FAILED: Reply = Reply::Ack(1);

/// A reply on its way to the guest: request number and contents.
type Answer = (u32, Reply);

/// The backend channel.
#[derive(Debug)]
pub(super) enum Channel {
    /// `SET_BACKEND_REQ_FD` has not come.
    Absent,
    /// Open.
    Open(Socket),
    /// The frontend closed its end: requests fail, as far as they can.
    Closed,
}

impl Channel {
    /// The socket, if it is open.
    fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Open(socket) => Some(socket),
            Self::Absent | Self::Closed => None,
        }
    }
}

// Requests.

impl Connection {
    /// Opens the channel, in place of the one before.
    pub(super) fn set_backend_req_fd(
        &mut self,
        socket: OnlyFd<ForeignFd>,
        on: &mut Resources<'_>,
    ) -> Result<Forward, Refusal> {
        let socket = ChannelSocket::check(socket.fd)?;
        let opened = self.channels.open(socket, self.session.limits())?;
        self.close_channel(on);
        self.channel = Channel::Open(opened);
        let request = FrontendRequest::SetBackendReqFd(OnlyFd { fd: () });
        Ok(Forward::plain(request))
    }
}

// The channel itself.

impl Connection {
    /// The channel is gone: nobody answers what is open.
    pub(crate) fn close_channel(&mut self, on: &mut Resources<'_>) {
        if self.channel.socket().is_some() {
            self.channel = Channel::Closed;
        }
        self.channel_replies.answer_all(&FAILED);
        // The failures are delivered in the next turn.
        on.shared.wake();
    }

    /// Moves one backend request of the guest's to the frontend.
    pub(super) fn step_channel_request(
        &mut self,
        on: &mut Resources<'_>,
        queues: &mut DriverQueues<'_, impl GuestMemory>,
    ) -> Result<Step, Fault> {
        match self.channel.socket() {
            Some(socket) if socket.end() == Some(ChannelEnd::HungUp) => self.close_channel(on),
            Some(socket) => {
                if let Some(end) = socket.end() {
                    return Err(FrontendFault::Channel(end).into());
                }
                if socket.is_sending() {
                    return Ok(Step::Idle);
                }
            }
            None => {}
        }
        // Buffers that come before the channel stay unread.
        let absent = matches!(self.channel, Channel::Absent);
        if absent || self.channel_replies.is_full() {
            return Ok(Step::Idle);
        }
        let most = self.session.limits().max_message_size;
        let Some(message) = queues.take(CHANNEL_REQUESTS, most, on.shared)? else {
            return Ok(Step::Idle);
        };
        on.shared.counters.backend_requests.add(1);
        self.forward_backend_request(&message, on)?;
        Ok(Step::Moved)
    }

    fn forward_backend_request(
        &mut self,
        message: &[u8],
        on: &mut Resources<'_>,
    ) -> Result<(), Fault> {
        let (limits, context) = (self.session.limits(), self.session.context());
        let frame = decode_whole(message, Endian::NATIVE, limits).map_err(GuestFault::Frame)?;
        let decoded = BackendRequest::<()>::decode(frame, Endian::NATIVE, limits, context);
        let Message {
            need_reply,
            request,
        } = decoded.map_err(|error| GuestFault::Malformed(error.error()))?;
        let code = request.code();
        let name = RequestName(Direction::Backend, code);
        let too_many = GuestFault::TooManyReplies(name);
        let expectation = ReplyExpectation::of_backend(&request, need_reply, context);
        let gate = check_gate(&request, &self.session);
        match gate {
            Ok(()) => {}
            Err(rule) if matches!(expectation, ReplyExpectation::Due(_)) => {
                on.shared.journal.warn(format_args!(
                    "guest: backend request {name} refused: {rule}"
                ));
                let noted = self.channel_replies.expect_local(code, FAILED);
                return noted.map_err(|_| too_many.into());
            }
            Err(rule) => {
                let request = name;
                return Err(GuestFault::BackendRequest { request, rule }.into());
            }
        }
        let noted = self.channel_replies.expect(code, expectation, code);
        noted.map_err(|_| too_many)?;
        match self.channel.socket() {
            Some(socket) => socket.send(message.to_vec()),
            None => self.close_channel(on),
        }
        Ok(())
    }

    /// Moves one reply on the backend channel to the guest.
    pub(super) fn step_channel_reply(
        &mut self,
        on: &mut Resources<'_>,
        queues: &mut DriverQueues<'_, impl GuestMemory>,
    ) -> Result<Step, Fault> {
        if matches!(self.channel, Channel::Absent) {
            return Ok(Step::Idle);
        }
        let buffer = match self.reply_buffer.take() {
            Some(buffer) => buffer,
            None => match queues.reserve(CHANNEL_REPLIES)? {
                Some(buffer) => buffer,
                None => return Ok(Step::Idle),
            },
        };
        let Some((code, reply)) = self.next_channel_reply()? else {
            self.reply_buffer = Some(buffer);
            return Ok(Step::Idle);
        };
        // The replies on this channel are numbers.
        let mut message = [0; 64];
        let length = reply.encode(code, false, Endian::NATIVE, &mut message);
        let length = length.map_err(FrontendFault::LongReply)?;
        let message = message.get(..length).unwrap_or_default();
        queues.deliver(CHANNEL_REPLIES, buffer, message, on.shared)?;
        on.shared.counters.backend_replies.add(1);
        Ok(Step::Moved)
    }

    /// A reply of the device's own whose turn has come, or the frontend's.
    fn next_channel_reply(&mut self) -> Result<Option<Answer>, Fault> {
        if let Some(answer) = self.channel_replies.pop_local() {
            return Ok(Some(answer));
        }
        let received = self.channel.socket().and_then(Socket::receive);
        let Some(Received { header, body }) = received else {
            return Ok(None);
        };
        let limits = self.session.limits();
        let replies = &mut self.channel_replies;
        let accepted = replies.accept(&header, &body, Endian::NATIVE, limits);
        let accepted = accepted.map_err(FrontendFault::Reply)?;
        Ok(Some((header.code, accepted.reply)))
    }

    /// Whether the channel's thread does nothing until somebody does.
    #[cfg(test)]
    pub(crate) fn is_channel_settled(&self) -> bool {
        self.channel.socket().is_none_or(Socket::is_settled)
    }
}

// Refusals.

impl From<NoChannel> for Refusal {
    fn from(error: NoChannel) -> Self {
        match error {
            NoChannel::Environment(_) => EnvironmentFault::Channel(error).into(),
            NoChannel::Stuck => Self::Request(Unfulfillable::Channel(error)),
        }
    }
}

/// The request is one that is carried, and what it needs was negotiated.
fn check_gate(request: &BackendRequest<()>, session: &Session) -> Result<(), ChannelRule> {
    match request.row() {
        None => Err(ChannelRule::Unknown),
        Some(row) => match row.verdict {
            Verdict::Refuse(reason) => Err(ChannelRule::NotCarried(reason)),
            _ if !row.gate.is_open(session.context()) => Err(ChannelRule::WithoutFeature),
            _ => Ok(()),
        },
    }
}
