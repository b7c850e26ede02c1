// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Cloud Hypervisor's disk and network card.
//!
//! From main at ae44c2971 (after v53): virtio-devices/src/vhost_user/
//! vu_common_ctrl.rs (`connect_vhost_user`, `negotiate_features_vhost_user`,
//! `setup_vhost_user`, `reinitialize_vhost_user`, `pause_vhost_user`,
//! `resume_vhost_user`, `reset_vhost_user`), blk.rs and net.rs (`new`).

use vhost_guest_msg::frontend::*;

use super::PC;
use crate::player::play;
use crate::script::{
    ask, demand, order, protocol, tell, virtio, Body, Device, Reply, Script, Step,
};

/// What it wants of the protocol's features.
pub const WANTED: u64 = protocol::CONFIG
    | protocol::MQ
    | protocol::CONFIGURE_MEM_SLOTS
    | protocol::REPLY_ACK
    | protocol::INFLIGHT_SHMFD
    | protocol::LOG_SHMFD
    | protocol::DEVICE_STATE;
/// What its guests take, as far as it was offered.
pub const GUEST: u64 = virtio::VERSION_1
    | virtio::PROTOCOL
    | virtio::EVENT_IDX
    | virtio::INDIRECT
    | virtio::IN_ORDER
    | virtio::ORDER_PLATFORM
    | virtio::BLK;

const DISK: Device = Device::Disk { queues: 2 };

/// `connect_vhost_user`.
pub const CONNECT: [Step; 2] = [
    tell(SET_OWNER, Body::Empty),
    ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
];

/// From SET_PROTOCOL_FEATURES on everything has NEED_REPLY, what has a reply
/// of its own included.
pub const NEGOTIATE: [Step; 4] = [
    ask(
        GET_PROTOCOL_FEATURES,
        Body::Empty,
        Reply::ProtocolFeatures(protocol::MQ),
    ),
    tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(WANTED)),
    demand(GET_QUEUE_NUM, Body::Empty, Reply::AtLeast(2)),
    // Flags: "writable".
    demand(GET_CONFIG, Body::Config(0, 60, 1), Reply::Config),
];

/// Who knows what was negotiated does not ask again.
pub const RENEGOTIATE: [Step; 1] = [tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(WANTED))];

/// `setup_vhost_user` up to the record: a table, although there are slots.
pub const SET_UP: [Step; 4] = [
    order(SET_FEATURES, Body::Features(GUEST)),
    order(SET_MEM_TABLE, Body::Table(&[0, 1])),
    order(SET_VRING_NUM, Body::Vring(0, 128)),
    order(SET_VRING_NUM, Body::Vring(1, 128)),
];

pub const NEW_RECORD: [Step; 2] = [
    demand(GET_INFLIGHT_FD, Body::Inflight(2, 128), Reply::Inflight),
    order(SET_INFLIGHT_FD, Body::Record),
];
pub const OLD_RECORD: [Step; 1] = [order(SET_INFLIGHT_FD, Body::Record)];

/// Addresses first; the base is the available index.
pub const fn ring(ring: u32) -> [Step; 4] {
    [
        order(SET_VRING_ADDR, Body::Address(ring)),
        order(SET_VRING_BASE, Body::AvailableIndex(ring)),
        order(SET_VRING_CALL, Body::EventFd(ring)),
        order(SET_VRING_KICK, Body::EventFd(ring)),
    ]
}

pub const fn enable(on: u32) -> [Step; 2] {
    [
        order(SET_VRING_ENABLE, Body::Vring(0, on)),
        order(SET_VRING_ENABLE, Body::Vring(1, on)),
    ]
}

pub const SERVE: [Step; 3] = [Step::Serve(0), Step::Serve(1), Step::Serve(1)];

/// The guest resets the disk: each vring is disabled and stopped.
const fn reset(ring: u32) -> [Step; 2] {
    [
        order(SET_VRING_ENABLE, Body::Vring(ring, 0)),
        demand(GET_VRING_BASE, Body::Vring(ring, 0), Reply::Base),
    ]
}

#[test]
fn cloud_hypervisor_starts_and_resets_a_disk() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            &CONNECT,
            &NEGOTIATE,
            &SET_UP,
            &NEW_RECORD,
            &ring(0),
            &ring(1),
            &enable(1),
            &SERVE,
            &reset(0),
            &reset(1),
            &SET_UP,
            // Activation begins with an empty record of its own.
            &NEW_RECORD,
            &ring(0),
            &ring(1),
            &enable(1),
            &SERVE,
        ],
    });
}

#[test]
fn cloud_hypervisor_pauses_and_resumes_a_disk() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            &CONNECT,
            &NEGOTIATE,
            &SET_UP,
            &NEW_RECORD,
            &ring(0),
            &ring(1),
            &enable(1),
            &SERVE,
            &enable(0),
            // Its guest's last request, while it was being paused.
            &[Step::Request(0)],
            &enable(1),
            &[Step::Answered(0)],
            &SERVE,
        ],
    });
}

/// `reinitialize_vhost_user`: SET_PROTOCOL_FEATURES without asking, the old
/// record, and the available index as the base of a vring with requests under
/// way.
#[test]
fn cloud_hypervisor_reconnects_a_disk() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            &CONNECT,
            &NEGOTIATE,
            &SET_UP,
            &NEW_RECORD,
            &ring(0),
            &ring(1),
            &enable(1),
            &SERVE,
            &[Step::Reconnect],
            &CONNECT,
            &RENEGOTIATE,
            &SET_UP,
            &OLD_RECORD,
            &ring(0),
            &ring(1),
            &enable(1),
            &SERVE,
        ],
    });
}

/// The card: a configuration is read from cards, too; the channel comes last,
/// and memory is added while vrings run.
#[test]
fn cloud_hypervisor_starts_a_card() {
    play(&Script {
        device: Device::Still {
            device_type: 1,
            features: virtio::NET_MRG_RXBUF,
            queues: 4,
        },
        memory: &PC,
        parts: &[
            &CONNECT,
            &NEGOTIATE,
            &[
                order(SET_FEATURES, Body::Features(GUEST | virtio::NET_MRG_RXBUF)),
                order(SET_MEM_TABLE, Body::Table(&[1])),
                order(SET_VRING_NUM, Body::Vring(0, 128)),
                order(SET_VRING_NUM, Body::Vring(1, 128)),
            ],
            &NEW_RECORD,
            &ring(0),
            &ring(1),
            &enable(1),
            &[order(ADD_MEM_REG, Body::Slot(0)), Step::ServeIn(0, 0)],
            &SERVE,
        ],
    });
}
