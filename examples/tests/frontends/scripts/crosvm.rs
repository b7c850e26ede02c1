// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! crosvm's frontend, for all types of devices.
//!
//! From main at f1e797a68: devices/src/virtio/vhost_user_frontend/mod.rs
//! (`VhostUserFrontend::new`, `activate`, `activate_vring`, `virtio_sleep`,
//! `virtio_wake`, `virtio_snapshot`, `virtio_restore`).

use vhost_guest_msg::frontend::*;

use super::PC;
use crate::player::play;
use crate::script::{ask, protocol, stop, tell, virtio, Body, Device, Reply, Script, Step};

const DEVICE: Device = Device::Still {
    device_type: 2,
    features: virtio::BLK,
    queues: 2,
};
/// REPLY_ACK is for the backend's requests; its own never have NEED_REPLY.
const WANTED: u64 = protocol::CONFIG
    | protocol::MQ
    | protocol::BACKEND_REQ
    | protocol::DEVICE_STATE
    | protocol::REPLY_ACK;
const GUEST: u64 = virtio::VERSION_1 | virtio::PROTOCOL | virtio::EVENT_IDX | virtio::BLK;

/// The channel comes before the features.
const CONNECT: [Step; 6] = [
    tell(SET_OWNER, Body::Empty),
    ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
    ask(
        GET_PROTOCOL_FEATURES,
        Body::Empty,
        Reply::ProtocolFeatures(protocol::DEVICE_STATE),
    ),
    tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(WANTED)),
    tell(SET_BACKEND_REQ_FD, Body::Channel),
    ask(GET_QUEUE_NUM, Body::Empty, Reply::AtLeast(2)),
];

/// As the guest's driver reads it, field by field, with flags "writable".
const CONFIG: [Step; 3] = [
    ask(GET_CONFIG, Body::Config(0, 8, 1), Reply::Config),
    ask(GET_CONFIG, Body::Config(34, 2, 1), Reply::Config),
    ask(GET_CONFIG, Body::Config(20, 4, 1), Reply::Config),
];

const FEATURES: [Step; 1] = [tell(SET_FEATURES, Body::Features(GUEST))];
const TABLE: [Step; 1] = [tell(SET_MEM_TABLE, Body::Table(&[0, 1]))];

/// Vrings share an eventfd for calls where the guest gave them one vector.
/// Each is enabled as soon as it is set up.
const fn ring(ring: u32) -> [Step; 6] {
    [
        tell(SET_VRING_NUM, Body::Vring(ring, 128)),
        tell(SET_VRING_ADDR, Body::Address(ring)),
        tell(SET_VRING_BASE, Body::Base(ring)),
        tell(SET_VRING_CALL, Body::CallOf(ring, 0)),
        tell(SET_VRING_KICK, Body::EventFd(ring)),
        tell(SET_VRING_ENABLE, Body::Vring(ring, 1)),
    ]
}

const fn sleep(ring: u32) -> [Step; 2] {
    [tell(SET_VRING_ENABLE, Body::Vring(ring, 0)), stop(ring)]
}

const SERVE: [Step; 3] = [Step::Serve(0), Step::Serve(1), Step::Serve(0)];

const SNAPSHOT: [Step; 3] = [
    ask(SET_DEVICE_STATE_FD, Body::Pipe(0), Reply::Number(0x100)),
    Step::Save,
    ask(CHECK_DEVICE_STATE, Body::Empty, Reply::Number(0)),
];

/// A snapshot of a VM that goes on: memory is sent again, features are not.
#[test]
fn crosvm_goes_on_after_a_snapshot() {
    play(&Script {
        device: DEVICE,
        memory: &PC,
        parts: &[
            &CONNECT,
            &CONFIG,
            &FEATURES,
            &TABLE,
            &ring(0),
            &ring(1),
            &SERVE,
            // The guest writes its configuration: flags 0.
            &[tell(SET_CONFIG, Body::ConfigByte(32, 0, 1))],
            &sleep(0),
            &sleep(1),
            &SNAPSHOT,
            &TABLE,
            &ring(0),
            &ring(1),
            &SERVE,
        ],
    });
}

/// The state is loaded behind the features, before there is memory.
#[test]
fn crosvm_restores_a_snapshot() {
    play(&Script {
        device: DEVICE,
        memory: &PC,
        parts: &[
            &CONNECT,
            &CONFIG,
            &FEATURES,
            &TABLE,
            &ring(0),
            &ring(1),
            &SERVE,
            &sleep(0),
            &sleep(1),
            &SNAPSHOT,
            &[Step::Reconnect],
            &CONNECT,
            &FEATURES,
            &[
                ask(SET_DEVICE_STATE_FD, Body::Pipe(1), Reply::Number(0x100)),
                Step::Load,
                ask(CHECK_DEVICE_STATE, Body::Empty, Reply::Number(0)),
            ],
            &TABLE,
            &ring(0),
            &ring(1),
            &SERVE,
        ],
    });
}

/// The guest resets the device and uses it again; the same features are not
/// sent twice.
#[test]
fn crosvm_resets_a_disk() {
    play(&Script {
        device: Device::Disk { queues: 2 },
        memory: &PC,
        parts: &[
            &[
                tell(SET_OWNER, Body::Empty),
                ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
                ask(
                    GET_PROTOCOL_FEATURES,
                    Body::Empty,
                    Reply::ProtocolFeatures(protocol::MQ),
                ),
                tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(WANTED)),
                tell(SET_BACKEND_REQ_FD, Body::Channel),
                ask(GET_QUEUE_NUM, Body::Empty, Reply::AtLeast(2)),
            ],
            &CONFIG,
            &FEATURES,
            &TABLE,
            &ring(0),
            &SERVE[..1],
            &sleep(0),
            &TABLE,
            &ring(0),
            &ring(1),
            &SERVE,
        ],
    });
}
