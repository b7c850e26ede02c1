// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Connection, loss, reset, and what becomes of the resources.

use std::os::fd::AsFd;

use vhost_guest_msg::ProtocolFeatures;
use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{self, event, memory_file, message, words, Rig, BARS, DOORBELLS};
use super::siege::signalled;
use crate::guest::pci::bars::NOTIFY;

/// Gives the device a region, a kick and a call.
fn share(rig: &mut Rig, frontend: &mut rig::Frontend) {
    let file = memory_file(1 << 20);
    let table = words(&[1, 0, 1 << 20, 0x7000_0000, 0]);
    frontend.send(&message(5, 1, &table), &[file.as_fd()]);
    let (kick, call) = (event(), event());
    frontend.send(&message(12, 1, &words(&[0])), &[kick.as_fd()]);
    frontend.send(&message(13, 1, &words(&[0])), &[call.as_fd()]);
    // The driver auxiliary notification: kick 0 on vector 5.
    rig.write(
        crate::guest::pci::bars::DRIVER_AUX,
        &(5u32 << 16).to_le_bytes(),
    );
    rig.run();
    assert_eq!(rig.vmm.mappings().len(), 1);
    assert!(rig.vmm.doorbells().contains(&DOORBELLS));
    assert!(rig.vmm.armed().iter().any(|(_, message)| message.data == 5));
}

#[test]
fn shows_a_frontend_and_interrupts() {
    let mut rig = rig::serving();
    assert_eq!(rig.up(), 1);
    let _frontend = rig.connect();
    rig.run();
    assert_eq!(rig.up(), 3);
    assert_eq!(rig.device.shared.counters.frontends.read(), 1);
}

#[test]
fn accepts_nobody_before_backend_up() {
    let mut rig = Rig::new();
    rig.initialise();
    let _frontend = rig.connect();
    rig.run();
    assert!(rig.device.server().connection.is_none());
    rig.backend_up();
    assert_eq!(rig.up(), 3);
}

#[test]
fn a_loss_ends_notifications_and_keeps_memory_until_reset() {
    let (mut rig, mut frontend) = rig::connected();
    share(&mut rig, &mut frontend);
    drop(frontend);
    assert!(rig.needs_reset());
    assert!(!rig.vmm.doorbells().contains(&DOORBELLS));
    assert!(!rig.vmm.armed().iter().any(|(_, message)| message.data == 5));
    assert_eq!(rig.vmm.mappings().len(), 1, "memory went before the reset");
    assert!(rig.vmm.calls().contains(&Call::NeedsReset));
    rig.start();
    assert!(
        rig.vmm.mappings().is_empty(),
        "memory stayed after the reset"
    );
    rig.backend_up();
    let _next = rig.connect();
    rig.run();
    assert_eq!(rig.up(), 3);
}

#[test]
fn a_reset_takes_everything_in_every_state() {
    let (mut rig, mut frontend) = rig::connected();
    share(&mut rig, &mut frontend);
    rig.write(crate::guest::pci::bars::COMMON + 0x14, &[0]);
    rig.run();
    assert!(rig.vmm.mappings().is_empty());
    assert!(rig.vmm.armed().is_empty());
    assert!(frontend.is_disconnected());
    // And again, with nothing left to take.
    rig.write(crate::guest::pci::bars::COMMON + 0x14, &[0]);
    rig.run();
    assert_eq!(rig.status(), 0);
}

#[test]
fn revocation_needs_no_guest_and_is_idempotent() {
    let (mut rig, mut frontend) = rig::connected();
    share(&mut rig, &mut frontend);
    rig.device.shared.revoke();
    assert!(rig.vmm.mappings().is_empty());
    assert!(!rig.vmm.doorbells().contains(&DOORBELLS));
    assert!(!rig.vmm.armed().iter().any(|(_, message)| message.data == 5));
    // What was opened is closed elsewhere, when there is time.
    let calls = |rig: &rig::Rig| {
        let calls = rig.vmm.calls().into_iter();
        let here = calls.filter(|call| !matches!(call, Call::Close { .. }));
        here.count()
    };
    let before = calls(&rig);
    rig.device.shared.revoke();
    assert_eq!(calls(&rig), before);
    rig.run();
    assert!(frontend.is_disconnected());
    assert_eq!(calls(&rig), before);
    assert!(rig.needs_reset());
}

