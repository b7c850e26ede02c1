// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Snapshots that are damaged, made up, or of another device.

use std::io::ErrorKind;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vhost_guest_vmm_traits::test_utils::Call;
use vhost_guest_vmm_traits::{Access, AddressTranslator, Translation};

use super::rig::{self, Rig, BARS, NEEDS_RESET, QUEUE_SELECT};
use super::session::{assert_recovers, try_send};
use super::siege::take_config_interrupt;
use crate::function::Builder;
use crate::guest::pci::bars::{COMMON, DRIVER_AUX};
use crate::guest::snapshot::{Damage, SnapshotError};
use crate::guest::virtio::NO_VECTOR;

/// A device with something in every register, and its snapshot.
fn saved() -> (Rig, Vec<u8>) {
    let mut rig = rig::serving();
    for kick in 0..4u32 {
        rig.write(DRIVER_AUX, &(kick | (5 + kick) << 16).to_le_bytes());
    }
    rig.device.pause();
    let snapshot = rig.device.snapshot().unwrap();
    (rig, snapshot)
}

/// Whatever was restored: it is what the bytes say, and the device works.
fn assert_sane(rig: &mut Rig, bytes: &[u8], what: &str) {
    let vmm = &rig.vmm;
    assert_eq!(vmm.armed(), [], "{what}");
    assert_eq!(vmm.mappings(), [], "{what}");
    // The device's own queues are left.
    assert!(vmm.doorbells().len() <= 4, "{what}");
    let again = rig.device.snapshot().unwrap();
    if rig.device.shared.registers.lock().needs_reset() {
        // It may have lost a frontend: then these say so.
        rig.device
            .shared
            .registers
            .lock()
            .parse(&again)
            .map(drop)
            .unwrap();
    } else {
        assert_eq!(again, bytes, "{what}");
    }
}

#[test]
fn every_byte_counts() {
    let (mut rig, snapshot) = saved();
    let mut accepted = 0;
    for at in 0..snapshot.len() {
        for change in [0x01, 0x02, 0x80, 0xFF] {
            let mut bytes = snapshot.clone();
            bytes[at] ^= change;
            match rig.restore(&bytes) {
                Ok(()) => {
                    accepted += 1;
                    assert_sane(&mut rig, &bytes, &format!("byte {at} ^ {change:#x}"));
                    rig.restore(&snapshot).unwrap();
                }
                Err(SnapshotError::Environment(error)) => panic!("{error}"),
                Err(_) => assert_eq!(rig.device.snapshot().unwrap(), snapshot),
            }
        }
    }
    // Addresses, selectors, messages: what a driver may choose.
    assert!((100..snapshot.len() * 3).contains(&accepted), "{accepted}");
}

#[test]
fn no_byte_is_missing_and_none_too_many() {
    let (rig, snapshot) = saved();
    let registers = &rig.device.shared.registers.lock();
    for length in 0..snapshot.len() {
        let error = registers.parse(&snapshot[..length]).map(drop).unwrap_err();
        let known = matches!(error, SnapshotError::Foreign | SnapshotError::Length { .. });
        assert!(known, "{length}: {error}");
    }
    let longer = [&snapshot[..], &[0]].concat();
    let error = registers.parse(&longer).map(drop).unwrap_err();
    let SnapshotError::Length { found, expected } = error else {
        panic!("{error}");
    };
    assert_eq!((found, expected), (longer.len(), snapshot.len()));
}

#[test]
fn other_bytes_and_other_versions_are_named() {
    let (rig, snapshot) = saved();
    let error = |at: usize, byte: u8| {
        let mut bytes = snapshot.clone();
        bytes[at] = byte;
        let registers = rig.device.shared.registers.lock();
        registers.parse(&bytes).map(drop).unwrap_err()
    };
    assert!(matches!(error(0, b'V'), SnapshotError::Foreign));
    let version = error(8, 2);
    let told = matches!(version, SnapshotError::Version { found: 2, known: 1 });
    assert!(told, "{version}");
    assert!(matches!(error(12, 0), SnapshotError::Length { .. }));
}

struct Identity;

impl AddressTranslator for Identity {
    fn translate(&self, iova: u64, length: u64, _: Access) -> std::io::Result<Translation> {
        Ok(Translation {
            guest_address: iova,
            length,
        })
    }
}

