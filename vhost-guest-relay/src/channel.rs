// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests of the backend, and their replies.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use vhost_guest_msg::{
    decode_whole, BackendRequest, Channel as Number, Context, Endian, Fds, Frame, HeaderFlags,
    Limits, ProtocolFeatures, Reply, ReplyExpectation, ReplyTracker, Verdict, HEADER_SIZE,
};

use crate::account::Name;
use crate::error::End;
use crate::socket::Socket;

/// A negative acknowledgement.
const REFUSED: Reply = Reply::Ack(1);

/// The channel of SET_BACKEND_REQ_FD, one after the other.
pub struct Channel {
    /// Our end of the last one, until the backend closes its own.
    socket: Option<Socket>,
    /// How many there have been.
    count: u64,
    /// A request that the device has no room for.
    request: Option<Request>,
    /// A request that is to be refused, after those before it were answered.
    refused: Option<u32>,
    /// Replies that the frontend owes, each for the channel with this number.
    replies: ReplyTracker<u64>,
}

/// A request for the frontend.
struct Request {
    bytes: Vec<u8>,
    code: u32,
    due: ReplyExpectation,
}

/// What comes of a message from the backend.
enum Taken {
    Request(Request),
    Refused(u32, &'static str, ReplyExpectation),
}

impl Default for Channel {
    fn default() -> Self {
        let capacity = ReplyTracker::<u64>::DEFAULT_CAPACITY;
        Self {
            socket: None,
            count: 0,
            request: None,
            refused: None,
            replies: ReplyTracker::new(Number::Backend, capacity),
        }
    }
}

impl Channel {
    /// A channel over `stream`, in place of the one before. What the frontend
    /// still answers to that is for nobody.
    pub fn open(&mut self, stream: UnixStream, limits: &Limits) {
        self.close();
        self.count += 1;
        self.socket = Some(Socket::new(stream, limits));
    }

    fn close(&mut self) {
        self.socket = None;
        self.request = None;
        self.refused = None;
    }

    /// The request whose reply the frontend owes.
    pub fn owed(&self) -> Option<u32> {
        self.replies.owed()
    }

    /// What to wait for: of the channel, and of the device.
    pub fn interest(&self) -> (Option<(BorrowedFd<'_>, PollFlags)>, PollFlags) {
        let sending = self.socket.as_ref().is_some_and(Socket::is_sending);
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, self.takes_requests());
        events.set(PollFlags::OUT, sending);
        let socket = self.socket.as_ref().map(|socket| (socket.as_fd(), events));
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, !sending && !self.replies.is_empty());
        events.set(PollFlags::OUT, self.request.is_some());
        (socket, events)
    }

    fn takes_requests(&self) -> bool {
        self.request.is_none() && self.refused.is_none() && !self.replies.is_full()
    }

    /// Passes on what can be passed on. Whatever is wrong with the channel, or with
    /// what comes out of it, is the end of the channel, or of a request, only, as
    /// with frontends of the backend's own machine.
    pub fn step(
        &mut self,
        file: &File,
        limits: &Limits,
        context: &Context,
        log: &dyn Fn(&str),
    ) -> Result<(), End> {
        let done = self
            .pass_requests(file, limits, context, log)
            .and_then(|()| self.pass_replies(file, limits))
            .and_then(|()| self.refuse());
        match done {
            Err(End::Backend) => self.close(),
            Err(End::BackendFault(fault)) => {
                log(&format!("the backend's channel is closed: {fault}"));
                self.close();
            }
            other => return other,
        }
        Ok(())
    }

