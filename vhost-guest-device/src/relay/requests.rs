// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frontend → guest: requests.
//!
//! Order for each message: reserve a guest buffer → decode and check → acquire
//! resources → commit → forward. Each message is handled once.

use vhost_guest_msg::frontend::{SET_DEVICE_STATE_FD, SET_LOG_BASE};
use vhost_guest_msg::{
    Context, DecodeError, DeviceStateReply, Endian, FrontendRequest, LogReply, Message,
    ProtocolFeatures, Reply, ReplyExpectation,
};
use vm_memory::GuestAddressSpace;

use crate::device::Device;
use crate::error::{Fault, Refusal};
use crate::fd::ForeignFd;
use crate::memory::{Outcome, Ticket};
use crate::relay::handlers::{self, Forward, OnRefusal, Opens, Resources, Then};
use crate::relay::{Duty, Step, REQUESTS};

type Request = Message<FrontendRequest<ForeignFd>>;

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
        let Some(message) = self.next_request()? else {
            return Ok(Step::Idle);
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

    /// The request that was held, or the next one from the socket.
    fn next_request(&mut self) -> Result<Option<Request>, Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(None);
        };
        if let Some(message) = connection.held.take() {
            return Ok(Some(message));
        }
        let session = &connection.session;
        connection.socket.receive(|frame| {
            FrontendRequest::decode(frame, Endian::NATIVE, session.limits(), session.context())
                .map_err(|error: DecodeError<ForeignFd>| Fault::frontend(error.error()))
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
        let name = request.row().map_or("a request", |row| row.name);
        let mut resources = Resources {
            registers: &mut self.registers,
            memory: &mut self.memory,
            session: &mut connection.session,
            kinds: &self.kinds,
            pump: self.pump.as_mut(),
        };
        match handlers::carry_out(request, &mut resources) {
            Ok(forward) => self.forward(forward, need_reply),
            Err(Refusal::Fatal(fault)) => Err(fault),
            Err(Refusal::Request(reason))
                if has_refusal(code) || need_reply && connection.session.acknowledges() =>
            {
                self.journal
                    .warn(format_args!("frontend: {name} refused: {reason}"));
                let reply = refusal(code, connection.session.context());
                let noted = connection.replies.expect_local(code, reply);
                noted.map_err(Fault::frontend)
            }
            Err(Refusal::Request(reason)) => Err(Fault::frontend(format_args!("{name}: {reason}"))),
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
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let acknowledges = connection.session.acknowledges();
        // Memory that goes away needs the guest's proof that it has seen the
        // message, whether or not the frontend wants to hear of it.
        let needs_proof = self.memory.needs_proof();
        let settles = matches!(then, Then::Settle(..));
        let ask = need_reply || (settles && acknowledges && needs_proof);
        if !(ask && acknowledges) {
            then = match then {
                Then::Settle(ticket, _) => {
                    if needs_proof {
                        connection.barrier = Some(ticket);
                    } else {
                        self.memory.settle(ticket, Outcome::Done)?;
                    }
                    Then::Nothing
                }
                other => other,
            };
        }
        let context = connection.session.context();
        let asked = ReplyExpectation::of(&request, need_reply, context);
        let pass = asked != ReplyExpectation::None;
        let expectation = ReplyExpectation::of(&request, ask, context);
        let duty = Duty { pass, then };
        connection
            .replies
            .expect(request.code(), expectation, duty)
            .map_err(Fault::frontend)?;
        self.deliver_request(&request, ask)
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

/// Whether a request is answered in any case, and the answer can be no.
fn has_refusal(code: u32) -> bool {
    code == SET_DEVICE_STATE_FD
}

/// What a refused request is answered with.
fn refusal(code: u32, context: &Context) -> Reply {
    let shares_log = ProtocolFeatures::LOG_SHMFD;
    match code {
        SET_DEVICE_STATE_FD => Reply::DeviceState(DeviceStateReply(1).without_fd()),
        // Frontends that ask read a whole log, and would wait for ever for the
        // rest of a number. One without a size is none.
        SET_LOG_BASE if context.protocol_features.contains(shares_log) => {
            Reply::Log(LogReply::Echo { size: 0, offset: 0 })
        }
        _ => Reply::Ack(1),
    }
}
