// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU's `-netdev vhost-user`.
//!
//! From what QEMU 7.2.22 (Debian 12) sent while iPXE used the card
//! (`-netdev vhost-user,queues=2 -device virtio-net-pci,mq=on,host_mtu=1400`),
//! while its VM was stopped and went on, and from hw/virtio/vhost-user.c
//! (`vhost_user_migration_done`, `vhost_user_net_set_mtu`,
//! `vhost_user_send_device_iotlb_msg`) at 019fbfa4bcd2.

use vhost_guest_msg::frontend::*;

use super::qemu::{
    init_ring, introduce, ring, DRIVER_OK, FEATURES_OK, MEMORY, NAMED_11_1, NAMED_7_2, RESET,
    RUNNING,
};
use super::PC;
use crate::player::play;
use crate::script::{ask, order, protocol, stop, tell, virtio, Body, Device, Reply, Script, Step};
use crate::still::Told;

const CARD: Device = Device::Still {
    device_type: 1,
    features: virtio::NET_MTU | virtio::NET_MRG_RXBUF | virtio::NET_STATUS,
    queues: 4,
};

const GUEST: u64 = virtio::VERSION_1 | virtio::PROTOCOL | virtio::NET_MTU;

/// The second pair of queues is a device of its own for QEMU, which
/// negotiates once more on the same connection.
const fn introduce_next_pair(named: u64) -> [Step; 5] {
    [
        ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
        ask(
            GET_PROTOCOL_FEATURES,
            Body::Empty,
            Reply::ProtocolFeatures(protocol::MQ),
        ),
        tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(named)),
        ask(GET_MAX_MEM_SLOTS, Body::Empty, Reply::AtLeast(2)),
        ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
    ]
}

/// Before SET_FEATURES: one pair is on, the other off. It comes again each time
/// that the number of pairs is set.
const PAIRS: [Step; 4] = [
    tell(SET_VRING_ENABLE, Body::Vring(0, 1)),
    tell(SET_VRING_ENABLE, Body::Vring(1, 1)),
    tell(SET_VRING_ENABLE, Body::Vring(2, 0)),
    tell(SET_VRING_ENABLE, Body::Vring(3, 0)),
];

/// The same of 11.1, which waits.
const PAIRS_11_1: [Step; 4] = [
    order(SET_VRING_ENABLE, Body::Vring(0, 1)),
    order(SET_VRING_ENABLE, Body::Vring(1, 1)),
    order(SET_VRING_ENABLE, Body::Vring(2, 0)),
    order(SET_VRING_ENABLE, Body::Vring(3, 0)),
];

const MTU: [Step; 1] = [order(NET_SET_MTU, Body::Number(1400))];

/// What was enabled is enabled again, in front of the features.
const START: [Step; 5] = [
    tell(SET_VRING_ENABLE, Body::Vring(0, 1)),
    tell(SET_VRING_ENABLE, Body::Vring(1, 1)),
    tell(SET_FEATURES, Body::Features(GUEST)),
    ask(GET_STATUS, Body::Empty, Reply::Number(0)),
    tell(SET_STATUS, Body::Number(FEATURES_OK)),
];

const fn call(vring: u32) -> [Step; 1] {
    [tell(SET_VRING_CALL, Body::EventFd(vring))]
}

const INIT: [&[Step]; 7] = [
    &introduce(NAMED_7_2),
    &init_ring(0),
    &init_ring(1),
    &introduce_next_pair(NAMED_7_2),
    &init_ring(2),
    &init_ring(3),
    &PAIRS,
];

/// The whole life of a card in iPXE: the MTU comes before features, memory
/// once for the connection, and the stop by status before GET_VRING_BASE.
#[test]
fn qemu_7_2_uses_a_network_card() {
    play(&Script {
        device: CARD,
        memory: &PC,
        parts: &[
            INIT[0],
            INIT[1],
            INIT[2],
            INIT[3],
            INIT[4],
            INIT[5],
            INIT[6],
            &PAIRS,
            &PAIRS,
            &MTU,
            &[Step::Told(&[Told::Mtu(1400)])],
            &START,
            &MEMORY,
            &ring(0),
            &call(0),
            &ring(1),
            &call(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(1)],
            &RESET,
            &[stop(0), stop(1)],
            &PAIRS,
        ],
    });
}

/// `stop` and `cont` of the monitor, or a link that goes down and up: no
/// memory is sent again, nor is the guest reset.
#[test]
fn qemu_7_2_stops_a_card_and_goes_on() {
    play(&Script {
        device: CARD,
        memory: &PC,
        parts: &[
            INIT[0],
            INIT[1],
            INIT[2],
            INIT[3],
            INIT[4],
            INIT[5],
            INIT[6],
            &MTU,
            &START,
            &MEMORY,
            &ring(0),
            &call(0),
            &ring(1),
            &call(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(1), Step::Serve(1)],
            &RESET,
            &[stop(0), stop(1)],
            &START,
            &ring(0),
            &call(0),
            &ring(1),
            &call(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(1)],
        ],
    });
}

