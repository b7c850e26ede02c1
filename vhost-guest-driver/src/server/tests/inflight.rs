// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backends that crash with requests in flight, and those that follow.

use super::*;
use crate::crash;
use crate::fake::WINDOW_LEN;
use crate::fake_ring::WRITE;
use vhost_guest_msg::{Inflight, SetInflight};

/// Where the device puts the record.
const RECORD: u64 = 0x10_0000;

fn record() -> Inflight {
    Inflight::new(0x2000, RECORD, 4, 8).unwrap()
}

fn set(inflight: Inflight) -> Request {
    Request::SetInflightFd(SetInflight::new(inflight, ()).unwrap())
}

fn kick(index: u8) -> Request {
    Request::SetVringKick(VringFd {
        index,
        fd: Some(()),
    })
}

fn enable(index: u8, enable: bool) -> Request {
    Request::SetVringEnable(VringEnable { index, enable })
}

/// A frontend that wants requests recorded, with vring 0.
fn recording() -> (Setup, GuestRing) {
    let mut setup = Setup::negotiated();
    setup.share_memory();
    assert!(setup.acked(&set(record())));
    let ring = setup.start_ring(0);
    (setup, ring)
}

/// The same frontend and guest with the next backend, before the record is
/// set.
fn next_backend(dead: Setup) -> Setup {
    let window = dead.fake.window.clone();
    drop(dead);
    let mut setup = Setup::with(Fake::with_window(4, window));
    setup.negotiate();
    setup.share_memory();
    setup
}

fn used_idx(ring: &GuestRing) -> u32 {
    let index: u16 = ring.window.load_le(ring.address(0).used + 2).unwrap();
    index.into()
}

#[test]
fn says_how_long_a_record_is_and_not_where() {
    let mut setup = Setup::negotiated();
    for (num_queues, queue_size, len) in [(2, 256, 0x2080u64), (4, 8, 0x300), (0, 8, 0), (1, 0, 0)]
    {
        // The device may have reserved a place.
        let wanted = Inflight::new(0, RECORD, num_queues, queue_size).unwrap();
        let body = setup.ask(&Request::GetInflightFd(wanted));
        assert_eq!(body[..8], len.to_le_bytes());
        assert_eq!(body[8..16], [0; 8]);
        assert_eq!(body[16..18], num_queues.to_le_bytes());
        assert_eq!(body[18..20], queue_size.to_le_bytes());
    }
}

#[test]
fn loses_and_repeats_nothing_when_the_server_crashes() {
    for stores in 0.. {
        let (mut setup, mut ring) = recording();
        for i in 0..3u8 {
            let data = GPA + 0x8_0000 + u64::from(i);
            ring.write(data, &[i]);
            ring.add(&[(data, 1, 0), (GPA + 0x9_0000, 1, WRITE)]);
        }
        setup.fake.kick(0);
        let crashed = crash::after(stores, || setup.run()).is_none();
        let used = used_idx(&ring);
        let mut setup = next_backend(setup);
        assert!(setup.acked(&set(record())));
        // QEMU takes the used index for the base.
        setup.restart_ring(0, &ring, used);
        let requests = setup.server.backend().seen.iter();
        let tags: Vec<u32> = requests.map(|(_, data)| data[0].into()).collect();
        // Nobody kicked: what was taken comes again by itself, the rest is
        // looked for.
        assert_eq!(tags, (used..3).collect::<Vec<_>>(), "{stores} stores");
        assert_eq!((used_idx(&ring), setup.stop_ring(0)), (3, 3));
        if !crashed {
            assert!(stores > 30);
            return;
        }
    }
}

#[test]
fn records_of_packed_vrings_are_longer() {
    let mut setup = Setup::new();
    setup.negotiate();
    let features = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES;
    setup.send(&Request::SetFeatures(
        features | VirtioFeatures::RING_PACKED,
    ));
    let wanted = Inflight::new(0, 0, 2, 256).unwrap();
    let body = setup.ask(&Request::GetInflightFd(wanted));
    assert_eq!(body[..8], (2 * 8256u64).to_le_bytes());
    // One for split vrings is too short.
    let short = Inflight::new(0x300, RECORD, 4, 8).unwrap();
    assert!(!setup.acked(&set(short)));
    let long = Inflight::new(4 * 320, RECORD, 4, 8).unwrap();
    assert!(setup.acked(&set(long)));
}

