// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Addresses behind an IOMMU of the frontend's guest.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vhost_guest_msg::{FrontendRequest, ProtocolFeatures, VirtioFeatures};

use super::rig::{self, memory_file, message, words, Frontend, Rig};

const MIB: u64 = 1 << 20;

/// A connection whose ring addresses are I/O virtual ones, with one region.
fn behind_an_iommu() -> (Rig, Frontend) {
    behind_an_iommu_with(ProtocolFeatures::REPLY_ACK)
}

fn behind_an_iommu_with(features: ProtocolFeatures) -> (Rig, Frontend) {
    let (mut rig, mut frontend) = rig::negotiated(features);
    let features = VirtioFeatures::ACCESS_PLATFORM | VirtioFeatures::PROTOCOL_FEATURES;
    frontend.send(&message(2, 0x1, &words(&[features.bits()])), &[]);
    assert!(rig.request().is_some());
    let file = memory_file(MIB);
    let table = words(&[1, 0, MIB, 0x7000_0000, 0]);
    frontend.send(&message(5, 0x1, &table), &[file.as_fd()]);
    assert!(rig.request().is_some());
    (rig, frontend)
}

#[test]
fn io_virtual_ring_addresses_stay_what_they_are() {
    let (mut rig, mut frontend) = behind_an_iommu();
    let request = message(9, 0x1, &words(&[0, 0x1000, 0x3000, 0x2000, 0]));
    frontend.send(&request, &[]);
    assert_eq!(rig.receive(0), Some(request));
}

#[test]
fn iotlb_updates_name_window_offsets_and_are_answered() {
    let (mut rig, mut frontend) = behind_an_iommu();
    let update = |user_address: u64| words(&[0x1000, 0x1000, user_address, 0x0203]);
    frontend.send(&message(22, 0x9, &update(0x7000_4000)), &[]);
    match rig.request() {
        Some(FrontendRequest::IotlbMsg(entry)) => assert_eq!(entry.user_address(), 0x20_4000),
        other => panic!("{other:?}"),
    }
    rig.reply(22, &words(&[0]));
    assert_eq!(frontend.receive(), Some(message(22, 0x5, &words(&[0]))));
    // An invalidation has no user address.
    let invalidation = message(22, 0x1, &words(&[0x1000, 0x1000, 0, 0x0300]));
    frontend.send(&invalidation, &[]);
    assert_eq!(rig.receive(0), Some(invalidation));
    // Memory that was never shared.
    frontend.send(&message(22, 0x1, &update(0x9000_0000)), &[]);
    assert!(rig.needs_reset());
}

/// The guest's own misses, and the answers of the frontend's, are on two
/// channels that wait for each other in no way.
#[test]
fn an_update_answers_a_miss_while_others_are_open() {
    let features = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::REPLY_ACK;
    let (mut rig, mut frontend) = behind_an_iommu_with(features);
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    frontend.send(&message(21, 0x1, &[]), &[theirs.as_fd()]);
    rig.receive(0).expect("the channel");
    let mut channel = Frontend { stream: ours };
    let misses: Vec<_> = (1..4u64)
        .map(|page| message(1, 0x9, &words(&[page << 12, 0x1000, 0, 0x0103])))
        .collect();
    for miss in &misses {
        rig.send(3, miss);
    }
    assert_eq!(channel.receive(), Some(misses.concat()));
    let update = |page: u64| words(&[page << 12, 0x1000, 0x7000_0000 + (page << 12), 0x0203]);
    for page in 1..4 {
        // QEMU asks for a reply always.
        frontend.send(&message(22, 0x9, &update(page)), &[]);
        match rig.request() {
            Some(FrontendRequest::IotlbMsg(entry)) => {
                assert_eq!(entry.iova(), page << 12);
                assert_eq!(entry.user_address(), 0x20_0000 + (page << 12));
            }
            other => panic!("{other:?}"),
        }
        rig.reply(22, &words(&[0]));
        assert_eq!(frontend.receive(), Some(message(22, 0x5, &words(&[0]))));
    }
    for _ in &misses {
        let answer = message(1, 0x5, &words(&[0]));
        channel.send(&answer, &[]);
        assert_eq!(rig.receive(2), Some(answer));
    }
    assert!(!rig.needs_reset());
}

