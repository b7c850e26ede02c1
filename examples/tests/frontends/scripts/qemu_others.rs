// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU's vhost-user-scsi and vhost-user-fs.
//!
//! From what QEMU 7.2.22 (Debian 12) sent while SeaBIOS looked for disks
//! (scsi) and while it was made (fs); the rest from hw/scsi/vhost-scsi-common.c
//! (`vhost_scsi_common_start`, with `vhost_dev_prepare_inflight` in front of
//! the record) at 1b4a5a20daab and hw/virtio/vhost-user-fs.c (`vuf_start`,
//! `vuf_save_state`) at 06b40d250ecf.

use vhost_guest_msg::frontend::*;

use super::qemu::{
    features, init_ring, introduce, ring, AGAIN, DRIVER_OK, FEATURES_OK, GUEST, MEMORY, NAMED_11_1,
    NAMED_7_2, RESET,
};
use super::PC;
use crate::player::play;
use crate::script::{ask, order, protocol, stop, tell, Body, Device, Reply, Script, Step};

const HBA: Device = Device::Still {
    device_type: 8,
    features: 6,
    queues: 4,
};
const FILE_SYSTEM: Device = Device::Still {
    device_type: 26,
    features: 0,
    queues: 2,
};

/// No CONFIG: QEMU knows the configuration itself.
const NO_CONFIG: u64 = !protocol::CONFIG;

const RECORD: [Step; 2] = [
    ask(GET_INFLIGHT_FD, Body::Inflight(4, 128), Reply::Inflight),
    tell(SET_INFLIGHT_FD, Body::Record),
];

/// All vrings, of which firmware has set up one.
const fn enable_all(on: u32) -> [Step; 4] {
    [
        tell(SET_VRING_ENABLE, Body::Vring(0, on)),
        tell(SET_VRING_ENABLE, Body::Vring(1, on)),
        tell(SET_VRING_ENABLE, Body::Vring(2, on)),
        tell(SET_VRING_ENABLE, Body::Vring(3, on)),
    ]
}

const CALL_ALL: [Step; 4] = [
    tell(SET_VRING_CALL, Body::EventFd(0)),
    tell(SET_VRING_CALL, Body::EventFd(1)),
    tell(SET_VRING_CALL, Body::EventFd(2)),
    tell(SET_VRING_CALL, Body::EventFd(3)),
];

/// RESET_DEVICE twice before anything is negotiated, and the record
/// before the features say what vrings will be like.
#[test]
fn qemu_7_2_uses_a_scsi_adapter() {
    play(&Script {
        device: HBA,
        memory: &PC,
        parts: &[
            &introduce(NAMED_7_2 & NO_CONFIG),
            &init_ring(0),
            &init_ring(1),
            &init_ring(2),
            &init_ring(3),
            &[
                tell(RESET_DEVICE, Body::Empty),
                tell(RESET_DEVICE, Body::Empty),
            ],
            &RECORD,
            &features(0),
            &MEMORY,
            &ring(2),
            &enable_all(1),
            &CALL_ALL,
            &[Step::Serve(2), Step::Serve(2)],
            &enable_all(0),
            &[stop(2)],
        ],
    });
}

/// 11.1 sets features in front of the record, and resets by status behind the
/// bases.
#[test]
fn qemu_11_1_uses_a_scsi_adapter() {
    play(&Script {
        device: HBA,
        memory: &PC,
        parts: &[
            &introduce(NAMED_11_1 & NO_CONFIG),
            &init_ring(0),
            &init_ring(1),
            &init_ring(2),
            &init_ring(3),
            &[tell(RESET_DEVICE, Body::Empty)],
            &features(0),
            &RECORD,
            &AGAIN,
            &MEMORY,
            &ring(0),
            &ring(1),
            &ring(2),
            &ring(3),
            &enable_all(1),
            &DRIVER_OK,
            &CALL_ALL,
            &[Step::Serve(0), Step::Serve(2), Step::Serve(3)],
            &enable_all(0),
            &[stop(0), stop(1), stop(2), stop(3)],
            &RESET,
        ],
    });
}

