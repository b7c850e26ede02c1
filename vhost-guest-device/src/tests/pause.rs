// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pauses: nothing moves by itself, nothing is lost, and the VMM can do all
//! that it can do at other times.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vhost_guest_vmm_traits::test_utils::Call;
use vm_memory::{Bytes, GuestAddress};

use super::rig::{self, event, memory_file, message, words, Frontend, Rig, BARS, DOORBELLS};
use super::siege::{assert_nothing_connected, signalled, take_config_interrupt};
use super::siege::{NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use crate::connection::carried;
use crate::event_loop::poller;
use crate::guest::pci::bars::{COMMON, DRIVER_AUX, MSIX_TABLE};

/// Gives the device a region, a kick on vector 5, and a call.
fn share(rig: &mut Rig, frontend: &mut Frontend) -> std::os::fd::OwnedFd {
    let table = words(&[1, 0, SIZE, USER, 0]);
    frontend.send(&message(5, PLAIN, &table), &[memory_file(SIZE).as_fd()]);
    let kick = event();
    frontend.send(&message(12, PLAIN, &words(&[0])), &[kick.as_fd()]);
    frontend.send(&message(13, PLAIN, &words(&[0])), &[event().as_fd()]);
    rig.write(DRIVER_AUX, &(5u32 << 16).to_le_bytes());
    rig.run();
    while rig.receive(0).is_some() {}
    kick
}

/// Whether an event loop would be told of anything.
fn is_ready(rig: &Rig) -> bool {
    let epoll = rig.device.poller_fd().unwrap();
    let mut fds = [PollFd::new(&epoll, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

fn guest_memory(rig: &Rig) -> Vec<u8> {
    let mut bytes = vec![0; 8 << 20];
    rig.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// All that the VMM sees of the device.
fn connected_things(rig: &Rig) -> String {
    let vmm = &rig.vmm;
    let (doorbells, mappings) = (vmm.doorbells(), vmm.mappings());
    format!("{doorbells:x?} {mappings:x?} {:x?}", vmm.placed())
}

#[test]
fn nothing_moves_and_nothing_is_lost() {
    let (mut rig, mut frontend) = rig::negotiated(carried());
    // What the guest says before the pause, and the device has not seen.
    frontend.send(&message(1, PLAIN, &[]), &[]);
    assert!(rig.receive(0).is_some());
    rig.device.pause();
    rig.reply(1, &words(&[7]));
    frontend.send(&message(3, PLAIN, &[]), &[]);
    let before = guest_memory(&rig);
    let turns = rig.device.shared.counters.turns.read();
    rig.run();
    assert!(!is_ready(&rig), "an event loop would spin");
    assert_eq!(rig.device.shared.counters.turns.read(), turns);
    assert!(guest_memory(&rig) == before, "memory was written");
    assert_eq!(frontend.receive(), None);
    rig.device.resume();
    rig.run();
    let reply = message(1, REPLY, &words(&[7]));
    assert_eq!(frontend.receive(), Some(reply));
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
}

#[test]
fn a_chatty_frontend_does_not_get_in() {
    let (mut rig, mut frontend) = rig::negotiated(carried());
    // The device itself answers these.
    let unknown_memory = message(9, NEED_REPLY, &words(&[0, 0x1000, 0x2000, 0x3000, 0]));
    for _ in 0..150 {
        frontend.send(&unknown_memory, &[]);
    }
    let epoll = rig.device.poller_fd().unwrap();
    // The worker has seen that there is more, and then the pause begins.
    let ready = poller::wait(epoll.as_fd(), false).unwrap();
    assert!(!ready.is_empty());
    rig.device.pause();
    rig.device.turn(&ready);
    rig.run();
    let answers = |bytes: Option<Vec<u8>>| bytes.map_or(0, |bytes| bytes.len() / 20);
    let before = answers(frontend.receive());
    assert_eq!(before, 0);
    rig.device.resume();
    rig.run();
    assert_eq!(before + answers(frontend.receive()), 150);
}

#[test]
fn nobody_is_accepted() {
    let mut rig = rig::serving();
    rig.device.pause();
    let _frontend = rig.connect();
    rig.run();
    assert!(rig.device.server().connection.is_none() && !is_ready(&rig));
    rig.device.resume();
    rig.run();
    assert_eq!(rig.up(), 3);
}

#[test]
fn interrupts_wait() {
    let (mut rig, mut frontend) = rig::connected();
    let kick = share(&mut rig, &mut frontend);
    let armed = rig.vmm.armed();
    assert!(armed.iter().any(|(_, message)| message.data == 5));
    rig.device.pause();
    assert_eq!(rig.vmm.armed(), []);
    rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
    // Whatever the VMM writes to the registers: masks, MSI-X, Bus Master.
    for masked in [1u32, 0] {
        rig.write(MSIX_TABLE + 16 * 5 + 12, &masked.to_le_bytes());
    }
    rig.config_write(0xD6, &0u16.to_le_bytes());
    rig.config_write(0xD6, &0x8000u16.to_le_bytes());
    rig.config_write(0x04, &2u16.to_le_bytes());
    rig.config_write(0x04, &6u16.to_le_bytes());
    assert_eq!(rig.vmm.armed(), []);
    rig.device.resume();
    assert_eq!(rig.vmm.armed(), armed);
    assert!(signalled(&kick), "the kick was lost");
}

#[test]
fn memory_and_doorbells_stay() {
    let (mut rig, mut frontend) = rig::connected();
    let _kick = share(&mut rig, &mut frontend);
    let before = connected_things(&rig);
    let calls = rig.vmm.calls().len();
    for _ in 0..2 {
        rig.device.pause();
        assert_eq!(connected_things(&rig), before);
    }
    for _ in 0..2 {
        rig.device.resume();
        assert_eq!(connected_things(&rig), before);
    }
    // One call to disarm all, one to arm them.
    let since = rig.vmm.calls().split_off(calls);
    let others = |call: &&Call| !matches!(call, Call::Arm { .. } | Call::Disarm { .. });
    assert_eq!(since.iter().find(others), None);
    rig.run();
    frontend.send(&message(3, PLAIN, &[]), &[]);
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
}

#[test]
fn a_loss_is_noticed_after_it() {
    let (mut rig, mut frontend) = rig::connected();
    let _kick = share(&mut rig, &mut frontend);
    rig.device.pause();
    drop(frontend);
    rig.run();
    assert_eq!(rig.up(), 3);
    rig.device.resume();
    assert!(rig.needs_reset());
    assert!(take_config_interrupt(&rig));
    assert_nothing_connected(&rig, "after a pause");
}

#[test]
fn everything_can_be_taken_in_a_pause() {
    type Take = fn(&mut Rig);
    let ways: [(&str, Take); 4] = [
        ("revocation", |rig| rig.device.shared.revoke()),
        ("reset", |rig| rig.write(COMMON + 0x14, &[0])),
        ("function reset", |rig| rig.config_write(0xE4, &[1])),
        ("fault", |rig| {
            let fault = GuestAddress(BARS[2].1 + (2 << 20));
            assert!(rig.device.shared.memory_fault(Some(fault.0)));
        }),
    ];
    for (what, take) in ways {
        let (mut rig, mut frontend) = rig::connected();
        let _kick = share(&mut rig, &mut frontend);
        rig.device.pause();
        take(&mut rig);
        if what == "revocation" {
            assert_nothing_connected(&rig, what);
            assert_eq!(rig.vmm.mappings(), [], "{what}");
        }
        assert_eq!(rig.vmm.armed(), [], "{what}: an interrupt in a pause");
        rig.device.resume();
        rig.run();
        assert_nothing_connected(&rig, what);
        assert_eq!(rig.vmm.mappings(), [], "{what}");
        assert!(frontend.is_disconnected(), "{what}");
        let told = matches!(what, "revocation" | "fault");
        assert_eq!(take_config_interrupt(&rig), told, "{what}");
        rig.initialise();
        rig.backend_up();
        let _next = rig.connect();
        rig.run();
        assert_eq!(rig.up(), 3, "{what}");
    }
}

#[test]
fn bars_move_in_a_pause() {
    let (mut rig, mut frontend) = rig::connected();
    let _kick = share(&mut rig, &mut frontend);
    rig.device.pause();
    rig.config_write(0x18, &0xD000_0000u32.to_le_bytes());
    assert!(rig.vmm.doorbells().contains(&0xD000_0000));
    assert!(!rig.vmm.doorbells().contains(&DOORBELLS));
    rig.config_write(0x24, &(1u32 << 9).to_le_bytes());
    assert_eq!(rig.vmm.placed(), Some(1 << 41));
    rig.device.resume();
    frontend.send(&message(3, PLAIN, &[]), &[]);
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
}

#[test]
fn time_limits_stand_still() {
    let long = Duration::from_secs(100_000);
    let mut rig = Rig::with(|builder| builder.reply_timeout(long).orphan_timeout(long));
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    let _kick = share(&mut rig, &mut frontend);
    frontend.send(&message(1, PLAIN, &[]), &[]);
    rig.run();
    assert!(rig.device.server().reply_limit.is_running());
    rig.device.pause();
    rig.device.server().reply_limit.pass();
    rig.run();
    assert_eq!(rig.up(), 3, "the time was up in a pause");
    rig.device.resume();
    rig.run();
    assert_eq!(rig.up(), 3, "what was left was forgotten");
    rig.device.server().reply_limit.pass();
    assert!(rig.needs_reset());
    assert!(rig.device.server().memory_limit.is_running());
    rig.device.pause();
    rig.device.server().memory_limit.pass();
    rig.run();
    assert_eq!(rig.vmm.mappings().len(), 1);
    rig.device.resume();
    rig.device.server().memory_limit.pass();
    rig.run();
    assert_eq!(rig.vmm.mappings(), []);
}

#[test]
fn a_vmm_that_does_not_disarm_has_a_dead_device() {
    let (mut rig, mut frontend) = rig::connected();
    let _kick = share(&mut rig, &mut frontend);
    rig.vmm.fail_nth(0, ErrorKind::Other);
    rig.device.pause();
    assert!(rig.vmm.calls().contains(&Call::Dead));
    assert_eq!(rig.vmm.mappings(), []);
    rig.device.resume();
    rig.run();
    assert_nothing_connected(&rig, "dead");
}

#[test]
fn what_is_not_armed_after_it_is_tried_again() {
    let (mut rig, mut frontend) = rig::connected();
    let _kick = share(&mut rig, &mut frontend);
    let armed = rig.vmm.armed();
    rig.device.pause();
    // All at once fails, then each by itself.
    rig.vmm.fail_nth(0, ErrorKind::OutOfMemory);
    rig.device.resume();
    assert_eq!(rig.vmm.armed(), armed);
    assert!(!rig.vmm.calls().contains(&Call::Dead));
}

#[test]
fn a_device_that_was_dropped_in_a_pause_leaves_nothing() {
    let (mut rig, mut frontend) = rig::connected();
    let _kick = share(&mut rig, &mut frontend);
    rig.device.pause();
    let vmm = std::sync::Arc::clone(&rig.vmm);
    drop(rig);
    assert!(vmm.doorbells().is_empty() && vmm.mappings().is_empty());
    assert_eq!(vmm.source_count(), 0);
}