#[test]
fn function_level_reset_takes_everything() {
    let (mut rig, mut frontend) = rig::connected();
    share(&mut rig, &mut frontend);
    rig.config_write(0xE4, &[1]);
    rig.run();
    assert!(rig.vmm.mappings().is_empty());
    assert!(rig.vmm.armed().is_empty());
    assert!(rig.vmm.doorbells().is_empty());
    assert_eq!(rig.vmm.placed(), None);
    assert!(frontend.is_disconnected());
}

#[test]
fn clearing_backend_up_is_a_loss() {
    let (mut rig, mut frontend) = rig::connected();
    rig.write(crate::guest::pci::bars::DEVICE + 34, &[0]);
    assert!(rig.needs_reset());
    assert!(frontend.is_disconnected());
}

#[test]
fn the_fifteenth_frontend_finds_what_the_first_one_found() {
    let mut rig = rig::serving();
    for _ in 0..15 {
        let mut frontend = rig.connect();
        rig.run();
        rig.negotiate(&mut frontend, ProtocolFeatures::MQ);
        share(&mut rig, &mut frontend);
        drop(frontend);
        assert!(rig.needs_reset());
        rig.start();
        rig.backend_up();
    }
    assert_eq!(rig.device.shared.counters.frontends.read(), 15);
    assert_eq!(rig.vmm.mappings(), []);
}

#[test]
fn a_bar_move_takes_doorbells_and_window_along() {
    let (mut rig, mut frontend) = rig::connected();
    share(&mut rig, &mut frontend);
    rig.config_write(0x04, &4u16.to_le_bytes());
    assert!(rig.vmm.doorbells().is_empty());
    assert_eq!(rig.vmm.placed(), None);
    rig.config_write(0x18, &0xD000_0000u32.to_le_bytes());
    rig.config_write(0x04, &6u16.to_le_bytes());
    assert!(rig.vmm.doorbells().contains(&0xD000_0000));
    assert_eq!(rig.vmm.placed(), Some(1 << 40));
    assert_eq!(rig.vmm.mappings().len(), 1);
}

#[test]
fn every_bar_moves_while_a_frontend_is_connected() {
    let (mut rig, mut frontend) = rig::connected();
    share(&mut rig, &mut frontend);
    while rig.receive(0).is_some() {}
    let [notify, doorbell] = [BARS[0].1 + NOTIFY, DOORBELLS];
    assert!(rig.vmm.doorbells().contains(&notify));
    for (round, bar) in (1u64..).zip([0u16, 2, 4].into_iter().cycle().take(6)) {
        let address = (0x100 + round) << 32;
        let register = 0x10 + 4 * bar;
        rig.config_write(register + 4, &((address >> 32) as u32).to_le_bytes());
        // Messages go on, and nothing is where it was.
        frontend.send(&message(3, 1, &[]), &[]);
        assert_eq!(rig.receive(0), Some(message(3, 1, &[])), "BAR {bar}");
        let low = BARS.iter().find(|(index, _)| u16::from(*index) == bar);
        let address = address | low.map_or(0, |(_, low)| low & 0xFFFF_FFFF);
        let doorbells = rig.vmm.doorbells();
        match bar {
            0 => assert!(doorbells.contains(&(address + NOTIFY))),
            2 => assert!(doorbells.contains(&address)),
            _ => assert_eq!(rig.vmm.placed(), Some(address)),
        }
        assert_eq!(doorbells.len(), 4 + 1);
        assert_eq!(rig.vmm.mappings().len(), 1);
    }
    let doorbells = rig.vmm.doorbells();
    assert!(!doorbells.contains(&notify) && !doorbells.contains(&doorbell));
}

#[test]
fn msix_goes_off_and_on_while_a_frontend_kicks() {
    let (mut rig, mut frontend) = rig::connected();
    let kick = event();
    frontend.send(&message(12, 1, &words(&[0])), &[kick.as_fd()]);
    rig.write(
        crate::guest::pci::bars::DRIVER_AUX,
        &(5u32 << 16).to_le_bytes(),
    );
    rig.run();
    let armed = rig.vmm.armed();
    let kicks = |rig: &Rig| {
        let all = rig.vmm.armed();
        let of_kick = all.into_iter().find(|(_, message)| message.data == 5);
        of_kick.map_or(0, |(_, message)| {
            let mut armed = rig.vmm.armed_with(message).into_iter();
            usize::from(armed.any(|eventfd| signalled(&eventfd)))
        })
    };
    for _ in 0..3 {
        rig.config_write(0xD6, &0u16.to_le_bytes());
        assert_eq!(rig.vmm.armed(), []);
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        // The device's own events wait with it.
        frontend.send(&message(3, 1, &[]), &[]);
        rig.run();
        assert_eq!(kicks(&rig), 0);
        rig.config_write(0xD6, &0x8000u16.to_le_bytes());
        assert_eq!(rig.vmm.armed(), armed);
        assert_eq!([kicks(&rig), kicks(&rig)], [1, 0]);
        assert!(rig.receive(0).is_some());
    }
}

