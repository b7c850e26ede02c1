// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io;

use vm_memory::{Bytes, GuestMemoryMmap};

use super::*;

/// What the translated addresses of these tests begin with.
const IOVA: u64 = 0x7000_0000_0000;
const PAGE: u64 = 0x1000;

/// Swaps neighbouring pages, so that no range of two stays together.
struct Swapped {
    /// The most that is said at a time.
    most: u64,
}

impl AddressTranslator for Swapped {
    fn translate(&self, iova: u64, length: u64, access: Access) -> io::Result<Translation> {
        let offset = iova
            .checked_sub(IOVA)
            .filter(|offset| *offset < 16 * PAGE)
            .ok_or(io::ErrorKind::NotFound)?;
        if access == Access::Write && offset >= 8 * PAGE {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let in_page = offset % PAGE;
        let guest_address = ((offset / PAGE) ^ 1) * PAGE + in_page;
        let length = length.min(PAGE - in_page).min(self.most);
        Ok(Translation {
            guest_address,
            length,
        })
    }
}

fn memory(translator: impl AddressTranslator + 'static) -> DriverMemory<Arc<GuestMemoryMmap>> {
    let space = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();
    DriverMemory::new(Arc::new(space), Some(Arc::new(translator)))
}

#[test]
fn a_range_may_be_several_in_the_guest() {
    for most in [1, 7, u64::MAX] {
        let memory = memory(Swapped { most });
        let view = memory.view(feature::ACCESS_PLATFORM);
        let start = GuestAddress(IOVA + PAGE - 3);
        assert!(view.check_range(start, 7, Permissions::Write));
        view.write_slice(b"message", start).unwrap();
        let physical = memory.view(0);
        let mut parts = [[0; 3], [0; 3]];
        let [first, second] = &mut parts;
        physical
            .read_slice(first, GuestAddress(2 * PAGE - 3))
            .unwrap();
        physical.read_slice(second, GuestAddress(0)).unwrap();
        assert_eq!(&parts, &[*b"mes", *b"sag"]);
        let mut back = [0; 7];
        view.read_slice(&mut back, start).unwrap();
        assert_eq!(&back, b"message");
    }
}

#[test]
fn addresses_are_physical_unless_the_driver_accepts_the_feature() {
    let memory = memory(Swapped { most: u64::MAX });
    let view = memory.view(feature::VERSION_1);
    view.write_obj(7u32, GuestAddress(0x100)).unwrap();
    assert!(view.physical_memory().is_some());
    let view = memory.view(feature::ACCESS_PLATFORM);
    assert!(view.physical_memory().is_none());
    let back: u32 = view.read_obj(GuestAddress(IOVA + PAGE + 0x100)).unwrap();
    assert_eq!(back, 7);
    assert!(view.read_obj::<u32>(GuestAddress(0x100)).is_err());
}

#[test]
fn refuses_what_is_not_mapped_for_the_access() {
    let memory = memory(Swapped { most: u64::MAX });
    let view = memory.view(feature::ACCESS_PLATFORM);
    let read_only = GuestAddress(IOVA + 8 * PAGE);
    assert!(view.check_range(read_only, 8, Permissions::Read));
    assert!(!view.check_range(read_only, 8, Permissions::Write));
    assert!(view.write_slice(&[1], read_only).is_err());
    let end = GuestAddress(IOVA + 16 * PAGE - 4);
    assert!(view.check_range(end, 4, Permissions::Read));
    assert!(!view.check_range(end, 5, Permissions::Read));
    assert!(!view.check_range(GuestAddress(u64::MAX), 2, Permissions::Read));
    assert!(view.check_range(end, 0, Permissions::Read));
}

#[test]
fn a_translator_that_answers_nonsense_costs_nothing_but_the_access() {
    /// Answers the same, whatever is asked.
    struct Same(Translation);
    impl AddressTranslator for Same {
        fn translate(&self, _: u64, _: u64, _: Access) -> io::Result<Translation> {
            Ok(self.0)
        }
    }
    for (guest_address, length, count) in [
        (0, 0, 16),
        (u64::MAX, 1, 16),
        (u64::MAX, u64::MAX, 16),
        (0, 1, MAX_PIECES + 1),
        (0, 1 << 40, 1 << 30),
    ] {
        let memory = memory(Same(Translation {
            guest_address,
            length,
        }));
        let view = memory.view(feature::ACCESS_PLATFORM);
        assert!(!view.check_range(GuestAddress(0x10), count, Permissions::Read));
        assert!(
            view.read_slice(&mut vec![0; 4096], GuestAddress(0x10))
                .is_err()
                || count > 4096
        );
    }
}

/// The rule that an access breaks.
fn broken(translator: impl AddressTranslator, address: u64, count: usize) -> Untranslated {
    let access = Permissions::Write;
    match translate(&translator, GuestAddress(address), count, access).unwrap_err() {
        Error::IOError(error) => *error.into_inner().unwrap().downcast().unwrap(),
        other => panic!("{other}"),
    }
}

#[test]
fn says_why_a_range_is_no_memory() {
    let most = u64::MAX;
    let end = broken(Swapped { most }, u64::MAX, 2);
    assert!(matches!(end, Untranslated::Overflow), "{end}");
    let outside = broken(Swapped { most }, 0, 1);
    let Untranslated::Unmapped(error) = outside else {
        panic!("{outside}");
    };
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let nothing = broken(Swapped { most: 0 }, IOVA, 1);
    assert!(matches!(nothing, Untranslated::Nothing), "{nothing}");
    let pieces = broken(Swapped { most: 1 }, IOVA, MAX_PIECES + 1);
    assert!(matches!(pieces, Untranslated::Pieces), "{pieces}");
}
