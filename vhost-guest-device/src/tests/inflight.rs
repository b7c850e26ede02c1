// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory for requests under way.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{fcntl_get_seals, fstat, SealFlags};
use vhost_guest_msg::{FrontendRequest, ProtocolFeatures};

use super::rig::{self, message, words, Frontend, Rig};

const SIZE: u64 = 0x2080;

fn record(code: u32, size: u64, offset: u64, queues: u64) -> Vec<u8> {
    message(code, 0x1, &words(&[size, offset, queues | 256 << 16]))
}

/// The frontend asks for a record, the guest wants `size` bytes.
fn get(rig: &mut Rig, frontend: &mut Frontend, size: u64) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    frontend.send(&record(31, 0, 0, 2), &[]);
    assert!(matches!(
        rig.request(),
        Some(FrontendRequest::GetInflightFd(_))
    ));
    rig.send(1, &{
        let mut reply = record(31, size, 0, 2);
        reply[4] = 0x5;
        reply
    });
    frontend.receive_with_fds()
}

#[test]
fn the_device_makes_the_memory_that_a_guest_cannot_send() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
    let (reply, fds) = get(&mut rig, &mut frontend, SIZE).unwrap();
    let [fd] = &fds[..] else { panic!("{fds:?}") };
    assert_eq!(reply[12..28], words(&[SIZE, 0])[..]);
    assert_eq!(fstat(fd).unwrap().st_size as u64, SIZE);
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    assert_eq!(fcntl_get_seals(fd).unwrap(), sealed);
    assert_eq!(
        rig.vmm.mappings(),
        [],
        "nobody writes to it before it comes back"
    );

    // It comes back at each start, also after a crash of the backend.
    for _ in 0..2 {
        frontend.send(&record(32, SIZE, 0, 2), &[fd.as_fd()]);
        let Some(FrontendRequest::SetInflightFd(placed)) = rig.request() else {
            panic!("no SET_INFLIGHT_FD");
        };
        let offset = placed.inflight().mmap_offset();
        assert_eq!(rig.vmm.mappings(), [(offset, 0, 0x3000)]);
    }
}

#[test]
fn the_offset_is_one_in_the_devices_file_whatever_the_guest_says() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
    frontend.send(&record(31, 0, 0, 2), &[]);
    assert!(rig.request().is_some());
    rig.reply(31, &words(&[SIZE, 0x20_0000, 2 | 256 << 16]));
    let (reply, fds) = frontend.receive_with_fds().unwrap();
    let expected = words(&[SIZE, 0, 2 | 256 << 16]);
    assert_eq!((&reply[12..], fds.len()), (&expected[..], 1));
}

#[test]
fn no_record_means_no_descriptor() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
    let (reply, fds) = get(&mut rig, &mut frontend, 0).unwrap();
    assert_eq!(reply[12..28], words(&[0, 0])[..]);
    assert!(fds.is_empty());
}

#[test]
fn a_guest_that_wants_too_much_is_at_fault() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
    let reply = get(&mut rig, &mut frontend, (8 << 20) + 1);
    assert!(reply.is_none_or(|(bytes, _)| bytes.is_empty()));
    assert!(rig.needs_reset());
}

#[test]
fn the_memory_of_earlier_records_is_given_back() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
    let (_, mut first) = get(&mut rig, &mut frontend, SIZE).unwrap();
    let first = File::from(first.remove(0));
    first.write_all_at(&[1; 0x2000], 0).unwrap();
    let (_, second) = get(&mut rig, &mut frontend, SIZE).unwrap();
    assert_eq!(second.len(), 1);
    is_emptied(&first);
    assert_eq!(fstat(&first).unwrap().st_size as u64, SIZE);
}

/// Waits until a record has no bytes: a thread that nobody waits for does it.
fn is_emptied(record: &File) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while fstat(record).unwrap().st_blocks != 0 {
        assert!(Instant::now() < deadline, "the record is still there");
        std::thread::yield_now();
    }
}

/// A record that the frontend asked for, with something in it.
fn made(rig: &mut Rig, frontend: &mut Frontend) -> File {
    let (_, mut fds) = get(rig, frontend, SIZE).unwrap();
    let file = File::from(fds.remove(0));
    file.write_all_at(&[1; 0x2000], 0).unwrap();
    file
}

/// The frontend sets a record, and the guest answers or is asked for a proof.
fn set(rig: &mut Rig, frontend: &mut Frontend, file: &File) {
    frontend.send(&record(32, SIZE, 0, 2), &[file.as_fd()]);
    placed(rig);
    if rig.receive(0).is_some() {
        rig.reply(1, &words(&[0]));
    }
}

