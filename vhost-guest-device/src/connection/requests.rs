// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frontend → guest: requests.
//!
//! Order for each message: reserve a guest buffer → decode and check → acquire
//! resources → commit → forward. Each message is handled once.

use vhost_guest_msg::{
    Channel, DecodeError, Endian, FrontendRequest, Invalid, Message, Reason, Reply,
    ReplyExpectation, RequestName,
};
use vm_memory::GuestMemory;

use super::forward::{Forward, Then};
use super::memory::Lending;
use super::{Connection, DriverQueues, Duty, Resources, Step, REQUESTS};
use crate::error::{Fault, FrontendFault, Refusal, Unfulfillable};
use crate::fd::ForeignFd;

/// A request as it came.
type Request = Message<FrontendRequest<ForeignFd>>;

/// A message that has the form of its request, with a value that nobody can
/// comply with.
struct Impossible {
    code: u32,
    need_reply: bool,
    field: Invalid,
}

impl Impossible {
    /// What has another form is the frontend's fault.
    fn new(error: &DecodeError<ForeignFd>) -> Result<Self, FrontendFault> {
        let wrong = error.error();
        match wrong.reason {
            Reason::Field(field) => Ok(Self {
                code: wrong.code,
                need_reply: error.need_reply(),
                field,
            }),
            _ => Err(FrontendFault::Malformed(wrong)),
        }
    }
}

/// A request that was carried out in part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    code: u32,
    need_reply: bool,
}

/// What comes next on the way to the guest.
enum Next {
    /// Nothing, until an event.
    Nothing,
    /// A request that was answered without the guest, or more of one that has
    /// begun.
    More,
    /// A message for the guest.
    Message(Vec<u8>),
}

impl Connection {
    /// Whether the next request of the frontend's can be read.
    pub(crate) fn wants_request(&self) -> bool {
        let ready = self.request_buffer.is_some() && !self.replies.is_full();
        ready
            && !self.is_overloaded()
            && self.held.is_none()
            && self.begun.is_none()
            && self.barrier.is_none()
    }

    /// Moves one request of the frontend's to the guest.
    pub(super) fn step_request(
        &mut self,
        on: &mut Resources<'_>,
        queues: &mut DriverQueues<'_, impl GuestMemory>,
    ) -> Result<Step, Fault> {
        // There has to be room to remember the reply, and a frontend does not
        // send more descriptors than can be closed.
        if self.replies.is_full() || self.is_overloaded() {
            return Ok(Step::Idle);
        }
        let buffer = match self.request_buffer.take() {
            Some(buffer) => buffer,
            None => match queues.reserve(REQUESTS)? {
                Some(buffer) => buffer,
                None => return Ok(Step::Idle),
            },
        };
        let step = match self.next(on)? {
            Next::Message(message) => {
                queues.deliver(REQUESTS, buffer, &message, on.shared)?;
                return Ok(Step::Moved);
            }
            Next::More => Step::Moved,
            Next::Nothing => Step::Idle,
        };
        self.request_buffer = Some(buffer);
        Ok(step)
    }

