// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;
use crate::{frontend, Context, FrontendRequest, LogReply, ProtocolFeatures};

const ACK: ReplyExpectation = ReplyExpectation::Due(ReplyShape::Ack);
const MAYBE: ReplyExpectation = ReplyExpectation::Optional(ReplyShape::Ack);

fn tracker() -> ReplyTracker<u32> {
    ReplyTracker::new(Channel::Main, 4)
}

fn accept(
    tracker: &mut ReplyTracker<u32>,
    code: u32,
    payload: &[u8],
) -> Result<Accepted<u32>, ReplyError> {
    let header = Header {
        code,
        flags: HeaderFlags::REPLY,
        size: payload.len() as u32,
    };
    tracker.accept(&header, payload, Endian::Little, &Limits::default())
}

#[test]
fn keeps_the_order() {
    let mut tracker = tracker();
    tracker.expect(2, ACK, 20).unwrap();
    tracker.expect(3, ACK, 30).unwrap();
    let error = accept(&mut tracker, 3, &[0; 8]).unwrap_err();
    assert!(matches!(error, ReplyError::Unsolicited { code: 3, .. }));
    assert_eq!(accept(&mut tracker, 2, &[0; 8]).unwrap().ticket, 20);
    assert_eq!(accept(&mut tracker, 3, &[0; 8]).unwrap().ticket, 30);
    assert!(tracker.is_empty());
}

#[test]
fn rejects_the_unsolicited() {
    let mut tracker = tracker();
    tracker.expect(2, ReplyExpectation::None, 0).unwrap();
    assert!(accept(&mut tracker, 2, &[0; 8]).is_err());
    let header = Header {
        code: 2,
        flags: HeaderFlags::NEED_REPLY,
        size: 8,
    };
    tracker.expect(2, ACK, 0).unwrap();
    let result = tracker.accept(&header, &[0; 8], Endian::Little, &Limits::default());
    assert!(matches!(result, Err(ReplyError::NotReply { .. })));
    assert_eq!(tracker.len(), 1);
}

#[test]
fn rejects_a_wrong_size_and_keeps_the_entry() {
    for (shape, sizes) in [
        (ReplyShape::Ack, &[8][..]),
        (ReplyShape::Features, &[8]),
        (ReplyShape::ProtocolFeatures, &[8]),
        (ReplyShape::U64, &[8]),
        (ReplyShape::VringBase, &[8]),
        (ReplyShape::Log, &[0, 8, 16]),
        (ReplyShape::Inflight, &[24]),
        (ReplyShape::DeviceState, &[8]),
        // All zero is an offset, a size and flags of zero: the error form.
        (ReplyShape::Config { size: 8 }, &[0, 12]),
    ] {
        for size in 0..64 {
            let mut tracker = tracker();
            let due = ReplyExpectation::Due(shape);
            tracker.expect(2, due, 7).unwrap();
            let result = accept(&mut tracker, 2, &[0; 64][..size]);
            assert_eq!(result.is_ok(), sizes.contains(&size), "{shape:?} {size}");
            assert_eq!(tracker.is_empty(), sizes.contains(&size));
        }
    }
}

#[test]
fn passes_over_optional_replies_and_returns_their_tickets() {
    let mut tracker = tracker();
    tracker.expect(22, MAYBE, 1).unwrap();
    tracker.expect(22, MAYBE, 2).unwrap();
    tracker.expect(3, ACK, 3).unwrap();
    assert_eq!(accept(&mut tracker, 22, &[0; 8]).unwrap().ticket, 1);
    let accepted = accept(&mut tracker, 3, &[0; 8]).unwrap();
    assert_eq!((accepted.ticket, accepted.skipped), (3, [2].into()));
    assert!(accept(&mut tracker, 22, &[0; 8]).is_err());
}

#[test]
fn local_replies_wait_for_their_turn() {
    let mut tracker = tracker();
    tracker.expect(2, ACK, 0).unwrap();
    tracker.expect_local(5, Reply::Ack(1)).unwrap();
    tracker.expect(3, ACK, 1).unwrap();
    assert_eq!(tracker.pop_local(), None);
    accept(&mut tracker, 2, &[0; 8]).unwrap();
    // A peer that is faster than the local reply does not lose it.
    accept(&mut tracker, 3, &[0; 8]).unwrap();
    assert_eq!(tracker.pop_local(), Some((5, Reply::Ack(1))));
    assert_eq!(tracker.pop_local(), None);
}