/// QEMU 7.2's vhost-user-scsi sets the record before any feature.
#[test]
fn a_record_before_the_features_is_one_of_the_rings_that_come() {
    let common = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES;
    for (more, len, starts) in [
        (VirtioFeatures::empty(), 0x300u64, true),
        (VirtioFeatures::RING_PACKED, 0x300, false),
        (VirtioFeatures::RING_PACKED, 4 * 320, true),
    ] {
        let mut setup = Setup::new();
        setup.negotiate_protocol(ProtocolFeatures::empty());
        // There is room for either kind.
        let wanted = Inflight::new(0, 0, 4, 8).unwrap();
        let body = setup.ask(&Request::GetInflightFd(wanted));
        assert_eq!(body[..8], (4 * 320u64).to_le_bytes());
        setup
            .fake
            .window
            .write(RECORD, &vec![0; len as usize])
            .unwrap();
        assert!(setup.acked(&set(Inflight::new(len, RECORD, 4, 8).unwrap())));
        setup.send(&Request::SetFeatures(common | more));
        setup.share_memory();
        let ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
        for request in [
            Request::SetVringNum(VringNum::new(3, 8).unwrap()),
            Request::SetVringAddr(ring.address(3)),
        ] {
            assert!(setup.acked(&request), "{request:?}");
        }
        assert_eq!(setup.acked(&kick(3)), starts, "{more:?} {len}");
        if starts {
            // The area of vring 3, of that kind, was initialised.
            let area = RECORD + len / 4 * 3;
            let version: u16 = setup.fake.window.load_le(area + 8).unwrap();
            assert_eq!(version, 1, "{more:?}");
        }
    }
}

#[test]
fn a_vring_that_need_not_drain_may_do_without_the_record() {
    let mut setup = Setup::new();
    setup.send(&Request::SetProtocolFeatures(
        ProtocolFeatures::GET_VRING_BASE_SKIP_DRAIN | ProtocolFeatures::REPLY_ACK,
    ));
    setup.send(&Request::SetFeatures(VirtioFeatures::VERSION_1));
    setup.share_memory();
    let mut ring = setup.start_ring(0);
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    let body = setup.ask(&Request::GetVringBaseSkipDrain(VringSelect { index: 0 }));
    assert_eq!(body[4..], 1u32.to_le_bytes());
}

#[test]
fn stops_without_a_drain_where_it_stands() {
    let (mut setup, ring) = crashed_with_two();
    for message in [
        Request::SetVringNum(VringNum::new(0, 8).unwrap()),
        Request::SetVringAddr(ring.address(0)),
        kick(0),
    ] {
        assert!(setup.acked(&message));
    }
    let suspending = ProtocolFeatures::GET_VRING_BASE_INFLIGHT;
    setup.negotiate_with(suspending | ProtocolFeatures::GET_VRING_BASE_SKIP_DRAIN);
    let body = setup.ask(&Request::GetVringBaseSkipDrain(VringSelect { index: 0 }));
    assert_eq!(body, [0; 8], "nothing was done");
    // What is in the record stays there.
    assert_eq!(ring.window.load_le::<u8>(RECORD + 16), Ok(1));
    setup.restart_ring(0, &ring, 0);
    assert_eq!((used_idx(&ring), setup.stop_ring(0)), (2, 2));
}

/// A backend that crashed when it had taken two requests and completed none.
fn crashed_with_two() -> (Setup, GuestRing) {
    let (mut setup, mut ring) = recording();
    // One request, recorded as taken; the other one by hand.
    ring.add(&[(GPA + 0x8_0000, 1, 0)]);
    ring.add(&[(GPA + 0x8_0000, 1, 0)]);
    setup.fake.kick(0);
    assert!(crash::after(3, || setup.run()).is_none());
    let second = RECORD + 16 + 16;
    ring.window.store_le(second, 1u8).unwrap();
    ring.window.store_le(second + 8, 1u64).unwrap();
    let mut setup = next_backend(setup);
    assert!(setup.acked(&set(record())));
    (setup, ring)
}

#[test]
fn completes_what_was_taken_before_the_vring_is_stopped_again() {
    let (mut setup, ring) = crashed_with_two();
    // The base does not count what was taken; all in one go.
    let messages = [
        Request::SetVringNum(VringNum::new(0, 8).unwrap()),
        Request::SetVringBase(VringBase { index: 0, base: 0 }),
        Request::SetVringAddr(ring.address(0)),
        kick(0),
        enable(0, true),
        enable(0, false),
        Request::GetVringBase(VringSelect { index: 0 }),
    ];
    for message in messages {
        let bytes = message.to_vec(false, Endian::Little);
        setup.fake.give(0, &bytes);
    }
    setup.run();
    assert_eq!(setup.reply().unwrap().1[4..], 2u32.to_le_bytes());
    assert_eq!(used_idx(&ring), 2);
}

#[test]
fn keeps_what_was_taken_while_the_vring_is_disabled() {
    let (mut setup, ring) = crashed_with_two();
    for message in [
        Request::SetVringNum(VringNum::new(0, 8).unwrap()),
        Request::SetVringAddr(ring.address(0)),
        kick(0),
    ] {
        assert!(setup.acked(&message));
    }
    // Nothing is done, and both are still available.
    assert_eq!((used_idx(&ring), setup.stop_ring(0)), (0, 0));
    // Also by a reset that leaves the record alone.
    assert!(setup.acked(&Request::ResetDevice));
    setup.restart_ring(0, &ring, 0);
    assert_eq!((used_idx(&ring), setup.stop_ring(0)), (2, 2));
}

