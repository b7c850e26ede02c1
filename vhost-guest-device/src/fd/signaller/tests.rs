// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{eventfd, EventfdFlags};
use rustix::io::read;

use super::*;
use crate::fd::{FdKinds, ForeignFd, Reaper};

/// The highest value of an eventfd's counter; one more blocks.
const FULL: u64 = u64::MAX - 1;

/// An eventfd as a frontend keeps it, and as the device received it.
fn received(count: u64) -> (OwnedFd, EventFd) {
    let ours = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    write(&ours, &count.to_ne_bytes()).unwrap();
    let reaper = Reaper::spawn();
    let sent = ForeignFd::new(ours.try_clone().unwrap(), &reaper);
    let kinds = FdKinds::new().unwrap();
    (ours, EventFd::check(sent, &kinds).unwrap())
}

/// Blocks until there is something to read.
fn count(fd: impl AsFd) -> u64 {
    let mut count = [0; 8];
    assert_eq!(read(fd, &mut count), Ok(8));
    u64::from_ne_bytes(count)
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

/// A signaller whose frontend has blocked all its threads, and what they block
/// on.
fn blocked() -> (Signaller, Vec<(OwnedFd, EventFd)>) {
    let signaller = Signaller::spawn();
    let full: Vec<_> = (0..PATIENCE).map(|_| received(FULL)).collect();
    full.iter()
        .for_each(|(_, eventfd)| signaller.block_on(eventfd));
    (signaller, full)
}

#[test]
fn signals_arrive() {
    let signaller = Signaller::spawn();
    let (ours, eventfd) = received(0);
    assert!(signaller.signal(&eventfd));
    assert_eq!(count(&ours), 1);
    assert!(signaller.signal(&eventfd));
    assert_eq!(count(&ours), 1);
}

#[test]
fn leaves_a_full_eventfd_as_it_is() {
    let signaller = Signaller::spawn();
    let (ours, eventfd) = received(FULL);
    assert!(signaller.signal(&eventfd));
    wait_until(|| signaller.backlog() == 0);
    assert_eq!(count(&ours), FULL);
}

#[test]
fn serves_others_while_one_blocks() {
    let signaller = Signaller::spawn();
    let (_full, full) = received(FULL);
    signaller.block_on(&full);
    let (ours, eventfd) = received(0);
    assert!(signaller.signal(&eventfd));
    assert_eq!(count(&ours), 1);
}

/// A second thread on the same eventfd would be as blocked.
#[test]
fn one_eventfd_blocks_one_thread_and_is_signalled_again_afterwards() {
    let signaller = Signaller::spawn();
    let (ours, full) = received(FULL);
    signaller.block_on(&full);
    assert!(signaller.signal(&full));
    assert_eq!(signaller.backlog(), 1);
    assert_eq!(count(&ours), FULL);
    // What blocked, and what came behind it, in the one that blocked or after.
    wait_until(|| signaller.backlog() == 0);
    assert!(count(&ours) >= 1);
}

#[test]
fn forget_frees_blocked_threads() {
    let (signaller, full) = blocked();
    let (ours, waiting) = received(0);
    assert!(signaller.signal(&waiting));
    for (_, eventfd) in &full {
        assert!(signaller.forget(eventfd));
    }
    assert_eq!(count(&ours), 1);
    wait_until(|| signaller.backlog() == 0);
}

/// One that fills its eventfds whenever they are read: its threads are freed,
/// if at all, when it ends.
#[test]
fn a_frontend_that_keeps_its_threads_keeps_none_of_the_next_ones() {
    let (signaller, full) = blocked();
    // A blocking write of such a number waits for an empty counter, and a
    // thread that is woken for it is one that competes.
    let theirs = full.iter().flat_map(|(ours, _)| {
        (0..4).map(|_| {
            let ours = ours.try_clone().unwrap();
            thread::spawn(move || {
                for _ in 0..20 {
                    write(&ours, &FULL.to_ne_bytes()).unwrap();
                }
            })
        })
    });
    let theirs: Vec<_> = theirs.collect();
    for (_, eventfd) in &full {
        signaller.forget(eventfd);
    }
    signaller.leave_frontend();
    let (ours, eventfd) = received(0);
    for _ in 0..10 {
        assert!(signaller.signal(&eventfd));
        assert_eq!(count(&ours), 1);
    }
    // It has no more patience than the device.
    let frontends = full
        .into_iter()
        .map(|(ours, _)| thread::spawn(move || while count(&ours) > 1 {}));
    let _frontends: Vec<_> = frontends.collect();
    wait_until(|| signaller.backlog() == 0);
    drop(signaller);
    drop(theirs);
}

#[test]
fn drop_returns_and_frees_blocked_threads() {
    let (signaller, full) = blocked();
    drop(signaller);
    for (_, eventfd) in &full {
        wait_until(|| eventfd.holders() == 1);
    }
}

#[test]
fn forgets_signals_that_wait() {
    let (signaller, _full) = blocked();
    let (_ours, eventfd) = received(0);
    assert!(signaller.signal(&eventfd));
    assert!(signaller.forget(&eventfd));
    assert!(!signaller.forget(&eventfd));
    assert_eq!(eventfd.holders(), 1);
}

#[test]
fn waiting_signals_are_one_and_their_number_has_an_end() {
    let (signaller, _full) = blocked();
    let (_ours, first) = received(0);
    for _ in 0..3 {
        assert!(signaller.signal(&first));
    }
    assert_eq!(signaller.backlog(), PATIENCE + 1);

    // As if a device had more doorbells than it can have.
    let reaper = Reaper::spawn();
    let kinds = FdKinds::new().unwrap();
    let ours = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let more: Vec<_> = (0..MAX_WAITING)
        .map(|_| ForeignFd::new(ours.try_clone().unwrap(), &reaper))
        .map(|fd| EventFd::check(fd, &kinds).unwrap())
        .collect();
    let taken = more.iter().filter(|fd| signaller.signal(fd)).count();
    assert_eq!(taken, MAX_WAITING - 1);
    assert!(signaller.signal(&first));
    assert_eq!(signaller.backlog(), PATIENCE + MAX_WAITING);
    // Those that come and go leave no jobs behind.
    let jobs = signaller.writers.backlog();
    for eventfd in &more {
        signaller.forget(eventfd);
        signaller.signal(eventfd);
    }
    assert_eq!(signaller.writers.backlog(), jobs);
}
