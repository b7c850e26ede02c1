// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Those who take memory away, and those who were about to lend it.

use std::io::ErrorKind;
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::event_loop::deadline::Deadline;

fn tables(files: &[TestFile; 2]) -> [Shared<'_>; 2] {
    let first = (region(0, MIB, 0), &files[0]);
    let second = (region(16 * MIB, MIB, 0), &files[1]);
    [vec![first], vec![first, second]]
}

fn two_files() -> [TestFile; 2] {
    [1, 2].map(|name| TestFile::new(name, 4 * MIB))
}

#[test]
fn nothing_is_attached_for_an_epoch_that_is_over() {
    let files = two_files();
    let (mut bench, [before, after]) = (Bench::new(), tables(&files));
    bench.replaced(&before);
    let epoch = bench.epochs.raise();
    let error = bench.replace(&after).unwrap_err();
    assert!(matches!(error, MemoryError::Stale), "{error}");
    assert!(!error.is_fatal() && !error.is_environment());
    detach_before(&bench.window, epoch).unwrap();
    assert_eq!(bench.vmm.mappings(), []);
    assert!(matches!(bench.replace(&after), Err(MemoryError::Stale)));
    // Whoever comes next is served.
    bench.memory.renew(epoch);
    bench.replaced(&after);
}

#[test]
fn a_change_of_an_epoch_that_is_over_takes_nothing_from_the_next() {
    let files = two_files();
    let (mut bench, [before, after]) = (Bench::new(), tables(&files));
    let (_, stale) = bench.replace(&after).unwrap();
    let epoch = bench.epochs.raise();
    detach_before(&bench.window, epoch).unwrap();
    // The worker has not heard of it, and unplugs what is not there.
    bench.memory.settled(stale, Outcome::Refused).unwrap();
    bench.memory.renew(epoch);
    let (_, ticket) = bench.replace(&before).unwrap();
    bench.memory.settled(Ticket(1), Outcome::Refused).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(bench.vmm.mappings().len(), 1);
    // And the other way round: what is of this epoch is not older than it.
    assert!(!bench
        .window
        .lock()
        .detach_some(epoch, Deadline::of_a_piece())
        .unwrap());
    assert_eq!(bench.vmm.mappings().len(), 1);
}

#[test]
fn pieces_are_detached_a_few_at_a_time() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 32 * PAGE);
    let pages: Vec<_> = (0..8)
        .map(|n| (region(n * MIB, PAGE, 2 * n * PAGE), &ram))
        .collect();
    bench.replaced(&pages);
    let epoch = bench.epochs.raise();
    for left in [7, 6, 5, 4, 3, 2, 1, 0] {
        let some = bench.window.lock().detach_some(epoch, Deadline::passed());
        assert!(some.unwrap());
        assert_eq!(bench.vmm.mappings().len(), left);
    }
    let none = bench.window.lock().detach_some(epoch, Deadline::passed());
    assert!(!none.unwrap());
}

#[test]
fn memory_that_was_withdrawn_does_not_concern_the_next_epoch() {
    let files = two_files();
    let (mut bench, [before, after]) = (Bench::new(), tables(&files));
    bench.replaced(&before);
    let epoch = bench.epochs.raise();
    // A vCPU stumbles over what is about to be taken.
    assert!(bench.withdraw(Missing::Everything).unwrap());
    bench.memory.renew(epoch);
    bench.replaced(&after);
    assert!(bench.withdraw(Missing::Everything).unwrap());
    assert!(matches!(
        bench.replace(&before),
        Err(MemoryError::Withdrawn)
    ));
}

#[test]
fn what_could_not_be_detached_is_never_closed() {
    let files = two_files();
    let (mut bench, [_, after]) = (Bench::new(), tables(&files));
    bench.replaced(&after);
    let (vmm, reaper) = (bench.vmm.clone(), bench.reaper.clone());
    vmm.fail_calls(0..100, ErrorKind::Other);
    assert!(bench.revoke().unwrap_err().is_fatal());
    drop(bench);
    while reaper.backlog() > 0 {
        thread::yield_now();
    }
    assert_eq!((vmm.mappings().len(), vmm.open_ranges()), (2, 2));
}

#[test]
fn a_window_that_is_stuck_takes_no_more() {
    let files = two_files();
    let (mut bench, [before, _]) = (Bench::new(), tables(&files));
    let place = |address| bench.window.lock().place(address);
    bench.vmm.fail_nth(0, ErrorKind::Other);
    assert!(matches!(place(Some(1 << 40)), Err(Misplaced::Nowhere(_))));
    place(Some(1 << 40)).unwrap();
    bench.vmm.fail_calls(0..2, ErrorKind::Other);
    assert!(matches!(place(Some(2 << 40)), Err(Misplaced::Stuck(_))));
    assert!(matches!(bench.replace(&before), Err(MemoryError::Dead)));
}

/// A worker that lends, and somebody who takes: whoever is faster, nothing of the
/// epoch that is over is left.
#[test]
fn nothing_is_left_whoever_is_faster() {
    let files = two_files();
    let [_, after] = &tables(&files);
    for _ in 0..200 {
        let mut bench = Bench::new();
        let (window, epochs) = (Arc::clone(&bench.window), Arc::clone(&bench.epochs));
        let start = Barrier::new(2);
        thread::scope(|threads| {
            let start = &start;
            let revoked = threads.spawn(move || {
                start.wait();
                let epoch = epochs.raise();
                detach_before(&window, epoch)
            });
            start.wait();
            match bench.replace_blindly(after) {
                Ok(_) | Err(MemoryError::Stale) => {}
                Err(error) => panic!("{error}"),
            }
            revoked.join().unwrap().unwrap();
        });
        assert_eq!(bench.vmm.mappings(), []);
    }
}
