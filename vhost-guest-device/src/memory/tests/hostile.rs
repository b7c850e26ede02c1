// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a frontend may not do, and what it may try without effect.

use rustix::fs::{fcntl_add_seals, SealFlags};
use rustix::pipe::pipe;

use super::*;

/// A bench whose table must not change.
fn busy(ram: &TestFile) -> (Bench, Shared<'_>) {
    let mut bench = Bench::new();
    let table = vec![(region(16 * MIB, MIB, 0), ram)];
    bench.replaced(&table);
    (bench, table)
}

#[test]
fn rejects_regions_that_overlap_in_either_address_space() {
    let ram = TestFile::new(1, 4 * MIB);
    let (mut bench, table) = busy(&ram);
    let (guest, user) = (table[0].0.guest_address(), table[0].0.user_address());
    for (guest, user) in [
        (guest, user),
        (guest + MIB - PAGE, user + 8 * MIB),
        (guest - PAGE, user + 8 * MIB),
        (guest + 8 * MIB, user + MIB - PAGE),
        (guest + 8 * MIB, user - PAGE),
    ] {
        let region = Region::new(guest, 2 * PAGE, user, 2 * MIB).unwrap();
        let error = bench.add(region, &ram).unwrap_err();
        assert!(matches!(error, MemoryError::Overlap), "{error}");
        assert!(!error.is_environment() && !error.is_fatal());
    }
    bench.check(&table);
    let neighbour = Region::new(guest + MIB, PAGE, user - PAGE, 2 * MIB).unwrap();
    bench.added(neighbour, &ram);
}

#[test]
fn rejects_regions_beyond_their_file() {
    let ram = TestFile::new(1, 4 * MIB);
    let (mut bench, table) = busy(&ram);
    for (size, offset) in [
        (5 * MIB, 0),
        (4 * MIB, PAGE),
        (PAGE, 4 * MIB),
        (1, 4 * MIB),
        (PAGE + 1, 4 * MIB - PAGE),
        (PAGE, 1 << 62),
        (1 << 62, 0),
    ] {
        let region = Region::new(1 << 40, size, 1 << 62, offset).unwrap();
        let error = bench.add(region, &ram).unwrap_err();
        assert!(matches!(error, MemoryError::BeyondFile), "{error}");
    }
    bench.check(&table);
}

#[test]
fn rejects_huge_files_and_regions_without_harm() {
    // The largest file that there is, and a region of almost all numbers.
    let huge = TestFile::new(1, i64::MAX as u64 & !(PAGE - 1));
    let mut bench = Bench::new();
    let size = i64::MAX as u64 & !(PAGE - 1);
    let error = bench
        .add(Region::new(0, size, 0, 0).unwrap(), &huge)
        .unwrap_err();
    assert!(matches!(error, MemoryError::NoRoom), "{error}");
    let last = Region::new(0, PAGE, 0, size - PAGE).unwrap();
    let (place, _ticket) = bench.add(last, &huge).unwrap();
    assert_eq!(place % (2 * MIB), (size - PAGE) % (2 * MIB));

    let mut bench = Bench::with_limits(u64::MAX, usize::MAX);
    let table = [(last, &huge)];
    let (_, ticket) = bench.replace(&table).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
}

#[test]
fn rejects_descriptors_that_are_no_memory() {
    let ram = TestFile::new(1, 4 * MIB);
    let (mut bench, table) = busy(&ram);
    let sealed = TestFile::new(2, 4 * MIB);
    fcntl_add_seals(&sealed.fd, SealFlags::FUTURE_WRITE).unwrap();
    let (reader, writer) = pipe().unwrap();
    for fd in [reader, writer, sealed.fd] {
        let fd = ForeignFd::new(fd, &bench.reaper);
        let table = MemTable::new(vec![
            (region(0, MIB, 0), bench.send(&ram)),
            (region(16 * MIB, MIB, 0), fd),
        ]);
        let error = bench.memory.replace(table.unwrap(), &[]).unwrap_err();
        assert!(matches!(error, MemoryError::Fd(_)), "{error}");
        assert!(!error.is_environment() && !error.is_fatal());
    }
    bench.check(&table);
}

#[test]
fn closes_the_descriptors_of_what_it_rejects() {
    let ram = TestFile::new(1, 4 * MIB);
    let (mut bench, _) = busy(&ram);
    let (reader, writer) = pipe().unwrap();
    let entries = (0..8).map(|n| {
        let fd = writer.try_clone().unwrap();
        (region(n * MIB, PAGE, 0), ForeignFd::new(fd, &bench.reaper))
    });
    let table = MemTable::new(entries.collect()).unwrap();
    drop(writer);
    bench.memory.replace(table, &[]).unwrap_err();
    // The end comes when the last writer is closed.
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
}

