// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Resets, which the server does in pieces: what the guest finds meanwhile, and
//! what it, and the VMM, can do then.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vhost_guest_msg::ProtocolFeatures;
use vhost_guest_vmm_traits::test_utils::Call;
use vhost_guest_vmm_traits::IoEventFdRegistrar;

use super::rig::{event, memory_file, message, words, Frontend, Rig, BARS, VRINGS};
use super::rig::{NEEDS_RESET, QUEUE_SELECT, STATUS};
use super::session::assert_recovers;
use super::siege::{assert_nothing_connected, take_config_interrupt, PLAIN, SIZE, USER};
use crate::event_loop::poller;
use crate::guest::pci::bars::{COMMON, DEVICE, DRIVER_AUX, MSIX_TABLE};
use crate::vmm::services::Services;

/// Regions that the frontend shares.
const REGIONS: u64 = 24;

/// A registrar that takes its time.
struct Slow(Arc<dyn IoEventFdRegistrar>);

impl IoEventFdRegistrar for Slow {
    fn register(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        self.0.register(eventfd, address)
    }

    fn unregister(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        // At least; so there are no more than three to a piece of 2 ms.
        thread::sleep(Duration::from_millis(1));
        self.0.unregister(eventfd, address)
    }
}

/// A device with much to take away.
fn loaded() -> (Rig, Frontend) {
    let slow = |services: &mut Services<_>| {
        let doorbells = services.doorbells.take();
        services.doorbells = doorbells.map(|doorbells| Arc::new(Slow(doorbells)) as _);
    };
    let mut rig = Rig::lent(slow, |builder| builder);
    let frontend = load(&mut rig);
    assert_eq!(rig.vmm.doorbells().len(), 4 + 2 * usize::from(VRINGS));
    (rig, frontend)
}

/// Gives a guest much of a frontend's.
fn load(rig: &mut Rig) -> Frontend {
    rig.initialise();
    for kick in 0..u32::from(VRINGS) {
        rig.write(DRIVER_AUX, &(kick | (5 + kick) << 16).to_le_bytes());
    }
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    let features = ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    rig.negotiate(&mut frontend, features);
    let file = memory_file(REGIONS * SIZE);
    for n in 0..REGIONS {
        let region = [0, n * SIZE, SIZE, USER + n * 2 * SIZE, n * SIZE];
        frontend.send(&message(37, PLAIN, &words(&region)), &[file.as_fd()]);
        rig.receive(0).expect("ADD_MEM_REG");
    }
    for vring in 0..u64::from(VRINGS) {
        for code in [12, 13, 14] {
            let eventfd: OwnedFd = event();
            frontend.send(&message(code, PLAIN, &words(&[vring])), &[eventfd.as_fd()]);
            rig.receive(0).expect("an eventfd");
        }
    }
    assert_eq!(rig.vmm.mappings().len(), REGIONS as usize);
    assert_eq!(rig.vmm.armed().len(), 5 + usize::from(VRINGS));
    take_config_interrupt(rig);
    frontend
}

/// One turn. `false` if there is nothing to do.
fn turn(rig: &mut Rig) -> bool {
    let epoll = rig.device.poller_fd().unwrap();
    let ready = poller::wait(epoll.as_fd(), false).unwrap();
    rig.device.turn(&ready);
    !ready.is_empty()
}

/// Everything is gone, and the device serves the next one.
fn assert_done(mut rig: Rig, mut frontend: Frontend, what: &str) {
    rig.run();
    assert_eq!(rig.vmm.mappings(), [], "{what}");
    assert_nothing_connected(&rig, what);
    assert_eq!(rig.vmm.armed(), [], "{what}");
    assert!(frontend.is_disconnected(), "{what}");
    assert!(
        !rig.device.shared.registers.lock().reset_pending(),
        "{what}"
    );
    assert_recovers(&mut rig, what);
}

#[test]
fn the_status_reads_non_zero_until_all_is_gone() {
    let (mut rig, mut frontend) = loaded();
    rig.write(STATUS, &[0]);
    assert_ne!(rig.status(), 0);
    assert_eq!(rig.vmm.mappings().len(), REGIONS as usize, "not by a vCPU");
    let mut turns = 0;
    while rig.status() != 0 {
        assert!(turn(&mut rig), "it rests before it is done");
        turns += 1;
    }
    assert_eq!(rig.vmm.mappings(), []);
    assert_eq!(rig.vmm.armed(), []);
    assert_nothing_connected(&rig, "reset");
    assert!(frontend.is_disconnected());
    let doorbells = 2 * usize::from(VRINGS);
    assert!(turns > doorbells / 3, "all in {turns} turns");
    assert_done(rig, frontend, "reset");
}

