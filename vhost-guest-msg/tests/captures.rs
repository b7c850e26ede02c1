// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Recorded sessions of QEMU and of libblkio with qemu-storage-daemon: every
//! message is decoded and encoded to the same bytes, and every reply is due.

mod common;

use vhost_guest_msg::{
    Channel, Context, Endian, Fds, Framer, FrontendRequest, HeaderFlags, Limits, LogBase, Progress,
    ProtocolFeatures, ReplyExpectation, ReplyTracker, Verdict,
};

const BOOT_11: &str = include_str!("data/qemu-11.1-blk-boot.jsonl");
const BOOT_7: &str = include_str!("data/qemu-7.2-blk-boot.jsonl");
const LIBBLKIO: &str = include_str!("data/libblkio-1.5-blk.jsonl");
const MIGRATE_SOURCE: &str = include_str!("data/qemu-7.2-blk-migrate-source.jsonl");
const MIGRATE_TARGET: &str = include_str!("data/qemu-7.2-blk-migrate-target.jsonl");

/// A line of a capture.
struct Line {
    from_frontend: bool,
    fds: Fds<u32>,
    bytes: Vec<u8>,
}

/// What stands between `before` and the next `after`.
fn between<'a>(line: &'a str, before: &str, after: char) -> &'a str {
    let (_, rest) = line.split_once(before).unwrap();
    rest.split(after).next().unwrap()
}

/// The lines are flat JSON objects, always with the same keys.
fn parse(capture: &str) -> impl Iterator<Item = Line> + '_ {
    capture.lines().map(|line| {
        let hex = between(line, r#""bytes": ""#, '"');
        let digits = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        let fds = between(line, r#""fds": ["#, ']');
        Line {
            from_frontend: between(line, r#""from": ""#, '"') == "frontend",
            fds: (0..fds.matches('"').count() as u32 / 2).collect(),
            bytes: (0..hex.len()).step_by(2).map(digits).collect(),
        }
    })
}

/// Plays a session through framers, requests and the tracker; `inspect` sees
/// each request. Returns the number of messages.
fn play(capture: &str, mut inspect: impl FnMut(&FrontendRequest<u32>)) -> usize {
    let limits = Limits::default();
    let mut context = Context::default();
    let mut tracker = ReplyTracker::new(Channel::Main, ReplyTracker::<()>::DEFAULT_CAPACITY);
    let [mut requests, mut replies] = [(); 2].map(|()| Framer::new(Endian::Little, &limits));
    let mut count = 0;
    for line in parse(capture) {
        let framer = if line.from_frontend {
            &mut requests
        } else {
            &mut replies
        };
        let (header, body) = line.bytes.split_at(12);
        framer.space().copy_from_slice(header);
        let had_fds = line.fds.len();
        let frame = if body.is_empty() {
            framer.advance(12, line.fds).unwrap()
        } else {
            framer.advance(12, line.fds).unwrap();
            framer.space().copy_from_slice(body);
            framer.advance(body.len(), Fds::new()).unwrap()
        };
        let Progress::Frame(frame) = frame else {
            panic!("incomplete");
        };
        count += 1;
        if !line.from_frontend {
            let accepted = tracker
                .accept(&frame.header, frame.body, Endian::Little, &limits)
                .unwrap();
            context.observe_reply(&accepted.reply);
            let mut bytes = vec![0; line.bytes.len()];
            let need_reply = frame.header.flags.contains(HeaderFlags::NEED_REPLY);
            let code = frame.header.code;
            let encoded = accepted
                .reply
                .encode(code, need_reply, Endian::Little, &mut bytes);
            assert_eq!(encoded, Ok(bytes.len()));
            assert_eq!(bytes, line.bytes);
            continue;
        }
        let message = FrontendRequest::decode(frame, Endian::Little, &limits, &context).unwrap();
        let row = message.request.row().unwrap();
        assert!(row.gate.is_open(&context), "{}", row.name);
        assert!(!matches!(row.verdict, Verdict::Refuse(_)), "{}", row.name);
        let expectation = ReplyExpectation::of(&message.request, message.need_reply, &context);
        assert!(!matches!(expectation, ReplyExpectation::Optional(_)));
        tracker
            .expect(message.request.code(), expectation, ())
            .unwrap();
        context.observe(&message.request);
        inspect(&message.request);
        let (request, fds) = message.request.detach();
        assert_eq!(fds.len(), had_fds);
        assert_eq!(
            request.to_vec(message.need_reply, Endian::Little),
            line.bytes
        );
    }
    assert!(tracker.is_empty());
    count
}

#[test]
fn every_session_is_understood_to_the_last_message() {
    assert_eq!(play(BOOT_11, |_| {}), 70);
    assert_eq!(play(BOOT_7, |_| {}), 52);
    assert_eq!(play(MIGRATE_SOURCE, |_| {}), 50);
    assert_eq!(play(MIGRATE_TARGET, |_| {}), 33);
    assert_eq!(play(LIBBLKIO, |_| {}), 35);
}

#[test]
fn what_is_left_of_the_recorded_features_serves_qemu() {
    use ProtocolFeatures as P;
    let left =
        P::MQ | P::LOG_SHMFD | P::REPLY_ACK | P::BACKEND_REQ | P::CONFIG | P::CONFIGURE_MEM_SLOTS;
    for capture in [BOOT_11, BOOT_7, MIGRATE_SOURCE, MIGRATE_TARGET] {
        play(capture, |request| {
            if let FrontendRequest::SetProtocolFeatures(features) = request {
                assert_eq!(*features & P::forwardable(), left);
            }
        });
    }
}

#[test]
fn qemu_adds_regions_that_do_not_overlap() {
    for capture in [BOOT_11, BOOT_7, MIGRATE_SOURCE, MIGRATE_TARGET] {
        let mut regions = Vec::new();
        play(capture, |request| {
            if let FrontendRequest::AddMemReg(add) = request {
                for other in &regions {
                    add.region.check_apart(other).unwrap();
                }
                regions.push(add.region);
            }
        });
        assert_eq!(regions.len(), 2);
    }
}

#[test]
fn the_source_of_a_migration_logs() {
    let (mut log_size, mut logged_rings) = (0, 0);
    play(MIGRATE_SOURCE, |request| match request {
        FrontendRequest::SetLogBase(LogBase::Shared { area, .. }) => log_size = area.size(),
        FrontendRequest::SetVringAddr(addr) if addr.log_used => logged_rings += 1,
        _ => {}
    });
    assert_eq!((log_size, logged_rings), (0x2000, 1));
}

#[test]
fn the_target_of_a_migration_goes_on_where_the_source_stood() {
    let mut base = 0;
    play(MIGRATE_TARGET, |request| {
        if let FrontendRequest::SetVringBase(set) = request {
            base = set.base;
        }
    });
    assert_ne!(base, 0);
}
