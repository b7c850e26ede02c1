// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! libblkio 1.5, by way of qemu-io 11.1.
//!
//! From a capture of a session with qemu-storage-daemon, and from the crates
//! blkio 0.5.1 and virtio-driver 0.6.1 (`VhostUser::connect`, `setup_queue`,
//! `map_mem_region`, `unmap_mem_region`), which the tests of `blkio` run.

use vhost_guest_msg::frontend::*;

use crate::memory::{Plan, Region};
use crate::player::play;
use crate::script::{
    ask, demand, order, protocol, tell, virtio, Body, Device, Reply, Script, Step,
};

/// Virtqueues in a file of just their length; buffers in others. Guest
/// addresses are user addresses.
const MEMORY: Plan = Plan {
    files: &[0x3b10, 0x12_1200, 0x2345],
    regions: &[
        Region {
            guest: 0x7fa3_fde0_0000,
            size: 0x1345,
            user: 0x7fa3_fde0_0000,
            file: 2,
            offset: 0x1000,
        },
        Region {
            guest: 0x7fa3_fdee_4000,
            size: 0x12_1200,
            user: 0x7fa3_fdee_4000,
            file: 1,
            offset: 0,
        },
        Region {
            guest: 0x7fa3_fe20_6000,
            size: 0x3b10,
            user: 0x7fa3_fe20_6000,
            file: 0,
            offset: 0,
        },
    ],
    rings: 0x7fa3_fe20_6000,
    num: 128,
};

const WANTED: u64 =
    protocol::REPLY_ACK | protocol::CONFIG | protocol::CONFIGURE_MEM_SLOTS | protocol::MQ;
const FEATURES: u64 = virtio::VERSION_1 | virtio::PROTOCOL | virtio::EVENT_IDX | virtio::BLK;

/// Features before protocol features; then NEED_REPLY on everything.
const CONNECT: [Step; 9] = [
    tell(SET_OWNER, Body::Empty),
    ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
    tell(SET_FEATURES, Body::Features(FEATURES)),
    ask(
        GET_PROTOCOL_FEATURES,
        Body::Empty,
        Reply::ProtocolFeatures(protocol::CONFIGURE_MEM_SLOTS),
    ),
    tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(WANTED)),
    demand(GET_QUEUE_NUM, Body::Empty, Reply::AtLeast(1)),
    demand(GET_MAX_MEM_SLOTS, Body::Empty, Reply::AtLeast(3)),
    demand(GET_CONFIG, Body::Config(0, 60, 0), Reply::Config),
    demand(GET_CONFIG, Body::Config(0, 60, 0), Reply::Config),
];

const RING: [Step; 7] = [
    order(ADD_MEM_REG, Body::Slot(2)),
    order(SET_VRING_NUM, Body::Vring(0, 128)),
    order(SET_VRING_BASE, Body::Vring(0, 0)),
    order(SET_VRING_ADDR, Body::Address(0)),
    order(SET_VRING_KICK, Body::EventFd(0)),
    order(SET_VRING_CALL, Body::EventFd(0)),
    order(SET_VRING_ENABLE, Body::Vring(0, 1)),
];

/// Regions of odd lengths come and go while the vring runs; a region
/// is taken away with its file beside the message.
#[test]
fn libblkio_maps_buffers_while_the_vring_runs() {
    play(&Script {
        device: Device::Disk { queues: 1 },
        memory: &MEMORY,
        parts: &[
            &CONNECT,
            &RING,
            &[
                demand(GET_CONFIG, Body::Config(0, 60, 0), Reply::Config),
                order(ADD_MEM_REG, Body::Slot(1)),
                Step::ServeIn(0, 1),
                order(ADD_MEM_REG, Body::Slot(0)),
                Step::ServeIn(0, 0),
                order(REM_MEM_REG, Body::Slot(1)),
                Step::ServeIn(0, 0),
                order(ADD_MEM_REG, Body::Slot(1)),
                Step::ServeIn(0, 1),
                order(REM_MEM_REG, Body::SlotWithoutFile(0)),
                Step::Serve(0),
            ],
        ],
    });
}
