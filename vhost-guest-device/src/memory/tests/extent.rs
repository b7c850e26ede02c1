// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a region wants to have in the window, and where it was before.

use super::*;
use crate::memory::layout::{Space, Wanted};
use crate::memory::table::{region_extent, Placed, Table};

/// What `region` of `file` wants.
fn wanted(region: &Region, file: &TestFile) -> Result<Wanted, MemoryError> {
    let fd = Bench::new().send(file);
    region_extent(region, &MemoryFd::check(fd, MemoryPolicy::default())?)
}

#[test]
fn what_is_misaligned_does_not_make_up_for_each_other() {
    let ram = TestFile::new(1, MIB);
    for (guest, size, user, offset) in [
        (PAGE + 0x800, PAGE, 0x800, 0),
        (0, PAGE + 0x800, PAGE, 0x800),
    ] {
        let region = Region::new(guest, size, user, offset).unwrap();
        let refused = wanted(&region, &ram);
        assert!(matches!(refused, Err(MemoryError::Unaligned { .. })));
    }
}

#[test]
fn space_is_kept_for_the_whole_pages_of_a_file() {
    let ram = TestFile::new(1, 2 * PAGE + PAGE / 2);
    let wanted = wanted(&region(0, PAGE, 0), &ram).unwrap();
    assert_eq!(wanted.space, Space::File(2 * PAGE));
}

#[test]
fn a_region_was_where_the_same_bytes_were_at_the_same_address() {
    let (ram, other) = (TestFile::new(1, MIB), TestFile::new(2, MIB));
    let known = region(0, PAGE, PAGE);
    let mut before = wanted(&known, &ram).unwrap();
    before.before = Some(6 * MIB);
    let table = Table {
        regions: vec![Placed {
            region: known,
            wanted: before,
        }],
        areas: Vec::new(),
    };
    let place = |region: Region, file| {
        let extent = wanted(&region, file).unwrap().extent;
        table.place_of(&region, &extent)
    };
    assert_eq!(place(known, &ram), Some(6 * MIB));
    assert_eq!(place(region(0, 2 * PAGE, PAGE), &ram), Some(6 * MIB));
    assert_eq!(place(region(MIB, PAGE, PAGE), &ram), None, "elsewhere");
    assert_eq!(place(region(0, PAGE, PAGE), &other), None, "another file");
    assert_eq!(place(region(0, PAGE, 2 * PAGE), &ram), None, "other bytes");
}
