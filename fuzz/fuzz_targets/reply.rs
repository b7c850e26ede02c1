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

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mode = Mode::take(&mut input);
    let (endian, limits) = (mode.endian(), Limits::default());
    let channel = match mode.is_backend_channel() {
        true => Channel::Backend,
        false => Channel::Main,
    };
    let mut tracker = ReplyTracker::new(channel, CAPACITY);
    let mut next = 0_u32;
    // Tickets and shapes of replies that are still to come.
    let mut open = Vec::new();
    while !input.is_empty() {
        let kind = input.byte();
        let length = usize::from(input.half());
        let bytes = mode.message(input.bytes(length));
        let Ok(frame) = decode_whole(&bytes, endian, &limits) else {
            continue;
        };
        let before = tracker.len();
        match kind % 3 {
            0 => {
                let Some((code, expectation)) = expectation(mode, frame) else {
                    continue;
                };
                next += 1;
                let shape = match expectation {
                    ReplyExpectation::None => None,
                    ReplyExpectation::Due(shape) | ReplyExpectation::Optional(shape) => Some(shape),
                };
                match tracker.expect(code, expectation, next) {
                    Ok(()) => {
                        assert_eq!(tracker.len() - before, usize::from(shape.is_some()));
                        open.extend(shape.map(|shape| (next, shape)));
                    }
                    Err(full) => {
                        assert_eq!(full.0, next);
                        assert_eq!(before, CAPACITY);
                    }
                }
            }
            1 => {
                let taken = tracker.expect_local(frame.header.code, Reply::Ack(1));
                assert_eq!(taken.is_err(), before == CAPACITY);
                while let Some((_, reply)) = tracker.pop_local() {
                    assert_eq!(reply, Reply::Ack(1));
                }
            }
            _ => match tracker.accept(&frame.header, frame.body, endian, &limits) {
                Ok(accepted) => {
                    let mut shape = None;
                    for ticket in accepted.skipped.iter().chain([&accepted.ticket]) {
                        let at = open.iter().position(|(one, _)| one == ticket);
                        shape = Some(open.remove(at.expect("it was open, and once")).1);
                    }
                    let shape = shape.expect("there is a ticket");
                    check_reply(&accepted.reply, shape, &frame.header, endian);
                    while tracker.pop_local().is_some() {}
                }
                Err(error) => {
                    assert_eq!(tracker.len(), before);
                    assert!(error.to_string().len() < 200, "{error}");
                }
            },
        }
        assert!(tracker.len() <= CAPACITY);
    }
    let open: Vec<u32> = open.into_iter().map(|(ticket, _)| ticket).collect();
    assert_eq!(tracker.drain(), open);
});