/// What was set says which requests are under way: a frontend that asks again,
/// or another one, gets a record of its own.
#[test]
fn a_record_that_was_set_is_never_emptied() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
    let used = made(&mut rig, &mut frontend);
    set(&mut rig, &mut frontend, &used);
    let mut unused = made(&mut rig, &mut frontend);
    for connection in 0..3 {
        for _ in 0..2 {
            let next = made(&mut rig, &mut frontend);
            // Closed in the order in which they came, by the one thread.
            is_emptied(&unused);
            unused = next;
        }
        assert_ne!(fstat(&used).unwrap().st_blocks, 0, "{connection}");
        rig.start();
        assert!(frontend.is_disconnected());
        rig.backend_up();
        frontend = rig.connect();
        rig.run();
        rig.negotiate(&mut frontend, ProtocolFeatures::INFLIGHT_SHMFD);
        set(&mut rig, &mut frontend, &used);
    }
    // Two are kept, not more: the one that is set now takes its place.
    let next = made(&mut rig, &mut frontend);
    is_emptied(&unused);
    assert_ne!(fstat(&used).unwrap().st_blocks, 0);
    set(&mut rig, &mut frontend, &next);
    is_emptied(&used);
    let last = made(&mut rig, &mut frontend);
    let _ = made(&mut rig, &mut frontend);
    is_emptied(&last);
    assert_ne!(fstat(&next).unwrap().st_blocks, 0);
}

#[test]
fn a_record_that_the_guest_refuses_does_not_replace_one_that_was_set() {
    let features = ProtocolFeatures::INFLIGHT_SHMFD | ProtocolFeatures::REPLY_ACK;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let ask = |rig: &mut Rig, frontend: &mut Frontend, file: &File, value: u64| {
        let mut request = record(32, SIZE, 0, 2);
        request[4] = 0x9;
        frontend.send(&request, &[file.as_fd()]);
        placed(rig);
        rig.reply(32, &words(&[value]));
        frontend.receive().expect("an answer");
    };
    let used = made(&mut rig, &mut frontend);
    ask(&mut rig, &mut frontend, &used, 0);
    let refused = made(&mut rig, &mut frontend);
    ask(&mut rig, &mut frontend, &refused, 1);
    let _latest = made(&mut rig, &mut frontend);
    is_emptied(&refused);
    assert_ne!(fstat(&used).unwrap().st_blocks, 0);
}

/// The frontend counts on the record that it set, whether or not it heard of the
/// guest's answer.
#[test]
fn a_record_that_was_set_when_the_connection_ended_is_kept() {
    let features = ProtocolFeatures::INFLIGHT_SHMFD | ProtocolFeatures::REPLY_ACK;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let used = made(&mut rig, &mut frontend);
    let mut request = record(32, SIZE, 0, 2);
    request[4] = 0x9;
    frontend.send(&request, &[used.as_fd()]);
    placed(&mut rig);
    drop(frontend);
    assert!(rig.needs_reset());
    rig.start();
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    rig.negotiate(&mut frontend, features);
    let unused = made(&mut rig, &mut frontend);
    let _latest = made(&mut rig, &mut frontend);
    is_emptied(&unused);
    assert_ne!(fstat(&used).unwrap().st_blocks, 0);
}

#[test]
fn a_stopped_ring_may_leave_requests_under_way() {
    let features = ProtocolFeatures::INFLIGHT_SHMFD
        | ProtocolFeatures::GET_VRING_BASE_INFLIGHT
        | ProtocolFeatures::GET_VRING_BASE_SKIP_DRAIN;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let call = rig::event();
    frontend.send(&message(13, 0x1, &words(&[0])), &[call.as_fd()]);
    rig.request();
    frontend.send(&message(45, 0x1, &words(&[0])), &[]);
    assert!(matches!(
        rig.request(),
        Some(FrontendRequest::GetVringBaseSkipDrain(_))
    ));
    rig.reply(45, &words(&[7 << 32]));
    assert_eq!(
        frontend.receive(),
        Some(message(45, 0x5, &words(&[7 << 32])))
    );
    assert!(!rig.vmm.doorbells().contains(&rig::DOORBELLS));
}

