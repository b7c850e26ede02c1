// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Each message broken in every way that has a name, and then at random: it
//! is refused, nothing panics, and no descriptor gets lost.

mod common;

use common::{context, emit, fd_counts, frame, rows, sample, Fd, Ledger, ENDIANS};
use proptest::prelude::*;
use vhost_guest_msg::{
    decode_whole, frontend, BackendRequest, Channel, DecodeError, Endian, Fds, FrontendRequest,
    HeaderFlags, Layout, Limits, Message, Reason, Reply, ReplyShape, Row, FRONTEND_ROWS,
};

/// Decodes as a request of the row's channel. On success: the encoded bytes
/// and the descriptors.
fn decode<F>(
    row: &Row,
    body: &[u8],
    fds: Fds<F>,
    endian: Endian,
) -> Result<(Vec<u8>, Fds<F>), DecodeError<F>> {
    let (limits, context) = (Limits::default(), context());
    let frame = frame(row.code, body, fds);
    Ok(match row.channel {
        Channel::Main => {
            let Message { request, .. } =
                FrontendRequest::decode(frame, endian, &limits, &context)?;
            let (request, fds) = request.detach();
            (request.to_vec(false, endian), fds)
        }
        Channel::Backend => {
            let Message { request, .. } = BackendRequest::decode(frame, endian, &limits, &context)?;
            let (request, fds) = request.detach();
            (request.to_vec(false, endian), fds)
        }
    })
}

fn row(code: u32) -> &'static Row {
    &FRONTEND_ROWS[code as usize - 1]
}

/// Whether a frontend's request with this payload is accepted.
fn accepts(code: u32, body: &[u8]) -> bool {
    let row = row(code);
    let fds: Fds<()> = (0..fd_counts(row, 0)[0]).map(|_| ()).collect();
    decode(row, body, fds, Endian::Little).is_ok()
}

#[test]
fn every_sample_survives_in_both_byte_orders() {
    for (row, endian) in rows().flat_map(|row| ENDIANS.map(|endian| (row, endian))) {
        let body = emit(&sample(row), endian);
        let ledger = Ledger::default();
        for count in fd_counts(row, 3) {
            let (bytes, fds) = decode(row, &body, ledger.fds(count), endian).unwrap();
            assert_eq!(bytes[12..], body, "{}", row.name);
            let numbers: Vec<_> = fds.as_slice().iter().map(|fd| fd.number).collect();
            let expected = if row.code == frontend::REM_MEM_REG {
                0
            } else {
                count
            };
            assert_eq!(numbers, Vec::from_iter(0..expected), "{}", row.name);
        }
        assert_eq!(ledger.open(), 0, "{}", row.name);
    }
}

#[test]
fn rejects_every_other_length() {
    for (row, endian) in rows().flat_map(|row| ENDIANS.map(|endian| (row, endian))) {
        if row.layout == Layout::Opaque {
            continue;
        }
        let body = emit(&sample(row), endian);
        let ledger = Ledger::default();
        let count = fd_counts(row, 0)[0];
        for len in (0..body.len()).chain([body.len() + 1]) {
            let mut body = body.clone();
            body.resize(len, 0);
            let error = decode(row, &body, ledger.fds(count), endian).unwrap_err();
            let reason = error.error().reason;
            assert!(matches!(reason, Reason::Size { actual, .. } if actual == len));
            assert_eq!(error.into_fds().len(), count, "{} {len}", row.name);
        }
        assert_eq!(ledger.open(), 0);
    }
}

#[test]
fn rejects_every_wrong_descriptor_count_and_returns_them_all() {
    for row in rows() {
        let body = emit(&sample(row), Endian::Little);
        let right = fd_counts(row, 40);
        for count in (0..=40).filter(|count| !right.contains(count)) {
            let ledger = Ledger::default();
            let error = decode(row, &body, ledger.fds(count), Endian::Little).unwrap_err();
            assert_eq!(ledger.open(), count, "{}", row.name);
            let actual = count;
            let reason = error.error().reason;
            assert!(matches!(reason, Reason::FdCount { actual: a, .. } if a == actual));
            let fds = error.into_fds();
            assert!(fds.as_slice().iter().map(|fd| fd.number).eq(0..count));
            drop(fds);
            assert_eq!(ledger.open(), 0);
        }
    }
}

