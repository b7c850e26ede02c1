// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Each event is delivered once, on the right vector.

use super::*;

type Switch = fn(&mut Guest<Kvm>, bool);

/// All ways to keep vector 9 from raising its interrupt.
const SWITCHES: [Switch; 4] = [
    |g, on| g.mask(9, !on),
    |g, on| {
        let mask = if on { 0 } else { FUNCTION_MASK };
        assert!(g.interrupts.control(ENABLE | mask).is_empty());
    },
    |g, on| {
        let control = if on { ENABLE } else { 0 };
        assert!(g.interrupts.control(control).is_empty());
    },
    |g, on| assert!(g.interrupts.master(on).is_empty()),
];

#[test]
fn delivers_a_kick_once_however_it_is_masked() {
    for switch in SWITCHES {
        let mut guest = Guest::<Kvm>::ready();
        guest.map(Event::Kick(5), 9);
        let kick = guest.attach(5);
        signal(&kick);
        assert_eq!(guest.vmm.raised_any(), 1);

        switch(&mut guest, false);
        assert_eq!(guest.vmm.raised_any(), 0);
        signal(&kick);
        signal(&kick);
        assert_eq!(guest.vmm.raised_any(), 0);
        switch(&mut guest, true);
        assert_eq!(guest.vmm.raised(9), 1);
        switch(&mut guest, false);
        switch(&mut guest, true);
        assert_eq!(guest.vmm.raised_any(), 0);
    }
}

#[test]
fn delivers_an_event_of_the_device_once_however_it_is_masked() {
    for (at, switch) in SWITCHES.into_iter().enumerate() {
        let mut guest = Guest::<Kvm>::ready();
        guest.map(Event::Queue(3), 9);
        guest.interrupts.signal(Event::Queue(3));
        assert_eq!(guest.vmm.raised(9), 1);
        switch(&mut guest, false);
        guest.interrupts.signal(Event::Queue(3));
        assert_eq!(guest.vmm.raised_any(), 0);
        switch(&mut guest, true);
        // Without MSI-X the event went to the ISR status.
        assert_eq!(guest.vmm.raised(9), u64::from(at != 2));
        switch(&mut guest, false);
        switch(&mut guest, true);
        assert_eq!(guest.vmm.raised_any(), 0);
    }
}

#[test]
fn delivers_a_kick_that_came_before_all_else() {
    let mut guest = Guest::<Kvm>::ready();
    let kick = guest.peer.eventfd();
    signal(&kick);
    guest.interrupts.attach_kick(0, Some(kick)).unwrap();
    assert_eq!(guest.vmm.raised_any(), 0);
    guest.map(Event::Kick(0), 9);
    assert_eq!(guest.vmm.raised(9), 1);
    assert_eq!(guest.vmm.raised_any(), 0);
}

#[test]
fn delivers_several_events_on_one_vector() {
    let mut guest = Guest::<Kvm>::ready();
    let kicks = [guest.attach(0), guest.attach(1)];
    for event in [
        Event::Config,
        Event::Queue(0),
        Event::Kick(0),
        Event::Kick(1),
    ] {
        guest.map(event, 9);
    }
    guest.interrupts.signal(Event::Config);
    assert_eq!(guest.vmm.raised(9), 1);
    kicks.iter().for_each(signal);
    assert_eq!(guest.vmm.raised(9), 2);
    guest.mask(9, true);
    assert!(guest.pending().is_empty());
    guest.interrupts.signal(Event::Queue(0));
    signal(&kicks[1]);
    assert_eq!(guest.pending(), [9]);
    guest.mask(9, false);
    assert_eq!(guest.vmm.raised(9), 2);
    assert_eq!((guest.vmm.raised_any(), guest.pending()), (0, vec![]));
}

#[test]
fn shows_pending_bits_by_vector_and_only_masked_ones() {
    let mut guest = Guest::<Kvm>::ready();
    let vectors = [1, 8, 63, 64, 262];
    let kicks: Vec<EventFd> = (0..5).map(|vring| guest.attach(vring)).collect();
    for (vring, vector) in (0..).zip(vectors) {
        guest.map(Event::Kick(vring), vector);
        guest.mask(vector, true);
    }
    for (kick, n) in kicks.iter().zip(1..) {
        signal(kick);
        assert_eq!(guest.pending(), vectors[..n]);
    }
    guest.mask(63, false);
    assert_eq!(guest.pending(), [1, 8, 64, 262]);
    guest.interrupts.control(ENABLE | FUNCTION_MASK);
    signal(&kicks[2]);
    assert_eq!(guest.pending(), vectors);
    // Either mask is enough.
    guest.interrupts.control(ENABLE);
    assert_eq!(guest.pending(), [1, 8, 64, 262]);
    assert_eq!(guest.vmm.raised(63), 2);
}

#[test]
fn follows_a_vector_that_changes_while_armed() {
    let mut guest = Guest::<Kvm>::ready();
    guest.map(Event::Kick(0), 9);
    let kick = guest.attach(0);
    guest.map(Event::Kick(0), 10);
    signal(&kick);
    assert_eq!((guest.vmm.raised(9), guest.vmm.raised(10)), (0, 1));
    guest.map(Event::Kick(0), 10);
    signal(&kick);
    assert_eq!(guest.vmm.raised_any(), 1);
}

