// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Snapshots: what is in them comes back, register by register, and the
//! frontend does not.

use std::os::fd::AsFd;
use std::sync::Arc;

use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{event, memory_file, message, words, Frontend, Rig, BARS, NEEDS_RESET, VRINGS};
use super::rig::{QUEUE_SELECT, QUEUE_SIZE, STATUS};
use super::session::assert_recovers;
use super::siege::{assert_nothing_connected, take_config_interrupt, PLAIN, SIZE, USER};
use crate::guest::pci::bars::{COMMON, DEVICE, DRIVER_AUX, ISR, MSIX_PENDING, MSIX_TABLE, NOTIFY};
use crate::guest::snapshot::SnapshotError;
use crate::guest::virtio::feature;

/// All that the guest can read, but for what its reading changes.
fn registers(rig: &mut Rig) -> Vec<(&'static str, Vec<u8>)> {
    let shared = &rig.device.shared;
    let mut config = vec![0; 0xD0];
    shared.config_read(0, &mut config);
    let mut rest = vec![0; 0x100 - 0xD4];
    shared.config_read(0xD4, &mut rest);
    let read = |name, offset, length| {
        let mut bytes = vec![0; length];
        shared.bar_read(0, offset, &mut bytes);
        (name, bytes)
    };
    let vectors = 7 + usize::from(VRINGS);
    vec![
        ("configuration space", config),
        ("its end", rest),
        read("common", COMMON, 0x40),
        read("device", DEVICE, 36),
        read("auxiliary", DRIVER_AUX, 4),
        read("table", MSIX_TABLE, 16 * vectors),
        read("pending", MSIX_PENDING, 8),
    ]
}

/// A new device with the state of `old`, whose guest goes on with it.
fn successor(old: &mut Rig) -> Rig {
    old.device.pause();
    let snapshot = old.device.snapshot().unwrap();
    let mut new = Rig::new();
    new.adopt_guest(old);
    new.device.pause();
    new.restore(&snapshot).unwrap();
    new
}