#[test]
fn a_queue_needs_no_descriptors() {
    for row in rows() {
        let body = emit(&sample(row), Endian::Little);
        assert!(decode(row, &body, Fds::detached(), Endian::Little).is_ok());
    }
}

#[test]
fn rejects_replies_as_requests() {
    for row in rows() {
        let body = emit(&sample(row), Endian::Little);
        let flags = vhost_guest_msg::HeaderFlags::REPLY;
        let bytes = common::message(row.code, flags, &body, Endian::Little);
        let (limits, context) = (Limits::default(), context());
        let frame = || decode_whole(&bytes, Endian::Little, &limits).unwrap();
        let reason = match row.channel {
            Channel::Main => FrontendRequest::decode(frame(), Endian::Little, &limits, &context)
                .map(|_| ())
                .unwrap_err(),
            Channel::Backend => BackendRequest::decode(frame(), Endian::Little, &limits, &context)
                .map(|_| ())
                .unwrap_err(),
        };
        assert_eq!(reason.error().reason, Reason::NotRequest);
    }
}

#[test]
fn rejects_each_reserved_bit() {
    let kick = |value: u64| accepts(frontend::SET_VRING_KICK, &value.to_le_bytes());
    assert!(kick(1));
    for bit in 9..64 {
        assert!(!kick(1 | 1 << bit), "{bit}");
    }
    for (code, bytes) in [
        // The flags of an address, without the one that has a meaning.
        (frontend::SET_VRING_ADDR, 4..8),
        (frontend::SEND_RARP, 6..8),
        (frontend::SET_DEVICE_STATE_FD, 4..8),
    ] {
        let body = emit(&sample(row(code)), Endian::Little);
        for bit in bytes.flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut body = body.clone();
            body[bit.0] ^= 1 << bit.1;
            let meaning = code == frontend::SET_VRING_ADDR && bit == (4, 0);
            assert_eq!(accepts(code, &body), meaning, "{code} {bit:?}");
        }
    }
}

#[test]
fn does_not_look_at_padding_and_clears_it() {
    for (code, padding) in [
        (frontend::SET_MEM_TABLE, 4..8),
        (frontend::ADD_MEM_REG, 0..8),
        (frontend::REM_MEM_REG, 0..8),
        (frontend::SET_INFLIGHT_FD, 20..24),
        (frontend::GET_INFLIGHT_FD, 20..24),
        (frontend::IOTLB_MSG, 26..32),
        // Reserved, and left uninitialised by DPDK.
        (frontend::GET_VRING_BASE, 4..8),
    ] {
        let row = row(code);
        let clean = emit(&sample(row), Endian::Little);
        let mut dirty = clean.clone();
        dirty[padding].fill(0xa5);
        let (bytes, _) = decode(row, &dirty, Fds::detached(), Endian::Little).unwrap();
        assert_eq!(bytes[12..], clean, "{}", row.name);
    }
}

/// The sample of a message with one number replaced.
fn accepts_with(code: u32, offset: usize, value: &[u8]) -> bool {
    let mut body = emit(&sample(row(code)), Endian::Little);
    body[offset..offset + value.len()].copy_from_slice(value);
    accepts(code, &body)
}

