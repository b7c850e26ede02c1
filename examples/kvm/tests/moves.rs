// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Vectors and BARs that change while both sides signal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::EventfdFlags;
use vhost_guest_examples::kvm::pci::{CONFIG_ADDRESS, CONFIG_DATA};

use crate::driver::{kick_vector, FIRST_KICK};
use crate::frontend::{event, signal, take, SET_VRING_CALL};
use crate::guest::{Guest, Op, Variable};
use crate::rig::{Rig, Vring};

/// Changes of vectors while signals are under way.
const CHANGES: usize = 1000;
/// Calls that are replaced while doorbells move. KVM takes milliseconds for
/// each where it has no hardware behind it.
const REPLACEMENTS: usize = 100;

/// Kicks, and waits for the call, until it is told to stop. Returns how often.
fn ping(vring: Vring, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut rounds = 0;
        while !stop.load(Ordering::SeqCst) {
            signal(&vring.kick);
            while take(&vring.call) == 0 {
                thread::yield_now();
            }
            rounds += 1;
        }
        assert_eq!(take(&vring.call), 0);
        rounds
    })
}

fn interrupts(rig: &Rig, vrings: std::ops::Range<u16>) -> u64 {
    vrings
        .map(|vring| rig.guest.interrupts(kick_vector(vring)))
        .sum()
}

#[test]
fn loses_no_kick_when_its_vector_changes() {
    let Some((mut rig, frontend)) = Rig::connected(4) else {
        return;
    };
    let vring = rig.set_vring(&frontend, 0);
    for other in 0..4 {
        // Whatever the vector: it is vring 0 that is kicked.
        rig.guest
            .set_bell(kick_vector(other), Some(rig.call_doorbell(0)));
    }
    let stop = Arc::default();
    let pinging = ping(vring, &stop);
    for change in 0..CHANGES {
        let vector = FIRST_KICK + (change % 4) as u16;
        assert_eq!(rig.driver.map_kick(0, vector), vector);
        if change % 16 == 0 {
            let seen = interrupts(&rig, 0..4);
            rig.wait("kicks", |rig| interrupts(rig, 0..4) > seen);
        }
    }
    stop.store(true, Ordering::SeqCst);
    rig.wait("the end", |_| pinging.is_finished());
    assert_eq!(pinging.join().unwrap(), interrupts(&rig, 0..4));
    assert_eq!(rig.function.statistics().userspace_doorbells, 0);
}

/// The same in the table of vectors: it is what an interrupt balancer does.
#[test]
fn loses_no_kick_when_its_message_changes() {
    let Some((mut rig, frontend)) = Rig::connected(4) else {
        return;
    };
    let vring = rig.set_vring(&frontend, 0);
    for other in 0..4 {
        rig.guest
            .set_bell(kick_vector(other), Some(rig.call_doorbell(0)));
    }
    let stop = Arc::default();
    let pinging = ping(vring, &stop);
    for change in 0..CHANGES {
        rig.driver.set_mask(FIRST_KICK, true);
        rig.driver
            .set_message(FIRST_KICK, kick_vector((change % 4) as u16));
        rig.driver.set_mask(FIRST_KICK, false);
    }
    stop.store(true, Ordering::SeqCst);
    rig.wait("the end", |_| pinging.is_finished());
    assert_eq!(pinging.join().unwrap(), interrupts(&rig, 0..4));
}

/// A program that moves the doorbell BAR, through configuration space as a
/// driver does, and rings at the new place from then on.
fn move_doorbells(vring: u16, to: u64) -> Vec<Op> {
    let select = |register: u32| Op::Out32(CONFIG_ADDRESS, 1 << 31 | 1 << 11 | register);
    let bell = to + 4 * u64::from(vring);
    vec![
        Op::Cli,
        select(0x18),
        Op::Out32(CONFIG_DATA, to as u32),
        Op::Store64(Guest::bell_cell(kick_vector(vring)), bell),
        Op::Sti,
    ]
}

/// While the guest moves doorbells and handles kicks, the frontend replaces
/// the call, over and over.
#[test]
fn loses_no_ring_when_doorbells_move() {
    const MOVES: Variable = Variable(0);
    let Some((mut rig, frontend)) = Rig::connected(2) else {
        return;
    };
    let vring = rig.set_vring(&frontend, 1);
    let places = [0xC100_0000, 0xC200_0000];
    let start = rig.call_doorbell(1);
    rig.guest.set_bell(kick_vector(1), Some(start));
    let stop = Arc::default();
    let pinging = ping(vring, &stop);
    let mut program: Vec<Op> = places
        .iter()
        .flat_map(|to| move_doorbells(1, *to))
        .collect();
    program.push(Op::Increment(MOVES));
    rig.give(&program, u64::MAX);
    // Of the other vring: a ring must not go to one of two eventfds here.
    for _ in 0..REPLACEMENTS {
        let call = event(EventfdFlags::empty());
        rig.set_eventfd(&frontend, SET_VRING_CALL, 0, &call);
    }
    rig.wait("moves", |rig| rig.guest.get(MOVES) > 20);
    stop.store(true, Ordering::SeqCst);
    rig.wait("the end", |_| pinging.is_finished());
    rig.stop_program();
    assert_eq!(pinging.join().unwrap(), interrupts(&rig, 1..2));
    assert_eq!(rig.function.statistics().userspace_doorbells, 0);
    assert_eq!(rig.driver.bar(2), places[1]);
    // Where they were before there is nothing any more.
    let call = event(EventfdFlags::empty());
    rig.set_eventfd(&frontend, SET_VRING_CALL, 1, &call);
    rig.run(&[Op::Store16(start, 1), Op::Store16(places[0] + 4, 1)]);
    assert_eq!(take(&call), 0);
    rig.run(&[Op::Store16(places[1] + 4, 1)]);
    assert_eq!(take(&call), 1);
}