#[test]
fn takes_what_waits_along_to_the_new_vector() {
    let mut guest = Guest::<Kvm>::ready();
    guest.map(Event::Kick(0), 9);
    guest.mask(9, true);
    let kick = guest.attach(0);
    signal(&kick);
    guest.map(Event::Kick(0), 10);
    assert_eq!((guest.vmm.raised(10), guest.pending()), (1, vec![]));
    guest.mask(9, false);
    assert_eq!(guest.vmm.raised_any(), 0);
}

#[test]
fn raises_nothing_for_an_unmapped_event() {
    let mut guest = Guest::<Kvm>::ready();
    guest.interrupts.signal(Event::Config);
    guest.map(Event::Config, 9);
    assert_eq!(guest.vmm.raised_any(), 0);
    guest.mask(9, true);
    guest.interrupts.signal(Event::Config);
    guest.map(Event::Config, NO_VECTOR);
    guest.mask(9, false);
    guest.map(Event::Config, 9);
    assert_eq!(guest.vmm.raised_any(), 0);
}

#[test]
fn raises_nothing_for_a_kick_that_was_disconnected() {
    let mut guest = Guest::<Kvm>::ready();
    guest.map(Event::Kick(0), 9);
    guest.map(Event::Kick(1), 9);
    let kicks = [guest.attach(0), guest.attach(1)];
    guest.interrupts.attach_kick(0, None).unwrap();
    while guest.interrupts.detach_some_kicks().unwrap() {}
    kicks.iter().for_each(signal);
    assert_eq!(guest.vmm.raised_any(), 0);
    // Frontend loss leaves the vectors alone.
    let kick = guest.attach(1);
    signal(&kick);
    assert_eq!(guest.vmm.raised(9), 1);
}

#[test]
fn replaces_a_kick() {
    let mut guest = Guest::<Kvm>::ready();
    guest.map(Event::Kick(0), 9);
    let old = guest.attach(0);
    let new = guest.attach(0);
    signal(&old);
    assert_eq!(guest.vmm.raised_any(), 0);
    signal(&new);
    assert_eq!(guest.vmm.raised(9), 1);
}

#[test]
fn replaces_a_kick_by_the_same_eventfd() {
    let mut guest = Guest::<Kvm>::ready();
    guest.map(Event::Kick(0), 9);
    let kick = guest.attach(0);
    let again = guest.peer.again(&kick);
    guest.interrupts.attach_kick(0, Some(again)).unwrap();
    signal(&kick);
    assert_eq!(guest.vmm.raised(9), 1);
}

#[test]
fn moves_a_kick_that_waits_to_the_new_eventfd() {
    let mut guest = Guest::<Kvm>::ready();
    guest.map(Event::Kick(0), 9);
    guest.mask(9, true);
    let old = guest.attach(0);
    signal(&old);
    let new = guest.attach(0);
    // By a thread, since the eventfd is the frontend's and may block.
    assert_eq!(wait(&new), 1);
    let newer = guest.attach(0);
    assert_eq!(wait(&newer), 1);
    // Disconnected is disconnected: the next one begins anew.
    guest.interrupts.attach_kick(0, None).unwrap();
    let fresh = guest.attach(0);
    assert_eq!((take(&fresh), guest.pending()), (0, vec![]));
    assert!(guest.interrupts.lines.iter().all(|line| !line.owed));
}

#[test]
fn signals_no_kick_that_was_disconnected_while_its_signal_waited() {
    let mut guest = Guest::<Kvm>::ready();
    let signaller = Arc::clone(&guest.peer.signaller);
    let full = [(); 2].map(|()| guest.peer.full_eventfd());
    full.iter().for_each(|eventfd| signaller.block_on(eventfd));
    guest.map(Event::Kick(0), 9);
    guest.mask(9, true);
    signal(guest.attach(0));
    let new = guest.attach(0);
    assert_eq!(signaller.backlog(), full.len() + 1);
    guest.interrupts.attach_kick(0, None).unwrap();
    assert_eq!(signaller.backlog(), full.len());
    // The threads go on, with what waits.
    assert!(full.iter().all(|eventfd| take(eventfd) > 0));
    assert_eq!(take(&new), 0);
}

#[test]
fn names_the_eventfds_of_its_own_and_none_of_a_frontends() {
    let mut guest = Guest::<Kvm>::ready();
    let all = |guest: &Guest<Kvm>| guest.interrupts.own_eventfds().collect::<Vec<_>>();
    let own = all(&guest);
    let lines = guest.interrupts.lines.iter();
    let eventfds = lines.filter_map(|line| Some(line.eventfd.as_ref()?.as_fd().as_raw_fd()));
    assert_eq!(own, eventfds.collect::<Vec<_>>());
    // Configuration changes, and each queue.
    assert_eq!(own.len(), 1 + usize::from(QUEUES));
    guest.attach(0);
    assert_eq!(all(&guest), own);
}