#[test]
fn numbers_at_the_edges() {
    use frontend::*;
    let u32s = |code, offset, value: u32| accepts_with(code, offset, &value.to_le_bytes());
    let u64s = |code, offset, value: u64| accepts_with(code, offset, &value.to_le_bytes());

    for (value, right) in [(0, false), (1, true), (32768, true), (32769, false)] {
        assert_eq!(u32s(SET_VRING_NUM, 4, value), right, "{value}");
    }
    assert!(!u32s(SET_VRING_NUM, 4, u32::MAX) && !u32s(SET_VRING_NUM, 4, 0x1_0001));
    for code in [SET_VRING_ENABLE, SET_VRING_ENDIAN, SET_DEVICE_STATE_FD] {
        let offset = if code == SET_DEVICE_STATE_FD { 0 } else { 4 };
        for (value, right) in [(0, true), (1, true), (2, false), (u32::MAX, false)] {
            assert_eq!(u32s(code, offset, value), right, "{code} {value}");
        }
    }
    for code in [SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ADDR, VRING_KICK] {
        for (index, right) in [(0, true), (255, true), (256, false), (u32::MAX, false)] {
            assert_eq!(u32s(code, 0, index), right, "{code} {index}");
        }
    }
    for (count, right) in [(0, false), (1, false), (3, false), (u32::MAX, false)] {
        assert_eq!(u32s(SET_MEM_TABLE, 0, count), right);
    }
    // A region of the sample has 2 MiB.
    let last = u64::MAX - 0x20_0000;
    for offset in [8, 24, 32] {
        assert!(u64s(ADD_MEM_REG, offset, last));
        assert!(!u64s(ADD_MEM_REG, offset, last + 1));
    }
    assert!(!u64s(ADD_MEM_REG, 16, 0) && !u64s(ADD_MEM_REG, 16, u64::MAX));
    assert!(!u64s(SET_LOG_BASE, 0, 0) && !u64s(SET_LOG_BASE, 8, u64::MAX));
    assert!(!u64s(SET_INFLIGHT_FD, 0, 0) && !u64s(SET_INFLIGHT_FD, 8, u64::MAX));
    assert!(u64s(GET_INFLIGHT_FD, 0, 0));
    // Queues and queue size.
    assert!(accepts_with(GET_INFLIGHT_FD, 16, &[0, 1, 0, 128]));
    assert!(!accepts_with(GET_INFLIGHT_FD, 16, &[1, 1, 0, 128]));
    assert!(!accepts_with(GET_INFLIGHT_FD, 16, &[0, 1, 1, 128]));
    // The last byte of an address space can be translated.
    assert!(u64s(IOTLB_MSG, 0, u64::MAX - 0xfff) && !u64s(IOTLB_MSG, 0, u64::MAX - 0xffe));
    assert!(u64s(IOTLB_MSG, 16, u64::MAX - 0xfff) && !u64s(IOTLB_MSG, 16, u64::MAX - 0xffe));
    assert!(!u64s(IOTLB_MSG, 8, 0));
    for (kind, right) in [(0, false), (1, false), (2, true), (3, true), (4, false)] {
        assert_eq!(accepts_with(IOTLB_MSG, 25, &[kind]), right);
    }
    assert!(accepts_with(IOTLB_MSG, 24, &[0]) && !accepts_with(IOTLB_MSG, 24, &[4]));
}

#[test]
fn configuration_lies_in_a_page_and_in_a_message() {
    let get = |offset: u32, size: u32, contents: usize| {
        let mut body = [offset, size, 0].map(u32::to_le_bytes).concat();
        body.resize(12 + contents, 0);
        accepts(frontend::GET_CONFIG, &body)
    };
    assert!(get(0, 0, 0) && get(4096, 0, 0) && !get(4097, 0, 0));
    assert!(get(24, 4072, 4072) && !get(25, 4072, 4072) && !get(0, 4073, 4073));
    assert!(!get(0, 8, 7) && !get(0, u32::MAX, 8) && !get(u32::MAX, 8, 8));
}

#[test]
fn tables_have_no_more_regions_than_the_limit() {
    let table = |count: u32| {
        let mut body = [count, 0].map(u32::to_le_bytes).concat();
        for region in 0..u64::from(count) {
            let start = region * 0x1000;
            body.extend([start, 0x1000, start, 0].map(u64::to_le_bytes).concat());
        }
        let fds: Fds<u32> = (0..count).collect();
        decode(row(frontend::SET_MEM_TABLE), &body, fds, Endian::Little).is_ok()
    };
    assert!(table(1) && table(32) && !table(33) && !table(0));
}

#[test]
fn without_log_shmfd_a_log_has_no_descriptor() {
    let (limits, mut context) = (Limits::default(), context());
    context.protocol_features = Default::default();
    let decode = |len: usize, count: u32| {
        let frame = frame(
            frontend::SET_LOG_BASE,
            &[1; 32][..len],
            (0..count).collect(),
        );
        FrontendRequest::decode(frame, Endian::Little, &limits, &context)
            .is_ok_and(|message| message.request.encoded_len() == 12 + len)
    };
    assert!(decode(8, 0) && decode(16, 0));
    assert!(!decode(8, 1) && !decode(16, 1) && !decode(0, 0) && !decode(12, 0));
}

