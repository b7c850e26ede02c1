// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Changes in pieces, and what happens between them.

use std::io::ErrorKind;

use super::*;

/// A table of pages, of which each is a piece.
fn pages(ram: &TestFile, count: u64) -> Shared<'_> {
    let page = |n| (region(n * MIB, PAGE, 2 * n * PAGE), ram);
    (0..count).map(page).collect()
}

/// A bench that has begun to lend so many pages.
fn lending(ram: &TestFile, count: u64) -> Bench {
    let mut bench = Bench::new();
    let table = bench.table(&pages(ram, count));
    bench.memory.begin(Change::Table(table), vec![]).unwrap();
    while !bench.memory.is_admitted() {
        bench.memory.askers.wait();
    }
    bench
}

impl Bench {
    fn lend_a_piece(&mut self) -> Result<Option<(Changed, Ticket)>, MemoryError> {
        self.memory.lend(Deadline::passed())
    }

    fn take_back_a_piece(&mut self) -> Result<bool, MemoryError> {
        self.memory.take_back(Deadline::passed())
    }
}

#[test]
fn a_change_is_attached_and_detached_in_pieces() {
    let ram = TestFile::new(1, MIB);
    let mut bench = lending(&ram, 4);
    for attached in 1..4 {
        assert!(bench.lend_a_piece().unwrap().is_none());
        assert_eq!(bench.vmm.mappings().len(), attached);
        assert!(!bench.memory.is_pending() && bench.memory.region_count() == 0);
    }
    let (_, ticket) = bench.lend_a_piece().unwrap().expect("the last piece");
    bench.memory.settle(ticket, Outcome::Done);
    assert!(bench.take_back_a_piece().unwrap());

    let other = TestFile::new(2, MIB);
    let (_, ticket) = bench.replace(&pages(&other, 1)).unwrap();
    bench.memory.settle(ticket, Outcome::Done);
    for left in [4, 3, 2] {
        assert!(!bench.take_back_a_piece().unwrap());
        assert_eq!(bench.vmm.mappings().len(), left);
        assert!(bench.memory.is_pending(), "the next has to wait");
        let error = bench.replace(&pages(&ram, 1)).unwrap_err();
        assert!(matches!(error, MemoryError::Pending), "{error}");
    }
    assert!(bench.take_back_a_piece().unwrap());
    assert!(!bench.memory.is_pending() && bench.memory.files.len() == 1);
}

#[test]
fn whoever_takes_memory_away_comes_between_two_pieces() {
    let ram = TestFile::new(1, MIB);
    for pieces in 0..4 {
        let mut bench = lending(&ram, 4);
        (0..pieces).for_each(|_| assert!(bench.lend_a_piece().unwrap().is_none()));
        let epoch = bench.epochs.raise();
        detach_before(&bench.window, epoch).unwrap();
        let error = loop {
            match bench.lend_a_piece() {
                Ok(outcome) => assert!(outcome.is_none()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, MemoryError::Stale), "{error}");
        assert_eq!(bench.vmm.mappings(), []);
        bench.memory.renew(epoch);
        bench.replaced(&pages(&ram, 4));
    }
}

#[test]
fn what_cannot_be_attached_takes_the_others_with_it_in_pieces() {
    let ram = TestFile::new(1, MIB);
    for n in 0..4 {
        let mut bench = lending(&ram, 4);
        bench.vmm.fail_nth(n, ErrorKind::OutOfMemory);
        (0..=n).for_each(|_| assert!(bench.lend_a_piece().unwrap().is_none()));
        for left in (1..n).rev() {
            assert!(bench.lend_a_piece().unwrap().is_none());
            assert_eq!(bench.vmm.mappings().len(), left);
        }
        let error = bench.lend_a_piece().unwrap_err();
        assert!(matches!(error, MemoryError::Map(_)), "{error}");
        assert_eq!(bench.vmm.mappings(), []);
        assert!(bench.memory.files.is_empty());
        bench.check_books();
        bench.replaced(&pages(&ram, 4));
    }
}

#[test]
fn a_frontend_that_goes_leaves_nothing_that_is_open() {
    let ram = TestFile::new(1, MIB);
    for pieces in 0..4 {
        let mut bench = lending(&ram, 4);
        (0..pieces).for_each(|_| assert!(bench.lend_a_piece().unwrap().is_none()));
        assert_eq!(bench.vmm.open_ranges(), 4);
        bench.revoke().unwrap();
        while bench.vmm.open_ranges() > 0 {
            std::thread::yield_now();
        }
        assert!(bench.memory.files.is_empty());
    }
}
