// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How QEMU changes memory while rings run.
//!
//! Its sources were read in qemu/qemu: `hw/virtio/vhost-user.c` of commit
//! 019fbfa4bcd2 (`vhost_user_set_mem_table`, `vhost_user_add_remove_regions`
//! and what they call) and `hw/virtio/vhost.c` of commit 0021c4765a6b
//! (`vhost_commit`, `vhost_region_add_section`). In short:
//!
//! - With CONFIGURE_MEM_SLOTS it removes what its memory map does not have any
//!   more, last region first, then adds what is new: one that grew or was cut
//!   is removed whole and added again, with its rings. Each message is waited
//!   for with REPLY_ACK; without, all are sent at once.
//! - Without it, it sends whole tables, of at most eight regions.
//! - Neighbours in one file become one region.
//! - A log that has to grow grows before the memory does.

use std::os::fd::AsFd;

use vhost_guest_msg::{frontend, ProtocolFeatures, VirtioFeatures};

use super::rig::{memory_file, message, words};
use super::siege::{assert_closed, send, NEED_REPLY, PLAIN, REPLY};
use super::stage::{word, Acks, Region, Stage};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Where QEMU has its memory, and where its guest has a second piece.
const USER: u64 = 0x7f00_0000_0000;
const ABOVE: u64 = 1 << 32;
const RAM: usize = 0;
const DIMM: usize = 1;
/// Memory that is plugged and unplugged piece by piece (virtio-mem).
const PIECES: usize = 2;
const FILES: [u64; 3] = [16 * MIB, 8 * MIB, 8 * MIB];

/// The messages of one ring, in QEMU's order.
const RING: [u32; 6] = [
    frontend::SET_VRING_NUM,
    frontend::SET_VRING_BASE,
    frontend::SET_VRING_ADDR,
    frontend::SET_VRING_KICK,
    frontend::SET_VRING_CALL,
    frontend::SET_VRING_ENABLE,
];

/// A part of the first 16 MiB, which are at the same place in their file.
fn ram(from: u64, to: u64) -> Region {
    Region {
        file: RAM,
        guest: from,
        size: to - from,
        user: USER + from,
        offset: from,
    }
}

fn other(file: usize, from: u64, to: u64) -> Region {
    let guest = ABOVE * file as u64 + from;
    Region {
        file,
        guest,
        size: to - from,
        user: USER + guest,
        offset: from,
    }
}

/// The memory of a PC: below and above what is not memory.
fn pc() -> [Region; 2] {
    [ram(0, 640 * KIB), ram(768 * KIB, 16 * MIB)]
}

/// A ring in the upper part, and one in what is plugged in pieces.
fn start_rings(stage: &mut Stage) {
    stage.start_ring(USER + 4 * MIB, &RING);
    stage.start_ring(USER + ABOVE * PIECES as u64 + 64 * KIB, &RING);
}

fn with_slots(acks: Acks) -> Stage {
    let mut stage = Stage::new(acks, ProtocolFeatures::CONFIGURE_MEM_SLOTS, &FILES);
    let regions = [pc()[0], pc()[1], other(PIECES, 0, 2 * MIB)];
    regions.into_iter().for_each(|region| stage.add(region));
    start_rings(&mut stage);
    stage
}

#[test]
fn slots_come_go_grow_and_are_split_under_running_rings() {
    for acks in [Acks::AskedAtTimes, Acks::Absent] {
        let mut stage = with_slots(acks);
        let mut change = |gone: &[Region], new: &[Region]| {
            gone.iter().rev().for_each(|region| stage.remove(*region));
            new.iter().for_each(|region| stage.add(*region));
        };
        let pieces = |from, to| other(PIECES, from, to);
        // A DIMM is plugged, and unplugged.
        change(&[], &[other(DIMM, 0, 8 * MIB)]);
        change(&[other(DIMM, 0, 8 * MIB)], &[]);
        // The region of a ring grows, in both directions of time.
        change(&[pieces(0, 2 * MIB)], &[pieces(0, 4 * MIB)]);
        change(&[pieces(0, 4 * MIB)], &[pieces(0, 8 * MIB)]);
        change(&[pieces(0, 8 * MIB)], &[pieces(0, MIB)]);
        // It is split, and the parts become one again.
        let parts = [pieces(0, MIB), pieces(2 * MIB, 3 * MIB)];
        change(&[], &parts[1..]);
        change(&parts, &[pieces(0, 3 * MIB)]);
        change(&[pieces(0, 3 * MIB)], &parts);
        // Firmware opens a hole below the other ring.
        let parts = [ram(768 * KIB, 832 * KIB), ram(MIB, 16 * MIB)];
        change(&[pc()[1]], &parts);
        change(&parts, &[pc()[1]]);
        // Everything at once, low memory too.
        change(&pc(), &[ram(0, 16 * MIB)]);
        stage.finish();
    }
}