/// What is said of a device that was built in another way.
type Shape = (&'static str, fn(Builder) -> Builder);

#[test]
fn a_device_of_another_shape_is_refused_and_the_difference_named() {
    let (_rig, snapshot) = saved();
    let shapes: [Shape; 5] = [
        ("vrings: 0x4; here it is 0x5", |builder| builder.queues(5)),
        ("a window of 0x4000000; here it is 0x8000000", |builder| {
            builder.window_size(128 << 20)
        }),
        ("device type 0x2; here it is 0x1", |builder| {
            builder.device_type(1)
        }),
        ("uuid 00000000000000000000000000000000", |builder| {
            builder.uuid([1; 16])
        }),
        ("virtqueues: 0x4; here it is 0x6", |builder| {
            builder.migration(4096)
        }),
    ];
    for (what, choose) in shapes {
        let mut other = Rig::with(choose);
        other.device.pause();
        let before = other.device.snapshot().unwrap();
        let error = other.restore(&snapshot).unwrap_err();
        assert!(matches!(error, SnapshotError::Different { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(other.device.snapshot().unwrap(), before, "{what}");
    }
    let mut other = Rig::translated(Some(Arc::new(Identity)), |builder| builder);
    other.device.pause();
    let error = other.restore(&snapshot).unwrap_err();
    assert!(error.to_string().contains("features"), "{error}");
}

/// Offsets in a snapshot of the rig's device.
const COMMON_RECORD: usize = 328;
const DEVICE_RECORD: usize = 348;
const QUEUES: usize = 354;
const EVENTS: usize = 482;
const VECTORS: usize = 518;

#[test]
fn states_that_cannot_be_are_refused() {
    let (mut rig, snapshot) = saved();
    type Change = (usize, &'static [u8], Damage);
    let changes: [Change; 22] = [
        (68, &[0, 0], Damage::ConfigurationSpace),
        (324, &[0x40], Damage::SizeProbe),
        (324, &[1], Damage::SizeProbe),
        (325, &[4], Damage::IsrStatus),
        (COMMON_RECORD + 8, &[0; 8], Damage::DriverFeatures),
        (COMMON_RECORD + 8, &[0xFF; 8], Damage::DriverFeatures),
        (COMMON_RECORD + 18, &[4], Damage::DeviceStatus),
        (COMMON_RECORD + 18, &[0x4F], Damage::BrokenStatus),
        (COMMON_RECORD + 19, &[2], Damage::ResetPending),
        (DEVICE_RECORD, &[3, 0], Damage::DeviceType),
        (DEVICE_RECORD + 5, &[2], Damage::ConfigurationGeneration),
        (DEVICE_RECORD + 2, &[4, 0], Damage::Status),
        (DEVICE_RECORD + 2, &[2, 0], Damage::FrontendWithoutBackend),
        (QUEUES + 24, &[3, 0], Damage::QueueSize),
        (QUEUES + 24, &[0, 1], Damage::QueueSize),
        (QUEUES, &[1], Damage::QueueRings),
        (QUEUES + 26, &[2, 0], Damage::QueueState),
        (QUEUES + 26, &[0, 0, 1, 0], Damage::QueuePosition),
        (EVENTS, &[11, 0], Damage::Vector),
        (EVENTS + 4 * 5 + 2, &[1], Damage::Pending),
        (EVENTS + 3, &[1], Damage::EventReserved),
        (VECTORS + 12, &[2], Damage::VectorTable),
    ];
    for (at, new, what) in changes {
        let mut bytes = snapshot.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        let error = rig.restore(&bytes).unwrap_err();
        let told = matches!(error, SnapshotError::Damaged(damage) if damage == what);
        assert!(told, "{what}: {error}");
        assert_eq!(rig.device.snapshot().unwrap(), snapshot, "{what}");
    }
}

#[test]
fn a_backend_of_no_type_is_refused() {
    let mut rig = Rig::with(|builder| builder.device_type(0));
    rig.device.pause();
    let mut bytes = rig.device.snapshot().unwrap();
    bytes[DEVICE_RECORD + 2] = 1;
    let error = rig.restore(&bytes).unwrap_err();
    let told = matches!(error, SnapshotError::Damaged(Damage::TypelessBackend));
    assert!(told, "{error}");
}

#[test]
fn queues_elsewhere_are_the_guests_fault_when_it_goes_on() {
    let (mut rig, snapshot) = saved();
    let changes: [(usize, &[u8]); 2] = [
        // Beyond memory.
        (QUEUES + 8, &[0, 0, 0, 0, 1]),
        // Much further than the driver ever was.
        (QUEUES + 28, &[0x34, 0x12, 0x78, 0x56]),
    ];
    for (at, new) in changes {
        let mut bytes = snapshot.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        rig.restore(&bytes).unwrap();
        assert!(!rig.device.shared.registers.lock().needs_reset());
        rig.device.resume();
        rig.run();
        let frontend = rig.connect();
        rig.run();
        try_send(&frontend, &rig::message(3, 1, &[]), &[]);
        rig.run();
        assert_eq!(rig.status() & NEEDS_RESET, NEEDS_RESET, "at {at}");
        assert!(take_config_interrupt(&rig), "at {at}");
        assert_recovers(&mut rig, "queues elsewhere");
        rig.device.pause();
    }
}

#[test]
fn a_vmm_that_fails_leaves_a_device_that_was_reset() {
    for n in 0.. {
        let (_old, snapshot) = saved();
        let mut rig = Rig::new();
        rig.vmm_fails = true;
        rig.device.pause();
        rig.vmm.fail_nth(n, ErrorKind::OutOfMemory);
        let outcome = rig.device.restore(&snapshot);
        if rig.vmm.clear_failure() {
            outcome.unwrap();
            assert!(n >= 9, "only {n} calls");
            return;
        }
        let error = outcome.unwrap_err();
        assert!(matches!(error, SnapshotError::Environment(_)), "{error}");
        assert_eq!(rig.vmm.source_count(), 0, "call {n}");
        let fresh = Rig::new();
        fresh.device.pause();
        let expected = fresh.device.snapshot().unwrap();
        assert_eq!(rig.device.snapshot().unwrap(), expected, "call {n}");
        rig.restore(&snapshot).unwrap();
        rig.device.resume();
        assert_recovers(&mut rig, "a second try");
    }
}

#[test]
fn a_running_device_that_cannot_be_restored_is_nowhere() {
    for n in 0.. {
        // It goes back in time; the call that fails may be of its own end.
        let (mut rig, snapshot) = saved();
        rig.vmm_fails = true;
        assert_eq!(rig.vmm.placed(), Some(BARS[2].1));
        rig.vmm.fail_nth(n, ErrorKind::OutOfMemory);
        let outcome = rig.device.restore(&snapshot);
        if rig.vmm.clear_failure() {
            outcome.unwrap();
            assert!(n >= 9, "only {n} calls");
            return;
        }
        // Nobody tells the VMM which BARs were decoded.
        outcome.unwrap_err();
        assert_eq!(rig.vmm.placed(), None, "call {n}");
        assert!(rig.vmm.doorbells().is_empty(), "call {n}");
        assert_eq!(rig.vmm.armed(), [], "call {n}");
        assert_eq!(rig.vmm.mappings(), [], "call {n}");
    }
}

#[test]
fn a_snapshot_of_a_dead_device_can_be_read() {
    let mut rig = rig::serving();
    // An event that the VMM has not taken from its eventfd.
    rig.device.shared.registers.lock().signal_queue(0);
    rig.vmm_fails = true;
    rig.vmm.fail_nth(0, ErrorKind::Other);
    rig.write(QUEUE_SELECT, &[0, 0]);
    rig.write(COMMON + 0x1A, &NO_VECTOR.to_le_bytes());
    assert!(rig.vmm.calls().contains(&Call::Dead));
    rig.device.pause();
    let snapshot = rig.device.snapshot().unwrap();
    Rig::new()
        .device
        .shared
        .registers
        .lock()
        .parse(&snapshot)
        .map(drop)
        .unwrap();
}

#[test]
fn a_dead_device_is_not_brought_back() {
    let (mut rig, snapshot) = saved();
    rig.device.resume();
    rig.device.shared.die(std::io::Error::other("for the test"));
    rig.device.pause();
    let error = rig.restore(&snapshot).unwrap_err();
    assert!(error.to_string().contains("dead"), "{error}");
}

/// Goes on after whatever was restored.
fn go_on(rig: &mut Rig) {
    rig.device.resume();
    rig.run();
    for queue in 0..4 {
        rig.notify(queue);
    }
    let frontend = rig.connect();
    try_send(&frontend, &rig::message(3, 1, &[]), &[]);
    rig.run();
    rig.write(COMMON + 0x14, &[0]);
    rig.run();
    drop(frontend);
    assert_recovers(rig, "made-up state");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..800)) {
        let (mut rig, snapshot) = saved();
        prop_assert!(rig.restore(&bytes).is_err());
        // With the right beginning and length, too.
        let mut shaped = snapshot.clone();
        let room = shaped.len() - 68;
        for (to, from) in shaped[68..].iter_mut().zip(bytes.iter().take(room)) {
            *to = *from;
        }
        if rig.restore(&shaped).is_ok() {
            assert_sane(&mut rig, &shaped, "arbitrary");
        }
        go_on(&mut rig);
    }

    #[test]
    fn whatever_is_accepted_works(
        changes in vec((68..694usize, any::<u8>()), 1..12),
    ) {
        let (mut rig, snapshot) = saved();
        let mut bytes = snapshot;
        for (at, byte) in changes {
            let mut changed = bytes.clone();
            changed[at] = byte;
            // One that is refused would hide the others.
            if rig.device.shared.registers.lock().parse(&changed).is_ok() {
                bytes = changed;
            }
        }
        rig.restore(&bytes).unwrap();
        assert_sane(&mut rig, &bytes, "changed");
        go_on(&mut rig);
    }
}
