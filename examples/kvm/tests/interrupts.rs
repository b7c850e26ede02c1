// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Kicks: irqfds, masks, pending bits.

use std::os::fd::OwnedFd;

use rustix::event::EventfdFlags;

use crate::driver::{kick_vector, FIRST_KICK, MSIX_PENDING};
use crate::frontend::{event, signal, take, Frontend, SET_VRING_KICK};
use crate::guest::{Op, Variable};
use crate::rig::Rig;

/// A rig and a frontend that has sent a kick for vring 0.
fn with_kick(flags: EventfdFlags) -> Option<(Rig, Frontend, OwnedFd)> {
    let (mut rig, frontend) = Rig::connected(4)?;
    let kick = event(flags);
    rig.set_eventfd(&frontend, SET_VRING_KICK, 0, &kick);
    Some((rig, frontend, kick))
}

/// Interrupts of vring 0's kick so far, once the guest has had the time for
/// all that were raised.
fn kicks(rig: &mut Rig) -> u64 {
    rig.run(&[]);
    rig.guest.interrupts(kick_vector(0))
}

/// The MSI-X pending bits of vectors 0 to 63, as the guest reads them.
fn pending(rig: &mut Rig) -> u64 {
    let bits = rig.driver.bar(0) + MSIX_PENDING;
    rig.run(&[Op::Load64(bits, Variable(0))]);
    rig.guest.get(Variable(0))
}

#[test]
fn carries_round_trips_without_a_thread_of_the_vmm() {
    let Some((mut rig, frontend)) = Rig::connected(2) else {
        return;
    };
    let vring = rig.set_vring(&frontend, 1);
    rig.guest
        .set_bell(kick_vector(1), Some(rig.call_doorbell(1)));
    let before = rig.function.statistics();
    for _ in 0..1000 {
        signal(&vring.kick);
        rig.wait("a call", |_| take(&vring.call) == 1);
    }
    assert_eq!(rig.guest.interrupts(kick_vector(1)), 1000);
    let after = rig.function.statistics();
    assert_eq!(after.userspace_doorbells, 0);
    // The device may have had to look at the buffers posted before.
    assert!(after.turns - before.turns < 4, "{before:?} {after:?}");
}

/// The control: the same where KVM does not help.
#[test]
fn carries_round_trips_through_threads_of_the_vmm() {
    let Some(mut rig) = Rig::start_in_userspace(2) else {
        return;
    };
    let frontend = rig.connect();
    let vring = rig.set_vring(&frontend, 1);
    rig.guest
        .set_bell(kick_vector(1), Some(rig.call_doorbell(1)));
    for _ in 0..1000 {
        signal(&vring.kick);
        rig.wait("a call", |_| take(&vring.call) == 1);
    }
    assert_eq!(rig.guest.interrupts(kick_vector(1)), 1000);
    assert_eq!(rig.function.statistics().userspace_doorbells, 1000);
}

#[test]
fn delivers_a_kick_behind_a_mask_once() {
    delivers_once(Rig::start);
}

#[test]
fn delivers_a_kick_behind_a_mask_once_without_irqfds() {
    delivers_once(Rig::start_in_userspace);
}

fn delivers_once(start: fn(u16) -> Option<Rig>) {
    for flags in [EventfdFlags::empty(), EventfdFlags::SEMAPHORE] {
        let Some(mut rig) = start(4) else {
            return;
        };
        let frontend = rig.connect();
        let kick = event(flags);
        rig.set_eventfd(&frontend, SET_VRING_KICK, 0, &kick);
        rig.driver.set_mask(FIRST_KICK, true);
        signal(&kick);
        assert_eq!(kicks(&mut rig), 0);
        rig.driver.set_mask(FIRST_KICK, false);
        rig.wait("the kick", |rig| rig.guest.interrupts(kick_vector(0)) == 1);
        for _ in 0..3 {
            // Masking also waits for what is on its way.
            rig.driver.set_mask(FIRST_KICK, true);
            assert_eq!(pending(&mut rig), 0);
            rig.driver.set_mask(FIRST_KICK, false);
        }
        rig.driver.set_mask(FIRST_KICK, true);
        assert_eq!(kicks(&mut rig), 1, "{flags:?}");
    }
}

#[test]
fn delivers_no_more_interrupts_than_a_semaphore_has_kicks() {
    let Some((mut rig, _frontend, kick)) = with_kick(EventfdFlags::SEMAPHORE) else {
        return;
    };
    rig.driver.set_mask(FIRST_KICK, true);
    for _ in 0..3 {
        signal(&kick);
    }
    for _ in 0..10 {
        rig.driver.set_mask(FIRST_KICK, false);
        rig.driver.set_mask(FIRST_KICK, true);
    }
    let interrupts = kicks(&mut rig);
    assert!((1..=3).contains(&interrupts), "{interrupts}");
    assert_eq!(take(&kick), 0);
}

