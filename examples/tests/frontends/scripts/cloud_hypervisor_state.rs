// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Cloud Hypervisor's snapshots and live migration.
//!
//! From main at ae44c2971 (after v53): virtio-devices/src/vhost_user/
//! vu_common_ctrl.rs (`save_backend_state`, `restore_backend_state`, `resume`,
//! `update_log_base`, `start_dirty_log`, `dirty_log`) and mod.rs (`state`,
//! `snapshot`).

use vhost_guest_msg::frontend::*;

use super::cloud_hypervisor::{
    enable, ring, CONNECT, GUEST, NEGOTIATE, NEW_RECORD, OLD_RECORD, RENEGOTIATE, SERVE, SET_UP,
};
use super::PC;
use crate::player::play;
use crate::script::{demand, order, virtio, Body, Device, Reply, Script, Step};

/// A disk that has state.
const DISK: Device = Device::Still {
    device_type: 2,
    features: 0,
    queues: 2,
};

const START: [&[Step]; 8] = [
    &CONNECT,
    &NEGOTIATE,
    &SET_UP,
    &NEW_RECORD,
    &ring(0),
    &ring(1),
    &enable(1),
    &SERVE,
];

/// `save_backend_state`, through a socket: vrings are disabled first, and
/// stopped.
const SAVE: [Step; 5] = [
    demand(GET_VRING_BASE, Body::Vring(0, 0), Reply::Base),
    demand(GET_VRING_BASE, Body::Vring(1, 0), Reply::Base),
    demand(
        SET_DEVICE_STATE_FD,
        Body::StateSocket(0),
        Reply::Number(0x100),
    ),
    Step::Save,
    demand(CHECK_DEVICE_STATE, Body::Empty, Reply::Number(0)),
];

/// `restore_backend_state`: before features, memory and vrings.
const LOAD: [Step; 3] = [
    demand(
        SET_DEVICE_STATE_FD,
        Body::StateSocket(1),
        Reply::Number(0x100),
    ),
    Step::Load,
    demand(CHECK_DEVICE_STATE, Body::Empty, Reply::Number(0)),
];

/// Where vrings go on is part of the snapshot.
const fn ring_from(ring: u32) -> [Step; 4] {
    [
        order(SET_VRING_ADDR, Body::Address(ring)),
        order(SET_VRING_BASE, Body::Base(ring)),
        order(SET_VRING_CALL, Body::EventFd(ring)),
        order(SET_VRING_KICK, Body::EventFd(ring)),
    ]
}

/// After a snapshot the VM goes on: everything is set up again on the same
/// connection.
#[test]
fn cloud_hypervisor_goes_on_after_a_snapshot() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            START[0],
            START[1],
            START[2],
            START[3],
            START[4],
            START[5],
            START[6],
            START[7],
            // The guest writes its configuration: flags "writable".
            &[order(SET_CONFIG, Body::ConfigByte(32, 1, 1))],
            &enable(0),
            &SAVE,
            &SET_UP,
            &OLD_RECORD,
            &ring_from(0),
            &ring_from(1),
            &enable(1),
            &SERVE,
        ],
    });
}

/// Another process, which negotiates without asking, loads the state, and
/// activates.
#[test]
fn cloud_hypervisor_restores_a_snapshot() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            START[0],
            START[1],
            START[2],
            START[3],
            START[4],
            START[5],
            START[6],
            START[7],
            &enable(0),
            &SAVE,
            &[Step::Reconnect],
            &CONNECT,
            &RENEGOTIATE,
            &LOAD,
            &SET_UP,
            &NEW_RECORD,
            &ring_from(0),
            &ring_from(1),
            &enable(1),
            // `resume`, of a VM that was restored in pause.
            &enable(1),
            &SERVE,
        ],
    });
}

const fn logged(ring: u32) -> [Step; 1] {
    [order(SET_VRING_ADDR, Body::LoggedAddress(ring))]
}

/// A log for 16 MiB of memory has 512 bytes: less than a page. Each round has
/// a log of its own.
const NEXT_ROUND: [Step; 1] = [demand(SET_LOG_BASE, Body::Log(512), Reply::Log)];

/// The source's log is replaced in each round, while vrings run; the target
/// is restored from what came over the network.
#[test]
fn cloud_hypervisor_migrates_a_disk() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            START[0],
            START[1],
            START[2],
            START[3],
            START[4],
            START[5],
            START[6],
            START[7],
            &NEXT_ROUND,
            &[order(SET_FEATURES, Body::Features(GUEST | virtio::LOG_ALL))],
            &logged(0),
            &logged(1),
            &[Step::Serve(0), Step::Logged],
            &NEXT_ROUND,
            &[Step::Serve(1), Step::Logged],
            &enable(0),
            &SAVE,
            &NEXT_ROUND,
            &[Step::Migrate],
            &CONNECT,
            &RENEGOTIATE,
            &LOAD,
            &SET_UP,
            &NEW_RECORD,
            &ring_from(0),
            &ring_from(1),
            &enable(1),
            &enable(1),
            &SERVE,
        ],
    });
}

/// A migration that is given up: logging ends, and the VM goes on.
#[test]
fn cloud_hypervisor_gives_a_migration_up() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            START[0],
            START[1],
            START[2],
            START[3],
            START[4],
            START[5],
            START[6],
            START[7],
            &NEXT_ROUND,
            &[order(SET_FEATURES, Body::Features(GUEST | virtio::LOG_ALL))],
            &logged(0),
            &logged(1),
            &[
                Step::Serve(0),
                order(SET_VRING_ADDR, Body::Address(0)),
                order(SET_VRING_ADDR, Body::Address(1)),
                order(SET_FEATURES, Body::Features(GUEST)),
            ],
            &SERVE,
        ],
    });
}
