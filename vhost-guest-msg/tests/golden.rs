// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Messages whose bytes were computed from the layouts independently of this
//! crate, each in both directions, and the rewrites between them.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::context;
use vhost_guest_msg::{
    backend, decode_whole, frontend, BackendRequest, Config, DeviceState, DeviceStateReply, Endian,
    Fds, FrontendRequest, HeaderFlags, Inflight, Iotlb, IotlbKind, Limits, LogArea, LogBase,
    LogReply, MemRegion, MemTable, OnlyFd, Opaque, Permission, ProtocolFeatures, Rarp, Region,
    RemMemReg, Reply, ReplyShape, RingLayout, SetInflight, Transfer, VirtioFeatures, VringAddr,
    VringBase, VringEnable, VringFd, VringNum, VringSelect,
};

use FrontendRequest as Q;

fn vectors() -> BTreeMap<&'static str, Vec<u8>> {
    let lines = include_str!("data/golden.txt").lines();
    let vector = |line: &'static str| {
        let mut words = line.split(' ');
        let (name, hex) = (words.next().unwrap(), words.next().unwrap());
        let digits = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        (name, (0..hex.len()).step_by(2).map(digits).collect())
    };
    lines
        .filter(|line| !line.starts_with('#'))
        .map(vector)
        .collect()
}

const A: [u64; 4] = [0, 0x8000_0000, 0x7f00_0000_0000, 0];
const B: [u64; 4] = [1 << 32, 0x4000_0000, 0x7f10_0000_0000, 0x8000_0000];
const C: [u64; 4] = [0x1_4000_0000, 0x1000_0000, 0x7f20_0000_0000, 0];

fn region([guest, size, user, offset]: [u64; 4]) -> Region {
    Region::new(guest, size, user, offset).unwrap()
}

fn table() -> MemTable<()> {
    MemTable::new(vec![(region(A), ()), (region(B), ())]).unwrap()
}

fn vring_addr() -> VringAddr {
    VringAddr {
        index: 0,
        log_used: false,
        descriptor: 0x7f00_0001_0000,
        used: 0x7f00_0001_2000,
        available: 0x7f00_0001_1000,
        log: 0,
    }
}

fn log(offset: u64) -> LogBase<()> {
    let area = LogArea::new(0x2_8000, offset).unwrap();
    LogBase::Shared { area, fd: () }
}

fn set_inflight() -> SetInflight<()> {
    SetInflight::new(Inflight::new(0x2080, 0, 2, 256).unwrap(), ()).unwrap()
}

fn iotlb() -> Iotlb {
    let permission = Permission::ReadWrite;
    Iotlb::new(
        IotlbKind::Update,
        0x1000,
        0x1000,
        0x7f00_0002_0000,
        permission,
    )
    .unwrap()
}

/// Where the window has a user address of A.
fn place(address: u64, len: u64) -> Option<u64> {
    region(A).find_user(address, len)
}

/// Name, NEED_REPLY, meaning.
fn requests() -> Vec<(&'static str, bool, Q<()>)> {
    let (a, b) = (0, 0x8000_0000);
    let add = MemRegion {
        region: region(C),
        fd: (),
    };
    let rem = RemMemReg { region: region(C) };
    let split = RingLayout::Split { num: 256 };
    let kick = |fd| Q::SetVringKick(VringFd { index: 1, fd });
    let state = |direction| Q::SetDeviceStateFd(DeviceState { direction, fd: () });
    let protocol_features = ProtocolFeatures::from_bits_retain(0x8922b);
    let mac = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
    vec![
        ("G1", false, Q::GetFeatures),
        ("G3", false, Q::SetProtocolFeatures(protocol_features)),
        (
            "G4",
            true,
            Q::SetVringEnable(VringEnable {
                index: 0,
                enable: true,
            }),
        ),
        ("G5", false, Q::SetMemTable(table())),
        (
            "G5r",
            false,
            Q::SetMemTable(table().relocate(|i, _| [a, b][i]).unwrap()),
        ),
        ("G6", false, Q::SetVringNum(VringNum::new(0, 256).unwrap())),
        ("G7", false, Q::SetVringAddr(vring_addr())),
        (
            "G7r",
            false,
            Q::SetVringAddr(vring_addr().translate(split, place).unwrap()),
        ),
        ("G8", false, kick(Some(()))),
        ("G8n", false, kick(None)),
        ("G9", false, Q::SetLogBase(log(0))),
        (
            "G9r",
            false,
            Q::SetLogBase(log(0).with_offset(0xc000_0000).unwrap()),
        ),
        ("G10", false, Q::GetVringBase(VringSelect { index: 0 })),
        ("G11", true, Q::AddMemReg(add)),
        (
            "G11r",
            true,
            Q::AddMemReg(add.relocate(0xd000_0000).unwrap()),
        ),
        ("G12", true, Q::RemMemReg(rem)),
        (
            "G12r",
            true,
            Q::RemMemReg(rem.relocate(0xd000_0000).unwrap()),
        ),
        ("G13", false, Q::SetInflightFd(set_inflight())),
        (
            "G13r",
            false,
            Q::SetInflightFd(set_inflight().with_offset(0xe000_0000).unwrap()),
        ),
        (
            "G14",
            false,
            Q::GetConfig(Config::new(0, 0, vec![0; 8]).unwrap()),
        ),
        ("G15", false, state(Transfer::Save)),
        ("G15l", false, state(Transfer::Load)),
        ("G16", true, Q::IotlbMsg(iotlb())),
        ("G16r", true, Q::IotlbMsg(iotlb().translate(place).unwrap())),
        ("G17", false, Q::SendRarp(Rarp { mac })),
        ("G18", true, Q::SetBackendReqFd(OnlyFd { fd: () })),
        (
            "G19",
            false,
            Q::GetVringBaseSkipDrain(VringSelect { index: 0 }),
        ),
    ]
}

