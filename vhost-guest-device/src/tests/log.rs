// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The dirty log of a migration of the frontend's guest.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use vhost_guest_msg::{FrontendRequest, LogBase, ProtocolFeatures, VirtioFeatures};

use super::rig::{self, event, memory_file, message, words, Frontend, Rig, DOORBELLS};
use super::siege::{assert_closed, signalled, SIZE, USER};

const LOG_SIZE: u64 = 0x28000;

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
    let doorbell = DOORBELLS + 4 * 2 * u64::from(rig::VRINGS);
    assert!(rig.vmm.doorbell(doorbell).is_none(), "nothing before");
    let (first, second) = (event(), event());
    for eventfd in [&first, &second] {
        frontend.send(&message(7, 0x1, &[]), &[eventfd.as_fd()]);
        assert!(matches!(rig.request(), Some(FrontendRequest::SetLogFd(_))));
    }
    let bell = rig.vmm.doorbell(doorbell).expect("a doorbell");
    rustix::io::write(&bell, &1u64.to_ne_bytes()).unwrap();
    assert!(signalled(&second) && !signalled(&first));
    drop((bell, frontend));
    assert!(rig.needs_reset());
    assert!(rig.vmm.doorbell(doorbell).is_none());
    assert_closed(first, "a log eventfd");
    assert_closed(second, "a log eventfd");
}

/// Where a `SET_LOG_BASE` that the guest gets puts the log.
fn placed(rig: &mut Rig) -> u64 {
    match rig.request() {
        Some(FrontendRequest::SetLogBase(LogBase::Shared { area, .. })) => area.offset(),
        other => panic!("expected SET_LOG_BASE, got {other:?}"),
    }
}

/// A message as the frontend sends it, and as the guest is to see it.
type Rewritten = (Vec<u8>, Vec<u8>);

/// A frontend whose ring 0 runs, in memory of its own. Returns the ring's
/// SET_VRING_ADDR without and with logging.
fn running() -> (Rig, Frontend, [Rewritten; 2]) {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
    let memory = memory_file(SIZE);
    let table = message(5, 0x1, &words(&[1, 0, SIZE, USER, 0]));
    frontend.send(&table, &[memory.as_fd()]);
    rig.receive(0).expect("the table");
    let window = rig.vmm.mappings()[0].0;
    let ring = |base: u64, flags: u64| {
        let used = base + 0x3000;
        // The address for the log is the guest's, and stays.
        message(
            9,
            0x1,
            &words(&[flags << 32, base, used, base + 0x2000, 0x3000]),
        )
    };
    let rings = [0, 1].map(|flags| (ring(USER, flags), ring(window, flags)));
    frontend.send(&rings[0].0, &[]);
    assert_eq!(rig.receive(0).as_ref(), Some(&rings[0].1));
    let kick = event();
    frontend.send(&message(12, 0x1, &words(&[0])), &[kick.as_fd()]);
    rig.receive(0).expect("the kick");
    (rig, frontend, rings)
}

fn set_features(rig: &mut Rig, frontend: &mut Frontend, features: VirtioFeatures) {
    let features = features | VirtioFeatures::PROTOCOL_FEATURES;
    frontend.send(&message(2, 0x1, &words(&[features.bits()])), &[]);
    assert_eq!(rig.request(), Some(FrontendRequest::SetFeatures(features)));
}

#[test]
fn logging_may_be_switched_on_while_rings_run() {
    let (mut rig, mut frontend, [plain, logged]) = running();
    let memory = rig.vmm.mappings();
    let file = memory_file(LOG_SIZE);
    frontend.send(&log(LOG_SIZE, 0), &[file.as_fd()]);
    let at = placed(&mut rig);
    rig.reply(6, &[]);
    assert!(frontend.receive().is_some());
    // On, and off again, twice.
    for _ in 0..2 {
        set_features(&mut rig, &mut frontend, VirtioFeatures::LOG_ALL);
        for (sent, seen) in [&logged, &plain] {
            frontend.send(sent, &[]);
            assert_eq!(rig.receive(0).as_ref(), Some(seen));
        }
        set_features(&mut rig, &mut frontend, VirtioFeatures::empty());
    }
    // What the guest marks in the window, the frontend reads in its file.
    rig.vmm.write_window(at + 5, &[0x40]).expect("the log");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5).unwrap();
    assert_eq!(byte, [0x40]);
    let [region] = memory[..] else {
        panic!("{memory:?}");
    };
    assert_eq!(rig.vmm.mappings(), [region, (at, 0, LOG_SIZE)]);
}

/// Cloud Hypervisor hands over a new log with each round of a migration, and
/// reads the one before: what the guest marks until it has replied has to be
/// in one of them, and nothing it is told afterwards in the old one.
#[test]
fn a_new_log_in_each_round_loses_no_mark() {
    let (mut rig, mut frontend, [_, logged]) = running();
    let mut logs: Vec<(File, u64)> = Vec::new();
    for round in 0..8u8 {
        let file = memory_file(0x1001);
        frontend.send(&log(0x1001, 0), &[file.as_fd()]);
        let at = placed(&mut rig);
        // Until it has replied, the guest may mark the old one.
        if let Some((old, old_at)) = logs.last() {
            assert_ne!(*old_at, at);
            rig.vmm
                .write_window(*old_at, &[0x80 | round])
                .expect("the old log");
            let mut byte = [0];
            old.read_exact_at(&mut byte, 0).unwrap();
            assert_eq!(byte, [0x80 | round]);
        }
        rig.reply(6, &words(&[0x1001]));
        let echo = message(6, 0x5, &words(&[0x1001, 0]));
        assert_eq!(frontend.receive(), Some(echo));
        if let Some((_, old_at)) = logs.last() {
            assert_eq!(rig.vmm.write_window(*old_at, &[0]), None, "it is gone");
        }
        if round == 0 {
            set_features(&mut rig, &mut frontend, VirtioFeatures::LOG_ALL);
            frontend.send(&logged.0, &[]);
            assert_eq!(rig.receive(0).as_ref(), Some(&logged.1));
        }
        rig.vmm
            .write_window(at + 0x1000, &[round])
            .expect("the log");
        let mut byte = [0xFF];
        file.read_exact_at(&mut byte, 0x1000).unwrap();
        assert_eq!(byte, [round]);
        logs.push((file, at));
    }
    assert_eq!(rig.vmm.mappings().len(), 2);
    let (last, _) = logs.pop().unwrap();
    for (file, _) in logs {
        assert_closed(file, "an old log");
    }
    drop(frontend);
    assert!(rig.needs_reset());
    rig.start();
    assert_closed(last, "the last log");
}