#[test]
fn removals_and_additions_that_are_not_waited_for_happen_one_by_one() {
    let mut stage = with_slots(Acks::Absent);
    stage.add(other(DIMM, 0, 8 * MIB));
    let pieces = stage.place(&other(PIECES, 0, 2 * MIB));
    let region =
        |region: Region, offset: u64| words(&[0, region.guest, region.size, region.user, offset]);
    let grown = other(PIECES, 0, 4 * MIB);
    let removals = [other(DIMM, 0, 8 * MIB), other(PIECES, 0, 2 * MIB)];
    for removed in removals {
        let request = message(frontend::REM_MEM_REG, PLAIN, &region(removed, 0));
        stage.frontend.send(&request, &[]);
    }
    let request = message(frontend::ADD_MEM_REG, PLAIN, &region(grown, 0));
    let fd = stage.fd(PIECES);
    stage.frontend.send(&request, &[fd.as_fd()]);
    drop(fd);
    stage
        .frontend
        .send(&message(frontend::SET_OWNER, PLAIN, &[]), &[]);
    for removed in removals {
        let seen = stage.rig.receive(0).expect("a removal");
        assert_eq!(word(&seen, 1), removed.guest);
        let barrier = message(frontend::GET_FEATURES, PLAIN, &[]);
        assert_eq!(stage.rig.receive(0), Some(barrier));
        assert_eq!(stage.rig.receive(0), None, "one at a time");
        let mapping = (word(&seen, 3), removed.offset, removed.size);
        assert!(stage.rig.vmm.mappings().contains(&mapping));
        stage.rig.reply(frontend::GET_FEATURES, &words(&[0]));
        assert!(!stage.rig.vmm.mappings().contains(&mapping));
    }
    let seen = stage.rig.receive(0).expect("the addition");
    assert_eq!(word(&seen, 3), pieces, "a ring is in there");
    let owner = message(frontend::SET_OWNER, PLAIN, &[]);
    assert_eq!(stage.rig.receive(0), Some(owner));
    assert_eq!(stage.frontend.receive(), None);
    stage
        .regions
        .retain(|(region, _)| !removals.contains(region));
    stage.regions.push((grown, pieces));
    stage.check();
    stage.finish();
}

#[test]
fn tables_grow_and_shrink_under_running_rings() {
    for acks in [Acks::AskedAtTimes, Acks::Absent] {
        let mut stage = Stage::new(acks, ProtocolFeatures::MQ, &FILES);
        let pieces = |from, to| other(PIECES, from, to);
        let table = |more: &[Region]| [&pc()[..], more].concat();
        stage.replace(&table(&[pieces(0, 2 * MIB)]));
        start_rings(&mut stage);
        let grown = [
            // The same again.
            table(&[pieces(0, 2 * MIB)]),
            // A DIMM comes, before and behind what is there, and goes.
            table(&[other(DIMM, 0, 8 * MIB), pieces(0, 2 * MIB)]),
            table(&[pieces(0, 2 * MIB)]),
            // The region of a ring grows, and again.
            table(&[pieces(0, 4 * MIB)]),
            table(&[pieces(0, 8 * MIB)]),
            // It is divided, and joined.
            table(&[pieces(0, MIB), pieces(MIB, 8 * MIB)]),
            table(&[pieces(0, 8 * MIB), other(DIMM, 4 * MIB, 8 * MIB)]),
            // As many as there can be.
            table(&[
                pieces(0, MIB),
                pieces(MIB, 2 * MIB),
                pieces(2 * MIB, 3 * MIB),
                pieces(3 * MIB, 8 * MIB),
                other(DIMM, 0, MIB),
                other(DIMM, 2 * MIB, 4 * MIB),
            ]),
            // What was mapped by itself can go by itself.
            table(&[pieces(0, 8 * MIB), other(DIMM, 2 * MIB, 4 * MIB)]),
        ];
        for regions in grown {
            stage.replace(&regions);
        }
        stage.finish();
    }
}

/// What is mapped in one piece cannot be cut while the guest uses it. With a
/// ring in it the table is refused, and everything is as before: QEMU itself
/// goes on. A backend that has memory slots does not get there.
#[test]
fn a_table_that_would_cut_the_memory_of_a_ring_is_refused() {
    for acks in [Acks::AskedAtTimes, Acks::Absent] {
        let mut stage = Stage::new(acks, ProtocolFeatures::MQ, &FILES);
        let table = [pc()[0], pc()[1], other(PIECES, 0, 4 * MIB)];
        stage.replace(&table);
        start_rings(&mut stage);
        let mapped = stage.rig.vmm.mappings();
        let cut = [pc()[0], pc()[1], other(PIECES, 0, 2 * MIB)];
        let (payload, fds) = stage.table(&cut);
        let asks = stage.asks(frontend::SET_MEM_TABLE);
        let flags = if asks { NEED_REPLY } else { PLAIN };
        let request = message(frontend::SET_MEM_TABLE, flags, &payload);
        send(&mut stage.frontend, &request, &fds);
        drop(fds);
        assert_eq!(stage.rig.receive(0), None);
        assert_eq!(stage.rig.vmm.mappings(), mapped);
        assert_eq!(stage.rig.needs_reset(), !asks);
        if asks {
            let refusal = message(frontend::SET_MEM_TABLE, REPLY, &words(&[1]));
            assert_eq!(stage.frontend.receive(), Some(refusal));
            stage.check();
            // Without a ring in it, it moves.
            stage.stop_rings();
            stage.replace(&cut);
        }
        stage.finish();
    }
}