#[test]
fn a_reply_that_nobody_asked_for_is_one_all_the_same() {
    // vhost-user says that it always comes; most backends wait to be asked.
    let (mut rig, mut frontend) = behind_an_iommu();
    let invalidation = message(22, 0x1, &words(&[0x1000, 0x1000, 0, 0x0300]));
    let answer = message(22, 0x5, &words(&[0]));
    for answered in [true, false, true, false] {
        frontend.send(&invalidation, &[]);
        assert!(rig.request().is_some());
        if answered {
            rig.send(1, &answer);
            assert_eq!(frontend.receive().as_ref(), Some(&answer));
        }
    }
    // Requests behind it are answered as ever.
    frontend.send(&message(1, 0x1, &[]), &[]);
    assert!(rig.request().is_some());
    rig.reply(1, &words(&[7]));
    assert_eq!(frontend.receive(), Some(message(1, 0x5, &words(&[7]))));
    assert!(!rig.needs_reset());
}

#[test]
fn an_update_has_to_lie_in_one_region() {
    let update = |user_address: u64, size: u64| words(&[0x1000, size, user_address, 0x0203]);
    for (user_address, size, fits) in [
        (0x7000_0000, MIB, true),
        (0x7000_0000 + MIB - 1, 1, true),
        (0x7000_0000 + MIB - 1, 2, false),
        (0x7000_0000, MIB + 1, false),
        (0x6FFF_FFFF, 2, false),
        (0x7000_0000 + MIB, 1, false),
    ] {
        let (mut rig, mut frontend) = behind_an_iommu();
        let request = message(22, 0x9, &update(user_address, size));
        frontend.send(&request, &[]);
        assert_eq!(rig.receive(0).is_some(), fits, "{user_address:x}, {size:x}");
        let refusal = (!fits).then(|| message(22, 0x5, &words(&[1])));
        assert_eq!(frontend.receive(), refusal);
        assert!(!rig.needs_reset());
    }
}

#[test]
fn malformed_entries_disconnect_and_impossible_ones_are_refused() {
    let entry = words(&[0x1000, 0x1000, 0x7000_0000, 0x0203]);
    let kind = |kind: u64| words(&[0x1000, 0x1000, 0x7000_0000, 3 | kind << 8]);
    for payload in [
        // As it is drawn, without the padding that is on the wire.
        entry[..26].to_vec(),
        entry[..31].to_vec(),
        [&entry[..], &[0]].concat(),
    ] {
        let (mut rig, mut frontend) = behind_an_iommu();
        frontend.send(&message(22, 0x9, &payload), &[]);
        assert!(rig.needs_reset(), "{payload:x?}");
        assert_eq!(rig.receive(0), None);
    }
    for payload in [
        // What only a backend says, and what nobody does.
        kind(1),
        kind(4),
        kind(0),
        kind(5),
        words(&[0x1000, 0x1000, 0x7000_0000, 0x0204]),
        words(&[0x1000, 0, 0x7000_0000, 0x0203]),
        words(&[u64::MAX, 2, 0x7000_0000, 0x0203]),
        words(&[0x1000, 2, u64::MAX, 0x0203]),
    ] {
        let (mut rig, mut frontend) = behind_an_iommu();
        frontend.send(&message(22, 0x9, &payload), &[]);
        assert_eq!(rig.receive(0), None);
        let refusal = message(22, 0x5, &words(&[1]));
        assert_eq!(frontend.receive(), Some(refusal), "{payload:x?}");
        frontend.send(&message(22, 0x1, &payload), &[]);
        assert!(rig.needs_reset(), "nobody waits for an answer");
    }
    let (mut rig, mut frontend) = behind_an_iommu();
    let file = memory_file(MIB);
    frontend.send(&message(22, 0x9, &entry), &[file.as_fd()]);
    assert!(rig.needs_reset(), "with a descriptor");
}

#[test]
fn rings_are_found_in_memory_again_when_the_iommu_goes() {
    let (mut rig, mut frontend) = behind_an_iommu();
    let ring = message(9, 0x1, &words(&[0, 0x1000, 0x3000, 0x2000, 0]));
    frontend.send(&ring, &[]);
    assert_eq!(rig.receive(0), Some(ring));
    // The next guest of the frontend's has none.
    let features = VirtioFeatures::PROTOCOL_FEATURES;
    frontend.send(&message(2, 0x1, &words(&[features.bits()])), &[]);
    assert!(rig.request().is_some());
    let user = 0x7000_0000;
    let ring = |base: u64| message(9, 0x1, &words(&[0, base, base + 0x2000, base + 0x1000, 0]));
    frontend.send(&ring(user), &[]);
    assert_eq!(rig.receive(0), Some(ring(0x20_0000)));
}