#[test]
fn an_optional_reply_holds_up_no_local_one() {
    let mut tracker = tracker();
    tracker.expect(22, MAYBE, 0).unwrap();
    tracker.expect_local(5, Reply::Ack(1)).unwrap();
    assert_eq!(tracker.pop_local(), Some((5, Reply::Ack(1))));
    assert_eq!(accept(&mut tracker, 22, &[0; 8]).unwrap().ticket, 0);
}

#[test]
fn holds_no_more_than_its_capacity() {
    let mut tracker = tracker();
    for ticket in 0..4 {
        assert!(!tracker.is_full());
        tracker.expect(2, ACK, ticket).unwrap();
    }
    assert!(tracker.is_full());
    assert_eq!(tracker.expect(2, ACK, 4), Err(TrackerFull(4)));
    assert!(tracker.expect_local(2, Reply::Ack(1)).is_err());
    // What is not expected needs no room.
    tracker.expect(2, ReplyExpectation::None, 5).unwrap();
    assert_eq!(tracker.drain(), [0, 1, 2, 3]);
    assert!(tracker.is_empty());
}

#[test]
fn every_form_of_a_log_reply_is_read() {
    let context = Context {
        protocol_features: ProtocolFeatures::LOG_SHMFD,
        ..Context::default()
    };
    let area = crate::LogArea::new(0x28000, 0).unwrap();
    let request = FrontendRequest::SetLogBase(crate::LogBase::Shared { area, fd: () });
    let due = ReplyExpectation::of(&request, false, &context);
    let echo = [0x28000_u64, 0xc000_0000].map(u64::to_le_bytes).concat();
    for (payload, expected) in [
        (&[][..], LogReply::Empty),
        (&echo[..8], LogReply::U64(0x28000)),
        (
            &echo[..],
            LogReply::Echo {
                size: 0x28000,
                offset: 0xc000_0000,
            },
        ),
    ] {
        let mut tracker = tracker();
        tracker.expect(frontend::SET_LOG_BASE, due, 0).unwrap();
        let accepted = accept(&mut tracker, frontend::SET_LOG_BASE, payload).unwrap();
        assert_eq!(accepted.reply, Reply::Log(expected));
    }
    let size = 0x28000;
    assert_eq!(LogReply::to(&area), LogReply::Echo { size, offset: 0 });
}

#[test]
fn optional_replies_that_never_come_do_not_fill_it() {
    let mut tracker = tracker();
    for ticket in 0..100 {
        assert!(!tracker.is_full());
        tracker.expect(2, MAYBE, ticket).unwrap();
    }
    assert_eq!(tracker.len(), 4);
    for ticket in 100..104 {
        tracker.expect(3, ACK, ticket).unwrap();
    }
    assert!(tracker.is_full());
    assert_eq!(accept(&mut tracker, 3, &[0; 8]).unwrap().ticket, 100);
}

#[test]
fn answers_for_a_peer_that_is_gone_in_order() {
    let mut tracker = tracker();
    tracker.expect(2, ACK, 20).unwrap();
    tracker.expect_local(3, Reply::Ack(1)).unwrap();
    tracker.expect(4, MAYBE, 40).unwrap();
    tracker.expect(5, ACK, 50).unwrap();
    assert_eq!(tracker.answer_all(&Reply::Ack(7)), [20, 40, 50]);
    assert_eq!(tracker.answer_all(&Reply::Ack(8)), []);
    assert_eq!(tracker.pop_local(), Some((2, Reply::Ack(7))));
    assert_eq!(tracker.pop_local(), Some((3, Reply::Ack(1))));
    assert_eq!(tracker.pop_local(), Some((5, Reply::Ack(7))));
    assert!(tracker.is_empty());
}

#[test]
fn knows_what_is_owed() {
    let mut tracker = tracker();
    assert_eq!(tracker.owed(), None);
    tracker.expect(2, MAYBE, 0).unwrap();
    tracker.expect_local(3, Reply::Ack(1)).unwrap();
    assert_eq!(tracker.owed(), None);
    tracker.expect(4, ACK, 0).unwrap();
    tracker.expect(5, ACK, 0).unwrap();
    assert_eq!(tracker.owed(), Some(4));
    accept(&mut tracker, 4, &[0; 8]).unwrap();
    assert_eq!(tracker.owed(), Some(5));
}