#[test]
fn a_region_is_removed_with_its_descriptor() {
    // Old ones attach it, and do not tell the offset.
    let mut stage = with_slots(Acks::AskedAtTimes);
    let dimm = other(DIMM, 2 * MIB, 4 * MIB);
    for _ in 0..3 {
        stage.add(dimm);
        let fds = [stage.fd(DIMM)];
        stage.remove_with(dimm, 0, &fds);
    }
    stage.finish();
}

#[test]
fn the_log_grows_before_the_memory_does() {
    let features = ProtocolFeatures::CONFIGURE_MEM_SLOTS | ProtocolFeatures::LOG_SHMFD;
    let mut stage = Stage::new(Acks::AskedAtTimes, features, &FILES);
    pc().into_iter().for_each(|region| stage.add(region));
    stage.start_ring(USER + 4 * MIB, &RING);
    let mut logs = Vec::new();
    let mut dimms: Vec<Region> = Vec::new();
    for round in 0..4u64 {
        let size = 0x1000 << round;
        let file = memory_file(size);
        let request = message(frontend::SET_LOG_BASE, PLAIN, &words(&[size, 0]));
        stage.frontend.send(&request, &[file.as_fd()]);
        let seen = stage.rig.receive(0).expect("the log");
        // The guest marks the old one until it answers.
        if let Some((_, at)) = logs.last() {
            assert_eq!(stage.rig.vmm.write_window(*at, &[1]), Some(()));
        }
        stage.rig.reply(frontend::SET_LOG_BASE, &words(&[size]));
        let echo = message(frontend::SET_LOG_BASE, REPLY, &words(&[size, 0]));
        assert_eq!(stage.frontend.receive(), Some(echo));
        let at = word(&seen, 1);
        assert_eq!(stage.rig.vmm.write_window(at + size - 1, &[1]), Some(()));
        if round == 0 {
            let features = VirtioFeatures::LOG_ALL | VirtioFeatures::PROTOCOL_FEATURES;
            stage.say(frontend::SET_FEATURES, &words(&[features.bits()]), &[]);
        }
        logs.push((file, at));
        // The memory that it is for.
        let dimm = other(DIMM, round * 2 * MIB, (round + 1) * 2 * MIB);
        let fd = stage.fd(DIMM);
        let payload = words(&[0, dimm.guest, dimm.size, dimm.user, dimm.offset]);
        let seen = stage.tell(frontend::ADD_MEM_REG, &payload, &[fd]);
        stage.settle(frontend::ADD_MEM_REG, false);
        let mapped = stage.rig.vmm.mappings();
        assert!(mapped.contains(&(word(&seen, 3), dimm.offset, dimm.size)));
        assert!(mapped.contains(&(at, 0, size)));
        dimms.push(dimm);
        assert_eq!(mapped.len(), 2 + dimms.len() + 1, "one log");
    }
    let (last, _) = logs.pop().unwrap();
    logs.into_iter()
        .for_each(|(file, _)| assert_closed(file, "a log"));
    stage.finish();
    assert_closed(last, "the last log");
}

#[test]
fn five_hundred_and_nine_slots_are_there_at_once() {
    const SLOTS: u64 = 509;
    let features = ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    let mut stage = Stage::new(Acks::AskedAtTimes, features, &[SLOTS * 8 * KIB]);
    // Every other page, so that none is the neighbour of another.
    let slot = |n: u64| Region {
        file: 0,
        guest: n * MIB,
        size: 4 * KIB,
        user: USER + n * MIB,
        offset: n * 8 * KIB,
    };
    let request = message(frontend::GET_MAX_MEM_SLOTS, PLAIN, &[]);
    stage.frontend.send(&request, &[]);
    stage.rig.receive(0).expect("a question");
    let most = message(frontend::GET_MAX_MEM_SLOTS, REPLY, &words(&[SLOTS]));
    stage.rig.send(1, &most);
    assert_eq!(stage.frontend.receive(), Some(most));
    for n in 0..SLOTS {
        let region = slot(n);
        let payload = words(&[0, region.guest, region.size, region.user, region.offset]);
        let fds = [stage.fd(0)];
        let seen = stage.tell(frontend::ADD_MEM_REG, &payload, &fds);
        stage.settle(frontend::ADD_MEM_REG, false);
        stage.regions.push((region, word(&seen, 3)));
    }
    stage.check();
    assert_eq!(stage.rig.vmm.mappings().len(), SLOTS as usize);
    // One goes and another comes, when all are taken.
    for n in [0, 254, 508] {
        let place = stage.place(&slot(n));
        stage.remove(slot(n));
        stage.add(slot(n));
        assert_eq!(stage.place(&slot(n)), place);
    }
    stage.finish();
}
