// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any bytes with any number of descriptors: decoding never panics, a message
//! that was decoded means the same when it is encoded and decoded again, and no
//! descriptor gets lost. (The bytes may differ: padding becomes zero.)
//!
//! Input: mode, number of descriptors, message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vhost_guest_fuzz::{Descriptors, Input, Mode};
use vhost_guest_msg::{
    decode_whole, BackendRequest, DecodeError, Frame, FrontendRequest, Limits, Message,
};

/// As many as a message can carry, and some more.
const FDS_MAX: u8 = 40;

/// The two channels' requests have the same methods, and no trait for them.
macro_rules! round_trip {
    ($Request:ident, $mode:expr, $count:expr, $bytes:expr) => {{
        let (endian, context, limits) = ($mode.endian(), $mode.context(), Limits::default());
        let Ok(whole) = decode_whole($bytes, endian, &limits) else {
            return;
        };
        let (header, body) = (whole.header, whole.body);
        let descriptors = Descriptors::default();
        let fds = descriptors.make($count);
        let frame = Frame { header, body, fds };
        match $Request::decode(frame, endian, &limits, &context) {
            Ok(Message {
                need_reply,
                request,
            }) => {
                let encoded = request.to_vec(need_reply, endian);
                assert_eq!(encoded.len(), $bytes.len());
                assert_eq!(encoded.len(), request.encoded_len());
                let held = descriptors.alive();
                assert!(held <= $count);
                let (detached, fds) = request.detach();
                assert_eq!(fds.len(), held);
                assert_eq!(detached.to_vec(need_reply, endian), encoded);
                // The guest reads it in the same way, without descriptors.
                let whole = decode_whole(&encoded, endian, &limits).expect("it is whole");
                let again = $Request::decode(whole, endian, &limits, &context);
                let again = again.expect("a forwarded message is valid");
                assert_eq!(again.need_reply, need_reply);
                assert_eq!(again.request, detached);
            }
            Err(error) => {
                assert_eq!(descriptors.alive(), $count);
                check_text(&error);
                assert_eq!(error.into_fds().len(), $count);
            }
        }
        assert_eq!(descriptors.alive(), 0);
    }};
}

/// What a peer sends does not make a log line grow.
fn check_text<F>(error: &DecodeError<F>) {
    assert!(error.to_string().len() < 200, "{error}");
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mode = Mode::take(&mut input);
    let count = usize::from(input.byte() % FDS_MAX);
    let bytes = &mode.message(input.rest())[..];
    if mode.is_backend_channel() {
        round_trip!(BackendRequest, mode, count, bytes);
    } else {
        round_trip!(FrontendRequest, mode, count, bytes);
    }
});
