// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where things are put, and that they stay there.

use vhost_guest_vmm_traits::test_utils::Call;

use vhost_guest_vmm_traits::RangeId;

use super::*;

#[test]
fn keeps_space_for_the_whole_file() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 16 * MIB);
    let places = bench.replaced(&[(region(0, MIB, 4 * MIB), &ram)]);
    assert_eq!(places, [6 * MIB]);
    let other = TestFile::new(2, MIB);
    let table = [
        (region(0, MIB, 4 * MIB), &ram),
        (region(MIB, MIB, 0), &other),
    ];
    assert_eq!(bench.replaced(&table), [6 * MIB, 18 * MIB]);
}

#[test]
fn what_comes_back_comes_back_to_its_place() {
    let mut bench = Bench::new();
    let (ram, other) = (TestFile::new(1, 4 * MIB), TestFile::new(2, 4 * MIB));
    let (first, second) = ((region(0, MIB, MIB), &ram), (region(0, MIB, 0), &other));
    let places = bench.replaced(&[first]);
    bench.replaced(&[second]);
    assert_eq!(bench.memory.files.len(), 1, "no descriptor is kept for it");
    assert_eq!(bench.replaced(&[first]), places);
}

#[test]
fn a_region_that_moves_in_the_guest_stays_in_the_window() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let places = bench.replaced(&[(region(0, MIB, MIB), &ram)]);
    bench.calls();
    assert_eq!(
        bench.replaced(&[(region(32 * MIB, MIB, MIB), &ram)]),
        places
    );
    assert_eq!(bench.calls(), []);
}

#[test]
fn a_region_that_grows_stays_and_the_rest_is_mapped() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 8 * MIB);
    let places = bench.replaced(&[(region(0, MIB, MIB), &ram)]);
    bench.calls();
    let table = [(region(0, 3 * MIB, MIB), &ram)];
    assert_eq!(bench.replaced(&table), places);
    let range = RangeId(1);
    let open = Call::Open {
        range,
        fd_offset: 2 * MIB,
        length: 2 * MIB,
    };
    let attach = Call::Attach {
        range,
        window_offset: places[0] + MIB,
    };
    assert_eq!(bench.calls(), [open, attach]);
    // In both directions.
    let table = [(region(0, 4 * MIB, 0), &ram)];
    assert_eq!(bench.replaced(&table), [places[0] - MIB]);
    assert_eq!(bench.calls().len(), 2);
}

#[test]
fn regions_that_are_split_or_joined_stay() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    bench.replaced(&[(region(0, 4 * MIB, 0), &ram)]);
    bench.calls();
    let (low, high) = (region(0, MIB, 0), region(MIB, 3 * MIB, MIB));
    assert_eq!(
        bench.replaced(&[(high, &ram), (low, &ram)]),
        [3 * MIB, 2 * MIB]
    );
    bench.replaced(&[(region(0, 4 * MIB, 0), &ram)]);
    assert_eq!(bench.calls(), []);
}

#[test]
fn a_region_that_shrinks_moves_since_its_piece_cannot_be_cut() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let whole = region(0, 4 * MIB, 0);
    bench.replaced(&[(whole, &ram)]);
    let half = region(0, 2 * MIB, 0);
    let places = bench.replaced(&[(half, &ram)]);
    assert_ne!(places, [2 * MIB]);
    assert_eq!(bench.attached_bytes(), 2 * MIB, "the rest was taken away");
    assert_eq!(
        bench.replaced(&[(half, &ram)]),
        places,
        "and it stays there"
    );
}

#[test]
fn a_cut_spreads_to_what_depends_on_it() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 8 * MIB);
    bench.replaced(&[(region(0, 4 * MIB, 0), &ram)]);
    bench.replaced(&[(region(0, 6 * MIB, 0), &ram)]);
    // The second piece is wanted whole, the first is not; the region lies
    // over both.
    let places = bench.replaced(&[(region(0, 5 * MIB, MIB), &ram)]);
    assert_eq!(bench.attached_bytes(), 5 * MIB);
    assert_ne!(places, [3 * MIB]);
}

