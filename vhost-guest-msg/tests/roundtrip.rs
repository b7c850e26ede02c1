// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any correct message, made from the rows of the catalog, is the same after
//! decoding and encoding, in both byte orders.

mod common;

use common::Field::{self, Raw, U16, U32, U64};
use common::{context, emit, fd_counts, message, rows, ENDIANS};
use proptest::collection::vec;
use proptest::prelude::*;
use vhost_guest_msg::{
    decode_whole, frontend, BackendRequest, Channel, Endian, Fds, FrontendRequest, HeaderFlags,
    Layout, Limits, Progress, Row,
};

/// Any four numbers that are a region: the end of each range exists.
fn region() -> impl Strategy<Value = [u64; 4]> {
    any::<[u64; 3]>()
        .prop_flat_map(|starts| {
            let room = starts.iter().map(|start| u64::MAX - start).min().unwrap();
            (Just(starts), 1..=room.max(1))
        })
        .prop_map(|([guest, user, offset], size)| {
            [guest, size, user, offset].map(|n| n.min(u64::MAX - size))
        })
        .prop_map(|[guest, size, user, offset]| [guest, size.max(1), user, offset])
}

/// Up to 32 regions in order, with gaps.
fn table() -> impl Strategy<Value = Vec<Field>> {
    let step = (0..1_u64 << 58, 1..1_u64 << 58, 0..1_u64 << 58, any::<u32>());
    vec(step, 1..=32).prop_map(|steps| {
        let (mut guest, mut user) = (0, 0);
        let mut fields = vec![U32(steps.len() as u32), U32(0)];
        for (guest_gap, size, user_gap, offset) in steps {
            guest += guest_gap % (1 << 57);
            user += user_gap % (1 << 57);
            let size = 1 + size % (1 << 57);
            fields.extend([guest, size, user, offset.into()].map(U64));
            guest += size;
            user += size;
        }
        fields
    })
}

/// A number and one that can be added to it.
fn range() -> impl Strategy<Value = [u64; 2]> {
    (1..=u64::MAX).prop_flat_map(|size| (Just(size), 0..=u64::MAX - size).prop_map(|(s, o)| [s, o]))
}

/// Any correct payload of a row.
fn payload(row: &'static Row) -> BoxedStrategy<Vec<Field>> {
    let index = 0..256_u32;
    match row.layout {
        Layout::Nothing => Just(vec![]).boxed(),
        Layout::U64 => any::<u64>().prop_map(|n| vec![U64(n)]).boxed(),
        Layout::Rarp => any::<[u8; 6]>()
            .prop_map(|mac| vec![Raw(mac.to_vec()), Raw(vec![0; 2])])
            .boxed(),
        Layout::VringState => (index, vring_num(row))
            .prop_map(|(index, num)| vec![U32(index), U32(num)])
            .boxed(),
        Layout::VringAddr => (index, 0..2_u32, any::<[u64; 4]>())
            .prop_map(|(index, flags, addresses)| {
                let head = [U32(index), U32(flags)];
                head.into_iter().chain(addresses.map(U64)).collect()
            })
            .boxed(),
        Layout::VringFd => (0..256_u64).prop_map(|value| vec![U64(value)]).boxed(),
        Layout::MemTable => table().boxed(),
        Layout::MemRegion => region()
            .prop_map(|region| [U64(0)].into_iter().chain(region.map(U64)).collect())
            .boxed(),
        Layout::Log => range().prop_map(|range| range.map(U64).to_vec()).boxed(),
        Layout::Iotlb => iotlb(row).boxed(),
        Layout::Config => (0..=24_u32, any::<u32>(), vec(any::<u8>(), 0..4072))
            .prop_map(|(offset, flags, contents)| {
                let size = contents.len() as u32;
                vec![U32(offset), U32(size), U32(flags), Raw(contents)]
            })
            .boxed(),
        Layout::Inflight => (range(), 0..=256_u16, 0..=32768_u16)
            .prop_map(|([size, offset], queues, entries)| {
                vec![U64(size), U64(offset), U16(queues), U16(entries), U32(0)]
            })
            .boxed(),
        Layout::DeviceState => (0..2_u32).prop_map(|n| vec![U32(n), U32(0)]).boxed(),
        Layout::Opaque => vec(any::<u8>(), 0..4084)
            .prop_map(|bytes| vec![Raw(bytes)])
            .boxed(),
    }
}

/// The second number of a VSTATE, which each message restricts differently.
fn vring_num(row: &Row) -> BoxedStrategy<u32> {
    match (row.channel, row.code) {
        (Channel::Main, frontend::SET_VRING_NUM) => (1..=32768_u32).boxed(),
        (Channel::Main, frontend::SET_VRING_BASE) => any::<u32>().boxed(),
        (Channel::Main, frontend::SET_VRING_ENABLE | frontend::SET_VRING_ENDIAN) => {
            (0..2_u32).boxed()
        }
        _ => Just(0).boxed(),
    }
}

