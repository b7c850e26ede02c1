// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM may choose, as both sides see it.

use std::os::fd::AsFd;

use vhost_guest_msg::ProtocolFeatures;

use super::rig::{memory_file, message, words, Frontend, Rig, NEEDS_RESET};
use super::siege::{NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use crate::function::Builder;
use crate::guest::pci::bars::DEVICE;

const FEATURES: ProtocolFeatures =
    ProtocolFeatures::CONFIGURE_MEM_SLOTS.union(ProtocolFeatures::REPLY_ACK);

fn connected(choose: impl FnOnce(Builder) -> Builder) -> (Rig, Frontend) {
    let mut rig = Rig::with(choose);
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    rig.negotiate(&mut frontend, FEATURES);
    (rig, frontend)
}

/// The device's answer to ADD_MEM_REG number `n`: 0, or not.
fn add(rig: &mut Rig, frontend: &mut Frontend, n: u64, file: impl AsFd) -> Vec<u8> {
    let region = words(&[0, n * SIZE, SIZE, USER + n * SIZE, n * SIZE]);
    frontend.send(&message(37, NEED_REPLY, &region), &[file.as_fd()]);
    if rig.receive(0).is_some() {
        rig.reply(37, &words(&[0]));
    }
    frontend.receive().expect("an acknowledgement")
}

#[test]
fn as_many_memory_slots_as_the_vmm_chose() {
    let (mut rig, mut frontend) = connected(|builder| builder.memory_slots(2));
    let file = memory_file(3 * SIZE);
    let answer = |refused: u64| message(37, REPLY, &words(&[refused]));
    assert_eq!(add(&mut rig, &mut frontend, 0, &file), answer(0));
    assert_eq!(add(&mut rig, &mut frontend, 1, &file), answer(0));
    assert_eq!(add(&mut rig, &mut frontend, 2, &file), answer(1));
    assert_eq!(rig.vmm.mappings().len(), 2);
    // The guest cannot know.
    for (slots, shown) in [(1, 1), (2, 2), (3, 2), (u64::MAX, 2)] {
        frontend.send(&message(36, PLAIN, &[]), &[]);
        assert!(rig.receive(0).is_some());
        rig.reply(36, &words(&[slots]));
        assert_eq!(
            frontend.receive(),
            Some(message(36, REPLY, &words(&[shown])))
        );
        assert_eq!(rig.status() & NEEDS_RESET, 0, "{slots}");
    }
}

#[test]
fn messages_as_large_as_the_vmm_chose() {
    let (mut rig, mut frontend) = connected(|builder| builder.max_message_size(512));
    assert_eq!(rig.read::<4>(DEVICE + 4), 512u32.to_le_bytes());
    // 500 bytes behind the header: the most that fits.
    let file = memory_file(SIZE);
    let table = |regions: u64| {
        let region = |n| [n * 0x1000, 0x1000, USER + n * 0x1000, 0];
        let regions: Vec<_> = (0..regions).flat_map(region).collect();
        words(&[&[regions.len() as u64 / 4], &regions[..]].concat())
    };
    let fds = [file.as_fd(); 16];
    frontend.send(&message(5, PLAIN, &table(15)), &fds[..15]);
    assert!(rig.receive(0).is_some());
    assert!(!rig.needs_reset());
    frontend.send(&message(5, PLAIN, &table(16)), &fds);
    assert!(rig.needs_reset());
    assert!(frontend.is_disconnected());
}

#[test]
fn a_guest_keeps_to_the_size_as_well() {
    let (mut rig, _frontend) = connected(|builder| builder.max_message_size(512));
    rig.send(1, &message(24, REPLY, &[0; 501]));
    assert!(rig.needs_reset());
}
