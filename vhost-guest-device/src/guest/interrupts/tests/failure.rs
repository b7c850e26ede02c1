// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is left when the VMM fails.

use super::*;

#[test]
fn reads_back_no_vector_when_the_vmm_fails() {
    for armed_before in [false, true] {
        for n in 0..3 {
            let mut guest = Guest::<TestVmm>::ready();
            guest.attach(0);
            if armed_before {
                guest.map(Event::Kick(0), 3);
            }
            guest.vmm.fail_nth(n, io::ErrorKind::OutOfMemory);
            let read_back = guest.interrupts.set_vector(Event::Kick(0), 9);
            assert_eq!(read_back, guest.interrupts.vector(Event::Kick(0)));
            if guest.vmm.clear_failure() {
                assert_eq!((read_back, guest.armed()), (9, vec![9]));
            } else {
                assert_eq!((read_back, guest.armed()), (NO_VECTOR, vec![]));
                assert_eq!(guest.vmm.source_count(), 0);
                // It may try again.
                guest.map(Event::Kick(0), 9);
                assert_eq!(guest.armed(), [9]);
            }
        }
    }
}

#[test]
fn keeps_the_kick_before_when_the_new_one_fails() {
    let mut guest = Guest::<TestVmm>::ready();
    guest.map(Event::Kick(0), 9);
    let old = guest.attach(0);
    let new = guest.peer.eventfd();
    // The old one is disarmed, the new one not armed.
    guest.vmm.fail_nth(1, io::ErrorKind::OutOfMemory);
    let outcome = guest.interrupts.attach_kick(0, Some(new));
    assert!(matches!(outcome, Err(ServiceError::Refused(_))));
    assert_eq!(guest.armed(), [9]);
    signal(&old);
    let message = guest.vmm.armed()[0].1;
    assert_eq!(take(&guest.vmm.armed_with(message)[0]), 1);
}

#[test]
fn connects_nothing_when_the_first_kick_fails() {
    let mut guest = Guest::<TestVmm>::ready();
    guest.map(Event::Kick(0), 9);
    let kick = guest.peer.eventfd();
    guest.vmm.fail_nth(0, io::ErrorKind::InvalidInput);
    let error = guest.interrupts.attach_kick(0, Some(kick)).unwrap_err();
    assert!(error.is_peers_fault());
    assert!(guest.armed().is_empty());
    guest.mask(9, true);
    guest.mask(9, false);
    assert!(guest.armed().is_empty());
}

#[test]
fn says_when_an_interrupt_cannot_be_disarmed_and_tries_again() {
    let mut guest = Guest::<TestVmm>::ready();
    for vring in 0..3 {
        guest.map(Event::Kick(vring), 9);
        guest.attach(vring);
    }
    assert!(guest.interrupts.take_broken().is_none());
    guest.vmm.fail_nth(0, io::ErrorKind::Other);
    let outcome = guest.interrupts.attach_kick(0, None);
    assert!(matches!(outcome, Err(ServiceError::Dead(_))));
    assert!(guest.interrupts.take_broken().is_some());
    let attempts: [fn(&mut Interrupts); 4] = [
        |interrupts| _ = interrupts.set_vector(Event::Kick(1), NO_VECTOR),
        |interrupts| drop(interrupts.control(0)),
        |interrupts| assert!(interrupts.detach_some_kicks().is_err()),
        Interrupts::reset,
    ];
    for attempt in attempts {
        guest.vmm.fail_nth(0, io::ErrorKind::Other);
        attempt(&mut guest.interrupts);
        assert!(guest.interrupts.take_broken().is_some());
    }
    guest.interrupts.reset();
    assert!(guest.interrupts.take_broken().is_none());
    assert_eq!((guest.armed().len(), guest.vmm.source_count()), (0, 0));
}

#[test]
fn arms_one_by_one_what_failed_together() {
    let mut guest = Guest::<TestVmm>::ready();
    for queue in 0..QUEUES {
        guest.map(Event::Queue(queue), queue);
    }
    guest.interrupts.control(0);
    guest.vmm.fail_nth(0, io::ErrorKind::OutOfMemory);
    assert!(guest.interrupts.control(ENABLE).is_empty());
    assert_eq!(guest.armed(), [0, 1, 2, 3]);
}

/// KVM refuses to arm one eventfd twice. A frontend that sends one for two
/// kicks must not take the device's other interrupts with it.
#[test]
fn loses_no_other_interrupt_to_an_eventfd_that_came_twice() {
    let mut guest = Guest::<Kvm>::ready();
    guest.map(Event::Config, 0);
    guest.interrupts.control(ENABLE | FUNCTION_MASK);
    guest.map(Event::Kick(0), 9);
    guest.map(Event::Kick(1), 10);
    guest.map(Event::Kick(2), 11);
    let kick = guest.attach(0);
    let again = guest.peer.again(&kick);
    guest.interrupts.attach_kick(1, Some(again)).unwrap();
    let other = guest.attach(2);

    let failures = guest.interrupts.control(ENABLE);
    let events: Vec<Event> = failures.iter().map(|failure| failure.event).collect();
    assert_eq!(events, [Event::Kick(1)]);
    assert_eq!(failures[0].error.kind(), io::ErrorKind::ResourceBusy);
    guest.interrupts.signal(Event::Config);
    signal(&kick);
    signal(&other);
    let raised = [0, 9, 10, 11].map(|data| guest.vmm.raised(data));
    assert_eq!(raised, [1, 1, 0, 1]);

    // When the first is gone, the second gets its turn.
    guest.interrupts.attach_kick(0, None).unwrap();
    guest.mask(11, true);
    signal(&kick);
    assert_eq!(guest.vmm.raised(10), 1);
}

#[test]
fn refuses_an_eventfd_that_is_armed_already() {
    let mut guest = Guest::<Kvm>::ready();
    guest.map(Event::Kick(0), 9);
    guest.map(Event::Kick(1), 10);
    let kick = guest.attach(0);
    let again = guest.peer.again(&kick);
    let error = guest.interrupts.attach_kick(1, Some(again)).unwrap_err();
    assert!(error.is_peers_fault());
    signal(&kick);
    assert_eq!((guest.vmm.raised(9), guest.vmm.raised(10)), (1, 0));
}