/// How a device without a frontend came to be in its state.
type State = (&'static str, fn(&mut Rig));

fn initialised(rig: &mut Rig) {
    rig.features |= feature::RING_RESET;
    rig.initialise();
}

const STATES: [State; 13] = [
    ("power-up", |_| {}),
    ("a size probe", |rig| {
        rig.config_write(0x20, &[0xFF; 4]);
        rig.config_write(0x24, &[0xFF; 4]);
    }),
    ("BARs that are not decoded", |rig| {
        initialised(rig);
        rig.config_write(0x04, &0u16.to_le_bytes());
    }),
    ("a driver that has just begun", |rig| {
        rig.config_write(0x04, &6u16.to_le_bytes());
        rig.write(STATUS, &[3]);
        rig.write(COMMON + 8, &7u32.to_le_bytes());
        rig.write(COMMON, &1u32.to_le_bytes());
        rig.write(COMMON + 12, &u32::MAX.to_le_bytes());
    }),
    ("features that are refused", |rig| {
        rig.config_write(0x04, &6u16.to_le_bytes());
        rig.write(COMMON + 12, &u32::MAX.to_le_bytes());
        rig.write(STATUS, &[11]);
    }),
    ("an initialised driver", initialised),
    ("a backend that waits", |rig| {
        initialised(rig);
        rig.backend_up();
    }),
    ("selectors that select nothing", |rig| {
        initialised(rig);
        rig.write(QUEUE_SELECT, &77u16.to_le_bytes());
        rig.write(DRIVER_AUX, &0xFFFFu16.to_le_bytes());
        rig.write(COMMON, &9u32.to_le_bytes());
    }),
    ("vectors and masks", |rig| {
        initialised(rig);
        for kick in 0..u32::from(VRINGS) {
            rig.write(DRIVER_AUX, &(kick | (5 + kick % 2) << 16).to_le_bytes());
        }
        rig.write(MSIX_TABLE + 16 * 5 + 12, &1u32.to_le_bytes());
        rig.write(MSIX_TABLE, &u64::MAX.to_le_bytes());
        rig.config_write(0xD6, &0xC000u16.to_le_bytes());
    }),
    ("no MSI-X and no Bus Master", |rig| {
        initialised(rig);
        rig.config_write(0xD6, &0u16.to_le_bytes());
        rig.config_write(0x04, &2u16.to_le_bytes());
    }),
    ("a queue that was reset", |rig| {
        initialised(rig);
        rig.write(QUEUE_SELECT, &2u16.to_le_bytes());
        rig.write(COMMON + 0x3A, &1u16.to_le_bytes());
    }),
    ("a frontend that was lost", |rig| {
        initialised(rig);
        rig.backend_up();
        let mut frontend = rig.connect();
        rig.run();
        frontend.send(&message(3, PLAIN, &[]), &[]);
        rig.receive(0).expect("a request");
        drop(frontend);
        rig.run();
        rig.read::<36>(DEVICE);
    }),
    ("a guest that broke a rule", |rig| {
        initialised(rig);
        rig.write(QUEUE_SELECT, &0u16.to_le_bytes());
        rig.write(STATUS, &[0]);
        rig.write(COMMON + 0x20, &1u64.to_le_bytes());
        rig.write(COMMON + 0x1C, &1u16.to_le_bytes());
    }),
];

#[test]
fn every_register_comes_back() {
    for (what, prepare) in STATES {
        let mut old = Rig::new();
        prepare(&mut old);
        let mut new = successor(&mut old);
        assert_eq!(registers(&mut new), registers(&mut old), "{what}");
        let snapshot = old.device.snapshot().unwrap();
        assert_eq!(new.device.snapshot().unwrap(), snapshot, "{what}");
        for rig in [&mut old, &mut new] {
            rig.device.resume();
            rig.run();
        }
        assert_eq!(registers(&mut new), registers(&mut old), "{what}, resumed");
        assert_eq!(new.vmm.doorbells(), old.vmm.doorbells(), "{what}");
        assert_eq!(new.vmm.placed(), old.vmm.placed(), "{what}");
        let armed = |rig: &Rig| {
            let armed = rig.vmm.armed().into_iter().map(|(_, message)| message.data);
            let mut armed: Vec<_> = armed.collect();
            armed.sort_unstable();
            armed
        };
        assert_eq!(armed(&new), armed(&old), "{what}");
        assert_recovers(&mut new, what);
    }
}

#[test]
fn a_backend_that_waits_serves_the_next_frontend_without_a_reset() {
    let mut old = Rig::new();
    initialised(&mut old);
    old.backend_up();
    let mut new = successor(&mut old);
    drop(old);
    let mut frontend = new.connect();
    new.run();
    assert_eq!(new.up(), 1, "accepted in the pause");
    new.device.resume();
    new.run();
    assert_eq!(new.up(), 3);
    frontend.send(&message(1, PLAIN, &[]), &[]);
    assert_eq!(new.receive(0), Some(message(1, PLAIN, &[])));
    new.reply(1, &words(&[7]));
    assert!(frontend.receive().is_some());
}

/// A frontend that shares memory, kick 0 on vector 5, and a call.
fn share(rig: &mut Rig) -> Frontend {
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    let table = words(&[1, 0, SIZE, USER, 0]);
    frontend.send(&message(5, PLAIN, &table), &[memory_file(SIZE).as_fd()]);
    for code in [12, 13] {
        frontend.send(&message(code, PLAIN, &words(&[0])), &[event().as_fd()]);
    }
    rig.write(DRIVER_AUX, &(5u32 << 16).to_le_bytes());
    while rig.receive(0).is_some() {}
    assert_eq!(rig.vmm.mappings().len(), 1);
    frontend
}

#[test]
fn a_frontend_does_not_come_back() {
    let mut old = Rig::new();
    initialised(&mut old);
    let mut frontend = share(&mut old);
    take_config_interrupt(&old);
    // Something that the device holds: a request without a buffer.
    for _ in 0..QUEUE_SIZE {
        frontend.send(&message(3, PLAIN, &[]), &[]);
    }
    old.run();
    let mut new = successor(&mut old);
    assert_eq!(new.status(), 15 | NEEDS_RESET);
    assert_eq!(new.up(), 0);
    assert!(new.vmm.calls().contains(&Call::NeedsReset));
    assert!(new.vmm.mappings().is_empty());
    assert_nothing_connected(&new, "restored");
    assert!(new.vmm.armed().is_empty(), "an interrupt in the pause");
    // All else is as it was.
    let differ = registers(&mut old)
        .into_iter()
        .zip(registers(&mut new))
        .filter(|(old, new)| old != new);
    let names: Vec<_> = differ.map(|((name, _), _)| name).collect();
    assert_eq!(names, ["common", "device"]);
    new.device.resume();
    assert!(take_config_interrupt(&new), "the driver is not told");
    assert!(!take_config_interrupt(&new));
    let used = new.used(0);
    new.run();
    assert_eq!(new.used(0), used, "a queue is used");
    assert_recovers(&mut new, "a frontend that did not come back");
    // The one that was saved goes on with its frontend.
    old.device.resume();
    old.run();
    assert_eq!(old.up(), 3);
}

#[test]
fn what_waits_behind_a_mask_still_waits() {
    let mut old = Rig::new();
    initialised(&mut old);
    for vector in [0u64, 1] {
        old.write(MSIX_TABLE + 16 * vector + 12, &1u32.to_le_bytes());
    }
    let mut frontend = share(&mut old);
    frontend.send(&message(3, PLAIN, &[]), &[]);
    old.run();
    drop(frontend);
    old.run();
    assert_eq!(old.read::<1>(MSIX_PENDING), [3]);
    let mut new = successor(&mut old);
    assert_eq!(new.read::<1>(MSIX_PENDING), [3]);
    new.device.resume();
    new.run();
    assert_eq!(new.read::<1>(MSIX_PENDING), [3]);
    assert!(!take_config_interrupt(&new));
    new.write(MSIX_TABLE + 12, &0u32.to_le_bytes());
    assert!(take_config_interrupt(&new));
    assert_eq!(new.read::<1>(MSIX_PENDING), [2]);
}

#[test]
fn without_msix_the_isr_tells() {
    let mut old = Rig::new();
    initialised(&mut old);
    old.config_write(0xD6, &0u16.to_le_bytes());
    let frontend = share(&mut old);
    drop(frontend);
    old.run();
    let mut new = successor(&mut old);
    assert_eq!(new.read::<1>(ISR), [3]);
    assert_eq!(new.read::<1>(ISR), [0]);
}

#[test]
fn bars_that_moved_are_told() {
    let mut old = Rig::new();
    initialised(&mut old);
    old.config_write(0x18, &0xD000_0000u32.to_le_bytes());
    old.device.pause();
    let snapshot = old.device.snapshot().unwrap();
    let new = Rig::new();
    new.device.pause();
    let moves = new.device.restore(&snapshot).unwrap();
    let moves: Vec<_> = moves
        .iter()
        .map(|moved| (moved.bar, moved.address))
        .collect();
    let expected = [(0, BARS[0].1), (2, 0xD000_0000), (4, BARS[2].1)];
    assert_eq!(moves, expected.map(|(bar, address)| (bar, Some(address))));
    // A device that is there already has nothing to tell.
    assert_eq!(old.device.restore(&snapshot).unwrap(), []);
    // And one that decodes nothing says where it is not any more.
    let fresh = Rig::new();
    fresh.device.pause();
    let empty = fresh.device.snapshot().unwrap();
    let moves = old.device.restore(&empty).unwrap();
    assert!(moves.len() == 3 && moves.iter().all(|moved| moved.address.is_none()));
}

#[test]
fn a_vm_goes_back_in_time() {
    let mut rig = Rig::new();
    initialised(&mut rig);
    rig.backend_up();
    rig.device.pause();
    let snapshot = rig.device.snapshot().unwrap();
    let notifications: Vec<u64> = (0..4).map(|queue| BARS[0].1 + NOTIFY + 4 * queue).collect();
    rig.device.resume();
    let mut frontend = share(&mut rig);
    rig.config_write(0x18, &0xD000_0000u32.to_le_bytes());
    rig.device.pause();
    rig.restore(&snapshot).unwrap();
    assert!(frontend.is_disconnected());
    assert!(rig.vmm.mappings().is_empty());
    assert_eq!(rig.vmm.doorbells(), notifications);
    assert_eq!(rig.device.snapshot().unwrap(), snapshot);
    rig.device.resume();
    rig.run();
    assert!(!take_config_interrupt(&rig));
    let _next = rig.connect();
    rig.run();
    assert_eq!(rig.up(), 3);
}

#[test]
fn a_reset_that_was_pending_is_done_after_it() {
    let mut old = Rig::new();
    initialised(&mut old);
    let _frontend = share(&mut old);
    old.write(STATUS, &[0]);
    let mut new = successor(&mut old);
    assert_ne!(new.status(), 0);
    assert!(new.vmm.mappings().is_empty());
    new.device.resume();
    new.run();
    assert_eq!(new.status(), 0);
    assert!(!take_config_interrupt(&new));
    assert_eq!(new.vmm.placed(), Some(BARS[2].1));
    assert_recovers(&mut new, "a pending reset");
}

#[test]
fn a_table_that_the_vmm_keeps_is_not_part_of_it() {
    let mut old = Rig::new();
    initialised(&mut old);
    old.backend_up();
    let message = vhost_guest_vmm_traits::MsiMessage {
        address: 0xFEE0_0003,
        data: 9,
    };
    old.device.shared.set_vector(0, Some(message));
    let mut new = successor(&mut old);
    let masked: Vec<u8> = new.read::<16>(MSIX_TABLE).to_vec();
    assert_eq!(masked[12], 1);
    // Restoring leaves it alone, too.
    let snapshot = old.device.snapshot().unwrap();
    old.restore(&snapshot).unwrap();
    old.device.resume();
    assert_eq!(old.vmm.armed_with(message).len(), 1);
}

#[test]
fn without_a_pause_there_is_no_snapshot() {
    let rig = Rig::new();
    assert!(matches!(
        rig.device.snapshot(),
        Err(SnapshotError::NotPaused)
    ));
    rig.device.pause();
    let snapshot = rig.device.snapshot().unwrap();
    rig.device.resume();
    let error = rig.device.restore(&snapshot).unwrap_err();
    assert!(matches!(error, SnapshotError::NotPaused), "{error}");
}

#[test]
fn the_format_stays_as_it_is() {
    let mut rig = Rig::with(|builder| builder.uuid([0xA5; 16]));
    initialised(&mut rig);
    rig.backend_up();
    rig.device.pause();
    let bytes = rig.device.snapshot().unwrap();
    let number = |at: usize, length: usize| {
        let field = bytes[at..at + length].iter().rev();
        field.fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    assert_eq!(bytes[..8], *b"vhostgst");
    let length = 16 + 52 + 256 + 4 + 20 + 6 + 4 * 32 + (1 + 4 + 4) * 4 + 11 * 16;
    assert_eq!(bytes.len(), length);
    let [shape, config, function, common, device, queues, events, table] =
        [16, 68, 324, 328, 348, 354, 482, 518];
    let fields = [
        (8, 4, 1),
        (12, 4, length as u64),
        (shape, 8, feature::offered(false)),
        (shape + 8, 8, super::rig::WINDOW),
        (shape + 16, 4, 4096),
        (shape + 24, 2, VRINGS.into()),
        (shape + 26, 2, 4),
        (shape + 34, 2, 2),
        (shape + 36, 8, 0xA5A5_A5A5_A5A5_A5A5),
        (config, 4, 0x1075_1AF4),
        (config + 0x10, 8, BARS[0].1 | 4),
        (function, 4, 0),
        (common + 8, 8, rig.features),
        (common + 16, 4, 3 | 15 << 16),
        (device, 4, 2 | 1 << 16),
        (queues + 32, 8, super::rig::place(1).descriptors),
        (queues + 32 + 24, 4, u64::from(QUEUE_SIZE) | 1 << 16),
        (events + 4, 4, 1),
        (events + 4 * 5, 4, 0xFFFF),
        (table + 16, 8, 0xFEE0_0000),
        (table + 16 + 8, 8, 1),
    ];
    for (at, length, value) in fields {
        assert_eq!(number(at, length), value, "at {at}");
    }
}

#[test]
fn a_device_is_restored_again_and_again() {
    let mut rig = Rig::new();
    initialised(&mut rig);
    let _frontend = share(&mut rig);
    let vmm = Arc::clone(&rig.vmm);
    let sources = vmm.source_count();
    for _ in 0..3 {
        let new = successor(&mut rig);
        assert_eq!(new.vmm.source_count(), sources);
        let vmm = Arc::clone(&new.vmm);
        drop(rig);
        rig = new;
        rig.device.resume();
        rig.run();
        assert_eq!(rig.status() & NEEDS_RESET, NEEDS_RESET);
        assert_eq!(vmm.source_count(), sources);
    }
    drop(rig);
    assert_eq!(vmm.source_count(), 0);
}
