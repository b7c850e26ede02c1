// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The dirty log, and addresses behind an IOMMU.

use std::os::fd::AsFd;

use vhost_guest_msg::{FrontendRequest, LogBase, ProtocolFeatures, VirtioFeatures};

use super::rig::{self, event, memory_file, message, words, DOORBELLS};

const LOG_SIZE: u64 = 0x28000;
const MIB: u64 = 1 << 20;

fn log(size: u64, offset: u64) -> Vec<u8> {
    message(6, 0x1, &words(&[size, offset]))
}

#[test]
fn maps_the_log_and_answers_in_the_frontends_terms() {
    // What DPDK, libvhost-user and rust-vmm's backend answer.
    let replies = [
        words(&[]),
        words(&[LOG_SIZE]),
        words(&[LOG_SIZE, 0x20_1000]),
    ];
    for reply in replies {
        let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
        let file = memory_file(LOG_SIZE + 0x1000);
        frontend.send(&log(LOG_SIZE, 0x1000), &[file.as_fd()]);
        let Some(FrontendRequest::SetLogBase(LogBase::Shared { area, .. })) = rig.request() else {
            panic!("no SET_LOG_BASE");
        };
        assert_eq!(area.size(), LOG_SIZE);
        assert_eq!(rig.vmm.mappings(), [(area.offset(), 0x1000, LOG_SIZE)]);
        rig.reply(6, &reply);
        let echo = message(6, 0x5, &words(&[LOG_SIZE, 0x1000]));
        assert_eq!(frontend.receive(), Some(echo));
    }
}

#[test]
fn a_log_that_grew_takes_the_place_of_the_old_one_after_the_reply() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
    for (size, mapped) in [(LOG_SIZE, 1), (2 * LOG_SIZE, 2)] {
        let file = memory_file(size);
        frontend.send(&log(size, 0), &[file.as_fd()]);
        assert!(matches!(
            rig.request(),
            Some(FrontendRequest::SetLogBase(_))
        ));
        assert_eq!(rig.vmm.mappings().len(), mapped);
        rig.reply(6, &[]);
        assert_eq!(rig.vmm.mappings().len(), 1);
        assert!(frontend.receive().is_some());
    }
    assert_eq!(rig.vmm.mappings()[0].2, 2 * LOG_SIZE);
}

#[test]
fn a_log_that_is_not_a_multiple_of_pages_is_mapped_to_its_last_page() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
    let file = memory_file(0x2345);
    frontend.send(&log(0x2345, 0), &[file.as_fd()]);
    assert!(rig.request().is_some());
    assert_eq!(rig.vmm.mappings()[0].2, 0x3000);
}

#[test]
fn the_log_doorbell_rings_the_frontends_eventfd() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
    let eventfd = event();
    frontend.send(&message(7, 0x1, &[]), &[eventfd.as_fd()]);
    assert!(matches!(rig.request(), Some(FrontendRequest::SetLogFd(_))));
    let doorbell = DOORBELLS + 4 * 2 * u64::from(rig::VRINGS);
    assert!(rig.vmm.doorbell(doorbell).is_some());
}

#[test]
fn logging_may_be_switched_on_while_rings_run() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
    let features = VirtioFeatures::LOG_ALL | VirtioFeatures::PROTOCOL_FEATURES;
    frontend.send(&message(2, 0x1, &words(&[features.bits()])), &[]);
    assert_eq!(rig.request(), Some(FrontendRequest::SetFeatures(features)));
}

#[test]
fn refuses_a_log_beyond_its_file_and_one_without_a_descriptor() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
    let file = memory_file(LOG_SIZE);
    frontend.send(&log(LOG_SIZE, 0x1000), &[file.as_fd()]);
    assert!(rig.needs_reset());
    assert_eq!(rig.vmm.mappings(), []);

    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::MQ);
    frontend.send(&message(6, 0x1, &words(&[0x7000_0000])), &[]);
    assert!(rig.needs_reset());
}

/// A connection whose ring addresses are I/O virtual ones, with one region.
fn behind_an_iommu() -> (rig::Rig, rig::Frontend) {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::REPLY_ACK);
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
