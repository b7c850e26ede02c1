// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Calls: ioeventfds, and stores that are none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustix::event::EventfdFlags;

use crate::frontend::{event, message, take, wait_for_any, words, SET_VRING_CALL, SET_VRING_ERR};
use crate::guest::{Op, Variable};
use crate::rig::Rig;

#[test]
fn rings_at_any_width_at_the_exact_address_only() {
    let Some((mut rig, frontend)) = Rig::connected(4) else {
        return;
    };
    let calls = [0, 1].map(|vring| {
        let call = event(EventfdFlags::empty());
        rig.set_eventfd(&frontend, SET_VRING_CALL, vring, &call);
        call
    });
    let bell = rig.call_doorbell(0);
    let widths = [
        Op::Store8(bell, 0xFF),
        Op::Store16(bell, 0),
        Op::Store32(bell, 7),
        Op::Store64(bell, u64::MAX),
    ];
    rig.run(&widths);
    assert_eq!(take(&calls[0]), 4);
    rig.run(&[
        Op::Store8(bell + 1, 1),
        Op::Store16(bell + 2, 1),
        Op::Store8(bell + 3, 1),
        Op::Store32(bell - 0x1000, 1),
    ]);
    // What is not a doorbell went to the device, and ended there.
    assert_eq!((take(&calls[0]), take(&calls[1])), (0, 0));
    assert_eq!(rig.function.statistics().userspace_doorbells, 0);
}

#[test]
fn rings_error_doorbells() {
    let Some((mut rig, frontend)) = Rig::connected(4) else {
        return;
    };
    let error = event(EventfdFlags::empty());
    rig.set_eventfd(&frontend, SET_VRING_ERR, 3, &error);
    let bell = rig.call_doorbell(4 + 3);
    rig.give(&[Op::Store16(bell, 1)], 10);
    rig.finish();
    assert_eq!(take(&error), 10);
}

#[test]
fn ignores_doorbells_without_a_frontend() {
    let Some(mut rig) = Rig::start(4) else {
        return;
    };
    let bells = rig.driver.bar(2);
    for offset in (0..0x40).step_by(4) {
        rig.run(&[
            Op::Store16(bells + offset, 1),
            Op::Store64(bells + offset, 1),
            Op::Load32(bells + offset, Variable(0)),
        ]);
        assert_eq!(rig.guest.get(Variable(0)), 0);
    }
    // It serves as if nothing had happened.
    let frontend = rig.connect();
    let vring = rig.set_vring(&frontend, 0);
    assert_eq!(take(&vring.call), 0);
    rig.run(&[Op::Store16(rig.call_doorbell(0), 1)]);
    assert_eq!(take(&vring.call), 1);
}

#[test]
fn takes_a_call_away() {
    let Some((mut rig, frontend)) = Rig::connected(4) else {
        return;
    };
    let vring = rig.set_vring(&frontend, 0);
    // Bit 8: there is no descriptor.
    let none = message(SET_VRING_CALL, 1, &words(&[1 << 8]));
    rig.exchange(&frontend, &none, &[]);
    rig.run(&[Op::Store16(rig.call_doorbell(0), 1)]);
    assert_eq!(take(&vring.call), 0);
}

/// To take an ioeventfd away, KVM waits until nobody reads the old list of them
/// (synchronize_srcu), asleep and for about 10 ms, whatever the guest does. So
/// several machines at a time.
const MACHINES: usize = 16;

/// How often a call is replaced, on all machines together. The default is a taste:
/// set `KVM_TEST_REPLACEMENTS` for more.
fn replacements() -> usize {
    let number = std::env::var("KVM_TEST_REPLACEMENTS").ok();
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or(2000)
}

#[test]
fn loses_no_ring_while_the_call_is_replaced() {
    let start = Instant::now();
    let replacements = replacements();
    let share = replacements.div_ceil(MACHINES);
    let machines = [(); MACHINES].map(|()| thread::spawn(move || replace_calls(share)));
    let outcomes = machines.map(|machine| machine.join().unwrap());
    let sum = |outcome: fn(&Rings) -> u64| outcomes.iter().flatten().map(outcome).sum::<u64>();
    println!(
        "{} replacements in {:?}, {} rings, {} of them in userspace",
        share * outcomes.iter().flatten().count(),
        start.elapsed(),
        sum(|rings| rings.rung),
        sum(|rings| rings.slow)
    );
}

struct Rings {
    rung: u64,
    /// Of these, those that went through the device.
    slow: u64,
}

/// The guest rings, waits until the frontend has heard it, and rings again,
/// while the frontend replaces the call. A ring that is lost stops it all.
fn replace_calls(replacements: usize) -> Option<Rings> {
    const RUNG: Variable = Variable(0);
    const HEARD: Variable = Variable(1);
    let (mut rig, frontend) = Rig::connected(1)?;
    let calls = Arc::new([(); 2].map(|()| event(EventfdFlags::empty())));
    rig.set_eventfd(&frontend, SET_VRING_CALL, 0, &calls[0]);
    let over = Arc::new(AtomicBool::new(false));
    let listener = thread::spawn({
        let (guest, calls, over) = (rig.guest.clone(), calls.clone(), over.clone());
        move || {
            let mut heard = 0;
            while !over.load(Ordering::SeqCst) {
                wait_for_any(&calls[..]);
                let rings: u64 = calls.iter().map(take).sum();
                if rings > 0 {
                    heard += rings;
                    guest.set(HEARD, guest.get(RUNG));
                }
            }
            heard + calls.iter().map(take).sum::<u64>()
        }
    });
    let bell = rig.call_doorbell(0);
    let ring = [
        Op::Increment(RUNG),
        Op::Store16(bell, 0),
        Op::Await(RUNG, HEARD),
    ];
    rig.give(&ring, u64::MAX);
    for number in 1..=replacements {
        rig.set_eventfd(&frontend, SET_VRING_CALL, 0, &calls[number % 2]);
    }
    let rung = rig.guest.get(RUNG);
    rig.wait("one more ring", |rig| rig.guest.get(RUNG) > rung);
    // The last repetition has been heard to the end.
    rig.stop_program();
    let rung = rig.guest.get(RUNG);
    over.store(true, Ordering::SeqCst);
    let heard = listener.join().unwrap();
    let slow = rig.function.statistics().userspace_doorbells;
    // A ring in userspace may be passed on twice, to the old and to the new.
    assert!((rung..=rung + slow).contains(&heard), "{heard}");
    Some(Rings { rung, slow })
}
