// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much is done before the frontend, or another vring, is heard.

use super::*;
use vhost_guest_msg::{Inflight, SetInflight};

const MIB: u32 = 1 << 20;
const RECORD: u64 = 0x10_0000;

/// A request of 3 MiB: a turn has room for one, and a part of another.
fn add(ring: &mut GuestRing) {
    ring.add(&[(GPA, MIB, 0), (GPA, MIB, 0), (GPA, MIB, 0)]);
}

fn start(setup: &mut Setup, index: u8) -> GuestRing {
    let base = 0x4000 * u64::from(index);
    let ring = GuestRing::new(setup.fake.window.clone(), 16, base);
    setup.restart_ring(index, &ring, 0);
    ring
}

fn fill(setup: &Setup, ring: &mut GuestRing, index: u16, requests: usize) {
    (0..requests).for_each(|_| add(ring));
    setup.fake.kick(index);
}

/// One turn; whose requests were done in it.
fn turn(setup: &mut Setup) -> Vec<u16> {
    let before = setup.server.backend().seen.len();
    setup.server.run_once(Some(Duration::ZERO)).unwrap();
    let seen = &setup.server.backend().seen;
    seen[before..].iter().map(|(queue, _)| *queue).collect()
}

fn running() -> Setup {
    let mut setup = Setup::negotiated();
    setup.share_memory();
    setup
}

#[test]
fn a_vring_with_large_requests_stops_after_a_turn() {
    let mut setup = running();
    let mut ring = start(&mut setup, 0);
    fill(&setup, &mut ring, 0, 4);
    let stop = Request::GetVringBase(VringSelect { index: 0 });
    setup.fake.give(0, &stop.to_vec(false, Endian::Little));
    assert_eq!(turn(&mut setup), [0, 0]);
    let (_, body) = setup.reply().expect("the frontend waits");
    assert_eq!(body[4..], 2u32.to_le_bytes());
    setup.run();
    assert_eq!(setup.server.backend().seen.len(), 2, "it is stopped");
}

#[test]
fn vrings_that_had_no_turn_are_the_next() {
    let mut setup = running();
    let mut rings = [0, 1, 3].map(|index| start(&mut setup, index));
    for (ring, (index, requests)) in rings.iter_mut().zip([(0, 5), (1, 2), (3, 3)]) {
        fill(&setup, ring, index, requests);
    }
    let turns: Vec<Vec<u16>> = (0..5).map(|_| turn(&mut setup)).collect();
    let expected: [&[u16]; 5] = [&[0, 0], &[1, 1], &[3, 3], &[0, 0], &[3, 0]];
    assert_eq!(turns, expected);
    assert_eq!(setup.server.run_once(Some(Duration::ZERO)), Ok(Turn::Idle));
}

#[test]
fn a_vring_without_kicks_waits_for_its_turn_as_well() {
    let mut setup = running();
    let mut first = start(&mut setup, 0);
    let mut second = start(&mut setup, 2);
    let polled = VringFd { index: 2, fd: None };
    assert!(setup.acked(&Request::SetVringKick(polled)));
    fill(&setup, &mut first, 0, 2);
    add(&mut second);
    assert_eq!(turn(&mut setup), [0, 0]);
    assert_eq!(turn(&mut setup), [2]);
}

#[test]
fn what_an_earlier_backend_left_is_done_turn_by_turn() {
    let mut setup = running();
    let inflight = Inflight::new(0x1000, RECORD, 1, 16).unwrap();
    let mut ring = GuestRing::new(setup.fake.window.clone(), 16, 0);
    (0..5).for_each(|_| add(&mut ring));
    for (at, value) in [(8, 1u16), (10, 16)] {
        ring.window.store_le(RECORD + at, value).unwrap();
    }
    for i in 0..4 {
        let entry = RECORD + 16 + 16 * 3 * i;
        ring.window.store_le(entry, 1u8).unwrap();
        ring.window.store_le(entry + 8, i).unwrap();
    }
    let index = 0;
    for request in [
        Request::SetInflightFd(SetInflight::new(inflight, ()).unwrap()),
        Request::SetVringNum(VringNum::new(index, 16).unwrap()),
        Request::SetVringAddr(ring.address(index)),
        Request::SetVringEnable(VringEnable {
            index,
            enable: true,
        }),
    ] {
        assert!(setup.acked(&request));
    }
    let fd = Some(());
    let kick = Request::SetVringKick(VringFd { index, fd });
    setup.fake.give(0, &kick.to_vec(true, Endian::Little));
    let stop = Request::GetVringBase(VringSelect { index });
    setup.fake.give(0, &stop.to_vec(false, Endian::Little));
    assert_eq!(turn(&mut setup), [], "the kick comes");
    assert_eq!(setup.reply().unwrap().1, [0; 8], "and is acknowledged");
    // Only when all four are done the vring may stop.
    assert_eq!(turn(&mut setup), [0, 0]);
    assert_eq!(setup.reply(), None);
    assert_eq!(turn(&mut setup), [0, 0]);
    assert_eq!(setup.reply().unwrap().1[4..], 4u32.to_le_bytes());
    assert_eq!(turn(&mut setup), []);
}
