// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A stream that arrives in pieces of any size, with descriptors at any place:
//! the framer asks for what is missing and no more, its frames are the stream,
//! and no descriptor gets lost.
//!
//! Input: mode, length of a script, script, stream. The script has two bytes
//! for each read: how many bytes arrive, and how many descriptors with them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vhost_guest_fuzz::{Descriptors, Input, Mode};
use vhost_guest_msg::{decode_whole, Framer, Limits, Progress, HEADER_SIZE};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let endian = Mode::take(&mut input).endian();
    let limits = Limits::default();
    let script_length = usize::from(input.byte());
    let mut script = Input::new(input.bytes(script_length));
    let mut stream = input;

    let descriptors = Descriptors::default();
    let mut framer = Framer::new(endian, &limits);
    let mut received = Vec::new();
    let mut pending = 0;
    while !stream.is_empty() {
        let wanted = framer.space().len();
        assert!((1..=limits.max_message_size).contains(&wanted));
        // Without a script everything arrives that is asked for.
        let (most, fds) = match script.is_empty() {
            true => (wanted, 0),
            false => (usize::from(script.byte()) + 1, script.byte() % 4),
        };
        let arrived = stream.bytes(wanted.min(most));
        framer.space()[..arrived.len()].copy_from_slice(arrived);
        received.extend_from_slice(arrived);
        pending += usize::from(fds);
        match framer.advance(arrived.len(), descriptors.make(fds.into())) {
            Ok(Progress::More) => assert!(framer.is_inside_message()),
            Ok(Progress::Frame(frame)) => {
                assert_eq!(frame.fds.len(), pending);
                assert_eq!(frame.body, &received[HEADER_SIZE..]);
                assert_eq!(frame.header.emit(endian), received[..HEADER_SIZE]);
                let whole = decode_whole(&received, endian, &limits);
                assert_eq!(whole.expect("it is whole").body, frame.body);
                drop(frame);
                assert_eq!(descriptors.alive(), 0);
                assert!(!framer.is_inside_message());
                received.clear();
                pending = 0;
            }
            Err(error) => {
                assert_eq!(error.into_fds().len(), pending);
                assert_eq!(descriptors.alive(), 0);
                return;
            }
        }
    }
    drop(framer);
    assert_eq!(descriptors.alive(), 0);
});