#[test]
fn no_queue_is_used_and_no_interrupt_raised_meanwhile() {
    let (mut rig, mut frontend) = loaded();
    let used = rig.used(0);
    frontend.send(&message(3, PLAIN, &[]), &[]);
    rig.write(STATUS, &[0]);
    assert!(turn(&mut rig));
    assert_eq!(rig.used(0), used);
    assert!(!take_config_interrupt(&rig));
    assert!(!rig.vmm.calls().contains(&Call::NeedsReset));
    assert_done(rig, frontend, "a message at the last moment");
}

#[test]
fn what_is_written_meanwhile_is_lost() {
    let (mut rig, frontend) = loaded();
    rig.write(STATUS, &[0]);
    let before: [u8; 0x40] = rig.read(COMMON);
    rig.write(STATUS, &[15]);
    rig.write(STATUS, &[0]);
    rig.write(QUEUE_SELECT, &1u16.to_le_bytes());
    rig.write(COMMON + 0x10, &7u16.to_le_bytes());
    rig.write(DEVICE + 34, &[1]);
    rig.write(DRIVER_AUX, &(5u32 << 16).to_le_bytes());
    rig.notify(0);
    assert_eq!(rig.read::<0x40>(COMMON), before);
    // The MSI-X table is the function's, and no part of a device reset.
    let entry = MSIX_TABLE + 16 * 5 + 8;
    rig.write(entry, &77u32.to_le_bytes());
    assert_eq!(rig.read::<4>(entry), 77u32.to_le_bytes());
    rig.run();
    assert_eq!(rig.status(), 0);
    assert_eq!(rig.read::<4>(entry), 77u32.to_le_bytes());
    assert_eq!(rig.up(), 0);
    assert_done(rig, frontend, "writes");
}

#[test]
fn masks_arm_nothing_that_was_taken() {
    let (mut rig, frontend) = loaded();
    rig.write(STATUS, &[0]);
    // The frontend, then interrupts.
    while !rig.vmm.armed().is_empty() {
        assert!(turn(&mut rig));
    }
    if !rig.device.shared.registers.lock().reset_pending() {
        panic!("all in one turn");
    }
    rig.config_write(0xD6, &0u16.to_le_bytes());
    rig.config_write(0xD6, &0x8000u16.to_le_bytes());
    assert_eq!(rig.vmm.armed(), []);
    assert_done(rig, frontend, "masks");
}

