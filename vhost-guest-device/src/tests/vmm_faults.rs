// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every call of the VMM's services fails once, in the middle of a session.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vhost_guest_msg::VirtioFeatures;
use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{self, event, memory_file, message, words, Frontend, Rig};
use super::rig::{BARS, FIRST_KICK};
use super::session::{answer_all, assert_recovers, exchange, introduce};
use super::siege::{NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use super::translation::{Iommu, IOVA};
use crate::guest::pci::bars::{COMMON, DEVICE, DRIVER_AUX, MSIX_TABLE, NOTIFY};
use crate::guest::virtio::feature;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(100_000);

/// Everything that makes the device call its VMM.
pub(super) fn session(rig: &mut Rig) {
    rig.initialise();
    for kick in 0..4u32 {
        let vector = u32::from(FIRST_KICK) + kick;
        rig.write(DRIVER_AUX, &(kick | vector << 16).to_le_bytes());
    }
    rig.backend_up();
    let mut frontend = introduce(rig);
    let channel = share_everything(rig, &mut frontend);
    let snapshot = reprogram(rig);
    // Memory that holds a ring that runs would not be replaced.
    let stop = message(11, PLAIN, &words(&[0]));
    exchange(rig, &mut frontend, &stop, &[]);
    change_memory(rig, &mut frontend);
    drop((frontend, channel));
    rig.run();
    rig.start();
    rig.backend_up();
    // Truncated memory, then a function level reset.
    let mut frontend = introduce(rig);
    let file = memory_file(SIZE);
    let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
    let fds = [file.try_clone().unwrap().into()];
    exchange(rig, &mut frontend, &table, &fds);
    file.set_len(0).unwrap();
    let _ = rig.device.shared.memory_fault(Some(BARS[2].1 + (2 << 20)));
    rig.run();
    rig.config_write(0xE4, &[1]);
    rig.run();
    rig.initialise();
    rig.backend_up();
    let mut frontend = introduce(rig);
    let _channel = share_everything(rig, &mut frontend);
    // Back to where the first frontend was, which is gone.
    rig.device.pause();
    let restored = rig.restore(&snapshot);
    assert!(restored.is_ok() || rig.vmm_fails, "{restored:?}");
    rig.device.resume();
    rig.run();
    rig.initialise();
    rig.backend_up();
    let mut frontend = introduce(rig);
    let _channel = share_everything(rig, &mut frontend);
    rig.write(DEVICE + 34, &[0]);
    rig.run();
    rig.device.shared.revoke();
    rig.write(COMMON + 0x14, &[0]);
    rig.run();
}

fn share_everything(rig: &mut Rig, frontend: &mut Frontend) -> Frontend {
    let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
    exchange(rig, frontend, &table, &[memory_file(SIZE).into()]);
    for (code, payload) in [
        (8, words(&[64 << 32])),
        (10, words(&[0])),
        (9, words(&[0, USER, USER + 0x1000, USER + 0x2000, 0])),
    ] {
        exchange(rig, frontend, &message(code, NEED_REPLY, &payload), &[]);
    }
    for vring in 0..2 {
        for code in [12, 13, 14, 13] {
            let bytes = message(code, NEED_REPLY, &words(&[vring]));
            exchange(rig, frontend, &bytes, &[event()]);
        }
    }
    exchange(rig, frontend, &message(7, PLAIN, &[]), &[event()]);
    share_more_memory(rig, frontend);
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let fds: [OwnedFd; 1] = [theirs.into()];
    exchange(rig, frontend, &message(21, NEED_REPLY, &[]), &fds);
    let mut channel = Frontend { stream: ours };
    rig.send(3, &message(2, NEED_REPLY, &[]));
    let reply = message(2, REPLY, &words(&[0]));
    super::session::try_send(&channel, &reply, &[]);
    rig.run();
    let _ = (rig.receive(2), channel.receive());
    channel
}

/// Logs and records of requests under way, one in place of the other, with
/// translations and a transfer of device state in between.
fn share_more_memory(rig: &mut Rig, frontend: &mut Frontend) {
    for size in [0x1000, 0x2345] {
        let log = message(6, PLAIN, &words(&[size, 0]));
        exchange(rig, frontend, &log, &[memory_file(size).into()]);
        let ask = message(31, PLAIN, &words(&[0, 0, 2 | 256 << 16]));
        exchange(rig, frontend, &ask, &[]);
        let record = message(32, NEED_REPLY, &words(&[size, 0, 2 | 256 << 16]));
        exchange(rig, frontend, &record, &[memory_file(size).into()]);
        let mut features = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::ACCESS_PLATFORM;
        let set = message(2, PLAIN, &words(&[features.bits()]));
        exchange(rig, frontend, &set, &[]);
        let entry = words(&[0x1000, 0x1000, USER, 0x0203]);
        exchange(rig, frontend, &message(22, NEED_REPLY, &entry), &[]);
        features.set(VirtioFeatures::ACCESS_PLATFORM, false);
        features.set(VirtioFeatures::LOG_ALL, true);
        let set = message(2, PLAIN, &words(&[features.bits()]));
        exchange(rig, frontend, &set, &[]);
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let state = message(42, PLAIN, &words(&[0]));
        exchange(rig, frontend, &state, &[theirs.into()]);
    }
}

/// Vectors, masks, BARs and the command register change.
fn reprogram(rig: &mut Rig) -> Vec<u8> {
    let vector = u32::from(FIRST_KICK);
    rig.write(DRIVER_AUX, &((vector + 1) << 16).to_le_bytes());
    rig.write(DRIVER_AUX, &(vector << 16).to_le_bytes());
    for masked in [1u32, 0] {
        let entry = MSIX_TABLE + 16 * u64::from(vector);
        rig.write(entry + 12, &masked.to_le_bytes());
    }
    for control in [0xC000u16, 0x8000, 0x0000, 0x8000] {
        rig.config_write(0xD6, &control.to_le_bytes());
    }
    for command in [2u16, 6, 4, 6] {
        rig.config_write(0x04, &command.to_le_bytes());
        rig.run();
    }
    rig.config_write(0x18, &0xD000_0000u32.to_le_bytes());
    rig.device.pause();
    let snapshot = rig.device.snapshot().unwrap();
    rig.device.resume();
    // Doorbells and notifications by way of userspace.
    rig.device.shared.bar_write(2, 0, &[1]);
    rig.write(NOTIFY, &[0, 0]);
    rig.run();
    snapshot
}

/// Tables and slots come and go.
fn change_memory(rig: &mut Rig, frontend: &mut Frontend) {
    let file: OwnedFd = memory_file(4 * SIZE).into();
    let duplicate = || [file.try_clone().unwrap()];
    let two = words(&[2, 0, SIZE, USER, 0, SIZE, SIZE, 2 * USER, 2 * SIZE]);
    let fds = [file.try_clone().unwrap(), file.try_clone().unwrap()];
    exchange(rig, frontend, &message(5, NEED_REPLY, &two), &fds);
    let slot = words(&[0, 1 << 32, SIZE, 3 * USER, 3 * SIZE]);
    exchange(rig, frontend, &message(37, PLAIN, &slot), &duplicate());
    exchange(rig, frontend, &message(38, PLAIN, &slot), &[]);
    exchange(rig, frontend, &message(37, NEED_REPLY, &slot), &duplicate());
    // This one the guest does not want.
    let unwanted = words(&[0, 1 << 33, SIZE, 4 * USER, SIZE]);
    let bytes = message(37, NEED_REPLY, &unwanted);
    super::session::try_send(frontend, &bytes, &duplicate());
    if rig.receive(0).is_some() {
        rig.reply(37, &words(&[1]));
    }
    rig.run();
    answer_all(rig);
    let one = words(&[1, 0, SIZE, USER, SIZE]);
    exchange(rig, frontend, &message(5, PLAIN, &one), &duplicate());
}

/// A device with everything that one can have.
pub(super) fn whole() -> Rig {
    let translator = Some(Arc::new(Iommu::default()) as _);
    let mut rig = Rig::translated(translator, |builder| {
        let builder = builder.migration(4096);
        builder.reply_timeout(LONG).orphan_timeout(LONG)
    });
    rig.features |= feature::ACCESS_PLATFORM;
    rig.iova = IOVA;
    rig
}

/// Runs the session with the n-th call failing. `false`: there are not so
/// many.
fn survives(n: usize, kind: ErrorKind) -> bool {
    let mut rig = whole();
    rig.vmm_fails = true;
    let vmm = Arc::clone(&rig.vmm);
    vmm.fail_nth(n, kind);
    session(&mut rig);
    let failed = !vmm.clear_failure();
    let what = format!("{kind} in call {n}");
    let dead = vmm.calls().contains(&Call::Dead);
    // The session has ended with a reset.
    assert_eq!(vmm.mappings(), [], "{what}");
    assert_eq!(vmm.armed(), [], "{what}");
    assert!(vmm.doorbells().len() <= 6, "{what}");
    if !dead {
        assert_recovers(&mut rig, &what);
    } else {
        rig.initialise();
        rig.backend_up();
        let _late = rig.connect();
        rig.run();
        assert!(
            rig.device.server().connection.is_none(),
            "{what}: dead, but serves"
        );
    }
    drop(rig);
    assert_eq!(vmm.mappings(), [], "{what}: left");
    assert!(vmm.doorbells().is_empty(), "{what}: left");
    assert_eq!(vmm.source_count(), 0, "{what}: left");
    failed
}

#[test]
fn every_call_may_fail_once() {
    let failed = |n: &usize| survives(*n, ErrorKind::Other);
    let calls = (0..).take_while(failed).count();
    assert!(calls > 100, "the session makes only {calls} calls");
}

#[test]
fn the_session_is_one_if_nothing_fails() {
    let mut rig = whole();
    session(&mut rig);
    let statistics = rig.device.shared.counters.read(0);
    assert_eq!(statistics.frontends, 4);
    assert_eq!(statistics.backend_replies, 3);
    assert_eq!(statistics.userspace_doorbells, 1);
    let calls = rig.vmm.calls();
    let maps = calls
        .iter()
        .filter(|call| matches!(call, Call::Attach { .. }));
    assert!(maps.count() >= 15, "{calls:?}");
}

#[test]
fn every_call_may_fail_for_lack_of_memory_or_by_the_peers_fault() {
    for kind in [
        ErrorKind::InvalidInput,
        ErrorKind::ResourceBusy,
        ErrorKind::PermissionDenied,
    ] {
        // Not each with each: the n-th call fails in one of three ways.
        let offset = kind as usize % 3;
        let calls = (0..).map(|n| 3 * n + offset);
        let _ = calls.into_iter().find(|n| !survives(*n, kind));
    }
}

/// A frontend whose memory the guest can reach at the window's place.
fn placed() -> (Rig, Frontend) {
    let (mut rig, mut frontend) = rig::connected();
    rig.vmm_fails = true;
    let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
    exchange(&mut rig, &mut frontend, &table, &[memory_file(SIZE).into()]);
    assert_eq!(rig.vmm.mappings().len(), 1);
    assert_eq!(rig.vmm.placed(), Some(BARS[2].1));
    (rig, frontend)
}

/// Moves the window: the upper half of its BAR.
fn move_window(rig: &mut Rig, to: u64) {
    rig.config_write(0x24, &((to >> 32) as u32).to_le_bytes());
}

#[test]
fn works_without_a_window_that_cannot_be_placed() {
    let (mut rig, mut frontend) = placed();
    rig.vmm.fail_nth(0, ErrorKind::OutOfMemory);
    move_window(&mut rig, 2 << 40);
    assert_eq!(rig.vmm.placed(), None, "the guest can reach it somewhere");
    assert!(!rig.needs_reset());
    // Messages are carried, memory among them.
    let ask = message(1, PLAIN, &[]);
    frontend.send(&ask, &[]);
    assert_eq!(rig.receive(0), Some(ask));
    let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
    exchange(&mut rig, &mut frontend, &table, &[memory_file(SIZE).into()]);
    assert!(!rig.needs_reset());
    move_window(&mut rig, 3 << 40);
    assert_eq!(rig.vmm.placed(), Some(3 << 40));
    assert!(!rig.vmm.calls().contains(&Call::Dead));
}

#[test]
fn is_dead_when_the_window_does_not_go_away() {
    // At address 0 it is nowhere. Elsewhere it has to leave where it was, too.
    for (address, failures) in [(0, 0..1), (2 << 40, 0..2)] {
        let (mut rig, mut frontend) = placed();
        rig.vmm.fail_calls(failures, ErrorKind::Other);
        move_window(&mut rig, address);
        assert_eq!(rig.vmm.placed(), Some(BARS[2].1));
        assert!(rig.vmm.calls().contains(&Call::Dead), "{address:#x}");
        assert_eq!(rig.vmm.mappings(), [], "{address:#x}");
        rig.run();
        assert!(frontend.is_disconnected());
    }
}
