// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use ReplyExpectation::{Due, None, Optional};

use super::*;
use crate::{frontend, Fds, Iotlb, IotlbKind, LogBase, Opaque, Permission, FRONTEND_ROWS};

fn context(acked: ProtocolFeatures) -> Context {
    Context {
        protocol_features: acked,
        ..Context::default()
    }
}

/// What is expected for a request that does not ask, and for one that does.
fn both(request: &FrontendRequest, acked: ProtocolFeatures) -> [ReplyExpectation; 2] {
    [false, true].map(|asked| ReplyExpectation::of(request, asked, &context(acked)))
}

#[test]
fn these_are_always_answered() {
    let always = [
        1, 11, 15, 17, 24, 26, 28, 30, 31, 36, 40, 41, 42, 43, 44, 45,
    ];
    for row in FRONTEND_ROWS {
        let conditional = matches!(
            row.reply,
            ReplyRule::Ack | ReplyRule::Log | ReplyRule::Iotlb
        );
        assert_eq!(always.contains(&row.code), !conditional, "{}", row.name);
    }
    for acked in [ProtocolFeatures::empty(), ProtocolFeatures::REPLY_ACK] {
        let expected = Due(ReplyShape::U64);
        assert_eq!(both(&FrontendRequest::GetQueueNum, acked), [expected; 2]);
    }
}

#[test]
fn others_are_acknowledged_if_asked_and_negotiated() {
    let request = FrontendRequest::ResetDevice;
    let acked = both(&request, ProtocolFeatures::REPLY_ACK);
    assert_eq!(acked, [None, Due(ReplyShape::Ack)]);
    // Some backends answer without the negotiation.
    let not_acked = both(&request, ProtocolFeatures::empty());
    assert_eq!(not_acked, [None, Optional(ReplyShape::Ack)]);
}

#[test]
fn the_negotiation_of_acks_is_under_its_own_rule() {
    let all = ProtocolFeatures::all();
    let on = both(
        &FrontendRequest::SetProtocolFeatures(all),
        ProtocolFeatures::empty(),
    );
    assert_eq!(on, [None, Due(ReplyShape::Ack)]);
    let nothing = ProtocolFeatures::empty();
    let off = both(&FrontendRequest::SetProtocolFeatures(nothing), all);
    assert_eq!(off, [None, Optional(ReplyShape::Ack)]);
}

#[test]
fn a_shared_log_is_answered_once_asked_or_not() {
    let request = FrontendRequest::SetLogBase(LogBase::Unshared {
        base: 0,
        offset: Option::None,
    });
    let shared = both(&request, ProtocolFeatures::LOG_SHMFD);
    assert_eq!(shared, [Due(ReplyShape::Log); 2]);
    let unshared = both(&request, ProtocolFeatures::REPLY_ACK);
    assert_eq!(unshared, [None, Due(ReplyShape::Ack)]);
}

#[test]
fn a_translation_may_be_answered_unasked() {
    let update = Iotlb::new(IotlbKind::Update, 0, 1, 0, Permission::Read).unwrap();
    let request = FrontendRequest::IotlbMsg(update);
    for acked in [ProtocolFeatures::empty(), ProtocolFeatures::REPLY_ACK] {
        let expected = [Optional(ReplyShape::Ack), Due(ReplyShape::Ack)];
        assert_eq!(both(&request, acked), expected);
    }
}

#[test]
fn configuration_is_as_long_as_what_was_asked_for() {
    let config = Config::new(0, 0, alloc::vec![0; 57]).unwrap();
    let request = FrontendRequest::GetConfig(config);
    let shape = ReplyShape::Config { size: 57 };
    assert_eq!(both(&request, ProtocolFeatures::empty()), [Due(shape); 2]);
    let decode = |len: usize| {
        let mut payload = [0; 128];
        payload[4] = len.saturating_sub(12) as u8;
        Reply::decode(shape, &payload[..len], Endian::Little, &Limits::default())
    };
    assert_eq!(decode(0), Ok(Reply::NoConfig));
    assert!(decode(12).is_ok() && decode(69).is_ok());
    assert!(decode(11).is_err() && decode(68).is_err() && decode(70).is_err());
}

#[test]
fn requests_of_the_backend_are_only_acknowledged() {
    let request = BackendRequest::<()>::ConfigChangeMsg;
    let acked = context(ProtocolFeatures::REPLY_ACK);
    let expect = |asked, context| ReplyExpectation::of_backend(&request, asked, context);
    assert_eq!(expect(true, &acked), Due(ReplyShape::Ack));
    assert_eq!(expect(false, &acked), None);
    let body = Opaque {
        bytes: Vec::new(),
        fds: Fds::<()>::new(),
    };
    let unknown = BackendRequest::Unknown { code: 99, body };
    let expected = ReplyExpectation::of_backend(&unknown, true, &acked);
    assert_eq!(expected, Due(ReplyShape::Ack));
}

#[test]
fn a_guest_returns_no_descriptor_for_a_transfer() {
    for (value, success) in [(0, true), (0x100, true), (0x101, false), (1, false)] {
        let reply = DeviceStateReply(value);
        assert_eq!(reply.is_success(), success);
        assert_eq!(reply.without_fd().0, value | 0x100);
    }
}

#[test]
fn a_reply_says_what_it_answers() {
    let mut buffer = [0; 20];
    for (need_reply, flags) in [(false, 5), (true, 13)] {
        let code = frontend::GET_QUEUE_NUM;
        let len = Reply::U64(1).encode(code, need_reply, Endian::Big, &mut buffer);
        assert_eq!(len, Ok(20));
        assert_eq!(buffer[..8], [0, 0, 0, 17, 0, 0, 0, flags]);
    }
    let error = Reply::U64(1).encode(1, false, Endian::Big, &mut buffer[..19]);
    let (needed, available) = (20, 19);
    assert_eq!(error, Err(BufferTooSmall { needed, available }));
}