fn iotlb(row: &'static Row) -> impl Strategy<Value = Vec<Field>> {
    let kinds = match row.channel {
        Channel::Main => [2, 3],
        Channel::Backend => [1, 4],
    };
    (range(), range(), 0..4_u8, any::<bool>()).prop_map(move |(one, other, perm, second)| {
        let [size, iova] = one;
        // Both starts have room for the smaller of the sizes.
        let size = size.min(other[0]);
        let tail = vec![perm, kinds[usize::from(second)], 0, 0, 0, 0, 0, 0];
        vec![U64(iova), U64(size), U64(other[1]), Raw(tail)]
    })
}

/// A row, a payload, NEED_REPLY, a byte order, a number of descriptors.
fn any_message() -> impl Strategy<Value = (&'static Row, Vec<Field>, bool, Endian)> {
    let rows: Vec<_> = rows().collect();
    proptest::sample::select(rows).prop_flat_map(|row| {
        let endian = proptest::sample::select(&ENDIANS[..]);
        (Just(row), payload(row), any::<bool>(), endian)
    })
}

fn need_reply(need_reply: bool) -> HeaderFlags {
    let mut flags = HeaderFlags::empty();
    flags.set(HeaderFlags::NEED_REPLY, need_reply);
    flags
}

proptest! {
    #[test]
    fn encode_of_decode_is_the_same((row, fields, reply, endian) in any_message()) {
        let bytes = message(row.code, need_reply(reply), &emit(&fields, endian), endian);
        let (limits, context) = (Limits::default(), context());
        let frame = decode_whole(&bytes, endian, &limits).unwrap();
        let encoded = match row.channel {
            Channel::Main => {
                let m = FrontendRequest::decode(frame, endian, &limits, &context).unwrap();
                m.request.to_vec(m.need_reply, endian)
            }
            Channel::Backend => {
                let m = BackendRequest::decode(frame, endian, &limits, &context).unwrap();
                m.request.to_vec(m.need_reply, endian)
            }
        };
        prop_assert_eq!(encoded, bytes, "{}", row.name);
    }

    /// The same meaning, whatever the byte order.
    #[test]
    fn byte_orders_agree((row, fields, _, _) in any_message()) {
        prop_assume!(row.channel == Channel::Main);
        // Bytes that are not looked into have no order.
        prop_assume!(row.layout != Layout::Opaque);
        let [little, big] = ENDIANS.map(|endian| {
            let body = emit(&fields, endian);
            let frame = common::frame(row.code, &body, Fds::detached());
            FrontendRequest::decode(frame, endian, &Limits::default(), &context()).unwrap()
        });
        prop_assert_eq!(&little.request, &big.request);
        // And what one order wrote means something else in the other, or
        // nothing; but never a panic.
        let body = emit(&fields, Endian::Big);
        let frame = common::frame(row.code, &body, Fds::detached());
        let _ = FrontendRequest::decode(frame, Endian::Little, &Limits::default(), &context());
    }

    /// Descriptors stay in order, from the frame into the request and out.
    #[test]
    fn descriptors_survive((row, fields, _, endian) in any_message(), extra in 0..9_usize) {
        prop_assume!(row.channel == Channel::Main && row.code != frontend::REM_MEM_REG);
        let count = match row.layout {
            Layout::MemTable => (fields.len() - 2) / 4,
            Layout::Opaque => extra,
            _ => fd_counts(row, 0)[0],
        };
        let body = emit(&fields, endian);
        let frame = common::frame(row.code, &body, (0..count).collect());
        let m = FrontendRequest::decode(frame, endian, &Limits::default(), &context()).unwrap();
        let (detached, fds) = m.request.detach();
        prop_assert_eq!(fds.as_slice(), Vec::from_iter(0..count));
        prop_assert_eq!(&detached.to_vec(false, endian)[12..], body);
    }

    /// However a stream is cut, the same messages come out.
    #[test]
    fn framing_does_not_depend_on_the_chunks(
        messages in vec(any_message(), 1..5),
        chunks in vec(1..64_usize, 1..50),
    ) {
        let endian = Endian::NATIVE;
        let encode = |(row, fields, reply, _): &(&Row, Vec<Field>, bool, Endian)| {
            message(row.code, need_reply(*reply), &emit(fields, endian), endian)
        };
        let messages: Vec<_> = messages.iter().map(encode).collect();
        let stream = messages.concat();
        let mut framer = vhost_guest_msg::Framer::<()>::new(endian, &Limits::default());
        let mut chunks = chunks.iter().cycle();
        let (mut rest, mut seen) = (&stream[..], Vec::new());
        while !rest.is_empty() {
            let space = framer.space();
            let count = space.len().min(rest.len()).min(*chunks.next().unwrap());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            if let Progress::Frame(frame) = framer.advance(count, Fds::new()).unwrap() {
                seen.push([&frame.header.emit(endian)[..], frame.body].concat());
            }
        }
        prop_assert!(!framer.is_inside_message());
        prop_assert_eq!(seen, messages);
    }
}
