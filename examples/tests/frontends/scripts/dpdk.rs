// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DPDK's net_virtio_user.
//!
//! From main at 38f72e500b (26.11-rc0): drivers/net/virtio/virtio_user/
//! vhost_user.c, virtio_user_dev.c (`virtio_user_dev_set_features`,
//! `virtio_user_start_device`, `virtio_user_stop_device`,
//! `virtio_user_mem_event_cb`) and virtio_user_ethdev.c
//! (`virtio_user_set_status`).

use vhost_guest_msg::frontend::*;

use crate::memory::{Plan, Region};
use crate::player::play;
use crate::script::{ask, order, protocol, stop, tell, virtio, Body, Device, Reply, Script, Step};

const PAGE: u64 = 2 << 20;

const fn page(number: usize) -> Region {
    let at = 0x1_0020_0000 + PAGE * number as u64;
    Region {
        guest: at,
        size: PAGE,
        user: at,
        file: number,
        offset: 0,
    }
}

/// A file for each page of 2 MiB; guest addresses are user addresses.
const MEMORY: Plan = Plan {
    files: &[PAGE, PAGE, PAGE],
    regions: &[page(0), page(1), page(2)],
    rings: 0x1_0020_0000,
    num: 128,
};

const CARD: Device = Device::Still {
    device_type: 1,
    features: virtio::NET_MRG_RXBUF,
    queues: 2,
};
const WANTED: u64 = protocol::MQ | protocol::REPLY_ACK | protocol::STATUS;
const GUEST: u64 = virtio::VERSION_1 | virtio::PROTOCOL | virtio::NET_MRG_RXBUF;

const CONNECT: [Step; 4] = [
    tell(SET_OWNER, Body::Empty),
    ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
    ask(
        GET_PROTOCOL_FEATURES,
        Body::Empty,
        Reply::ProtocolFeatures(WANTED),
    ),
    tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(WANTED)),
];

/// Calls come before features; the status only once FEATURES_OK is in it.
const FEATURES: [Step; 5] = [
    tell(SET_VRING_CALL, Body::EventFd(0)),
    tell(SET_VRING_CALL, Body::EventFd(1)),
    tell(SET_FEATURES, Body::Features(GUEST)),
    order(SET_STATUS, Body::Number(0xb)),
    ask(GET_STATUS, Body::Empty, Reply::Number(0xb)),
];

/// Only the table and the status have NEED_REPLY.
const fn start(table: &'static [usize]) -> [Step; 1] {
    [order(SET_MEM_TABLE, Body::Table(table))]
}

const fn ring(ring: u32) -> [Step; 4] {
    [
        tell(SET_VRING_NUM, Body::Vring(ring, 128)),
        // Whatever was before.
        tell(SET_VRING_BASE, Body::Base(ring)),
        tell(SET_VRING_ADDR, Body::Address(ring)),
        tell(SET_VRING_KICK, Body::EventFd(ring)),
    ]
}

const fn enable(on: u32) -> [Step; 2] {
    [
        tell(SET_VRING_ENABLE, Body::Vring(0, on)),
        tell(SET_VRING_ENABLE, Body::Vring(1, on)),
    ]
}

const RUNNING: [Step; 1] = [order(SET_STATUS, Body::Number(0xf))];
const SERVE: [Step; 2] = [Step::Serve(0), Step::Serve(1)];

/// Memory that the application allocates while packets move is a larger table,
/// between disabling and enabling; what it frees is a smaller one.
#[test]
fn dpdk_changes_its_memory_while_vrings_run() {
    play(&Script {
        device: CARD,
        memory: &MEMORY,
        parts: &[
            &CONNECT,
            &FEATURES,
            &start(&[0]),
            &ring(0),
            &ring(1),
            &enable(1),
            &RUNNING,
            &SERVE,
            &enable(0),
            &start(&[0, 1, 2]),
            &enable(1),
            &[Step::ServeIn(0, 1), Step::ServeIn(1, 2)],
            &enable(0),
            &start(&[0, 2]),
            &enable(1),
            &[Step::ServeIn(0, 2)],
            &SERVE,
        ],
    });
}

/// A port that is stopped and started: the reset has no message of its own, as
/// the status without FEATURES_OK is never sent.
#[test]
fn dpdk_stops_and_starts_a_port() {
    play(&Script {
        device: CARD,
        memory: &MEMORY,
        parts: &[
            &CONNECT,
            &FEATURES,
            &start(&[0, 1]),
            &ring(0),
            &ring(1),
            &enable(1),
            &RUNNING,
            &SERVE,
            &enable(0),
            &[stop(0), stop(1)],
            &FEATURES,
            &start(&[0, 1]),
            &ring(0),
            &ring(1),
            &enable(1),
            &RUNNING,
            &SERVE,
        ],
    });
}