#[test]
fn records_of_no_size_are_refused() {
    let ask = |queues: u64, size: u64| words(&[0, 0, queues | size << 16]);
    for (payload, right) in [
        (ask(1, 1), true),
        (ask(rig::VRINGS.into(), 32768), true),
        (ask(u64::from(rig::VRINGS) + 1, 256), false),
        (ask(1, 32769), false),
        (ask(1, 65535), false),
        (ask(rig::VRINGS.into(), 65535), false),
        (ask(65535, 256), false),
    ] {
        let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
        frontend.send(&message(31, 0x1, &payload), &[]);
        assert_eq!(rig.receive(0).is_some(), right, "{payload:x?}");
        assert!(!rig.needs_reset(), "{payload:x?}");
        if !right {
            // A record of no bytes, and no descriptor.
            let (none, fds) = frontend.receive_with_fds().expect("an answer");
            assert_eq!((&none[12..], fds.len()), (&[0; 24][..], 0));
        }
    }
}

#[test]
fn how_much_is_too_much_is_the_vmms_choice() {
    for (size, too_much) in [(0x2000, false), (0x2001, true), (u64::MAX, true)] {
        let mut rig = Rig::with(|builder| builder.inflight_limit(0x2000));
        rig.initialise();
        rig.backend_up();
        let mut frontend = rig.connect();
        rig.run();
        rig.negotiate(&mut frontend, ProtocolFeatures::INFLIGHT_SHMFD);
        let made = get(&mut rig, &mut frontend, size);
        assert_eq!(made.is_some_and(|(_, fds)| !fds.is_empty()), !too_much);
        assert_eq!(rig.needs_reset(), too_much, "{size:x}");
    }
}

/// `SET_INFLIGHT_FD` as the guest gets it: where the record is.
fn placed(rig: &mut Rig) -> u64 {
    match rig.request() {
        Some(FrontendRequest::SetInflightFd(placed)) => placed.inflight().mmap_offset(),
        other => panic!("expected SET_INFLIGHT_FD, got {other:?}"),
    }
}

#[test]
fn a_record_stays_until_the_guest_has_acknowledged_the_next() {
    let features = ProtocolFeatures::INFLIGHT_SHMFD | ProtocolFeatures::REPLY_ACK;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let give = |rig: &mut Rig, frontend: &mut Frontend, value: u64| {
        let file = rig::memory_file(SIZE);
        let mut request = record(32, SIZE, 0, 2);
        request[4] = 0x9;
        frontend.send(&request, &[file.as_fd()]);
        let at = placed(rig);
        let during = rig.vmm.mappings().len();
        rig.reply(32, &words(&[value]));
        let answer = message(32, 0x5, &words(&[value]));
        assert_eq!(frontend.receive(), Some(answer));
        (at, during)
    };
    let (first, during) = give(&mut rig, &mut frontend, 0);
    assert_eq!(during, 1);
    // One that the guest does not want has not been there.
    let (_, during) = give(&mut rig, &mut frontend, 1);
    assert_eq!(during, 2);
    assert_eq!(rig.vmm.mappings(), [(first, 0, 0x3000)]);
    let (second, during) = give(&mut rig, &mut frontend, 0);
    assert_eq!(during, 2);
    assert_eq!(rig.vmm.mappings(), [(second, 0, 0x3000)]);
}

#[test]
fn what_was_under_way_is_known_to_the_next_backend() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
    let (_, fds) = get(&mut rig, &mut frontend, SIZE).unwrap();
    let fd = &fds[0];
    for life in 0..3u8 {
        frontend.send(&record(32, SIZE, 0, 2), &[fd.as_fd()]);
        let at = placed(&mut rig);
        let mut marks = [0xFF; 4];
        rig.vmm
            .read_window(at + 0x40, &mut marks)
            .expect("the record");
        let known = [0, 1, 2, 3].map(|mark| if mark < life { mark + 1 } else { 0 });
        assert_eq!(marks, known, "in life {life}");
        rig.vmm
            .write_window(at + 0x40 + u64::from(life), &[life + 1])
            .unwrap();
        // The guest crashes: its firmware resets the device.
        rig.start();
        assert_eq!(rig.vmm.mappings(), []);
        assert!(frontend.is_disconnected());
        rig.backend_up();
        frontend = rig.connect();
        rig.run();
        rig.negotiate(&mut frontend, ProtocolFeatures::INFLIGHT_SHMFD);
    }
}

#[test]
fn a_reply_for_another_record_is_the_guests_fault() {
    for payload in [&[][..], &[0; 16], &[0; 23], &[0; 25], &[0; 32]] {
        let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::INFLIGHT_SHMFD);
        frontend.send(&record(31, 0, 0, 2), &[]);
        assert!(rig.request().is_some());
        rig.reply(31, payload);
        assert_eq!(frontend.receive().unwrap_or_default(), []);
        assert!(rig.needs_reset(), "{} bytes", payload.len());
    }
}