#[test]
fn memory_that_does_not_come_off_is_the_end_of_the_device() {
    let (mut rig, mut frontend) = rig::connected();
    share(&mut rig, &mut frontend);
    drop(frontend);
    assert!(rig.needs_reset());
    rig.vmm.fail_nth(0, std::io::ErrorKind::Other);
    rig.write(crate::guest::pci::bars::COMMON + 0x14, &[0]);
    rig.run();
    assert!(rig.vmm.calls().contains(&Call::Dead));
    rig.start();
    rig.backend_up();
    let _late = rig.connect();
    rig.run();
    assert!(
        rig.device.server().connection.is_none(),
        "a dead device took a frontend"
    );
}

#[test]
fn a_hang_up_is_noticed_while_the_guest_may_not_be_accessed() {
    for buffers_left in [true, false] {
        let (mut rig, mut frontend) = rig::connected();
        if !buffers_left {
            for _ in 0..rig::QUEUE_SIZE {
                frontend.send(&message(3, 1, &[]), &[]);
            }
            rig.run();
        }
        // Bus Master off: `run` does not come to rest if this is missed.
        rig.config_write(0x04, &2u16.to_le_bytes());
        drop(frontend);
        assert!(rig.needs_reset());
    }
}

#[test]
fn an_interrupt_that_is_not_disarmed_is_the_end_of_the_device() {
    let (mut rig, mut frontend) = rig::connected();
    share(&mut rig, &mut frontend);
    rig.vmm.fail_nth(0, std::io::ErrorKind::Other);
    // Masks vector 5, which kick 0 is mapped to.
    rig.write(
        crate::guest::pci::bars::MSIX_TABLE + 16 * 5 + 12,
        &[1, 0, 0, 0],
    );
    assert!(rig.vmm.calls().contains(&Call::Dead));
    assert!(rig.vmm.mappings().is_empty());
    assert!(!rig.vmm.armed().iter().any(|(_, message)| message.data == 5));
}

#[test]
fn memory_that_is_truncated_is_taken_from_the_guest_at_once() {
    let (mut rig, mut frontend) = rig::connected();
    let (lost, kept) = (memory_file(1 << 20), memory_file(1 << 20));
    let high = [1 << 32, 1 << 20, 0x8000_0000, 0];
    let table = [words(&[2, 0, 1 << 20, 0x7000_0000, 0]), words(&high)].concat();
    frontend.send(&message(5, 1, &table), &[lost.as_fd(), kept.as_fd()]);
    rig.run();
    // Changes that take nothing away are of no interest.
    rustix::io::write(&kept, b"data").unwrap();
    rustix::fs::ftruncate(&lost, 2 << 20).unwrap();
    rig.run();
    assert_eq!(rig.vmm.mappings().len(), 2);
    rustix::fs::ftruncate(&lost, 4096).unwrap();
    assert!(rig.needs_reset());
    assert_eq!(rig.vmm.mappings().len(), 1, "the guest may still touch it");
    assert!(frontend.is_disconnected());
    rig.start();
    rig.backend_up();
    let _next = rig.connect();
    rig.run();
    assert_eq!(rig.up(), 3);
}

#[test]
fn files_are_not_watched_longer_than_they_are_mapped() {
    let (mut rig, mut frontend) = rig::connected();
    let file = memory_file(1 << 20);
    frontend.send(
        &message(5, 1, &words(&[1, 0, 1 << 20, 0x7000_0000, 0])),
        &[file.as_fd()],
    );
    rig.run();
    rig.start();
    rig.run();
    let turns = rig.device.shared.counters.turns.read();
    rustix::fs::ftruncate(&file, 0).unwrap();
    rig.run();
    assert_eq!(rig.device.shared.counters.turns.read(), turns);
}