    /// The barrier, the request that was held, or the next one from the socket,
    /// carried out.
    fn next(&mut self, on: &mut Resources<'_>) -> Result<Next, Fault> {
        if let Some(ticket) = self.barrier.take() {
            return self.barrier_behind(ticket, on).map(Next::Message);
        }
        if let Some(begun) = self.begun.take() {
            return self.go_on_with(begun, on);
        }
        let message = match self.next_request()? {
            None => return Ok(Next::Nothing),
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                on.shared.counters.requests.add(1);
                return self.refuse(error.code, error.need_reply, error.field.into(), on);
            }
        };
        if self.has_to_wait(&message.request, on) {
            self.held = Some(message);
            return Ok(Next::Nothing);
        }
        on.shared.counters.requests.add(1);
        let Message {
            need_reply,
            request,
        } = message;
        let code = request.code();
        match self.carry_out(request, on) {
            Ok(Some(forward)) => self.forward(forward, need_reply, on).map(Next::Message),
            Ok(None) => self.go_on_with(Begun { code, need_reply }, on),
            Err(refusal) => self.answer_refusal(code, need_reply, refusal, on),
        }
    }

    /// Goes on with a request that takes longer than a turn.
    fn go_on_with(&mut self, begun: Begun, on: &mut Resources<'_>) -> Result<Next, Fault> {
        let Begun { code, need_reply } = begun;
        let next = match self.go_on(on) {
            Ok(Lending::Waits) => Next::Nothing,
            Ok(Lending::GoesOn) => Next::More,
            Ok(Lending::Done(forward)) => {
                return self.forward(forward, need_reply, on).map(Next::Message);
            }
            Err(refusal) => return self.answer_refusal(code, need_reply, refusal, on),
        };
        self.begun = Some(begun);
        Ok(next)
    }

    fn answer_refusal(
        &mut self,
        code: u32,
        need_reply: bool,
        refusal: Refusal,
        on: &mut Resources<'_>,
    ) -> Result<Next, Fault> {
        match refusal {
            Refusal::Fatal(fault) => Err(fault),
            Refusal::Request(rule) => self.refuse(code, need_reply, rule, on),
        }
    }

    /// The request that was held, or the next one from the socket, which may be
    /// one that nobody can comply with.
    fn next_request(&mut self) -> Result<Option<Result<Request, Impossible>>, Fault> {
        if let Some(message) = self.held.take() {
            return Ok(Some(Ok(message)));
        }
        let session = &self.session;
        self.socket.receive(|frame| {
            let (limits, context) = (session.limits(), session.context());
            match FrontendRequest::decode(frame, Endian::NATIVE, limits, context) {
                Ok(message) => Ok(Ok(message)),
                Err(error) => Ok(Impossible::new(&error).map(Err)?),
            }
        })
    }

    /// Answers a request that is not carried out, or disconnects a frontend that
    /// would not read the answer. Nothing has changed.
    fn refuse(
        &mut self,
        code: u32,
        need_reply: bool,
        rule: Unfulfillable,
        on: &mut Resources<'_>,
    ) -> Result<Next, Fault> {
        let request = RequestName(Channel::Main, code);
        let refusal = Reply::refusal(code, need_reply, self.session.context());
        let Some(refusal) = refusal else {
            return Err(FrontendFault::Refused { request, rule }.into());
        };
        on.shared
            .journal
            .warn(format_args!("frontend: {request} refused: {rule}"));
        let noted = self.replies.expect_local(code, refusal);
        noted.map_err(|_| FrontendFault::TooManyReplies(request))?;
        Ok(Next::More)
    }

    /// Notes what the reply to a request is for that was carried out. Returns it
    /// as it goes to the guest.
    fn forward(
        &mut self,
        forward: Forward,
        need_reply: bool,
        on: &mut Resources<'_>,
    ) -> Result<Vec<u8>, Fault> {
        let Forward { request, mut then } = forward;
        let mut ask = need_reply;
        if let Then::Settle(ticket, on_refusal) = then {
            // Memory that goes away needs the guest's proof that it has seen the
            // message, whether or not the frontend wants to hear of it.
            let acknowledges = self.session.acknowledges();
            ask |= acknowledges && on.memory.needs_proof();
            then = match ask && acknowledges {
                true => Then::Settle(ticket, on_refusal),
                false => {
                    self.settle_unanswered(ticket, on)?;
                    Then::Nothing
                }
            };
        }
        let context = self.session.context();
        let asked = ReplyExpectation::of(&request, need_reply, context);
        let pass = asked != ReplyExpectation::None;
        let expectation = ReplyExpectation::of(&request, ask, context);
        self.expect(&request, expectation, Duty { pass, then })?;
        self.last = Some(request.code());
        Ok(request.to_vec(ask, Endian::NATIVE))
    }

    /// Notes which reply is due, and what it is for.
    pub(super) fn expect(
        &mut self,
        request: &FrontendRequest<()>,
        expectation: ReplyExpectation,
        duty: Duty,
    ) -> Result<(), Fault> {
        let code = request.code();
        let noted = self.replies.expect(code, expectation, duty);
        let request = RequestName(Channel::Main, code);
        noted.map_err(|_| FrontendFault::TooManyReplies(request).into())
    }
}