#[test]
fn rejects_removals_of_what_is_not_there() {
    let ram = TestFile::new(1, 4 * MIB);
    let (mut bench, table) = busy(&ram);
    let (guest, user) = (table[0].0.guest_address(), table[0].0.user_address());
    for (guest, size, user) in [
        (guest, PAGE, user),
        (guest + PAGE, MIB, user),
        (guest, MIB, user + PAGE),
        (0, u64::MAX, 0),
    ] {
        let region = Region::new(guest, size, user, 0).unwrap();
        let error = bench.memory.remove(RemMemReg { region }, &[]).unwrap_err();
        assert!(matches!(error, MemoryError::NoSuchRegion), "{error}");
    }
    bench.check(&table);
}

#[test]
fn rejects_more_regions_than_allowed() {
    let ram = TestFile::new(1, 4 * MIB);
    let mut bench = Bench::with_limits(WINDOW, 3);
    let regions: Vec<_> = (0..4)
        .map(|n| (region(n * MIB, PAGE, n * PAGE), &ram))
        .collect();
    let error = bench.replace(&regions).unwrap_err();
    assert!(matches!(error, MemoryError::TooManyRegions(3)), "{error}");
    bench.replaced(&regions[..3]);
    let error = bench.add(regions[3].0, &ram).unwrap_err();
    assert!(matches!(error, MemoryError::TooManyRegions(3)), "{error}");
    bench.check(&regions[..3]);
}

#[test]
fn a_region_that_grows_page_by_page_comes_to_an_end() {
    let ram = TestFile::new(1, 4 * MIB);
    let mut bench = Bench::with_limits(WINDOW, 3);
    let error = (1..100)
        .find_map(
            |pages| match bench.replace(&[(region(0, pages * PAGE, 0), &ram)]) {
                Ok((_, ticket)) => {
                    bench.memory.settled(ticket, Outcome::Done).unwrap();
                    None
                }
                Err(error) => Some(error),
            },
        )
        .expect("it cannot go on for ever");
    assert!(matches!(error, MemoryError::TooManyPieces), "{error}");
    assert!(bench.vmm.mappings().len() <= 6 * (3 + 2));
    bench.check_books();
}

#[test]
fn space_kept_for_past_files_has_bounds() {
    let mut bench = Bench::with_limits(1 << 40, 3);
    for name in 0..100 {
        let file = TestFile::new(name, 4 * MIB);
        // A place of its own for each offset, with a size that fits nowhere.
        bench.replaced(&[(region(0, 4 * MIB, 0), &file)]);
        assert!(bench.memory.layout.arena_count() <= 2 * 30 + 4);
    }
    assert_eq!(bench.memory.files.len(), 1);
}

#[test]
fn keeps_one_descriptor_for_a_file_sent_many_times() {
    let ram = TestFile::new(1, 8 * MIB);
    let mut bench = Bench::new();
    let regions: Vec<_> = (0..32)
        .map(|n| (region(n * MIB, PAGE, n * 2 * PAGE), &ram))
        .collect();
    for _ in 0..3 {
        bench.replaced(&regions);
        assert_eq!(bench.memory.files.len(), 1);
    }
}

#[test]
fn maps_huge_pages_whole() {
    let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB | MemfdFlags::CLOEXEC;
    let Ok(fd) = memfd_create("huge", flags) else {
        return; // a kernel without hugetlbfs
    };
    ftruncate(&fd, 8 * MIB).unwrap();
    let huge = TestFile { fd, name: 0 };
    let mut bench = Bench::new();
    let (_, ticket) = bench.add(region(0, 2 * MIB, 4 * MIB), &huge).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(bench.vmm.mappings(), [(6 * MIB, 4 * MIB, 2 * MIB)]);
    let (_, ticket) = bench.area(Area::Log, &huge, 100, 1).unwrap();
    bench.memory.settled(ticket, Outcome::Done).unwrap();
    assert_eq!(bench.attached_bytes(), 4 * MIB);
    // Parts of huge pages bring the whole ones, each once.
    for (guest, size, offset, mapped) in [
        (16 * MIB, PAGE, 0, 6),
        (20 * MIB, 3 * MIB, PAGE, 8),
        (32 * MIB, MIB, 7 * MIB, 10),
    ] {
        let (place, ticket) = bench.add(region(guest, size, offset), &huge).unwrap();
        bench.memory.settled(ticket, Outcome::Done).unwrap();
        assert_eq!(place % (2 * MIB), offset % (2 * MIB));
        assert_eq!(bench.attached_bytes(), mapped * MIB);
    }
}