#[test]
fn refuses_to_move_a_ring() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let (whole, half) = (region(0, 4 * MIB, 0), region(0, 2 * MIB, 0));
    bench.replaced(&[(whole, &ram)]);
    let user_address = whole.user_address() + 0x40;
    let window_offset = bench.memory.translate(user_address, 1).unwrap();
    let ring = RingAddress {
        user_address,
        window_offset,
    };
    let mapped = bench.vmm.mappings();

    let table = bench.table(&[(half, &ram)]);
    let error = bench.memory.replace(table, &[ring]).unwrap_err();
    assert!(matches!(error, MemoryError::RingMoved), "{error}");
    assert!(!error.is_fatal() && !error.is_environment());
    assert_eq!(bench.vmm.mappings(), mapped);
    bench.check(&[(whole, &ram)]);

    // Taking the ring's memory away altogether is the frontend's own affair,
    let other = region(32 * MIB, 2 * MIB, 0);
    let table = bench.table(&[(other, &ram)]);
    let (_, ticket) = bench.memory.replace(table, &[ring]).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    // but not bringing it back elsewhere.
    let fd = bench.send(&TestFile::new(2, 4 * MIB));
    let error = bench
        .memory
        .add(MemRegion { region: whole, fd }, &[ring])
        .unwrap_err();
    assert!(matches!(error, MemoryError::RingMoved), "{error}");
    bench.check(&[(other, &ram)]);
}

#[test]
fn the_same_bytes_at_two_addresses_get_two_places() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    let (one, other) = (region(0, 2 * MIB, 0), region(32 * MIB, 2 * MIB, MIB));
    let table = [(one, &ram), (other, &ram)];
    let places = bench.replaced(&table);
    // Each keeps its own, in whatever order they come.
    let reversed = bench.replaced(&[(other, &ram), (one, &ram)]);
    assert_eq!(reversed, [places[1], places[0]]);
    bench.replaced(&[(other, &ram)]);
    assert_eq!(bench.replaced(&table), places);
}

#[test]
fn a_file_larger_than_the_window_is_placed_in_parts() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 1 << 40);
    let low = region(0, MIB, MIB);
    let high = region(4 << 30, MIB, 2 * MIB + PAGE);
    let places = bench.replaced(&[(low, &ram), (high, &ram)]);
    assert_eq!(bench.replaced(&[(high, &ram)]), [places[1]]);
}

#[test]
fn space_kept_for_nothing_is_given_up_for_something() {
    let mut bench = Bench::new();
    let (large, small) = (TestFile::new(1, 60 * MIB), TestFile::new(2, 40 * MIB));
    let kept = (region(0, MIB, MIB), &large);
    let places = bench.replaced(&[kept]);
    let table = [kept, (region(64 * MIB, 4 * MIB, 0), &small)];
    assert_eq!(bench.replaced(&table)[0], places[0]);
    let full = [kept, (region(64 * MIB, 40 * MIB, 0), &small)];
    assert_eq!(bench.replaced(&full)[0], places[0]);
}

#[test]
fn refuses_what_does_not_fit_and_keeps_what_is_there() {
    let mut bench = Bench::with_limits(16 * MIB, 32);
    let (old, new) = (TestFile::new(1, 8 * MIB), TestFile::new(2, 8 * MIB));
    let table = [(region(0, 8 * MIB, 0), &old)];
    bench.replaced(&table);
    let mapped = bench.vmm.mappings();
    // Each fits alone, but both have to be there for a while.
    let error = bench.replace(&[(region(0, 8 * MIB, 0), &new)]).unwrap_err();
    assert!(matches!(error, MemoryError::NoRoom), "{error}");
    assert!(!error.is_environment() && !error.is_fatal());
    assert_eq!(bench.vmm.mappings(), mapped);
    bench.check(&table);
}

#[test]
fn a_window_can_be_filled_to_the_last_page_again_and_again() {
    let mut bench = Bench::with_limits(16 * MIB, 32);
    for name in 0..20 {
        let file = TestFile::new(name, 14 * MIB);
        let low = region(0, 14 * MIB, 0);
        assert_eq!(bench.added(low, &file), 2 * MIB);
        let (_, ticket) = bench.memory.remove(RemMemReg { region: low }, &[]).unwrap();
        bench.memory.settled(ticket, Outcome::Done).unwrap();
    }
    let mut tiny = Bench::with_limits(2 * MIB, 32);
    let file = TestFile::new(0, PAGE);
    let error = tiny.add(region(0, PAGE, 0), &file).unwrap_err();
    assert!(matches!(error, MemoryError::NoRoom), "{error}");
}

#[test]
fn removes_nothing_that_would_move_something_else() {
    let mut bench = Bench::new();
    let ram = TestFile::new(1, 4 * MIB);
    bench.replaced(&[(region(0, 4 * MIB, 0), &ram)]);
    let (low, high) = (region(0, MIB, 0), region(MIB, 3 * MIB, MIB));
    let table = [(low, &ram), (high, &ram)];
    bench.replaced(&table);
    let error = bench
        .memory
        .remove(RemMemReg { region: low }, &[])
        .unwrap_err();
    assert!(matches!(error, MemoryError::Indivisible), "{error}");
    bench.check(&table);
}
