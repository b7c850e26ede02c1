// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The memory of the frontend's guest, as it appears in the window.

use alloc::vec::Vec;

use vhost_guest_msg::{IotlbKind, MemTable, Permission, Region};

use crate::carried::MAX_REGIONS;
use crate::iotlb::{Iotlb, Lost, Place};
use crate::log::DirtyLog;
use crate::window::Window;

/// The memory of the frontend's guest: regions of its physical addresses, and
/// where each is in the window.
///
/// In the messages that a driver receives, user addresses are offsets in the
/// window (vhost-guest specification, shared memory).
#[derive(Clone, Debug)]
pub struct Memory {
    window: Window,
    /// In the order of guest addresses, which do not overlap, inside the
    /// window. There, two may be at one place: RAM that the guest sees twice.
    regions: Vec<Region>,
    log: Option<DirtyLog>,
    /// Writes are to be logged.
    logging: bool,
    /// Vrings and buffers have I/O virtual addresses.
    iotlb: Option<Iotlb>,
}

impl Memory {
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            regions: Vec::new(),
            log: None,
            logging: false,
            iotlb: None,
        }
    }

    /// The window that the memory is in.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The regions in the order of guest addresses.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// SET_LOG_BASE: the log, in place of an older one.
    pub(crate) fn set_log(&mut self, log: DirtyLog) {
        self.log = Some(log);
    }

    /// SET_FEATURES with or without LOG_ALL.
    pub(crate) fn set_logging(&mut self, logging: bool) {
        if self.logging && !logging {
            // The next migration brings its own.
            self.log = None;
        }
        self.logging = logging;
    }

    /// Where writes must be logged, if they must.
    pub(crate) fn log(&self) -> Option<&DirtyLog> {
        self.log.as_ref().filter(|_| self.logging)
    }

    /// Whether nothing must be written yet: it could not be logged.
    pub(crate) fn awaits_log(&self) -> bool {
        self.logging && self.log.is_none()
    }

    fn fits(&self, region: &Region) -> bool {
        self.window
            .check(region.user_address(), region.size())
            .is_ok()
    }

    /// Takes a new table; `false`, and the old one stays, if a region is
    /// outside the window, or has guest addresses of another.
    pub(crate) fn replace(&mut self, table: &MemTable<()>) -> bool {
        let mut regions: Vec<Region> = table.regions().copied().collect();
        let mut rest = regions.as_slice();
        while let [region, others @ ..] = rest {
            if !self.fits(region) || !others.iter().all(|other| apart(region, other)) {
                return false;
            }
            rest = others;
        }
        regions.sort_unstable_by_key(Region::guest_address);
        self.regions = regions;
        self.forget();
        true
    }

    /// Adds a region; `false` if it is outside the window, has guest addresses
    /// of another, or is one too many.
    pub(crate) fn add(&mut self, region: &Region) -> bool {
        if self.regions.len() >= MAX_REGIONS
            || !self.fits(region)
            || !self.regions.iter().all(|other| apart(region, other))
        {
            return false;
        }
        let address = region.guest_address();
        let at = self
            .regions
            .partition_point(|r| r.guest_address() < address);
        self.regions.insert(at, *region);
        true
    }

    /// Removes the region with the addresses and size of `region` (its mmap
    /// offset means nothing: QEMU sends 0); `false` if there is none.
    pub(crate) fn remove(&mut self, region: &Region) -> bool {
        let key = |r: &Region| (r.guest_address(), r.user_address(), r.size());
        let found = self.regions.iter().position(|r| key(r) == key(region));
        self.forget();
        found.map(|at| self.regions.remove(at)).is_some()
    }

    /// The guest physical address of `len` bytes at `offset` of the window,
    /// if they lie in one region.
    pub(crate) fn guest_address(&self, offset: u64, len: u64) -> Option<u64> {
        let find = |region: &Region| {
            let into = region.find_user(offset, len)?;
            Some(region.guest_address() + into)
        };
        self.regions.iter().find_map(find)
    }

    /// SET_FEATURES with or without ACCESS_PLATFORM.
    pub(crate) fn set_translating(&mut self, translating: bool) {
        if translating {
            self.iotlb.get_or_insert_default();
        } else {
            self.iotlb = None;
        }
    }

    /// Whether addresses are I/O virtual ones.
    pub(crate) fn translates(&self) -> bool {
        self.iotlb.is_some()
    }

    /// Translations may lead to regions that are gone.
    fn forget(&mut self) {
        if let Some(iotlb) = &mut self.iotlb {
            iotlb.invalidate(0, 0);
        }
    }

    /// IOTLB_MSG; `None` if it makes no sense. What was lost, or given up,
    /// may have to be asked for once more: `Some(false)`.
    pub(crate) fn update(&mut self, entry: &vhost_guest_msg::Iotlb) -> Option<bool> {
        let (offset, len) = (entry.user_address(), entry.size());
        let address = self.guest_address(offset, len);
        let iotlb = self.iotlb.as_mut()?;
        match entry.kind() {
            IotlbKind::Update => {
                let place = Place {
                    offset,
                    address: address?,
                    len,
                };
                Some(iotlb.update(entry.iova(), place, entry.permission()))
            }
            IotlbKind::Invalidate => {
                iotlb.invalidate(entry.iova(), entry.size());
                Some(false)
            }
            IotlbKind::Miss | IotlbKind::AccessFail => None,
        }
    }

    /// Where `address`, which the frontend's guest gave a device, is.
    pub(crate) fn place(&self, address: u64, permission: Permission) -> Result<Place, Lost> {
        if let Some(iotlb) = &self.iotlb {
            return iotlb.find(address, permission);
        }
        let (offset, len) = self.translate(address).ok_or(Lost::Nowhere)?;
        Ok(Place {
            offset,
            address,
            len,
        })
    }

    /// The same for `size` bytes, which must lie in one piece.
    pub(crate) fn place_whole(
        &self,
        address: u64,
        size: u64,
        permission: Permission,
    ) -> Result<Place, Lost> {
        let mut whole = self.place(address, permission)?;
        while whole.len < size {
            let next = address.checked_add(whole.len).ok_or(Lost::Nowhere)?;
            let next = self.place(next, permission)?;
            let adjoins = whole.offset + whole.len == next.offset;
            if !adjoins || whole.address + whole.len != next.address {
                return Err(Lost::Nowhere);
            }
            whole.len += next.len;
        }
        Ok(whole)
    }

    /// Where the guest physical `address` is in the window, and how many
    /// bytes follow in the same region.
    pub fn translate(&self, address: u64) -> Option<(u64, u64)> {
        let behind = self
            .regions
            .partition_point(|region| region.guest_address() <= address);
        let region = self.regions.get(behind.checked_sub(1)?)?;
        let offset = address - region.guest_address();
        let rest = region.size().checked_sub(offset).filter(|rest| *rest > 0)?;
        Some((region.user_address() + offset, rest))
    }
}

