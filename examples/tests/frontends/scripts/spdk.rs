// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! SPDK's initiator (bdev_virtio over vhost-user).
//!
//! From main at 3230130e6a (26.09-pre): lib/virtio/virtio_vhost_user.c
//! (`virtio_user_set_features`, `virtio_user_setup_queue`,
//! `virtio_user_start_device`, `virtio_user_map_notify`,
//! `virtio_user_read_dev_config`) and virtio.c (`virtio_dev_reset`,
//! `virtio_dev_start`).

use vhost_guest_msg::frontend::*;

use crate::memory::{Plan, Region};
use crate::player::play;
use crate::script::{ask, protocol, stop, tell, virtio, Body, Device, Reply, Script, Step};

/// Huge pages, of which guest addresses are user addresses.
const MEMORY: Plan = Plan {
    files: &[4 << 20, 2 << 20],
    regions: &[
        Region {
            guest: 0x2000_0020_0000,
            size: 4 << 20,
            user: 0x2000_0020_0000,
            file: 0,
            offset: 0,
        },
        Region {
            guest: 0x2000_0100_0000,
            size: 2 << 20,
            user: 0x2000_0100_0000,
            file: 1,
            offset: 0,
        },
    ],
    rings: 0x2000_0020_0000,
    num: 128,
};

const GUEST: u64 = virtio::VERSION_1 | virtio::PROTOCOL | virtio::EVENT_IDX | virtio::BLK;

/// Features first, then what they mean; NEED_REPLY never.
const CONNECT: [Step; 5] = [
    tell(SET_OWNER, Body::Empty),
    ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
    tell(SET_FEATURES, Body::Features(GUEST)),
    ask(
        GET_PROTOCOL_FEATURES,
        Body::Empty,
        Reply::ProtocolFeatures(protocol::CONFIG),
    ),
    tell(
        SET_PROTOCOL_FEATURES,
        Body::ProtocolFeatures(protocol::MQ | protocol::CONFIG),
    ),
];

/// All 256 bytes that there may be, for each field; as many have to come
/// back.
const CONFIG: [Step; 2] = [
    ask(GET_CONFIG, Body::Config(0, 256, 0), Reply::Config),
    ask(GET_CONFIG, Body::Config(0, 256, 0), Reply::Config),
];

/// Vrings are enabled before anything else is said about them.
const ENABLE: [Step; 2] = [
    tell(SET_VRING_ENABLE, Body::Vring(0, 1)),
    tell(SET_VRING_ENABLE, Body::Vring(1, 1)),
];

const CREATE: [Step; 3] = [
    ask(GET_QUEUE_NUM, Body::Empty, Reply::AtLeast(2)),
    tell(SET_VRING_CALL, Body::EventFd(0)),
    tell(SET_VRING_CALL, Body::EventFd(1)),
];

/// A request with a reply shows that the table has arrived. It comes once for
/// each range of memory, always with all of them.
const TABLE: [Step; 2] = [
    tell(SET_MEM_TABLE, Body::Table(&[0, 1])),
    ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
];

const fn ring(ring: u32) -> [Step; 4] {
    [
        tell(SET_VRING_NUM, Body::Vring(ring, 128)),
        tell(SET_VRING_BASE, Body::Base(ring)),
        tell(SET_VRING_ADDR, Body::Address(ring)),
        tell(SET_VRING_KICK, Body::EventFd(ring)),
    ]
}

#[test]
fn spdk_starts_and_stops_a_disk() {
    play(&Script {
        device: Device::Disk { queues: 2 },
        memory: &MEMORY,
        parts: &[
            &CONNECT,
            &CONFIG,
            &ENABLE,
            &CREATE,
            &TABLE,
            &TABLE,
            &ring(0),
            &ring(1),
            &[Step::Serve(0), Step::ServeIn(1, 1), Step::ServeIn(0, 0)],
            &[stop(0), stop(1)],
            // Memory is "unmapped" with the same tables.
            &TABLE,
            &TABLE,
        ],
    });
}
