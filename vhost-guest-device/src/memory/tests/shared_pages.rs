// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Regions that end or begin within a page, and regions at one user address.

use super::*;

/// What libblkio allocates for its virtqueues.
const ODD: u64 = 0x3b10;

fn removed(bench: &mut Bench, region: Region) {
    let (_, ticket) = bench.memory.remove(RemMemReg { region }, &[]).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
}

#[test]
fn a_region_as_long_as_its_file_is_mapped_to_its_last_page_and_ends_to_the_byte() {
    let mut bench = Bench::new();
    let queues = TestFile::new(1, ODD);
    let region = region(0, ODD, 0);
    let fd = bench.send(&queues);
    let (moved, ticket) = bench.memory.add(MemRegion { region, fd }, &[]).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(moved.region.size(), ODD, "as the frontend has it");
    bench.check(&[(region, &queues)]);
    assert_eq!(bench.vmm.mappings(), [(2 * MIB, 0, 4 * PAGE)]);
    let user = region.user_address();
    let last = bench.memory.translate(user + ODD - 1, 1);
    assert_eq!(last, Some(2 * MIB + ODD - 1));
    assert_eq!(bench.memory.translate(user + ODD, 1), None);
    assert_eq!(bench.memory.translate(user + ODD - 1, 2), None);
}

#[test]
fn the_page_of_a_regions_last_byte_is_not_withdrawn() {
    let mut bench = Bench::new();
    let queues = TestFile::new(1, ODD);
    bench.added(region(0, ODD, 0), &queues);
    assert!(!bench.withdraw_truncated().unwrap());
    ftruncate(&queues.fd, 3 * PAGE).unwrap();
    assert!(bench.withdraw_truncated().unwrap());
}

/// A backend that maps the file adds the offset to where it mapped it.
#[test]
fn no_address_needs_to_be_aligned() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let mut table = Vec::new();
    for (n, [guest, size, user, offset]) in (1..).zip([
        [1, PAGE, PAGE, 0],
        [0, PAGE - 1, 0x10, PAGE],
        [0x10, PAGE, 0x1008, 3 * PAGE],
        [0, PAGE, 0, 5 * PAGE + 0x800],
        [0x123, 8, 0x456, 9 * PAGE + 0x789],
    ]) {
        let region = Region::new(n * MIB + guest, size, n * MIB + user, offset).unwrap();
        bench.added(region, &ram);
        table.push((region, &ram));
        bench.check(&table);
    }
    bench.replaced(&table);
}

#[test]
fn two_regions_share_a_page_and_each_keeps_its_place() {
    let ram = TestFile::new(1, 4 * MIB);
    let (low, high) = (region(0, ODD, 0), region(ODD, MIB, ODD));
    let places = [2 * MIB, 2 * MIB + ODD];
    let both = 4 * PAGE + MIB;
    for order in [[low, high], [high, low]] {
        let mut bench = Bench::new();
        let place = |region: Region| places[usize::from(region == high)];
        let mapped = |bench: &Bench| bench.attached_bytes();
        for region in order {
            assert_eq!(bench.added(region, &ram), place(region));
        }
        assert_eq!(mapped(&bench), both, "the page is there once");
        bench.check(&[(order[0], &ram), (order[1], &ram)]);
        // Each goes alone, whichever came first, and comes back to its place.
        for region in [low, high, high, low] {
            let other = if region == low { high } else { low };
            removed(&mut bench, region);
            bench.check(&[(other, &ram)]);
            let pages = if other == low { 4 } else { MIB / PAGE + 1 };
            assert_eq!(mapped(&bench), pages * PAGE, "no page is left behind");
            assert_eq!(bench.added(region, &ram), place(region));
        }
        // Both go, and come back in the other order.
        order.iter().for_each(|region| removed(&mut bench, *region));
        assert_eq!(mapped(&bench), 0);
        for region in [order[1], order[0]] {
            assert_eq!(bench.added(region, &ram), place(region));
        }
        let table = [(low, &ram), (high, &ram)];
        assert_eq!(bench.replaced(&table), places);
    }
}