#[test]
fn the_reply_comes_once_whoever_asks_for_it() {
    let features = ProtocolFeatures::LOG_SHMFD | ProtocolFeatures::REPLY_ACK;
    for features in [features, ProtocolFeatures::LOG_SHMFD] {
        for flags in [0x1, 0x9] {
            let (mut rig, mut frontend) = rig::negotiated(features);
            let file = memory_file(LOG_SIZE);
            let request = message(6, flags, &words(&[LOG_SIZE, 0]));
            frontend.send(&request, &[file.as_fd()]);
            placed(&mut rig);
            rig.reply(6, &words(&[0]));
            let echo = message(6, 0x5, &words(&[LOG_SIZE, 0]));
            assert_eq!(frontend.receive(), Some(echo));
            rig.reply(6, &words(&[0]));
            assert!(rig.needs_reset(), "a second reply");
        }
    }
}

#[test]
fn replies_of_other_sizes_are_the_guests_fault() {
    for size in [1, 4, 7, 9, 15, 17, 24] {
        let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
        let file = memory_file(LOG_SIZE);
        frontend.send(&log(LOG_SIZE, 0), &[file.as_fd()]);
        placed(&mut rig);
        rig.reply(6, &vec![0; size]);
        assert_eq!(frontend.receive().unwrap_or_default(), []);
        assert!(rig.needs_reset(), "{size} bytes");
    }
}

#[test]
fn refuses_a_log_beyond_its_file_and_one_without_a_descriptor() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
    let file = memory_file(LOG_SIZE);
    frontend.send(&log(LOG_SIZE, 0x1000), &[file.as_fd()]);
    assert!(rig.needs_reset());
    assert_eq!(rig.vmm.mappings(), []);

    // An address in the frontend's process, or a size that has no file.
    for payload in [words(&[0x7000_0000]), words(&[LOG_SIZE, 0])] {
        for flags in [0x1, 0x9] {
            let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::MQ);
            frontend.send(&message(6, flags, &payload), &[]);
            assert!(rig.needs_reset());
            assert_eq!(rig.receive(0), None);
        }
    }
}

#[test]
fn an_address_of_a_log_is_refused_with_what_its_sender_waits_for() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::REPLY_ACK);
    frontend.send(&message(6, 0x9, &words(&[0x7000_0000])), &[]);
    assert_eq!(rig.receive(0), None);
    let refusal = message(6, 0x5, &words(&[1]));
    assert_eq!(frontend.receive(), Some(refusal));
    assert!(!rig.needs_reset());
}

#[test]
fn a_log_that_the_guest_refuses_leaves_the_old_one() {
    let features = ProtocolFeatures::LOG_SHMFD | ProtocolFeatures::REPLY_ACK;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let file = memory_file(4 * LOG_SIZE);
    frontend.send(&log(LOG_SIZE, 0), &[file.as_fd()]);
    placed(&mut rig);
    rig.reply(6, &[]);
    frontend.receive();
    let mapped = rig.vmm.mappings();
    let request = message(6, 0x9, &words(&[LOG_SIZE, 2 * LOG_SIZE]));
    frontend.send(&request, &[file.as_fd()]);
    placed(&mut rig);
    let refusal = words(&[0, 0]);
    rig.reply(6, &refusal);
    assert_eq!(frontend.receive(), Some(message(6, 0x5, &refusal)));
    assert_eq!(rig.vmm.mappings(), mapped);
}

#[test]
fn a_log_that_cannot_be_mapped_leaves_the_old_one() {
    // Who asks for an answer waits for a whole log (rust-vmm's frontend, in
    // vhost/src/vhost_user/frontend.rs of commit 4e217d99, and with it Cloud
    // Hypervisor): one without a size, which it takes for an error.
    let refusal = message(6, 0x5, &words(&[0, 0]));
    let features = ProtocolFeatures::LOG_SHMFD | ProtocolFeatures::REPLY_ACK;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let file = memory_file(LOG_SIZE);
    frontend.send(&log(LOG_SIZE, 0), &[file.as_fd()]);
    placed(&mut rig);
    rig.reply(6, &[]);
    frontend.receive();
    let mapped = rig.vmm.mappings();
    for (size, offset) in [(LOG_SIZE + 1, 0), (LOG_SIZE, 1), (1, LOG_SIZE)] {
        let request = message(6, 0x9, &words(&[size, offset]));
        frontend.send(&request, &[file.as_fd()]);
        rig.run();
        assert_eq!(frontend.receive().as_ref(), Some(&refusal));
        assert_eq!(rig.vmm.mappings(), mapped);
    }
    assert_eq!(rig.receive(0), None);
    assert!(!rig.needs_reset());
}