#[test]
fn holds_kicks_behind_the_function_mask() {
    let Some((mut rig, _frontend, kick)) = with_kick(EventfdFlags::empty()) else {
        return;
    };
    rig.driver.set_function_mask(true);
    signal(&kick);
    assert_eq!(kicks(&mut rig), 0);
    assert_eq!(pending(&mut rig), 1 << FIRST_KICK);
    rig.driver.set_function_mask(false);
    rig.wait("the kick", |rig| rig.guest.interrupts(kick_vector(0)) == 1);
}

#[test]
fn shows_the_guest_which_vectors_are_pending() {
    let Some((mut rig, frontend)) = Rig::connected(4) else {
        return;
    };
    let vrings = [0, 1, 2, 3].map(|vring| rig.set_vring(&frontend, vring));
    for vring in 0..4 {
        rig.driver.set_mask(FIRST_KICK + vring, true);
    }
    assert_eq!(pending(&mut rig), 0);
    signal(&vrings[2].kick);
    assert_eq!(pending(&mut rig), 1 << (FIRST_KICK + 2));
    signal(&vrings[0].kick);
    assert_eq!(pending(&mut rig), 0b101 << FIRST_KICK);
    rig.driver.set_mask(FIRST_KICK + 2, false);
    rig.wait("the kick", |rig| rig.guest.interrupts(kick_vector(2)) == 1);
    assert_eq!(pending(&mut rig), 1 << FIRST_KICK);
}

#[test]
fn raises_several_kicks_on_one_vector() {
    let Some((mut rig, frontend)) = Rig::connected(4) else {
        return;
    };
    let vrings = [0, 1, 2, 3].map(|vring| rig.set_vring(&frontend, vring));
    for vring in 0..4 {
        assert_eq!(rig.driver.map_kick(vring, FIRST_KICK), FIRST_KICK);
    }
    let mut expected = 0;
    for vring in vrings.iter().cycle().take(100) {
        signal(&vring.kick);
        expected += 1;
        let done = |rig: &mut Rig| rig.guest.interrupts(kick_vector(0)) == expected;
        rig.wait("the kick", done);
    }
    // One mask for all of them; they are one interrupt when it goes.
    rig.driver.set_mask(FIRST_KICK, true);
    for vring in &vrings {
        signal(&vring.kick);
    }
    assert_eq!(pending(&mut rig), 1 << FIRST_KICK);
    assert_eq!(kicks(&mut rig), expected);
    rig.driver.set_mask(FIRST_KICK, false);
    rig.wait("the kicks", |rig| {
        rig.guest.interrupts(kick_vector(0)) > expected
    });
    rig.driver.set_mask(FIRST_KICK, true);
    assert_eq!(pending(&mut rig), 0);
    assert!((1..=4).contains(&(kicks(&mut rig) - expected)));
    for vring in 1..4 {
        assert_eq!(rig.guest.interrupts(kick_vector(vring)), 0);
    }
}

#[test]
fn carries_every_vring_of_the_largest_device() {
    let Some((mut rig, frontend)) = Rig::connected(256) else {
        return;
    };
    let vrings: Vec<_> = (0..256)
        .map(|vring| rig.set_vring(&frontend, vring))
        .collect();
    for (vring, fds) in (0..256).zip(&vrings) {
        let vector = kick_vector(vring);
        let before = rig.guest.interrupts(vector);
        rig.guest.set_bell(vector, Some(rig.call_doorbell(vring)));
        signal(&fds.kick);
        rig.wait("the call", |_| take(&fds.call) == 1);
        assert_eq!(rig.guest.interrupts(vector), before + 1);
    }
    // Nobody heard anything that was not for him.
    assert!(vrings.iter().all(|fds| take(&fds.call) == 0));
    // All at once: mask, unmask, kick.
    rig.driver.set_function_mask(true);
    for fds in &vrings {
        signal(&fds.kick);
    }
    let calls = |fds: &crate::rig::Vring| take(&fds.call);
    assert_eq!(vrings.iter().map(calls).sum::<u64>(), 0);
    rig.driver.set_function_mask(false);
    let mut heard = 0;
    rig.wait("all calls", |_| {
        heard += vrings.iter().map(calls).sum::<u64>();
        // 64 pairs of vrings share a vector of the processor, and its doorbell.
        heard >= 192
    });
}

#[test]
fn replaces_a_kick_while_it_is_armed() {
    let Some((mut rig, frontend, first)) = with_kick(EventfdFlags::empty()) else {
        return;
    };
    let second = event(EventfdFlags::empty());
    rig.set_eventfd(&frontend, SET_VRING_KICK, 0, &second);
    signal(&first);
    assert_eq!(kicks(&mut rig), 0);
    signal(&second);
    rig.wait("the kick", |rig| rig.guest.interrupts(kick_vector(0)) == 1);
    // The first one is nobody's: what was signalled is still in it.
    assert_eq!((take(&first), take(&second)), (1, 0));
}
