// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that is no region: dirty log and inflight record.

use super::*;
use crate::memory::table::area_extent;

#[test]
fn maps_the_pages_that_hold_the_bytes() {
    let mut bench = Bench::new();
    // Sizes that occur: neither is a multiple of a page.
    let (log, inflight) = (TestFile::new(1, 0x2_0001), TestFile::new(2, 8320));
    let (place, ticket) = bench.area(Area::Log, &log, 0, 0x2_0001).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(place, 2 * MIB);
    let (place, ticket) = bench.area(Area::Inflight, &inflight, 0x1040, 100).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(place % PAGE, 0x40);
    let lengths: Vec<_> = bench.vmm.mappings().iter().map(|m| (m.1, m.2)).collect();
    assert_eq!(lengths, [(0, 0x2_1000), (0x1000, 0x1000)]);
    bench.check_books();
}

#[test]
fn replaces_the_older_one_when_the_driver_has_replied() {
    let mut bench = Bench::new();
    let (old, new) = (TestFile::new(1, PAGE), TestFile::new(2, 4 * PAGE));
    let (first, ticket) = bench.area(Area::Log, &old, 0, PAGE).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    let (second, ticket) = bench.area(Area::Log, &new, 0, 4 * PAGE).unwrap();
    assert_ne!(first, second);
    assert_eq!(bench.vmm.mappings().len(), 2);
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(bench.vmm.mappings(), [(second, 0, 4 * PAGE)]);
}

#[test]
fn keeps_the_older_one_when_the_driver_refuses() {
    let mut bench = Bench::new();
    let (old, new) = (TestFile::new(1, PAGE), TestFile::new(2, 4 * PAGE));
    let (first, ticket) = bench.area(Area::Log, &old, 0, PAGE).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    let (_, ticket) = bench.area(Area::Log, &new, 0, 4 * PAGE).unwrap();
    bench.memory.settled(ticket, Outcome::Refused).unwrap();
    assert_eq!(bench.vmm.mappings(), [(first, 0, PAGE)]);
}

#[test]
fn the_same_one_again_stays_where_it_is() {
    let mut bench = Bench::new();
    let file = TestFile::new(1, 2 * PAGE);
    let (first, ticket) = bench.area(Area::Inflight, &file, 0, 8000).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    bench.vmm.take_calls();
    let (second, ticket) = bench.area(Area::Inflight, &file, 0, 8000).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(first, second);
    assert_eq!(bench.vmm.take_calls(), []);
}

#[test]
fn stays_while_tables_come_and_go() {
    let mut bench = Bench::new();
    let (ram, log) = (TestFile::new(1, 4 * MIB), TestFile::new(2, PAGE));
    let (place, ticket) = bench.area(Area::Log, &log, 0, PAGE).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    let low = region(0, MIB, 0);
    bench.replaced(&[(low, &ram)]);
    bench.replaced(&[(region(0, 2 * MIB, 2 * MIB), &ram)]);
    assert!(bench.vmm.mappings().contains(&(place, 0, PAGE)));
}

#[test]
fn takes_no_space_that_is_kept_for_regions() {
    let mut bench = Bench::new();
    let file = TestFile::new(1, 4 * MIB);
    let places = bench.replaced(&[(region(0, MIB, 0), &file)]);
    let (log, ticket) = bench.area(Area::Log, &file, 2 * MIB, PAGE).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(bench.replaced(&[(region(0, 4 * MIB, 0), &file)]), places);
    assert!(bench.vmm.mappings().contains(&(log, 2 * MIB, PAGE)));
}

#[test]
fn one_file_can_hold_everything() {
    let mut bench = Bench::new();
    let file = TestFile::new(1, 4 * MIB);
    let low = region(0, 4 * MIB, 0);
    bench.replaced(&[(low, &file)]);
    let (log, ticket) = bench.area(Area::Log, &file, MIB, PAGE).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    let (inflight, ticket) = bench.area(Area::Inflight, &file, MIB, PAGE).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_ne!(log, inflight);
    bench.check(&[(low, &file)]);
    // A region that goes does not take the log with it.
    let (_, ticket) = bench.memory.remove(RemMemReg { region: low }, &[]).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(bench.vmm.mappings().len(), 2);
}

#[test]
fn rejects_areas_that_are_empty_or_beyond_their_file() {
    let mut bench = Bench::new();
    let file = TestFile::new(1, 0x1800);
    for (offset, size) in [
        (0, 0),
        (0, 0x1801),
        (0x1800, 1),
        (0x2000, 0),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1, u64::MAX),
    ] {
        let memory = MemoryFd::check(bench.send(&file), MemoryPolicy::default());
        let error = area_extent(&memory.unwrap(), offset, size).unwrap_err();
        assert!(
            matches!(error, MemoryError::BeyondFile),
            "{offset:#x} {size:#x} {error}"
        );
    }
    let error = bench.area(Area::Log, &file, 0x1800, 1).unwrap_err();
    assert!(matches!(error, MemoryError::BeyondFile), "{error}");
    assert_eq!(bench.vmm.mappings(), []);
    // The last byte of the file brings the whole last page.
    assert!(bench.area(Area::Log, &file, 0x17ff, 1).is_ok());
}