/// A guest that takes both pairs: they are enabled while they run.
#[test]
fn qemu_11_1_uses_all_queue_pairs() {
    play(&Script {
        device: CARD,
        memory: &PC,
        parts: &[
            &introduce(NAMED_11_1),
            &init_ring(0),
            &init_ring(1),
            &introduce_next_pair(NAMED_11_1),
            &init_ring(2),
            &init_ring(3),
            &PAIRS_11_1,
            &MTU,
            &START,
            &MEMORY,
            &ring(0),
            &call(0),
            &ring(1),
            &call(1),
            &[
                tell(SET_FEATURES, Body::Features(GUEST)),
                ask(GET_STATUS, Body::Empty, Reply::Number(FEATURES_OK)),
            ],
            &ring(2),
            &call(2),
            &ring(3),
            &call(3),
            &DRIVER_OK,
            &[
                Step::Serve(0),
                Step::Serve(1),
                order(SET_VRING_ENABLE, Body::Vring(2, 1)),
                order(SET_VRING_ENABLE, Body::Vring(3, 1)),
                Step::Serve(2),
                Step::Serve(3),
            ],
            // Behind the bases, other than in 7.2.
            &[stop(0), stop(1), stop(2), stop(3)],
            &RESET,
        ],
    });
}

/// The log covers both pairs; the target announces the guest by RARP.
#[test]
fn qemu_7_2_migrates_a_card() {
    play(&Script {
        device: CARD,
        memory: &PC,
        parts: &[
            INIT[0],
            INIT[1],
            INIT[2],
            INIT[3],
            INIT[4],
            INIT[5],
            INIT[6],
            &START,
            &MEMORY,
            &ring(0),
            &call(0),
            &ring(1),
            &call(1),
            &DRIVER_OK,
            &[
                Step::Serve(0),
                ask(SET_LOG_BASE, Body::Log(0x2000), Reply::Log),
                order(SET_FEATURES, Body::Features(GUEST | virtio::LOG_ALL)),
                ask(GET_STATUS, Body::Empty, Reply::Number(RUNNING)),
                order(SET_VRING_ADDR, Body::LoggedAddress(0)),
                order(SET_VRING_ADDR, Body::LoggedAddress(1)),
                Step::Serve(0),
                Step::Logged,
            ],
            &RESET,
            &[stop(0), stop(1), Step::Migrate],
            INIT[0],
            INIT[1],
            INIT[2],
            INIT[3],
            INIT[4],
            INIT[5],
            INIT[6],
            &START,
            &MEMORY,
            &ring(0),
            &call(0),
            &ring(1),
            &call(1),
            &DRIVER_OK,
            &[
                tell(SEND_RARP, Body::Number(0x0000_5634_1200_5452)),
                Step::Serve(0),
                Step::Serve(1),
                // What has a reply shows that the announcement has arrived.
                stop(0),
                Step::Told(&[Told::Rarp([0x52, 0x54, 0x00, 0x12, 0x34, 0x56])]),
            ],
        ],
    });
}

/// A guest with an IOMMU in front of the card: rings are at its addresses, and
/// what is missed is asked for on the channel. Every update wants an
/// acknowledgement.
#[test]
fn qemu_7_2_uses_a_card_behind_an_iommu() {
    const START: [Step; 4] = [
        ask(
            GET_FEATURES,
            Body::Empty,
            Reply::Features(virtio::ACCESS_PLATFORM),
        ),
        tell(
            SET_FEATURES,
            Body::Features(GUEST | virtio::ACCESS_PLATFORM),
        ),
        ask(GET_STATUS, Body::Empty, Reply::Number(0)),
        tell(SET_STATUS, Body::Number(FEATURES_OK)),
    ];
    const fn ring(ring: u32) -> [Step; 5] {
        [
            tell(SET_VRING_NUM, Body::Vring(ring, 128)),
            tell(SET_VRING_BASE, Body::Base(ring)),
            tell(SET_VRING_ADDR, Body::IovaAddress(ring)),
            tell(SET_VRING_KICK, Body::EventFd(ring)),
            tell(SET_VRING_CALL, Body::EventFd(ring)),
        ]
    }
    play(&Script {
        device: CARD,
        memory: &PC,
        parts: &[
            INIT[0],
            INIT[1],
            INIT[2],
            INIT[3],
            INIT[4],
            INIT[5],
            INIT[6],
            &START,
            &MEMORY,
            &ring(0),
            &ring(1),
            &DRIVER_OK,
            // `vhost_dev_start`: the used ring, before anybody asks.
            &[
                order(IOTLB_MSG, Body::Translation(0x10_1000)),
                Step::Serve(0),
                Step::Serve(1),
            ],
        ],
    });
}
