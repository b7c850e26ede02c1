// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The backend channel: requests of the guest's, and their replies.
//!
//! It is a connection of its own beside the main one. If the frontend closes
//! it, requests that are open or come later are answered with a failure, and
//! the main connection goes on.

use vhost_guest_msg::{
    decode_whole, BackendRequest, Endian, Frame, Message, Reply, ReplyExpectation, Verdict,
};
use vm_memory::GuestAddressSpace;

use crate::connection::session::Session;
use crate::connection::socket::Socket;
use crate::connection::{Channel, Step, CHANNEL_REPLIES, CHANNEL_REQUESTS};
use crate::device::Device;
use crate::error::Fault;
use crate::fd::{ChannelSocket, ForeignFd};
use crate::poller::Token;

/// The answer to a request that the frontend does not get.
const FAILED: Reply = Reply::Ack(1);

/// A reply on its way to the guest: request number and contents.
type Answer = (u32, Reply);

impl<M: GuestAddressSpace> Device<M> {
    /// `SET_BACKEND_REQ_FD`: opens the channel, in place of the one before.
    pub(crate) fn open_channel(&mut self, socket: ChannelSocket) {
        self.close_channel();
        if let Some(connection) = &mut self.connection {
            let socket = Socket::without_descriptors(socket.into(), &self.reaper, &self.limits);
            connection.channel = Channel::Open(socket);
        }
    }

    /// The channel is gone: nobody answers what is open.
    pub(crate) fn close_channel(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if let Some(socket) = connection.channel.socket() {
            self.poller.unwatch(Token::Channel, socket.as_fd());
            connection.channel = Channel::Closed;
        }
        connection.channel_replies.answer_all(&FAILED);
        // The failures are delivered in the next turn.
        self.wake();
    }

    /// Moves one backend request of the guest's to the frontend.
    pub(crate) fn step_channel_request(&mut self) -> Result<Step, Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(Step::Idle);
        };
        if let Some(socket) = connection.channel.socket() {
            match socket.flush() {
                Err(Fault::HungUp) => self.close_channel(),
                Err(fault) => return Err(fault),
                Ok(()) if socket.is_sending() => return Ok(Step::Idle),
                Ok(()) => {}
            }
        }
        let Some(connection) = &mut self.connection else {
            return Ok(Step::Idle);
        };
        // Buffers that come before the channel stay unread.
        let absent = matches!(connection.channel, Channel::Absent);
        if absent || connection.channel_replies.is_full() {
            return Ok(Step::Idle);
        }
        let mut message = Vec::new();
        let memory = self.guest.view(self.registers.features());
        let limit = self.limits.max_message_size;
        let taken = self
            .queues
            .take(CHANNEL_REQUESTS, &memory, limit, &mut message)?;
        let Some(interrupt) = taken else {
            return Ok(Step::Idle);
        };
        if interrupt {
            self.registers.signal_queue(CHANNEL_REQUESTS);
        }
        self.statistics.backend_requests += 1;
        self.forward_backend_request(&message)?;
        Ok(Step::Moved)
    }

    fn forward_backend_request(&mut self, message: &[u8]) -> Result<(), Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let session = &connection.session;
        let frame = decode_whole(message, Endian::NATIVE, &self.limits).map_err(Fault::guest)?;
        let decoded =
            BackendRequest::<()>::decode(frame, Endian::NATIVE, &self.limits, session.context());
        let Message {
            need_reply,
            request,
        } = decoded.map_err(|error| Fault::guest(error.error()))?;
        let code = request.code();
        let expectation = ReplyExpectation::of_backend(&request, need_reply, session.context());
        let sent = match (check_gate(&request, session), connection.channel.socket()) {
            (Ok(()), Some(socket)) => socket.send(message, None),
            (Ok(()), None) => Err(Fault::HungUp),
            (Err(reason), _) if matches!(expectation, ReplyExpectation::Due(_)) => {
                self.journal.warn(format_args!(
                    "guest: backend request {code} refused: {reason}"
                ));
                let noted = connection.channel_replies.expect_local(code, FAILED);
                return noted.map_err(Fault::guest);
            }
            (Err(reason), _) => {
                return Err(Fault::guest(format_args!(
                    "backend request {code}: {reason}"
                )))
            }
        };
        let noted = connection.channel_replies.expect(code, expectation, code);
        noted.map_err(Fault::guest)?;
        match sent {
            Err(Fault::HungUp) => {
                self.close_channel();
                Ok(())
            }
            sent => sent,
        }
    }

    /// Moves one reply on the backend channel to the guest.
    pub(crate) fn step_channel_reply(&mut self) -> Result<Step, Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(Step::Idle);
        };
        if matches!(connection.channel, Channel::Absent) {
            return Ok(Step::Idle);
        }
        if connection.reply_buffer.is_none() {
            let memory = self.guest.view(self.registers.features());
            connection.reply_buffer = self.queues.reserve(CHANNEL_REPLIES, &memory)?;
        }
        if connection.reply_buffer.is_none() {
            return Ok(Step::Idle);
        }
        match self.next_channel_reply()? {
            Some(answer) => self.deliver_channel_reply(&answer).map(|()| Step::Moved),
            None => Ok(Step::Idle),
        }
    }

    /// A reply of the device's own whose turn has come, or the frontend's.
    fn next_channel_reply(&mut self) -> Result<Option<Answer>, Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(None);
        };
        if let Some(answer) = connection.channel_replies.pop_local() {
            return Ok(Some(answer));
        }
        let Channel::Open(socket) = &mut connection.channel else {
            return Ok(None);
        };
        let (replies, limits) = (&mut connection.channel_replies, &self.limits);
        let received = socket.receive(|frame: Frame<'_, ForeignFd>| {
            let Frame { header, body, .. } = frame;
            let accepted = replies.accept(&header, body, Endian::NATIVE, limits);
            accepted
                .map(|accepted| (header.code, accepted.reply))
                .map_err(Fault::frontend)
        });
        match received {
            Err(Fault::HungUp) => {
                self.close_channel();
                Ok(None)
            }
            received => received,
        }
    }

    fn deliver_channel_reply(&mut self, (code, reply): &Answer) -> Result<(), Fault> {
        let buffer = self.connection.as_mut().and_then(|c| c.reply_buffer.take());
        let Some(buffer) = buffer else {
            return Ok(());
        };
        // The replies on this channel are numbers.
        let mut message = [0; 64];
        let length = reply.encode(*code, false, Endian::NATIVE, &mut message);
        let length = length.map_err(Fault::frontend)?;
        let message = message.get(..length).unwrap_or_default();
        let memory = self.guest.view(self.registers.features());
        if self
            .queues
            .deliver(CHANNEL_REPLIES, &memory, buffer, message)?
        {
            self.registers.signal_queue(CHANNEL_REPLIES);
        }
        self.statistics.backend_replies += 1;
        Ok(())
    }
}

/// The request is one that is carried, and what it needs was negotiated.
fn check_gate(request: &BackendRequest<()>, session: &Session) -> Result<(), &'static str> {
    match request.row() {
        None => Err("is unknown"),
        Some(row) => match row.verdict {
            Verdict::Refuse(reason) => Err(reason),
            _ if !row.gate.is_open(session.context()) => Err("its feature was not negotiated"),
            _ => Ok(()),
        },
    }
}
