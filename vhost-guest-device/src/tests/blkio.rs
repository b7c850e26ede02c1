// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How libblkio uses memory: a frontend without a VM, and so without a page size
//! that its memory would have to be a multiple of.
//!
//! A session of its own is among the captures ([`super::replay`]). It has slots
//! only, asks for an acknowledgement of nearly everything, puts its virtqueues
//! into a file that is just as long as they are, and registers and unregisters
//! buffers while its rings run. Guest and user addresses are the same.

use vhost_guest_msg::{frontend, ProtocolFeatures};

use super::stage::{Acks, Region, Stage};

/// The virtqueues of libblkio 1.5: 256 entries, and what belongs to each.
const QUEUES: u64 = 0x3b10;
const USER: u64 = 0x7fa3_fe20_6000;

/// The messages of one ring, in libblkio's order.
const RING: [u32; 6] = [
    frontend::SET_VRING_NUM,
    frontend::SET_VRING_BASE,
    frontend::SET_VRING_ADDR,
    frontend::SET_VRING_KICK,
    frontend::SET_VRING_CALL,
    frontend::SET_VRING_ENABLE,
];

fn at(file: usize, address: u64, size: u64, offset: u64) -> Region {
    Region {
        file,
        guest: address,
        size,
        user: address,
        offset,
    }
}

/// A running ring in memory that is as long as its file.
fn started(files: &[u64]) -> (Stage, Region) {
    let slots = ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    let mut stage = Stage::new(Acks::Asked, slots, files);
    let queues = at(0, USER, QUEUES, 0);
    stage.add(queues);
    stage.start_ring(USER, &RING);
    (stage, queues)
}

#[test]
fn buffers_of_odd_sizes_come_and_go_while_a_ring_runs() {
    let (mut stage, _) = started(&[QUEUES]);
    let sizes = [0x12_0000, 0x1001, 0xfff, 8, QUEUES];
    let mut buffers = Vec::new();
    for (n, size) in (1..).zip(sizes) {
        let file = stage.new_file(size);
        let buffer = at(file, USER + n * 0x20_0000, size, 0);
        stage.add(buffer);
        buffers.push((buffer, stage.place(&buffer)));
    }
    // They go in one order and come back in another, to where they were.
    for (buffer, _) in &buffers {
        stage.remove(*buffer);
    }
    for (buffer, place) in buffers.iter().rev() {
        stage.add(*buffer);
        assert_eq!(stage.place(buffer), *place);
    }
    stage.finish();
}

#[test]
fn buffers_share_pages_of_one_file_with_each_other_and_with_a_ring() {
    let (mut stage, queues) = started(&[0x1_0000]);
    let ends = [QUEUES, 0x3f00, 0x5123, 0x9000, 0x1_0000];
    let parts = ends.windows(2);
    let parts: Vec<_> = parts
        .map(|two| at(0, USER + two[0], two[1] - two[0], two[0]))
        .collect();
    parts.iter().for_each(|part| stage.add(*part));
    let place = stage.place(&queues);
    for part in &parts {
        assert_eq!(stage.place(part), place + part.offset, "as in the file");
    }
    for gone in [&parts[..], &[parts[2], parts[0]], &[parts[3], parts[1]]] {
        gone.iter().for_each(|part| stage.remove(*part));
        for part in gone.iter().rev() {
            stage.add(*part);
            assert_eq!(stage.place(part), place + part.offset, "and back");
        }
    }
    // The ring's own memory goes and comes, too.
    stage.remove(queues);
    stage.add(queues);
    assert_eq!(stage.place(&queues), place);
    stage.finish();
}

#[test]
fn a_file_of_the_same_number_is_another_file() {
    let (mut stage, _) = started(&[QUEUES]);
    for round in 0..4 {
        let file = stage.new_file(QUEUES + round);
        let buffer = at(file, USER + 0x20_0000, QUEUES + round, 0);
        stage.add(buffer);
        stage.remove(buffer);
    }
    stage.finish();
}