/// What may happen while a reset is pending.
type Event = (&'static str, fn(&mut Rig));

const EVENTS: [Event; 9] = [
    ("nothing", |_| {}),
    ("a reset", |rig| rig.write(STATUS, &[0])),
    ("a function level reset", |rig| rig.config_write(0xE4, &[1])),
    ("a revocation", |rig| rig.device.shared.revoke()),
    ("a memory fault", |rig| {
        let _ = rig.device.shared.memory_fault(Some(BARS[2].1 + (2 << 20)));
    }),
    ("doorbells that move", |rig| {
        rig.config_write(0x18, &0xD000_0000u32.to_le_bytes());
    }),
    ("a window that moves", |rig| {
        rig.config_write(0x24, &(1u32 << 9).to_le_bytes());
    }),
    ("memory space that is turned off and on", |rig| {
        rig.config_write(0x04, &4u16.to_le_bytes());
        rig.config_write(0x04, &6u16.to_le_bytes());
    }),
    ("a pause", |rig| {
        rig.device.pause();
        rig.run();
        assert!(
            rig.device.shared.registers.lock().reset_pending(),
            "a turn in a pause"
        );
        rig.device.resume();
    }),
];

#[test]
fn whatever_happens_meanwhile_the_reset_is_done() {
    let resets: [Event; 2] = [EVENTS[1], EVENTS[2]];
    for (reset, begin) in resets {
        for (event, happen) in EVENTS {
            for turns in [0, 1] {
                let what = format!("{event} in {reset}, after {turns} turns");
                let (mut rig, frontend) = loaded();
                begin(&mut rig);
                (0..turns).for_each(|_| assert!(turn(&mut rig), "{what}"));
                assert!(rig.device.shared.registers.lock().reset_pending(), "{what}");
                happen(&mut rig);
                assert_done(rig, frontend, &what);
            }
        }
    }
}

#[test]
fn a_revocation_meanwhile_is_synchronous() {
    let (mut rig, frontend) = loaded();
    rig.write(STATUS, &[0]);
    rig.device.shared.revoke();
    assert_eq!(rig.vmm.mappings(), []);
    assert_nothing_connected(&rig, "revoked");
    assert!(!take_config_interrupt(&rig));
    assert_ne!(rig.status(), 0);
    assert_done(rig, frontend, "revocation");
}

#[test]
fn a_reset_by_the_vmm_is_synchronous() {
    for pending in [false, true] {
        let (mut rig, frontend) = loaded();
        if pending {
            rig.write(STATUS, &[0]);
            assert!(turn(&mut rig));
        }
        let moves = rig.device.function_reset();
        assert_eq!(moves.len(), BARS.len());
        assert!(!rig.device.shared.registers.lock().reset_pending());
        assert_eq!(rig.vmm.mappings(), []);
        assert_nothing_connected(&rig, "reset by the VMM");
        for moved in moves {
            rig.device
                .shared
                .bar_moved(moved.bar, moved.address)
                .unwrap();
        }
        assert_done(rig, frontend, "reset by the VMM");
    }
}

#[test]
fn a_function_that_is_reset_answers_at_once_and_hides_its_memory() {
    let (mut rig, frontend) = loaded();
    rig.config_write(0xE4, &[1]);
    let mut identity = [0; 4];
    rig.device
        .shared
        .registers
        .lock()
        .config_read(0, &mut identity);
    assert_eq!(identity, [0xF4, 0x1A, 0x75, 0x10]);
    assert_eq!(rig.vmm.armed(), []);
    assert!(rig.vmm.doorbells().is_empty());
    assert_eq!(rig.vmm.placed(), None);
    // The next driver is quick: the reset is not done, the BARs are back.
    for (bar, address) in BARS {
        let register = 0x10 + 4 * u16::from(bar);
        rig.config_write(register, &(address as u32).to_le_bytes());
        rig.config_write(register + 4, &((address >> 32) as u32).to_le_bytes());
    }
    rig.config_write(0x04, &6u16.to_le_bytes());
    assert_eq!(rig.vmm.mappings(), [], "the old memory at a new place");
    assert_eq!(rig.vmm.placed(), Some(BARS[2].1));
    assert_ne!(rig.status(), 0);
    rig.run();
    assert_done(rig, frontend, "function level reset");
}

#[test]
fn a_window_that_has_no_place_meanwhile_is_nowhere() {
    let (mut rig, frontend) = loaded();
    rig.vmm_fails = true;
    rig.write(STATUS, &[0]);
    // After the memory that is left in it.
    rig.vmm.fail_nth(REGIONS as usize, ErrorKind::OutOfMemory);
    rig.config_write(0x24, &(1u32 << 9).to_le_bytes());
    assert!(rig.vmm.clear_failure() || rig.vmm.placed().is_none());
    assert_eq!(rig.vmm.mappings(), []);
    rig.run();
    assert_eq!(rig.status(), 0);
    assert!(!rig.vmm.calls().contains(&Call::Dead));
    assert_done(rig, frontend, "no place");
}

#[test]
fn a_vmm_that_fails_meanwhile_ends_the_reset_and_the_device() {
    for n in 0.. {
        let (mut rig, frontend) = loaded();
        rig.write(STATUS, &[0]);
        rig.vmm.fail_nth(n, ErrorKind::Other);
        rig.run();
        if rig.vmm.clear_failure() {
            assert!(n > REGIONS as usize, "only {n} calls");
            return;
        }
        assert!(rig.vmm.calls().contains(&Call::Dead), "call {n}");
        assert_eq!(rig.status() & !NEEDS_RESET, 0, "call {n}");
        assert_eq!(rig.vmm.mappings(), [], "call {n}");
        assert_nothing_connected(&rig, "dead");
        let vmm = std::sync::Arc::clone(&rig.vmm);
        drop((rig, frontend));
        assert!(vmm.doorbells().is_empty() && vmm.source_count() == 0);
    }
}

#[test]
fn a_device_that_is_dropped_meanwhile_leaves_nothing() {
    for turns in 0..5 {
        let (mut rig, _frontend) = loaded();
        rig.write(STATUS, &[0]);
        (0..turns).for_each(|_| assert!(turn(&mut rig)));
        let vmm = std::sync::Arc::clone(&rig.vmm);
        drop(rig);
        assert!(vmm.doorbells().is_empty() && vmm.mappings().is_empty());
        assert_eq!(vmm.source_count(), 0);
    }
}
