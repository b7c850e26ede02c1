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
fn a_region_is_wanted_to_the_byte_and_mapped_in_pages() {
    let ram = TestFile::new(1, 3 * PAGE + 0xb10);
    for (offset, size, pages) in [
        (0, 3 * PAGE + 0xb10, (0, 4 * PAGE)),
        (PAGE, PAGE, (PAGE, PAGE)),
        (0xfff, 2, (0, 2 * PAGE)),
        (3 * PAGE + 0xb0f, 1, (3 * PAGE, PAGE)),
    ] {
        let wanted = wanted(&region(0, size, offset), &ram).unwrap();
        let extent = wanted.extent;
        assert_eq!((extent.offset, extent.length), (offset, size));
        let mapped = wanted.pages();
        assert_eq!((mapped.offset, mapped.length), pages);
        assert_eq!(wanted.space, Space::File);
    }
}

#[test]
fn pages_that_others_may_be_on_are_pieces_by_themselves() {
    let ram = TestFile::new(1, 3 * PAGE + 0xb10);
    for (offset, size, seams) in [
        (0, PAGE, [None, None]),
        // Behind the end of the file there is nothing.
        (0, 3 * PAGE + 0xb10, [None, None]),
        (0, 3 * PAGE + 0xb0f, [None, Some(3 * PAGE)]),
        (1, 2 * PAGE, [Some(PAGE), Some(2 * PAGE)]),
        (1, PAGE - 1, [Some(PAGE), None]),
    ] {
        let wanted = wanted(&region(0, size, offset), &ram).unwrap();
        assert_eq!(wanted.seams(), seams, "{offset:#x} {size:#x}");
    }
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
