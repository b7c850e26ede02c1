// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tables, regions, and what the driver says to them.

use super::*;

#[test]
fn maps_a_table_and_unmaps_the_last_one_when_the_driver_has_replied() {
    let mut bench = Bench::new();
    let (old, new) = (TestFile::new(1, 8 * MIB), TestFile::new(2, 8 * MIB));
    bench.replaced(&[(region(0, 4 * MIB, 0), &old)]);
    let (_, ticket) = bench.replace(&[(region(0, 4 * MIB, 0), &new)]).unwrap();
    assert_eq!(
        bench.vmm.mappings().len(),
        2,
        "the driver may still use both"
    );
    assert!(bench.memory.is_pending());
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(bench.attached_bytes(), 4 * MIB);
    assert!(!bench.memory.is_pending());
    bench.check(&[(region(0, 4 * MIB, 0), &new)]);
}

#[test]
fn returns_to_the_old_table_when_the_driver_refuses_the_new_one() {
    let mut bench = Bench::new();
    let (old, new) = (TestFile::new(1, 8 * MIB), TestFile::new(2, 8 * MIB));
    let before = [(region(0, 4 * MIB, 0), &old)];
    bench.replaced(&before);
    let mapped = bench.vmm.mappings();
    let after = [
        (region(0, 2 * MIB, 0), &new),
        (region(8 * MIB, MIB, 0), &old),
    ];
    let (_, ticket) = bench.replace(&after).unwrap();
    bench.memory.settled(ticket, Outcome::Refused).unwrap();
    assert_eq!(bench.vmm.mappings(), mapped);
    bench.check(&before);
}

#[test]
fn adds_regions_and_removes_them() {
    let mut bench = Bench::new();
    let (ram, dimm) = (TestFile::new(1, 4 * MIB), TestFile::new(2, 2 * MIB));
    let (low, high) = (region(0, 4 * MIB, 0), region(16 * MIB, MIB, MIB));
    bench.added(low, &ram);
    let place = bench.added(high, &dimm);
    bench.check(&[(low, &ram), (high, &dimm)]);

    // Frontends fill in the mmap offset of a removal, or do not.
    let (guest, user, size) = (high.guest_address(), high.user_address(), high.size());
    let message = RemMemReg {
        region: Region::new(guest, size, user, 0).unwrap(),
    };
    let (moved, ticket) = bench.memory.remove(message, &[]).unwrap();
    assert_eq!(moved.region.user_address(), place);
    assert_eq!(moved.region.mmap_offset(), 0);
    assert_eq!(
        bench.vmm.mappings().len(),
        2,
        "until the driver has replied"
    );
    assert_eq!(bench.memory.translate(user, 1), None);
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    bench.check(&[(low, &ram)]);
    assert_eq!(bench.attached_bytes(), 4 * MIB);
}

#[test]
fn a_removal_that_the_driver_refuses_has_not_happened() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let low = region(0, 4 * MIB, 0);
    bench.added(low, &ram);
    let (_, ticket) = bench.memory.remove(RemMemReg { region: low }, &[]).unwrap();
    bench.memory.settled(ticket, Outcome::Refused).unwrap();
    bench.check(&[(low, &ram)]);
}

#[test]
fn an_addition_that_the_driver_refuses_has_not_happened() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let (_, ticket) = bench.add(region(0, 4 * MIB, 0), &ram).unwrap();
    bench.memory.settled(ticket, Outcome::Refused).unwrap();
    bench.check(&[]);
    assert_eq!(bench.vmm.mappings(), []);
    assert!(bench.memory.files.is_empty());
}

#[test]
fn one_change_waits_for_the_other() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let low = region(0, MIB, 0);
    let (_, ticket) = bench.replace(&[(low, &ram)]).unwrap();
    let high = region(16 * MIB, MIB, MIB);
    assert!(matches!(
        bench.replace(&[(low, &ram)]),
        Err(MemoryError::Pending)
    ));
    assert!(matches!(bench.add(high, &ram), Err(MemoryError::Pending)));
    let removal = bench.memory.remove(RemMemReg { region: low }, &[]);
    assert!(matches!(removal, Err(MemoryError::Pending)));
    assert!(matches!(
        bench.area(Area::Log, &ram, 0, 1),
        Err(MemoryError::Pending)
    ));
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    bench.added(high, &ram);
}

