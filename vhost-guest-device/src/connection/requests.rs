// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frontend → guest: requests.
//!
//! Order for each message: reserve a guest buffer → decode and check → acquire
//! resources → commit → forward. Each message is handled once.

use vhost_guest_msg::{
    row, Channel, DecodeError, Endian, FrontendRequest, Message, Reason, Reply, ReplyExpectation,
};
use vm_memory::GuestAddressSpace;

use crate::connection::handlers::{self, Forward, OnRefusal, Opens, Resources, Then};
use crate::connection::{Duty, Step, REQUESTS};
use crate::device::Device;
use crate::error::{Fault, Refusal};
use crate::fd::ForeignFd;
use crate::memory::{Outcome, Ticket};

type Request = Message<FrontendRequest<ForeignFd>>;

/// A message that has the form of its request, with a value that nobody can
/// comply with.
struct Impossible {
    code: u32,
    need_reply: bool,
    reason: Reason,
}

impl Impossible {
    /// What has another form is the frontend's fault.
    fn new(error: &DecodeError<ForeignFd>) -> Result<Self, Fault> {
        let wrong = error.error();
        if !wrong.is_well_formed() {
            return Err(Fault::frontend(wrong));
        }
        Ok(Self {
            code: wrong.code,
            need_reply: error.need_reply(),
            reason: wrong.reason,
        })
    }
}

