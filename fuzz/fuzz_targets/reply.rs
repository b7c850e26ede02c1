// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests and replies in any order: the tracker never panics, takes no reply
//! that is not due, and forgets nothing that is.
//!
//! Input: mode, then steps: one byte of kind, two of length, a message. The
//! kinds are a request that is forwarded, one that is answered locally, and a
//! reply.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vhost_guest_fuzz::{Input, Mode};
use vhost_guest_msg::{
    decode_whole, BackendRequest, Channel, Endian, Frame, FrontendRequest, Header, HeaderFlags,
    Limits, Reply, ReplyExpectation, ReplyShape, ReplyTracker, HEADER_SIZE,
};

/// Small, so that it is full at times.
const CAPACITY: usize = 6;

/// What a request in `frame` says about its reply.
fn expectation(mode: Mode, frame: Frame<'_, ()>) -> Option<(u32, ReplyExpectation)> {
    let (endian, context, limits) = (mode.endian(), mode.context(), Limits::default());
    let code = frame.header.code;
    let expectation = if mode.is_backend_channel() {
        let message = BackendRequest::decode(frame, endian, &limits, &context).ok()?;
        ReplyExpectation::of_backend(&message.request, message.need_reply, &context)
    } else {
        let message = FrontendRequest::decode(frame, endian, &limits, &context).ok()?;
        ReplyExpectation::of(&message.request, message.need_reply, &context)
    };
    Some((code, expectation))
}

/// A reply that was decoded means the same when it is decoded again.
fn check_reply(reply: &Reply, shape: ReplyShape, header: &Header, endian: Endian) {
    let need_reply = header.flags.contains(HeaderFlags::NEED_REPLY);
    let limits = Limits::default();
    let mut buffer = vec![0; limits.max_message_size];
    let length = reply.encode(header.code, need_reply, endian, &mut buffer);
    let length = length.expect("it came in a buffer of this size");
    assert_eq!(length, HEADER_SIZE + header.size as usize);
    let frame = decode_whole(&buffer[..length], endian, &limits).expect("it is whole");
    assert_eq!(frame.header, *header);
    let again = Reply::decode(shape, frame.body, endian, &limits);
    assert_eq!(again.as_ref(), Ok(reply));
}

/// The tracker, and what it must know.
struct Model {
    mode: Mode,
    tracker: ReplyTracker<u32>,
    next: u32,
    /// Ticket and shape of the replies that may still come, and whether they
    /// need not.
    open: Vec<(u32, ReplyShape, bool)>,
}

impl Model {
    fn new(mode: Mode) -> Self {
        let channel = match mode.is_backend_channel() {
            true => Channel::Backend,
            false => Channel::Main,
        };
        Self {
            mode,
            tracker: ReplyTracker::new(channel, CAPACITY),
            next: 0,
            open: Vec::new(),
        }
    }

    /// Before something is added: whether there is room. An optional reply is
    /// given up for it.
    fn make_room(&mut self) -> bool {
        assert!(self.tracker.len() <= CAPACITY);
        if self.tracker.len() < CAPACITY {
            assert!(!self.tracker.is_full());
            return true;
        }
        let optional = self.open.iter().position(|(_, _, optional)| *optional);
        assert_eq!(optional.is_none(), self.tracker.is_full());
        optional.map(|at| self.open.remove(at)).is_some()
    }

    fn forward(&mut self, frame: Frame<'_, ()>) {
        let Some((code, expectation)) = expectation(self.mode, frame) else {
            return;
        };
        self.next += 1;
        let (shape, optional) = match expectation {
            ReplyExpectation::None => {
                let ignored = self.tracker.expect(code, expectation, self.next);
                return assert!(ignored.is_ok());
            }
            ReplyExpectation::Due(shape) => (shape, false),
            ReplyExpectation::Optional(shape) => (shape, true),
        };
        let room = self.make_room();
        let taken = self.tracker.expect(code, expectation, self.next);
        assert_eq!(taken.is_ok(), room);
        if room {
            self.open.push((self.next, shape, optional));
        }
    }

    fn answer_locally(&mut self, code: u32) {
        let room = self.make_room();
        let taken = self.tracker.expect_local(code, Reply::Ack(1));
        assert_eq!(taken.is_ok(), room);
        self.take_local();
    }

    fn take_local(&mut self) {
        while let Some((_, reply)) = self.tracker.pop_local() {
            assert_eq!(reply, Reply::Ack(1));
        }
    }

    fn accept(&mut self, frame: Frame<'_, ()>) {
        let (endian, limits) = (self.mode.endian(), Limits::default());
        let before = self.tracker.len();
        let accepted = self
            .tracker
            .accept(&frame.header, frame.body, endian, &limits);
        match accepted {
            Ok(accepted) => {
                for ticket in accepted.skipped {
                    assert!(self.close(ticket).1, "it had to come");
                }
                let (shape, _) = self.close(accepted.ticket);
                check_reply(&accepted.reply, shape, &frame.header, endian);
                self.take_local();
            }
            Err(error) => {
                assert_eq!(self.tracker.len(), before);
                assert!(error.to_string().len() < 200, "{error}");
            }
        }
    }

    fn close(&mut self, ticket: u32) -> (ReplyShape, bool) {
        let at = self.open.iter().position(|(one, ..)| *one == ticket);
        let (_, shape, optional) = self.open.remove(at.expect("it was open, and once"));
        (shape, optional)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mode = Mode::take(&mut input);
    let mut model = Model::new(mode);
    while !input.is_empty() {
        let kind = input.byte();
        let length = usize::from(input.half());
        let bytes = mode.message(input.bytes(length));
        let Ok(frame) = decode_whole(&bytes, mode.endian(), &Limits::default()) else {
            continue;
        };
        match kind % 3 {
            0 => model.forward(frame),
            1 => model.answer_locally(frame.header.code),
            _ => model.accept(frame),
        }
    }
    let open: Vec<u32> = model.open.iter().map(|(ticket, ..)| *ticket).collect();
    assert_eq!(model.tracker.drain(), open);
});