#[test]
fn tickets_of_the_past_have_no_effect() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let table = [(region(0, MIB, 0), &ram)];
    let (_, stale) = bench.replace(&table).unwrap();
    bench.revoke().unwrap();
    let (_, ticket) = bench.replace(&table).unwrap();
    bench.memory.settled(stale, Outcome::Refused).unwrap();
    bench.check(&table);
    assert!(bench.memory.is_pending());
    bench.memory.settled(ticket, Outcome::Done).unwrap();
}

#[test]
fn translates_what_lies_in_one_region() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 8 * MIB);
    let (low, high) = (region(0, MIB, 0), region(MIB, MIB, MIB));
    let places = bench.replaced(&[(low, &ram), (high, &ram)]);
    let user = low.user_address();
    let translate = |address, length| bench.memory.translate(address, length);
    assert_eq!(translate(user, MIB), Some(places[0]));
    assert_eq!(translate(user + 0x123, 1), Some(places[0] + 0x123));
    assert_eq!(translate(user + MIB, 0), Some(places[1]));
    assert_eq!(translate(user + 2 * MIB, 0), None);
    assert_eq!(translate(user - 1, 1), None);
    // Neighbours here are not neighbours for every backend.
    assert_eq!(translate(user + MIB - 1, 2), None);
    assert_eq!(translate(u64::MAX, 1), None);
    assert_eq!(translate(user, u64::MAX), None);
}

#[test]
fn revoking_takes_everything_at_once_and_can_be_repeated() {
    let mut bench = Bench::new();
    let (ram, log) = (TestFile::new(1, 8 * MIB), TestFile::new(2, PAGE));
    bench.replaced(&[(region(0, MIB, 0), &ram)]);
    let (_, ticket) = bench.area(Area::Log, &log, 0, 100).unwrap();
    bench.revoke().unwrap();
    bench.check(&[]);
    assert_eq!(bench.vmm.mappings(), []);
    assert!(bench.memory.files.is_empty());
    bench.calls();
    bench.revoke().unwrap();
    assert_eq!(bench.calls(), []);
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    // And the next frontend starts where this one did.
    assert_eq!(bench.replaced(&[(region(0, MIB, 0), &ram)]), [2 * MIB]);
}

#[test]
fn dropping_it_takes_everything() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 8 * MIB);
    bench.replaced(&[(region(0, MIB, 0), &ram)]);
    assert!(format!("{:?}", bench.memory).contains("regions: 1"));
    let (vmm, reaper) = (bench.vmm.clone(), bench.reaper.clone());
    drop(bench);
    assert_eq!(vmm.mappings(), []);
    while vmm.open_ranges() > 0 || reaper.backlog() > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_table_sent_again_costs_nothing() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 8 * MIB);
    // The low memory of a PC, as its frontend sends it.
    let table = [
        (region(0, 0xa_0000, 0), &ram),
        (region(0xc_0000, 8 * MIB - 0xc_0000, 0xc_0000), &ram),
    ];
    let places = bench.replaced(&table);
    assert_eq!(places, [2 * MIB, 2 * MIB + 0xc_0000]);
    assert_eq!(bench.memory.files.len(), 1);
    bench.calls();
    assert_eq!(bench.replaced(&table), places);
    assert_eq!(bench.calls(), []);
}

#[test]
fn one_removal_does_not_touch_other_regions_of_the_file() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 8 * MIB);
    let (low, high) = (region(0, MIB, 0), region(16 * MIB, MIB, MIB));
    let places = bench.replaced(&[(low, &ram), (high, &ram)]);
    bench.calls();
    let (_, ticket) = bench.memory.remove(RemMemReg { region: low }, &[]).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert!(matches!(bench.calls()[..], [Call::Detach { .. }]));
    assert_eq!(bench.vmm.mappings(), [(places[1], MIB, MIB)]);
    bench.check(&[(high, &ram)]);
}
