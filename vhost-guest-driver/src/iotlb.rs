// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Translations of I/O virtual addresses, where the frontend's guest has an
//! IOMMU (vhost-user, IOMMU support).

use alloc::collections::BTreeMap;

use vhost_guest_msg::Permission;

/// Translations at one time. A request has no more pieces than half of it,
/// so that it always finds room for all that it needs.
const MAX_ENTRIES: usize = 8192;

/// A translation that the frontend must be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Miss {
    pub iova: u64,
    pub permission: Permission,
}

/// Why an address is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// There is nothing, or it may not be used so.
    Nowhere,
    /// Not known yet.
    Miss(Miss),
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// In the window.
    pub offset: u64,
    /// In the frontend's guest.
    pub address: u64,
    /// How many bytes follow there.
    pub len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    last: u64,
    place: Place,
    permission: Permission,
}

fn allows(given: Permission, wanted: Permission) -> bool {
    given as u8 & wanted as u8 == wanted as u8
}

/// What is known of the guest's IOMMU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Iotlb {
    /// By first address, not overlapping.
    entries: BTreeMap<u64, Entry>,
}

impl Iotlb {
    /// The addresses from `iova` on are at `place`. `false` if all that was
    /// known was given up for it.
    pub fn update(&mut self, iova: u64, place: Place, permission: Permission) -> bool {
        self.invalidate(iova, place.len);
        let room = self.entries.len() < MAX_ENTRIES;
        if !room {
            self.entries.clear();
        }
        let last = iova.saturating_add(place.len - 1);
        let entry = Entry {
            last,
            place,
            permission,
        };
        self.entries.insert(iova, entry);
        room
    }

    /// Forgets all that has to do with `size` addresses from `iova` on. A
    /// size without an end, or 0, stands for everything behind.
    pub fn invalidate(&mut self, iova: u64, size: u64) {
        let last = match size.checked_sub(1) {
            Some(more) => iova.saturating_add(more),
            None => u64::MAX,
        };
        // One may begin before.
        let before = self.entries.range(..iova).next_back();
        let first = match before {
            Some((first, entry)) if entry.last >= iova => *first,
            _ => iova,
        };
        while let Some((key, _)) = self.entries.range(first..=last).next() {
            let key = *key;
            self.entries.remove(&key);
        }
    }

    /// Where `iova` is.
    pub fn find(&self, iova: u64, permission: Permission) -> Result<Place, Lost> {
        let miss = Lost::Miss(Miss { iova, permission });
        let (first, entry) = self.entries.range(..=iova).next_back().ok_or(miss)?;
        if iova > entry.last {
            return Err(miss);
        }
        if !allows(entry.permission, permission) {
            return Err(Lost::Nowhere);
        }
        let into = iova - first;
        Ok(Place {
            offset: entry.place.offset + into,
            address: entry.place.address + into,
            len: entry.place.len - into,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64, len: u64) -> Place {
        let address = offset + 0x1_0000;
        Place {
            offset,
            address,
            len,
        }
    }

    fn offset(iotlb: &Iotlb, iova: u64) -> Option<(u64, u64)> {
        let place = iotlb.find(iova, Permission::Read).ok()?;
        assert_eq!(place.address, place.offset + 0x1_0000);
        Some((place.offset, place.len))
    }

    #[test]
    fn finds_what_it_was_told_and_misses_the_rest() {
        let mut iotlb = Iotlb::default();
        assert!(iotlb.update(0x5000, place(0x100, 0x1000), Permission::Read));
        assert!(iotlb.update(
            u64::MAX - 0xfff,
            place(0x9000, 0x1000),
            Permission::ReadWrite
        ));
        assert_eq!(offset(&iotlb, 0x5000), Some((0x100, 0x1000)));
        assert_eq!(offset(&iotlb, 0x5fff), Some((0x10ff, 1)));
        assert_eq!(offset(&iotlb, u64::MAX), Some((0x9fff, 1)));
        for iova in [0, 0x4fff, 0x6000, u64::MAX - 0x1000] {
            let permission = Permission::Write;
            let miss = Lost::Miss(Miss { iova, permission });
            assert_eq!(iotlb.find(iova, permission), Err(miss));
        }
        let denied = iotlb.find(0x5000, Permission::ReadWrite);
        assert_eq!(denied, Err(Lost::Nowhere));
    }

    #[test]
    fn newer_translations_replace_older_ones() {
        let mut iotlb = Iotlb::default();
        iotlb.update(0x1000, place(0, 0x3000), Permission::Read);
        iotlb.update(0x2000, place(0x8000, 0x1000), Permission::Read);
        assert_eq!(offset(&iotlb, 0x2fff), Some((0x8fff, 1)));
        assert_eq!(offset(&iotlb, 0x1000), None, "it is asked for again");
        assert_eq!(offset(&iotlb, 0x3000), None);
    }

    #[test]
    fn forgets_every_translation_that_is_touched() {
        for (iova, size, left) in [
            (0x1000, 0x1000, [false, true, true]),
            (0x1fff, 1, [false, true, true]),
            (0x1fff, 2, [false, false, true]),
            (0x2fff, 0x2001, [true, false, false]),
            (0x2fff, 0x2000, [true, false, true]),
            (0, 0, [false; 3]),
            (0, u64::MAX, [false; 3]),
            (0x2000, u64::MAX, [true, false, false]),
            (0, 0x1000, [true; 3]),
            (0x6000, 0, [true; 3]),
        ] {
            let mut iotlb = Iotlb::default();
            for first in [0x1000, 0x2000, 0x4fff] {
                iotlb.update(first, place(first, 0x1000), Permission::Read);
            }
            iotlb.invalidate(iova, size);
            let known = [0x1800, 0x2800, 0x5800].map(|iova| offset(&iotlb, iova).is_some());
            assert_eq!(known, left, "{iova:#x} {size:#x}");
        }
    }

    #[test]
    fn bounds_what_it_remembers() {
        let mut iotlb = Iotlb::default();
        for i in 0..MAX_ENTRIES as u64 {
            assert!(iotlb.update(i * 16, place(i * 16, 16), Permission::Read));
        }
        assert!(iotlb.update(16, place(0, 16), Permission::Read), "replaced");
        assert!(!iotlb.update(1 << 40, place(0, 16), Permission::Read));
        assert_eq!(iotlb.entries.len(), 1);
    }
}
