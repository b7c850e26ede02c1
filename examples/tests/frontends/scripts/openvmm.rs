// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! OpenVMM's frontend.
//!
//! From main at 1488a37b7: vm/devices/virtio/vhost_user_frontend/src/lib.rs
//! (`from_socket`, `start_queue`, `stop_queue`, `reset`,
//! `read_registers_u32`).

use vhost_guest_msg::frontend::*;

use crate::memory::{Plan, Region};
use crate::player::play;
use crate::script::{
    ask, demand, order, protocol, tell, virtio, Body, Device, Reply, Script, Step,
};

/// User addresses are guest addresses, with 2^52 added.
const MEMORY: Plan = Plan {
    files: &[16 << 20],
    regions: &[Region {
        guest: 0,
        size: 16 << 20,
        user: 1 << 52,
        file: 0,
        offset: 0,
    }],
    rings: 0x10_0000,
    num: 128,
};

const WANTED: u64 = protocol::MQ | protocol::REPLY_ACK | protocol::CONFIG | protocol::RESET_DEVICE;
const GUEST: u64 = virtio::VERSION_1 | virtio::PROTOCOL | virtio::EVENT_IDX | virtio::BLK;

/// SET_OWNER is not the first, and only what has no reply of its own has
/// NEED_REPLY.
const CONNECT: [Step; 5] = [
    ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
    ask(
        GET_PROTOCOL_FEATURES,
        Body::Empty,
        Reply::ProtocolFeatures(protocol::RESET_DEVICE),
    ),
    tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(WANTED)),
    tell(SET_OWNER, Body::Empty),
    ask(GET_QUEUE_NUM, Body::Empty, Reply::AtLeast(2)),
];

/// Four bytes at a time.
const CONFIG: [Step; 3] = [
    ask(GET_CONFIG, Body::Config(0, 4, 0), Reply::Config),
    ask(GET_CONFIG, Body::Config(4, 4, 0), Reply::Config),
    ask(GET_CONFIG, Body::Config(32, 4, 0), Reply::Config),
];

/// The table comes before the features, once for the connection.
const TABLE: [Step; 1] = [order(SET_MEM_TABLE, Body::Table(&[0]))];
const FEATURES: [Step; 1] = [order(SET_FEATURES, Body::Features(GUEST))];

/// The kick comes before the call.
const fn ring(ring: u32) -> [Step; 6] {
    [
        order(SET_VRING_NUM, Body::Vring(ring, 128)),
        order(SET_VRING_ADDR, Body::Address(ring)),
        order(SET_VRING_BASE, Body::Base(ring)),
        order(SET_VRING_KICK, Body::EventFd(ring)),
        order(SET_VRING_CALL, Body::EventFd(ring)),
        order(SET_VRING_ENABLE, Body::Vring(ring, 1)),
    ]
}

const fn stop(ring: u32) -> [Step; 2] {
    [
        order(SET_VRING_ENABLE, Body::Vring(ring, 0)),
        ask(GET_VRING_BASE, Body::Vring(ring, 0), Reply::Base),
    ]
}

/// A guest's reset: vrings stop, then RESET_DEVICE; memory is not sent again,
/// features are.
#[test]
fn openvmm_resets_a_disk() {
    play(&Script {
        device: Device::Disk { queues: 2 },
        memory: &MEMORY,
        parts: &[
            &CONNECT,
            &CONFIG,
            &TABLE,
            &FEATURES,
            &ring(0),
            &ring(1),
            &[Step::Serve(0), Step::Serve(1)],
            &stop(0),
            &stop(1),
            &[order(RESET_DEVICE, Body::Empty)],
            &FEATURES,
            &ring(0),
            &ring(1),
            &[Step::Serve(0), Step::Serve(1)],
        ],
    });
}

/// RESET_DEVICE when nothing was ever started; and a vring that is stopped and
/// goes on alone.
#[test]
fn openvmm_stops_a_vring_alone() {
    play(&Script {
        device: Device::Disk { queues: 2 },
        memory: &MEMORY,
        parts: &[
            &CONNECT,
            &[order(RESET_DEVICE, Body::Empty)],
            &TABLE,
            &FEATURES,
            &ring(0),
            &ring(1),
            &[Step::Serve(0), Step::Serve(1)],
            &stop(1),
            &[Step::Serve(0)],
            &ring(1),
            &[
                Step::Serve(0),
                Step::Serve(1),
                demand(GET_CONFIG, Body::Config(0, 4, 0), Reply::Config),
            ],
        ],
    });
}