#[test]
fn hands_back_only_what_is_first_in_the_ring() {
    let (mut setup, ring) = crashed_with_two();
    // The second one was taken before the first.
    ring.window.store_le(RECORD + 16 + 8, 7u64).unwrap();
    for message in [
        Request::SetVringNum(VringNum::new(0, 8).unwrap()),
        Request::SetVringAddr(ring.address(0)),
        kick(0),
    ] {
        assert!(setup.acked(&message));
    }
    assert_eq!(setup.stop_ring(0), 2);
    setup.restart_ring(0, &ring, 2);
    assert_eq!((used_idx(&ring), setup.stop_ring(0)), (2, 2));
}

#[test]
fn forgets_what_was_taken_with_the_record_of_it() {
    let (mut setup, ring) = crashed_with_two();
    for message in [
        Request::SetVringNum(VringNum::new(0, 8).unwrap()),
        Request::SetVringAddr(ring.address(0)),
        kick(0),
    ] {
        assert!(setup.acked(&message));
    }
    setup.stop_ring(0);
    let new = record().with_offset(RECORD + 0x2000).unwrap();
    assert!(setup.acked(&set(new)));
    setup.restart_ring(0, &ring, 2);
    assert_eq!((used_idx(&ring), setup.stop_ring(0)), (0, 2));
}

#[test]
fn a_record_may_be_replaced_while_a_vring_runs() {
    let (mut setup, mut ring) = recording();
    let mut serve = |setup: &mut Setup| {
        ring.add(&[(GPA, 1, 0)]);
        setup.kick(0);
        ring.used().is_some()
    };
    assert!(serve(&mut setup));
    // The same once more, and then another one.
    assert!(setup.acked(&set(record())) && serve(&mut setup));
    let other = record().with_offset(RECORD + 0x2000).unwrap();
    assert!(setup.acked(&set(other)) && serve(&mut setup));
    let window = setup.fake.window.clone();
    assert_eq!(window.load_le::<u16>(RECORD + 14), Ok(2));
    assert_eq!(window.load_le::<u16>(RECORD + 0x2000 + 14), Ok(3));
    // One that is unsound is none: the vring is out of use with it.
    window.store_le(RECORD + 8, 7u16).unwrap();
    assert!(!setup.acked(&set(record())));
    assert!(!serve(&mut setup));
    assert!(!setup.disconnected());
}

#[test]
fn a_record_with_requests_that_wait_is_not_replaced() {
    let (mut setup, ring) = crashed_with_two();
    for message in [
        Request::SetVringNum(VringNum::new(0, 8).unwrap()),
        Request::SetVringAddr(ring.address(0)),
        kick(0),
    ] {
        assert!(setup.acked(&message));
    }
    let other = record().with_offset(RECORD + 0x2000).unwrap();
    assert!(!setup.acked(&set(other)));
    assert!(setup.acked(&enable(0, true)));
    assert_eq!((used_idx(&ring), setup.stop_ring(0)), (2, 2));
}

#[test]
fn rejects_records_that_are_too_short_or_outside() {
    let mut setup = Setup::negotiated();
    setup.share_memory();
    let end = WINDOW_LEN as u64;
    for (size, offset, num_queues, queue_size) in [
        (0x2ff, RECORD, 4, 8),
        (0x300, RECORD + 1, 4, 8),
        (0x300, end - 0x2f8, 4, 8),
        (0x300, u64::MAX - 0x300, 4, 8),
        (u64::MAX, 0, 4, 32768),
        (0x300, RECORD, 4, 0),
    ] {
        let bad = Inflight::new(size, offset, num_queues, queue_size).unwrap();
        let acked = setup.acked(&set(bad));
        assert_eq!(acked, bad.mmap_size() == u64::MAX, "{bad:?}");
    }
    // More vrings than there are do not get past the decoder.
    assert!(!setup.acked(&set(Inflight::new(0x2000, RECORD, 5, 8).unwrap())));
    assert!(!setup.disconnected());
}

#[test]
fn does_not_start_a_vring_with_an_unsound_record() {
    let (mut setup, mut ring) = recording();
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert_eq!(setup.stop_ring(0), 1);
    for (at, bad, good) in [(8, 3u16, 1u16), (10, 4, 8), (16 + 16 * 3, 7, 0)] {
        setup.fake.window.store_le(RECORD + at, bad).unwrap();
        assert!(!setup.acked(&kick(0)), "{at}");
        setup.fake.window.store_le(RECORD + at, good).unwrap();
    }
    // Nor one that is longer than its area.
    let long = Inflight::new(0x2000, RECORD, 4, 4).unwrap();
    assert!(setup.acked(&set(long)));
    assert!(!setup.acked(&kick(0)));
    assert!(setup.acked(&set(record())));
    assert!(setup.acked(&kick(0)));
    assert!(!setup.disconnected());
}

#[test]
fn vrings_that_a_record_has_no_area_for_run_without() {
    let mut setup = Setup::negotiated();
    setup.share_memory();
    let one = Inflight::new(0xc0, RECORD, 1, 8).unwrap();
    assert!(setup.acked(&set(one)));
    let mut ring = setup.start_ring(1);
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(1);
    assert!(ring.used().is_some());
    assert_eq!(setup.stop_ring(1), 1);
}