const ENABLE: [Step; 2] = [
    tell(SET_VRING_ENABLE, Body::Vring(0, 1)),
    tell(SET_VRING_ENABLE, Body::Vring(1, 1)),
];
const DISABLE: [Step; 2] = [
    tell(SET_VRING_ENABLE, Body::Vring(0, 0)),
    tell(SET_VRING_ENABLE, Body::Vring(1, 0)),
];
const CALLS: [Step; 2] = [
    tell(SET_VRING_CALL, Body::EventFd(0)),
    tell(SET_VRING_CALL, Body::EventFd(1)),
];

#[test]
fn qemu_7_2_uses_a_file_system() {
    play(&Script {
        device: FILE_SYSTEM,
        memory: &PC,
        parts: &[
            &introduce(NAMED_7_2 & NO_CONFIG),
            &init_ring(0),
            &init_ring(1),
            &features(0),
            &MEMORY,
            &ring(0),
            &ring(1),
            &ENABLE,
            &DRIVER_OK,
            &CALLS,
            &[Step::Serve(0), Step::Serve(1)],
            &DISABLE,
            &RESET,
            &[stop(0), stop(1)],
        ],
    });
}

/// The state of the file system moves while all vrings are stopped and the
/// device is reset by status, before the features of the target are set.
#[test]
fn qemu_11_1_migrates_a_file_system() {
    play(&Script {
        device: FILE_SYSTEM,
        memory: &PC,
        parts: &[
            &introduce(NAMED_11_1 & NO_CONFIG),
            &init_ring(0),
            &init_ring(1),
            &features(0),
            &MEMORY,
            &ring(0),
            &ring(1),
            &ENABLE,
            &DRIVER_OK,
            &CALLS,
            &[Step::Serve(1)],
            &DISABLE,
            &[stop(0), stop(1)],
            &RESET,
            &[
                ask(SET_DEVICE_STATE_FD, Body::Pipe(0), Reply::Number(0x100)),
                Step::Save,
                ask(CHECK_DEVICE_STATE, Body::Empty, Reply::Number(0)),
                Step::Migrate,
            ],
            &introduce(NAMED_11_1 & NO_CONFIG),
            &init_ring(0),
            &init_ring(1),
            &[
                ask(SET_DEVICE_STATE_FD, Body::Pipe(1), Reply::Number(0x100)),
                Step::Load,
                ask(CHECK_DEVICE_STATE, Body::Empty, Reply::Number(0)),
            ],
            &[
                tell(SET_FEATURES, Body::Features(GUEST)),
                ask(GET_STATUS, Body::Empty, Reply::Number(0)),
                tell(SET_STATUS, Body::Number(FEATURES_OK)),
            ],
            &MEMORY,
            &ring(0),
            &ring(1),
            &ENABLE,
            &DRIVER_OK,
            &CALLS,
            &[Step::Serve(0), Step::Serve(1)],
        ],
    });
}

/// A guest that is reset while the card runs: QEMU stops it first.
#[test]
fn qemu_11_1_resets_a_scsi_adapter() {
    play(&Script {
        device: HBA,
        memory: &PC,
        parts: &[
            &introduce(NAMED_11_1 & NO_CONFIG),
            &init_ring(0),
            &init_ring(1),
            &features(0),
            &MEMORY,
            &ring(0),
            &[order(SET_VRING_ENABLE, Body::Vring(0, 1))],
            &DRIVER_OK,
            &[
                Step::Serve(0),
                order(SET_VRING_ENABLE, Body::Vring(0, 0)),
                stop(0),
            ],
            &RESET,
            &[tell(RESET_DEVICE, Body::Empty)],
            &features(0),
            &ring(0),
            &[
                tell(SET_VRING_CALL, Body::EventFd(0)),
                order(SET_VRING_ENABLE, Body::Vring(0, 1)),
            ],
            &DRIVER_OK,
            &[Step::Serve(0)],
        ],
    });
}