    fn pass_requests(
        &mut self,
        mut file: &File,
        limits: &Limits,
        context: &Context,
        log: &dyn Fn(&str),
    ) -> Result<(), End> {
        loop {
            if self.takes_requests() {
                let Some(socket) = &mut self.socket else {
                    return Ok(());
                };
                match socket.receive(|frame| Ok(take(frame, limits, context)))? {
                    Some(Taken::Request(request)) => self.request = Some(request),
                    Some(Taken::Refused(code, reason, due)) => {
                        let name = Name(Number::Backend, code);
                        log(&format!("the backend's {name} is refused: {reason}"));
                        let owed = matches!(due, ReplyExpectation::Due(_));
                        self.refused = owed.then_some(code);
                    }
                    None => return Ok(()),
                }
            }
            let Some(request) = &self.request else {
                if self.takes_requests() {
                    continue;
                }
                return Ok(());
            };
            match file.write(&request.bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::device("passing on a request")(error)),
            }
            // There is room, or no request would have been taken.
            let _ = self.replies.expect(request.code, request.due, self.count);
            self.request = None;
        }
    }

    fn pass_replies(&mut self, mut file: &File, limits: &Limits) -> Result<(), End> {
        if let Some(socket) = &mut self.socket {
            socket.flush()?;
        }
        while !self.socket.as_ref().is_some_and(Socket::is_sending) && !self.replies.is_empty() {
            let mut reply = vec![0; limits.max_message_size];
            let read = match file.read(&mut reply) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::device("reading a reply")(error)),
            };
            let reply = reply.get(..read).unwrap_or_default();
            if let (true, Some(socket)) = (self.is_due(reply, limits)?, &mut self.socket) {
                socket.send(reply, Vec::new())?;
            }
        }
        Ok(())
    }

    /// Whether the channel that is open now is the one that waits for a reply.
    fn is_due(&mut self, reply: &[u8], limits: &Limits) -> Result<bool, End> {
        let frame = decode_whole(reply, Endian::NATIVE, limits)
            .map_err(|reason| End::FrontendFault(reason.to_string()))?;
        let accepted = self
            .replies
            .accept(&frame.header, frame.body, Endian::NATIVE, limits)
            .map_err(|error| End::FrontendFault(error.to_string()))?;
        Ok(accepted.ticket == self.count)
    }

    /// Refuses what is to be refused, if its turn has come.
    fn refuse(&mut self) -> Result<(), End> {
        let (Some(code), Some(socket)) = (self.refused, &mut self.socket) else {
            return Ok(());
        };
        if socket.is_sending() || self.replies.owed().is_some() {
            return Ok(());
        }
        let mut bytes = [0; HEADER_SIZE + size_of::<u64>()];
        // It has just this length.
        let _ = REFUSED.encode(code, false, Endian::NATIVE, &mut bytes);
        self.refused = None;
        socket.send(&bytes, Vec::new())
    }
}

/// A guest has no descriptors to send: what comes with some is refused for what it
/// is, and what needs none goes on without.
fn take(frame: Frame<'_, OwnedFd>, limits: &Limits, context: &Context) -> Taken {
    let Frame { header, body, .. } = frame;
    let frame = Frame {
        header,
        body,
        fds: Fds::<OwnedFd>::default(),
    };
    let mut bytes = header.emit(Endian::NATIVE).to_vec();
    bytes.extend_from_slice(body);
    let code = header.code;
    match BackendRequest::decode(frame, Endian::NATIVE, limits, context) {
        Ok(message) => {
            let due = ReplyExpectation::of_backend(&message.request, message.need_reply, context);
            match refusal(&message.request, context) {
                Some(reason) => Taken::Refused(code, reason, due),
                None => Taken::Request(Request { bytes, code, due }),
            }
        }
        Err(_) => {
            let asked = header.flags.contains(HeaderFlags::NEED_REPLY)
                && context
                    .protocol_features
                    .contains(ProtocolFeatures::REPLY_ACK);
            let due = match asked {
                true => ReplyExpectation::Due(vhost_guest_msg::ReplyShape::Ack),
                false => ReplyExpectation::None,
            };
            Taken::Refused(code, "it is malformed", due)
        }
    }
}

/// Why the device would not take a request.
fn refusal(request: &BackendRequest<OwnedFd>, context: &Context) -> Option<&'static str> {
    match request.row() {
        None => Some("it is not known"),
        Some(row) => match row.verdict {
            Verdict::Refuse(reason) => Some(reason),
            _ if !row.gate.is_open(context) => Some("its feature was not negotiated"),
            _ => None,
        },
    }
}