impl<M: GuestAddressSpace> Device<M> {
    /// Moves one request of the frontend's to the guest.
    pub(crate) fn step_request(&mut self) -> Result<Step, Fault> {
        if !self.reserve_for_request()? {
            return Ok(Step::Idle);
        }
        if let Some(ticket) = self.connection.as_mut().and_then(|c| c.barrier.take()) {
            self.forward_barrier(ticket)?;
            return Ok(Step::Moved);
        }
        let message = match self.next_request()? {
            None => return Ok(Step::Idle),
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                self.statistics.requests += 1;
                let (code, reason) = (error.code, error.reason);
                self.refuse(code, error.need_reply, reason.to_string())?;
                return Ok(Step::Moved);
            }
        };
        if self.has_to_wait(&message.request) {
            if let Some(connection) = &mut self.connection {
                connection.held = Some(message);
            }
            return Ok(Step::Idle);
        }
        self.statistics.requests += 1;
        self.carry_out(message)?;
        Ok(Step::Moved)
    }

    /// Whether a request cannot be carried out yet.
    fn has_to_wait(&self, request: &FrontendRequest<ForeignFd>) -> bool {
        if matches!(request, FrontendRequest::CheckDeviceState) {
            // Whether the state has arrived is known when all of it has.
            let stream = self.connection.as_ref().and_then(|c| c.stream.as_ref());
            return stream.is_some_and(|stream| !stream.is_done());
        }
        // One generation at a time: the earlier change has to be settled.
        handlers::changes_memory(request) && self.memory.is_pending()
    }

    /// Makes sure of a guest buffer, and of room to remember the reply.
    fn reserve_for_request(&mut self) -> Result<bool, Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(false);
        };
        // A frontend does not send more descriptors than can be closed.
        if connection.replies.is_full() || self.reaper.is_overloaded() {
            return Ok(false);
        }
        if connection.request_buffer.is_none() {
            let memory = self.guest.view(self.registers.features());
            connection.request_buffer = self.queues.reserve(REQUESTS, &memory)?;
        }
        Ok(connection.request_buffer.is_some())
    }

    /// The request that was held, or the next one from the socket, which may be
    /// one that nobody can comply with.
    fn next_request(&mut self) -> Result<Option<Result<Request, Impossible>>, Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(None);
        };
        if let Some(message) = connection.held.take() {
            return Ok(Some(Ok(message)));
        }
        let session = &connection.session;
        connection.socket.receive(|frame| {
            let (limits, context) = (session.limits(), session.context());
            match FrontendRequest::decode(frame, Endian::NATIVE, limits, context) {
                Ok(message) => Ok(Ok(message)),
                Err(error) => Impossible::new(&error).map(Err),
            }
        })
    }

    /// Acquires what a request asks for and forwards it, or refuses it.
    fn carry_out(&mut self, message: Request) -> Result<(), Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let Message {
            need_reply,
            request,
        } = message;
        let code = request.code();
        let mut resources = Resources {
            registers: &mut self.registers,
            memory: &mut self.memory,
            session: &mut connection.session,
            kinds: &self.kinds,
            inflight: &mut self.inflight,
            pump: self.pump.as_mut(),
        };
        match handlers::carry_out(request, &mut resources) {
            Ok(forward) => self.forward(forward, need_reply),
            Err(Refusal::Fatal(fault)) => Err(fault),
            Err(Refusal::Request(reason)) => self.refuse(code, need_reply, reason),
        }
    }

    /// Answers a request that is not carried out, or disconnects a frontend that
    /// would not read the answer. Nothing has changed.
    fn refuse(&mut self, code: u32, need_reply: bool, reason: String) -> Result<(), Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let name = row(Channel::Main, code).map_or("a request", |row| row.name);
        match Reply::refusal(code, need_reply, connection.session.context()) {
            Some(refusal) => {
                self.journal
                    .warn(format_args!("frontend: {name} refused: {reason}"));
                let noted = connection.replies.expect_local(code, refusal);
                noted.map_err(Fault::frontend)
            }
            None => Err(Fault::frontend(format_args!("{name}: {reason}"))),
        }
    }

    /// Forwards a request that was carried out, and notes what its reply is
    /// for.
    fn forward(&mut self, forward: Forward, need_reply: bool) -> Result<(), Fault> {
        let Forward {
            request,
            mut then,
            opens,
        } = forward;
        match opens {
            Some(Opens::Channel(socket)) => self.open_channel(socket),
            Some(Opens::Stream(stream)) => {
                if let Some(connection) = &mut self.connection {
                    // One before it is over, finished or not.
                    connection.stream = Some(stream);
                }
            }
            None => {}
        }
        let connection = self.connection.as_ref();
        let acknowledges = connection.is_some_and(|c| c.session.acknowledges());
        // Memory that goes away needs the guest's proof that it has seen the
        // message, whether or not the frontend wants to hear of it.
        let settles = matches!(then, Then::Settle(..));
        let ask = need_reply || (settles && acknowledges && self.memory.needs_proof());
        if !(ask && acknowledges) {
            then = match then {
                Then::Settle(ticket, _) => {
                    self.settle_unanswered(ticket)?;
                    Then::Nothing
                }
                other => other,
            };
        }
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let context = connection.session.context();
        let asked = ReplyExpectation::of(&request, need_reply, context);
        let pass = asked != ReplyExpectation::None;
        let expectation = ReplyExpectation::of(&request, ask, context);
        let duty = Duty { pass, then };
        connection
            .replies
            .expect(request.code(), expectation, duty)
            .map_err(Fault::frontend)?;
        connection.last = Some(request.code());
        self.deliver_request(&request, ask)
    }

    /// Settles a change that no acknowledgement will come for: at once, or behind
    /// a barrier if it takes something away.
    fn settle_unanswered(&mut self, ticket: Ticket) -> Result<(), Fault> {
        if !self.memory.needs_proof() {
            return self.settle_memory(ticket, Outcome::Done);
        }
        if let Some(connection) = &mut self.connection {
            connection.barrier = Some(ticket);
        }
        Ok(())
    }

    /// Sends a `GET_FEATURES` of the device's own. Its reply proves that the
    /// guest has processed everything before it.
    fn forward_barrier(&mut self, ticket: Ticket) -> Result<(), Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let request = FrontendRequest::<()>::GetFeatures;
        let expectation = ReplyExpectation::of(&request, false, connection.session.context());
        let duty = Duty {
            pass: false,
            then: Then::Settle(ticket, OnRefusal::Undo),
        };
        connection
            .replies
            .expect(request.code(), expectation, duty)
            .map_err(Fault::frontend)?;
        self.statistics.own_messages += 1;
        self.deliver_request(&request, false)
    }

    /// Puts a request into the reserved buffer.
    fn deliver_request(
        &mut self,
        request: &FrontendRequest<()>,
        need_reply: bool,
    ) -> Result<(), Fault> {
        let buffer = self
            .connection
            .as_mut()
            .and_then(|c| c.request_buffer.take());
        let Some(buffer) = buffer else {
            return Ok(());
        };
        let message = request.to_vec(need_reply, Endian::NATIVE);
        let memory = self.guest.view(self.registers.features());
        if self.queues.deliver(REQUESTS, &memory, buffer, &message)? {
            self.registers.signal_queue(REQUESTS);
        }
        Ok(())
    }
}