#[test]
fn three_regions_share_one_page() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, PAGE);
    let parts = [(0, 0x400), (0x400, 0x800), (0xc00, 0x400)];
    let parts = parts.map(|(offset, size)| region(offset, size, offset));
    let table = parts.map(|region| (region, &ram));
    let places = bench.replaced(&table);
    assert_eq!(places, [0, 0x400, 0xc00].map(|offset| 2 * MIB + offset));
    assert_eq!(bench.vmm.mappings(), [(2 * MIB, 0, PAGE)]);
    removed(&mut bench, parts[1]);
    assert_eq!(bench.attached_bytes(), PAGE);
    bench.check(&[table[0], table[2]]);
    assert_eq!(bench.added(parts[1], &ram), places[1]);
}

#[test]
fn a_refused_neighbour_leaves_the_shared_page() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let (low, high) = (region(0, ODD, 0), region(ODD, MIB, ODD));
    bench.added(low, &ram);
    let mapped = bench.vmm.mappings();
    let (_, ticket) = bench.add(high, &ram).unwrap();
    bench.memory.settled(ticket, Outcome::Refused).unwrap();
    assert_eq!(bench.vmm.mappings(), mapped);
    bench.check(&[(low, &ram)]);
}

#[test]
fn the_number_of_a_file_may_be_used_again() {
    let mut bench = Bench::new();
    for size in [ODD, PAGE, 5 * PAGE + 1, ODD] {
        // The kernel gives the numbers of files that are gone to new ones.
        let file = TestFile::new(size, size);
        let region = region(0, size, 0);
        bench.added(region, &file);
        bench.check(&[(region, &file)]);
        removed(&mut bench, region);
        assert!(bench.memory.files.is_empty());
    }
}

/// Aliases of RAM: two ranges of the guest's, one of the frontend's.
#[test]
fn two_guest_ranges_may_show_the_same_bytes_of_one_user_range() {
    let ram = TestFile::new(1, 4 * MIB);
    let user = 0x7f00_0000_0000;
    let one = Region::new(0, MIB, user, MIB).unwrap();
    let same = Region::new(16 * MIB, MIB, user, MIB).unwrap();
    let part = Region::new(32 * MIB, MIB, user + MIB / 2, MIB + MIB / 2).unwrap();
    let mut bench = Bench::new();
    let table = [(one, &ram), (same, &ram), (part, &ram)];
    let places = bench.replaced(&table);
    assert_eq!(bench.attached_bytes(), 3 * MIB, "each has its own place");
    assert_eq!(bench.memory.translate(user, MIB), Some(places[0]));
    assert_eq!(bench.replaced(&table), places);
    // One by one as well.
    for region in [same, part] {
        removed(&mut bench, region);
        let again = bench.added(region, &ram);
        assert_eq!(again, places[if region == same { 1 } else { 2 }]);
    }
    // What a ring was found in stays as long as the ring is found.
    let ring = RingAddress {
        user_address: user,
        window_offset: places[0],
    };
    let gone = RemMemReg { region: one };
    let refused = bench.memory.remove(gone, &[ring]).unwrap_err();
    assert!(matches!(refused, MemoryError::RingMoved), "{refused}");
    let reversed = bench.table(&[(part, &ram), (same, &ram), (one, &ram)]);
    let (_, ticket) = bench.memory.replace(reversed, &[ring]).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    removed(&mut bench, same);
}

#[test]
fn one_user_range_does_not_show_different_bytes() {
    let (ram, other) = (TestFile::new(1, 4 * MIB), TestFile::new(2, 4 * MIB));
    let user = 0x7f00_0000_0000;
    let one = Region::new(0, MIB, user, 0).unwrap();
    for (region, file) in [
        (Region::new(16 * MIB, MIB, user, 0).unwrap(), &other),
        (Region::new(16 * MIB, MIB, user, PAGE).unwrap(), &ram),
        (Region::new(16 * MIB, MIB, user + PAGE, 0).unwrap(), &ram),
        // Nor does the guest have two memories at one address.
        (Region::new(PAGE, MIB, user, 0).unwrap(), &ram),
    ] {
        let mut bench = Bench::new();
        let table = bench.table(&[(one, &ram), (region, file)]);
        let refused = bench.memory.replace(table, &[]).unwrap_err();
        assert!(matches!(refused, MemoryError::Overlap), "{refused}");
        assert_eq!(bench.vmm.mappings(), []);
        bench.added(one, &ram);
        let refused = bench.add(region, file).unwrap_err();
        assert!(matches!(refused, MemoryError::Overlap), "{refused}");
        bench.check(&[(one, &ram)]);
    }
}
