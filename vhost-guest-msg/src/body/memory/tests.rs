// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

const PAGE: u64 = 0x1000;

fn region(guest: u64, user: u64) -> Region {
    Region::new(guest, PAGE, user, 0).unwrap()
}

#[test]
fn rejects_regions_without_an_end() {
    let top = u64::MAX - PAGE;
    for [guest, size, user, offset] in [
        [0, 0, 0, 0],
        [top + 1, PAGE, 0, 0],
        [0, PAGE, top + 1, 0],
        [0, PAGE, 0, top + 1],
        [u64::MAX; 4],
    ] {
        assert!(Region::new(guest, size, user, offset).is_err());
    }
    assert!(Region::new(top, PAGE, top, top).is_ok());
    assert!(Region::new(0, u64::MAX, 0, 0).is_ok());
}

#[test]
fn finds_overlap_in_either_address_space() {
    let base = region(PAGE, 0x7000);
    for (guest, user, field) in [
        (PAGE, 0x9000, "guest address"),
        (PAGE + 1, 0x9000, "guest address"),
        (1, 0x9000, "guest address"),
        (0x9000, 0x7000, "user address"),
        (0x9000, 0x7fff, "user address"),
        (0x9000, 0x6001, "user address"),
    ] {
        let error = base.check_apart(&region(guest, user)).unwrap_err();
        assert_eq!(error, Invalid::new(field, Problem::Overlap));
    }
    // Neighbours do not overlap, whichever comes first.
    for neighbour in [region(2 * PAGE, 0x8000), region(0, 0x6000)] {
        assert_eq!(base.check_apart(&neighbour), Ok(()));
        assert_eq!(neighbour.check_apart(&base), Ok(()));
    }
}

/// What to do about them is for the receiver to say.
#[test]
fn a_table_with_aliases_is_a_table() {
    let (one, alias) = (region(0, 0x7000), region(PAGE, 0x7000));
    let table = MemTable::new([(one, ()), (alias, ())].to_vec()).unwrap();
    assert_eq!(table.regions().len(), 2);
}

#[test]
fn rejects_an_empty_table() {
    assert!(MemTable::<()>::new(Vec::new()).is_err());
}

#[test]
fn rejects_a_relocation_without_an_end() {
    let entries = [(region(0, 0x7000), ()), (region(PAGE, 0x8000), ())].to_vec();
    let table = MemTable::new(entries).unwrap();
    assert!(table.clone().relocate(|_, _| u64::MAX).is_err());
    let moved = table.relocate(|i, _| i as u64 * PAGE).unwrap();
    assert!(moved.regions().map(Region::user_address).eq([0, PAGE]));
}

#[test]
fn finds_what_lies_inside_only() {
    let region = region(0, 0x7000);
    assert_eq!(region.find_user(0x7000, PAGE), Some(0));
    assert_eq!(region.find_user(0x7fff, 1), Some(0xfff));
    for (address, len) in [(0x6fff, 1), (0x8000, 1), (0x7001, PAGE), (0x7000, u64::MAX)] {
        assert_eq!(region.find_user(address, len), None);
    }
}