/// Name, number of the request, form, meaning.
fn replies() -> Vec<(&'static str, u32, ReplyShape, Reply)> {
    use frontend::*;
    let size = 0x2_8000;
    let echo = |offset| Reply::Log(LogReply::Echo { size, offset });
    let base = |base| Reply::VringBase(VringBase { index: 0, base });
    let config = |contents: &[u8]| Reply::Config(Config::new(0, 0, contents.to_vec()).unwrap());
    let get_config = ReplyShape::Config { size: 8 };
    let state = |value| Reply::DeviceState(DeviceStateReply(value));
    let features = VirtioFeatures::from_bits_retain(0x1_7000_0000);
    let packed = 5 | 1 << 15 | 3 << 16;
    let capacity = [0, 0, 0x20, 0, 0, 0, 0, 0];
    let empty = Reply::Log(LogReply::Empty);
    let residue = Reply::Log(LogReply::U64(size));
    vec![
        (
            "G2",
            GET_FEATURES,
            ReplyShape::Features,
            Reply::Features(features),
        ),
        ("G4a", SET_VRING_ENABLE, ReplyShape::Ack, Reply::Ack(0)),
        ("G4b", SET_VRING_ENABLE, ReplyShape::Ack, Reply::Ack(1)),
        ("G9a", SET_LOG_BASE, ReplyShape::Log, empty),
        ("G9b", SET_LOG_BASE, ReplyShape::Log, residue),
        ("G9c", SET_LOG_BASE, ReplyShape::Log, echo(0xc000_0000)),
        ("G9d", SET_LOG_BASE, ReplyShape::Log, echo(0)),
        ("G10a", GET_VRING_BASE, ReplyShape::VringBase, base(0x1234)),
        ("G10b", GET_VRING_BASE, ReplyShape::VringBase, base(packed)),
        ("G14a", GET_CONFIG, get_config, config(&capacity)),
        ("G14b", GET_CONFIG, get_config, Reply::NoConfig),
        ("G14c", GET_CONFIG, get_config, config(&[])),
        (
            "G15a",
            SET_DEVICE_STATE_FD,
            ReplyShape::DeviceState,
            state(0x100),
        ),
        (
            "G15b",
            SET_DEVICE_STATE_FD,
            ReplyShape::DeviceState,
            state(0x101),
        ),
        (
            "G20a",
            backend::CONFIG_CHANGE_MSG,
            ReplyShape::Ack,
            Reply::Ack(0),
        ),
    ]
}

fn backend_requests() -> Vec<(&'static str, bool, BackendRequest)> {
    let opaque = |numbers: &[u64]| Opaque {
        bytes: numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
        fds: Fds::new(),
    };
    let map = opaque(&[1, 0, 0x20_0000, 0x1000, 1]);
    let area = opaque(&[0x100, 0x1000, 0]);
    vec![
        ("G20", true, BackendRequest::ConfigChangeMsg),
        ("G21", true, BackendRequest::ShmemMap(map)),
        ("G22", true, BackendRequest::VringHostNotifierMsg(area)),
    ]
}

#[test]
fn requests_both_ways() {
    let (vectors, limits) = (vectors(), Limits::default());
    for (name, need_reply, request) in requests() {
        let bytes = &vectors[name];
        assert_eq!(request.to_vec(need_reply, Endian::Little), *bytes, "{name}");
        let frame = decode_whole(bytes, Endian::Little, &limits).unwrap();
        let message = Q::decode(frame, Endian::Little, &limits, &context()).unwrap();
        assert_eq!(message.request, request, "{name}");
        assert_eq!(message.need_reply, need_reply, "{name}");
    }
}

#[test]
fn backend_requests_both_ways() {
    let (vectors, limits) = (vectors(), Limits::default());
    for (name, need_reply, request) in backend_requests() {
        let bytes = &vectors[name];
        assert_eq!(request.to_vec(need_reply, Endian::Little), *bytes, "{name}");
        let frame = decode_whole(bytes, Endian::Little, &limits).unwrap();
        let message = BackendRequest::decode(frame, Endian::Little, &limits, &context()).unwrap();
        assert_eq!(message.request, request, "{name}");
        assert_eq!(message.need_reply, need_reply, "{name}");
    }
}

#[test]
fn replies_both_ways() {
    let (vectors, limits) = (vectors(), Limits::default());
    for (name, code, shape, reply) in replies() {
        let bytes = &vectors[name];
        let mut buffer = [0; 64];
        let len = reply
            .encode(code, false, Endian::Little, &mut buffer)
            .unwrap();
        assert_eq!(buffer[..len], bytes[..], "{name}");
        let frame = decode_whole(bytes, Endian::Little, &limits).unwrap();
        assert_eq!(frame.header.code, code, "{name}");
        assert_eq!(frame.header.flags, HeaderFlags::REPLY, "{name}");
        let decoded = Reply::decode(shape, frame.body, Endian::Little, &limits).unwrap();
        assert_eq!(decoded, reply, "{name}");
    }
}

#[test]
fn no_vector_is_left_out() {
    let requests = requests().into_iter().map(|(name, ..)| name);
    let replies = replies().into_iter().map(|(name, ..)| name);
    let backend = backend_requests().into_iter().map(|(name, ..)| name);
    let names: BTreeSet<_> = requests.chain(replies).chain(backend).collect();
    assert!(vectors().into_keys().eq(names));
}
