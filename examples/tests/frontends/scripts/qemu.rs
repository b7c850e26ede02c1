// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU's vhost-user-blk.
//!
//! From captures of QEMU 7.2.22 (Debian 12) and 11.1, and
//! from hw/virtio/vhost-user.c (`vhost_user_backend_init`,
//! `vhost_user_add_remove_regions`, `vhost_user_set_vring_enable`,
//! `vhost_user_dev_start`, `vhost_user_reset_status`) at 019fbfa4bcd2,
//! hw/block/vhost-user-blk.c (`vhost_user_blk_start`).

use vhost_guest_msg::frontend::*;

use super::PC;
use crate::player::play;
use crate::script::{ask, order, protocol, stop, tell, virtio, Body, Device, Reply, Script, Step};

/// All bits that QEMU 7.2 has a name for: it takes what is offered.
pub const NAMED_7_2: u64 = (1 << 17) - 1;
/// And QEMU 11.1.
pub const NAMED_11_1: u64 = (1 << 21) - 1;
/// What guests of PCs take, as far as it was offered.
pub const GUEST: u64 =
    virtio::VERSION_1 | virtio::PROTOCOL | virtio::EVENT_IDX | virtio::INDIRECT | virtio::BLK;

const DISK: Device = Device::Disk { queues: 2 };

/// `vhost_user_backend_init`: the channel is the only request that wants an
/// acknowledgement.
pub const fn introduce(named: u64) -> [Step; 8] {
    [
        ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
        ask(
            GET_PROTOCOL_FEATURES,
            Body::Empty,
            Reply::ProtocolFeatures(protocol::MQ),
        ),
        tell(SET_PROTOCOL_FEATURES, Body::ProtocolFeatures(named)),
        ask(GET_QUEUE_NUM, Body::Empty, Reply::AtLeast(2)),
        ask(GET_MAX_MEM_SLOTS, Body::Empty, Reply::AtLeast(2)),
        order(SET_BACKEND_REQ_FD, Body::Channel),
        tell(SET_OWNER, Body::Empty),
        ask(GET_FEATURES, Body::Empty, Reply::Features(virtio::PROTOCOL)),
    ]
}

/// `vhost_virtqueue_init`, before features are set. 7.2 waits for nothing.
pub const fn init_ring(ring: u32) -> [Step; 2] {
    [
        tell(SET_VRING_CALL, Body::EventFd(ring)),
        tell(SET_VRING_ERR, Body::EventFd(ring)),
    ]
}

/// The same of 11.1.
const fn init_ring_11_1(ring: u32) -> [Step; 2] {
    [
        order(SET_VRING_CALL, Body::EventFd(ring)),
        order(SET_VRING_ERR, Body::EventFd(ring)),
    ]
}

/// Flags 0, and 57 bytes: the length of its own structure.
const CONFIG: [Step; 1] = [ask(GET_CONFIG, Body::Config(0, 57, 0), Reply::Config)];

/// `vhost_user_set_features`: with STATUS, FEATURES_OK is added.
pub const fn features(status: u64) -> [Step; 3] {
    [
        tell(SET_FEATURES, Body::Features(GUEST)),
        ask(GET_STATUS, Body::Empty, Reply::Number(status)),
        tell(SET_STATUS, Body::Number(status | FEATURES_OK)),
    ]
}

pub const FEATURES_OK: u64 = 8;
pub const RUNNING: u64 = 0xf;

const RECORD: [Step; 2] = [
    ask(GET_INFLIGHT_FD, Body::Inflight(2, 128), Reply::Inflight),
    tell(SET_INFLIGHT_FD, Body::Record),
];

/// `vhost_dev_start` sets features again, which have not changed.
pub const AGAIN: [Step; 2] = [
    tell(SET_FEATURES, Body::Features(GUEST)),
    ask(GET_STATUS, Body::Empty, Reply::Number(FEATURES_OK)),
];

/// With slots there is no table.
pub const MEMORY: [Step; 2] = [
    order(ADD_MEM_REG, Body::Slot(0)),
    order(ADD_MEM_REG, Body::Slot(1)),
];

/// `vhost_virtqueue_start`.
pub const fn ring(ring: u32) -> [Step; 4] {
    [
        tell(SET_VRING_NUM, Body::Vring(ring, 128)),
        tell(SET_VRING_BASE, Body::Base(ring)),
        tell(SET_VRING_ADDR, Body::Address(ring)),
        tell(SET_VRING_KICK, Body::EventFd(ring)),
    ]
}

const fn ring_11_1(ring: u32) -> [Step; 4] {
    [
        tell(SET_VRING_NUM, Body::Vring(ring, 128)),
        tell(SET_VRING_BASE, Body::Base(ring)),
        tell(SET_VRING_ADDR, Body::Address(ring)),
        order(SET_VRING_KICK, Body::EventFd(ring)),
    ]
}

/// Both vrings, whether they were set up or not.
pub const fn enable(on: u32) -> [Step; 2] {
    [
        tell(SET_VRING_ENABLE, Body::Vring(0, on)),
        tell(SET_VRING_ENABLE, Body::Vring(1, on)),
    ]
}

const fn enable_11_1(on: u32) -> [Step; 2] {
    [
        order(SET_VRING_ENABLE, Body::Vring(0, on)),
        order(SET_VRING_ENABLE, Body::Vring(1, on)),
    ]
}