/// Whether the two have no guest address in common.
fn apart(one: &Region, other: &Region) -> bool {
    // No sum overflows, says `Region`.
    let last = |region: &Region| region.guest_address() + (region.size() - 1);
    last(one) < other.guest_address() || last(other) < one.guest_address()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(guest: u64, size: u64, user: u64) -> Region {
        Region::new(guest, size, user, 0).unwrap()
    }

    fn memory(regions: &[(u64, u64, u64)]) -> Memory {
        let mut memory = Memory::new(Window::allocate(0x10_0000).unwrap());
        for (guest, size, user) in regions {
            assert!(memory.add(&region(*guest, *size, *user)));
        }
        memory
    }

    #[test]
    fn translates_addresses_inside_regions_only() {
        let memory = memory(&[(0x8000, 0x1000, 0), (0, 0x1000, 0x2000)]);
        assert_eq!(memory.translate(0), Some((0x2000, 0x1000)));
        assert_eq!(memory.translate(0xfff), Some((0x2fff, 1)));
        assert_eq!(memory.translate(0x8010), Some((0x10, 0xff0)));
        for outside in [0x1000, 0x7fff, 0x9000, u64::MAX] {
            assert_eq!(memory.translate(outside), None);
        }
    }

    #[test]
    fn rejects_regions_outside_the_window() {
        let mut memory = memory(&[]);
        assert!(!memory.add(&region(0, 0x1000, 0xf_f001)));
        assert!(!memory.add(&region(0, u64::MAX / 2, 0)));
        let table = MemTable::new(vec![(region(0, 0x1000, 0x10_0000), ())]).unwrap();
        assert!(!memory.replace(&table));
        assert!(memory.regions().is_empty());
    }

    #[test]
    fn keeps_the_old_table_when_the_new_one_is_bad() {
        let mut memory = memory(&[(0, 0x1000, 0)]);
        let outside = region(0x9000, 0x1000, 1 << 40);
        let overlaps = region(0x5800, 0x1000, 0x2000);
        for bad in [outside, overlaps] {
            let bad = [(region(0x5000, 0x1000, 0), ()), (bad, ())];
            assert!(!memory.replace(&MemTable::new(bad.to_vec()).unwrap()));
        }
        assert_eq!(memory.translate(0), Some((0, 0x1000)));
    }

    #[test]
    fn rejects_overlaps_and_unknown_removals() {
        let mut memory = memory(&[(0x1000, 0x1000, 0x1000)]);
        assert!(!memory.add(&region(0x1800, 0x1000, 0x4000)));
        assert!(!memory.add(&region(0x1000, 1, 0x4000)));
        assert!(!memory.add(&region(0x1fff, 1, 0x4000)));
        assert!(!memory.add(&region(0, 0x1001, 0x4000)));
        assert!(!memory.remove(&region(0x1000, 0x800, 0x1000)));
        let same = Region::new(0x1000, 0x1000, 0x1000, 0x7000).unwrap();
        assert!(memory.remove(&same));
        assert!(!memory.remove(&same));
        assert_eq!(memory.translate(0x1000), None);
    }

    #[test]
    fn memory_may_be_seen_twice_by_its_guest() {
        let mut memory = memory(&[(0x1000, 0x1000, 0x4000)]);
        assert!(memory.add(&region(0x8000, 0x1800, 0x4800)));
        assert_eq!(memory.translate(0x1900), Some((0x4900, 0x700)));
        assert_eq!(memory.translate(0x8100), Some((0x4900, 0x1700)));
        let both: Vec<_> = memory
            .regions()
            .iter()
            .map(|region| (*region, ()))
            .collect();
        assert!(memory.replace(&MemTable::new(both).unwrap()));
        // The other one stays.
        assert!(memory.remove(&region(0x1000, 0x1000, 0x4000)));
        assert_eq!(memory.translate(0x1900), None);
        assert_eq!(memory.guest_address(0x4900, 1), Some(0x8100));
    }

    #[test]
    fn translates_to_the_byte_whatever_pages_are() {
        // Of no whole pages, from anywhere, two in one page, one behind the
        // other, and up to the last address there is.
        let sizes = [(0x3, 0x3b10, 0x1003), (0x3b13, 0x4ed, 0x4b13)];
        let mut memory = memory(&sizes);
        assert!(memory.add(&region(u64::MAX - 0x10, 0x10, 0x7ffd)));
        for (address, place) in [
            (0x2, None),
            (0x3, Some((0x1003, 0x3b10))),
            (0x3b12, Some((0x4b12, 1))),
            (0x3b13, Some((0x4b13, 0x4ed))),
            (0x3fff, Some((0x4fff, 1))),
            (0x4000, None),
            (u64::MAX - 0x11, None),
            (u64::MAX - 0x10, Some((0x7ffd, 0x10))),
            (u64::MAX - 1, Some((0x800c, 1))),
            (u64::MAX, None),
        ] {
            assert_eq!(memory.translate(address), place, "{address:#x}");
        }
        assert_eq!(memory.guest_address(0x4b12, 1), Some(0x3b12));
        assert_eq!(memory.guest_address(0x4b12, 2), None);
    }

    #[test]
    fn bounds_the_number_of_regions() {
        let mut memory = memory(&[]);
        for i in 0..MAX_REGIONS as u64 {
            assert!(memory.add(&region(i * 16, 16, i * 16)));
        }
        assert!(!memory.add(&region(0xf_0000, 16, 0xf_0000)));
    }
}
