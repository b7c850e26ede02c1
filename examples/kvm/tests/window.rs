// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frontend memory in the window, as the guest sees it.

use std::os::unix::fs::FileExt;

use crate::frontend::{memory_file, message};
use crate::guest::{Op, Variable};
use crate::rig::{Rig, WINDOW};

const SIZE: u64 = 2 << 20;
/// What a load of 4 bytes finds where there is nothing.
const NOTHING: u64 = 0xFFFF_FFFF;
/// Below 4 GiB, where the guest can reach it.
const PLACE: u64 = 0xD000_0000;
const OTHER_PLACE: u64 = 0xD800_0000;

/// A rig whose window is where the guest can reach it.
fn rig() -> Option<Rig> {
    let rig = Rig::start(1)?;
    rig.driver.move_bar(4, PLACE);
    Some(rig)
}

fn load(rig: &mut Rig, address: u64) -> u64 {
    rig.run(&[Op::Load32(address, Variable(0))]);
    rig.guest.get(Variable(0))
}

#[test]
fn shares_memory_both_ways() {
    let Some(mut rig) = rig() else {
        return;
    };
    let frontend = rig.connect();
    let file = memory_file(SIZE, 0x11);
    let at = rig.share(&frontend, &file, SIZE);
    assert_eq!(load(&mut rig, at + 0x1000), 0x1111_1111);
    file.write_all_at(b"1234", 0x1000).unwrap();
    assert_eq!(
        load(&mut rig, at + 0x1000),
        u64::from(u32::from_le_bytes(*b"1234"))
    );
    rig.run(&[Op::Store32(at + SIZE - 4, u32::from_le_bytes(*b"last"))]);
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, SIZE - 4).unwrap();
    assert_eq!(&bytes, b"last");
}

#[test]
fn has_nothing_in_its_holes() {
    let Some(mut rig) = rig() else {
        return;
    };
    let hole = |rig: &mut Rig, address| {
        rig.run(&[
            Op::Store64(address, 0),
            Op::Load32(address, Variable(0)),
            Op::Load64(address, Variable(1)),
        ]);
        assert_eq!(rig.guest.get(Variable(0)), NOTHING);
        assert_eq!(rig.guest.get(Variable(1)), u64::MAX);
    };
    for address in [PLACE, PLACE + WINDOW / 2, PLACE + WINDOW - 8] {
        hole(&mut rig, address);
    }
    let frontend = rig.connect();
    let file = memory_file(SIZE, 0x22);
    let at = rig.share(&frontend, &file, SIZE);
    for address in [PLACE, at - 8, at + SIZE] {
        hole(&mut rig, address);
    }
    assert_eq!(load(&mut rig, at), 0x2222_2222);
}

#[test]
fn moves_with_what_is_in_it() {
    let Some(mut rig) = rig() else {
        return;
    };
    let frontend = rig.connect();
    let file = memory_file(SIZE, 0x33);
    let at = rig.share(&frontend, &file, SIZE);
    let moved = at - PLACE + OTHER_PLACE;
    assert_eq!(load(&mut rig, moved), NOTHING);
    rig.driver.move_bar(4, OTHER_PLACE);
    assert_eq!(load(&mut rig, moved), 0x3333_3333);
    assert_eq!(load(&mut rig, at), NOTHING);
    rig.driver.set_memory_space(false);
    assert_eq!(load(&mut rig, moved), NOTHING);
    rig.driver.set_memory_space(true);
    assert_eq!(load(&mut rig, moved), 0x3333_3333);
}

const FLAG: Variable = Variable(8);
const READS: Variable = Variable(9);
const STALE: Variable = Variable(10);

/// Has the guest read at an address over and over while `take_away` takes the
/// memory there away. No read that begins afterwards may find any of it.
fn read_while(rig: &mut Rig, address: u64, take_away: impl FnOnce(&mut Rig)) {
    for variable in [FLAG, READS, STALE] {
        rig.guest.set(variable, 0);
    }
    rig.give(&[Op::Watch(address, FLAG)], u64::MAX);
    rig.wait("reads", |rig| rig.guest.get(READS) > 1000);
    take_away(rig);
    rig.guest.set(FLAG, 1);
    let reads = rig.guest.get(READS);
    rig.wait("reads", |rig| rig.guest.get(READS) > reads + 1000);
    rig.stop_program();
    assert_eq!(rig.guest.get(STALE), 0);
}

#[test]
fn is_empty_for_a_guest_that_reads_when_it_is_revoked() {
    for _ in 0..20 {
        let Some(mut rig) = rig() else {
            return;
        };
        let frontend = rig.connect();
        let at = rig.share(&frontend, memory_file(SIZE, 0x44), SIZE);
        assert_eq!(load(&mut rig, at), 0x4444_4444);
        read_while(&mut rig, at, |rig| rig.function.revoke());
    }
}

#[test]
fn is_empty_for_a_guest_that_reads_when_the_window_moves() {
    let Some(mut rig) = rig() else {
        return;
    };
    let frontend = rig.connect();
    let at = rig.share(&frontend, memory_file(SIZE, 0x55), SIZE);
    let offset = at - PLACE;
    for _ in 0..20 {
        read_while(&mut rig, at, |rig| rig.driver.move_bar(4, OTHER_PLACE));
        assert_eq!(load(&mut rig, OTHER_PLACE + offset), 0x5555_5555);
        rig.driver.move_bar(4, PLACE);
        assert_eq!(load(&mut rig, at), 0x5555_5555);
    }
}

/// `SET_MEM_TABLE` takes memory away when the guest has proved that it knows.
#[test]
fn keeps_memory_until_the_guest_has_let_go_of_it() {
    const GET_FEATURES: u32 = 1;
    let Some(mut rig) = rig() else {
        return;
    };
    let frontend = rig.connect();
    let mut before = rig.share(&frontend, memory_file(SIZE, 0), SIZE);
    for round in 1..=20_u8 {
        let after = rig.share(&frontend, memory_file(SIZE, round), SIZE);
        assert_ne!(
            after, before,
            "its place was free before the guest let go of it"
        );
        // Both are there.
        let pattern = |round: u8| u64::from(u32::from_le_bytes([round; 4]));
        assert_eq!(load(&mut rig, before), pattern(round - 1));
        assert_eq!(load(&mut rig, after), pattern(round));
        // The device's own barrier, which the guest answers.
        let mut barrier = None;
        rig.wait("a barrier", |rig| {
            barrier = rig.driver.receive();
            barrier.is_some()
        });
        assert_eq!(barrier, Some(message(GET_FEATURES, 1, &[])));
        read_while(&mut rig, before, |rig| {
            rig.driver.send(1, &message(GET_FEATURES, 5, &[0; 8]));
            rig.catch_up();
        });
        before = after;
    }
}