/// `vhost_user_dev_start`.
pub const DRIVER_OK: [Step; 2] = [
    ask(GET_STATUS, Body::Empty, Reply::Number(FEATURES_OK)),
    tell(SET_STATUS, Body::Number(RUNNING)),
];

pub const RESET: [Step; 1] = [tell(SET_STATUS, Body::Number(0))];

const CALLS: [Step; 2] = [
    tell(SET_VRING_CALL, Body::EventFd(0)),
    tell(SET_VRING_CALL, Body::EventFd(1)),
];

/// Firmware uses one of two vrings, is reset, and the kernel uses both. The
/// reset by status comes before GET_VRING_BASE (7.2), whose answer counts.
#[test]
fn qemu_7_2_boots_from_a_disk() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            &introduce(NAMED_7_2),
            &init_ring(0),
            &init_ring(1),
            &CONFIG,
            &features(0),
            &RECORD,
            &CALLS,
            &AGAIN,
            &MEMORY,
            &ring(0),
            &enable(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(0)],
            &enable(0),
            &RESET,
            &[stop(0)],
            &features(0),
            &[tell(SET_INFLIGHT_FD, Body::Record)],
            &CALLS,
            &AGAIN,
            &ring(0),
            &ring(1),
            &enable(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(1)],
        ],
    });
}

/// The same of 11.1: it waits for descriptors and for enabling, and resets by
/// status behind GET_VRING_BASE.
#[test]
fn qemu_11_1_boots_from_a_disk() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            &introduce(NAMED_11_1),
            &init_ring_11_1(0),
            &init_ring_11_1(1),
            &CONFIG,
            &features(0),
            &RECORD,
            &AGAIN,
            &MEMORY,
            &ring_11_1(0),
            &enable_11_1(1),
            &DRIVER_OK,
            &[Step::Serve(0)],
            &enable_11_1(0),
            &[stop(0)],
            &RESET,
            &features(0),
            &[tell(SET_INFLIGHT_FD, Body::Record)],
            &AGAIN,
            &ring_11_1(0),
            &ring_11_1(1),
            &enable_11_1(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(1)],
        ],
    });
}

/// A VM is stopped and goes on: nothing is reset by the guest, so that the base
/// that GET_VRING_BASE tells behind the status is where the vring goes on.
#[test]
fn qemu_7_2_stops_a_vm_and_goes_on() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            &introduce(NAMED_7_2),
            &init_ring(0),
            &init_ring(1),
            &CONFIG,
            &features(0),
            &RECORD,
            &AGAIN,
            &MEMORY,
            &ring(0),
            &ring(1),
            &enable(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(1), Step::Serve(1)],
            &enable(0),
            &RESET,
            &[stop(0), stop(1)],
            &features(0),
            &[tell(SET_INFLIGHT_FD, Body::Record)],
            &AGAIN,
            &ring(0),
            &ring(1),
            &enable(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(1)],
        ],
    });
}

/// `vhost_user_blk_event`: the backend's socket is there again, and the guest
/// runs all the time.
#[test]
fn qemu_11_1_reconnects_a_disk() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            &introduce(NAMED_11_1),
            &init_ring_11_1(0),
            &init_ring_11_1(1),
            &CONFIG,
            &features(0),
            &RECORD,
            &AGAIN,
            &MEMORY,
            &ring_11_1(0),
            &ring_11_1(1),
            &enable_11_1(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Request(1), Step::Reconnect],
            &introduce(NAMED_11_1),
            &init_ring_11_1(0),
            &init_ring_11_1(1),
            &CONFIG,
            &features(0),
            &[tell(SET_INFLIGHT_FD, Body::Record)],
            &AGAIN,
            &MEMORY,
            &ring_11_1(0),
            &ring_11_1(1),
            &enable_11_1(1),
            &DRIVER_OK,
            &[Step::Answered(1), Step::Serve(0), Step::Serve(1)],
        ],
    });
}

/// A live migration: the log comes first, then LOG_ALL, then each vring's
/// addresses again, and only these wait. Then the VM stops, and goes on
/// elsewhere.
#[test]
fn qemu_7_2_migrates_a_disk() {
    play(&Script {
        device: DISK,
        memory: &PC,
        parts: &[
            &introduce(NAMED_7_2),
            &init_ring(0),
            &init_ring(1),
            &CONFIG,
            &features(0),
            &RECORD,
            &AGAIN,
            &MEMORY,
            &ring(0),
            &ring(1),
            &enable(1),
            &DRIVER_OK,
            &[
                Step::Serve(0),
                ask(SET_LOG_BASE, Body::Log(0x2000), Reply::Log),
                order(SET_FEATURES, Body::Features(GUEST | virtio::LOG_ALL)),
                ask(GET_STATUS, Body::Empty, Reply::Number(RUNNING)),
                order(SET_VRING_ADDR, Body::LoggedAddress(0)),
                order(SET_VRING_ADDR, Body::LoggedAddress(1)),
                Step::Serve(0),
                Step::Serve(1),
                Step::Logged,
            ],
            &enable(0),
            &RESET,
            &[stop(0), stop(1), Step::Migrate],
            &introduce(NAMED_7_2),
            &init_ring(0),
            &init_ring(1),
            &CONFIG,
            &features(0),
            &RECORD,
            &AGAIN,
            &MEMORY,
            &ring(0),
            &ring(1),
            &enable(1),
            &DRIVER_OK,
            &[Step::Serve(0), Step::Serve(1)],
        ],
    });
}