/// What is no message gets no answer, and what only cannot be complied with does.
#[test]
fn tells_a_message_with_a_wrong_value_from_what_is_no_message() {
    let code = frontend::ADD_MEM_REG;
    let right = emit(&sample(row(code)), Endian::Little);
    let mut wrong = right.clone();
    wrong[16..24].fill(0);
    for (body, fds, well_formed) in [
        (&wrong[..], 1, true),
        (&right[..39], 1, false),
        (&right[..], 0, false),
        (&right[..], 2, false),
    ] {
        for need_reply in [false, true] {
            let mut frame = frame(code, body, (0..fds).collect());
            frame.header.flags.set(HeaderFlags::NEED_REPLY, need_reply);
            let limits = Limits::default();
            let decoded = FrontendRequest::decode(frame, Endian::Little, &limits, &context());
            let error = decoded.unwrap_err();
            assert_eq!(error.error().is_well_formed(), well_formed, "{error}");
            assert_eq!(error.need_reply(), need_reply);
        }
    }
}

#[test]
fn errors_name_message_and_field_and_no_bytes() {
    let mut body = emit(&sample(row(frontend::SET_MEM_TABLE)), Endian::Little);
    body[8 + 32 + 8..][..8].fill(0);
    let error = decode(row(5), &body, Fds::<()>::detached(), Endian::Little).unwrap_err();
    assert_eq!(
        error.to_string(),
        "frontend request SET_MEM_TABLE: size is zero"
    );
    let error = decode(row(21), &[], Fds::<()>::new(), Endian::Little).unwrap_err();
    assert_eq!(
        error.to_string(),
        "frontend request SET_BACKEND_REQ_FD: 0 descriptors attached, 1 are due"
    );
}

/// Everything that reads a payload, on bytes that mean nothing.
fn read_everything(code: u32, body: &[u8], count: usize, endian: Endian) {
    let ledger = Ledger::default();
    let limits = Limits::default();
    for context in [Default::default(), context()] {
        let frame = || frame(code, body, ledger.fds(count));
        conserve(
            FrontendRequest::decode(frame(), endian, &limits, &context),
            count,
            |r| {
                let kept = matches!(r, FrontendRequest::RemMemReg(_));
                (r.detach().1.len(), kept)
            },
        );
        conserve(
            BackendRequest::decode(frame(), endian, &limits, &context),
            count,
            |r| (r.detach().1.len(), false),
        );
    }
    assert_eq!(ledger.open(), 0);
    for shape in SHAPES {
        if let Ok(reply) = Reply::decode(shape, body, endian, &limits) {
            let mut buffer = vec![0; 12 + body.len()];
            reply.encode(1, false, endian, &mut buffer).unwrap();
            if !matches!(reply, Reply::Inflight(_)) {
                assert_eq!(buffer[12..], *body);
            }
        }
    }
    let _ = decode_whole(body, endian, &limits);
}

/// All descriptors come back, from a request or from an error.
fn conserve<R>(
    result: Result<Message<R>, DecodeError<Fd>>,
    count: usize,
    detach: impl FnOnce(R) -> (usize, bool),
) {
    match result {
        Ok(message) => {
            let (kept, may_drop) = detach(message.request);
            assert!(kept == count || may_drop);
        }
        Err(error) => assert_eq!(error.into_fds().len(), count),
    }
}

const SHAPES: [ReplyShape; 10] = [
    ReplyShape::Ack,
    ReplyShape::Features,
    ReplyShape::ProtocolFeatures,
    ReplyShape::U64,
    ReplyShape::VringBase,
    ReplyShape::Config { size: 8 },
    ReplyShape::Log,
    ReplyShape::Inflight,
    ReplyShape::DeviceState,
    ReplyShape::Opaque,
];

proptest! {
    #[test]
    fn any_bytes_with_any_descriptors(
        code in prop_oneof![9 => 1..50_u32, 1 => any::<u32>()],
        body in proptest::collection::vec(any::<u8>(), 0..300),
        count in 0..40_usize,
        big in any::<bool>(),
    ) {
        read_everything(code, &body, count, ENDIANS[usize::from(big)]);
    }

    /// Nearly right messages get further.
    #[test]
    fn any_damaged_sample(
        position in 0..55_usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        count in 0..4_usize,
    ) {
        let row = rows().nth(position).unwrap();
        let mut body = emit(&sample(row), Endian::Little);
        for (index, byte) in damage {
            if !body.is_empty() {
                let index = index.index(body.len());
                body[index] = byte;
            }
        }
        read_everything(row.code, &body, count, Endian::Little);
    }
}
