// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's memory as it described it, and where that is in the window.

use vhost_guest_msg::Region;

use super::layout::{Extent, Space, Wanted, ALIGNMENT};
use super::{Area, MemoryError};
use crate::fd::MemoryFd;

/// A region of the table and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) region: Region,
    /// What is wanted for it; `before` says where it is.
    pub(super) wanted: Wanted,
}

impl Placed {
    /// Where it is, once it is placed.
    pub(super) fn window_offset(&self) -> u64 {
        self.wanted.before.unwrap_or_default()
    }
}

/// The mapped pages of an area that is not a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlacedArea {
    pub(super) area: Area,
    pub(super) wanted: Wanted,
}

/// What the driver was told to be in the window.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) regions: Vec<Placed>,
    /// At most one of each kind.
    pub(super) areas: Vec<PlacedArea>,
}

impl Table {
    /// What is wanted in the window: regions first, areas behind them.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let regions = self.regions.iter().map(|placed| placed.wanted);
        regions.chain(self.areas.iter().map(|a| a.wanted)).collect()
    }

    /// Takes note where everything is, in the order of [`wanted`](Self::wanted).
    pub(super) fn set_positions(&mut self, positions: &[u64]) {
        let regions = self.regions.iter_mut().map(|placed| &mut placed.wanted);
        let areas = self.areas.iter_mut().map(|placed| &mut placed.wanted);
        for (wanted, position) in regions.chain(areas).zip(positions) {
            wanted.before = Some(*position);
        }
    }

    /// Where a region was that is the same to the frontend's guest, whatever
    /// its user address and size are now.
    pub(super) fn place_of(&self, region: &Region, extent: &Extent) -> Option<u64> {
        let same = self.regions.iter().find(|placed| {
            placed.region.guest_address() == region.guest_address()
                && placed.wanted.extent.file == extent.file
                && placed.wanted.extent.offset == extent.offset
        });
        same?.wanted.before
    }

    /// The region that a REM_MEM_REG means. Frontends fill in the mmap offset
    /// or leave it 0.
    pub(super) fn find(&self, region: &Region) -> Option<usize> {
        self.regions.iter().position(|placed| {
            placed.region.guest_address() == region.guest_address()
                && placed.region.user_address() == region.user_address()
                && placed.region.size() == region.size()
        })
    }

    /// Where a range of user addresses is in the window: all of it in one
    /// region.
    pub(super) fn translate(&self, user_address: u64, length: u64) -> Option<u64> {
        self.regions.iter().find_map(|placed| {
            let within = placed.region.find_user(user_address, length)?;
            // The first byte has to exist even if none is asked for.
            (within < placed.region.size()).then_some(())?;
            placed.wanted.before?.checked_add(within)
        })
    }

    /// Makes sure that no two regions overlap.
    pub(super) fn check_apart(&self, region: &Region) -> Result<(), MemoryError> {
        let mut others = self.regions.iter();
        let apart = others.all(|placed| placed.region.check_apart(region).is_ok());
        apart.then_some(()).ok_or(MemoryError::Overlap)
    }
}

/// Makes sure that `file` has the bytes of a region, as whole pages.
pub(super) fn region_extent(region: &Region, file: &MemoryFd) -> Result<Wanted, MemoryError> {
    let page_size = file.page_size();
    let (offset, length) = (region.mmap_offset(), region.size());
    // Frontend and driver see the same bytes at the same place in a page, or
    // drivers would find rings misaligned.
    let addresses = region.guest_address() | region.user_address();
    let host_page = rustix::param::page_size() as u64;
    if !(offset | length).is_multiple_of(page_size) || !addresses.is_multiple_of(host_page) {
        return Err(MemoryError::Unaligned { page_size });
    }
    let size = file.size().map_err(MemoryError::Size)?;
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(MemoryError::BeyondFile);
    }
    let whole = size - size % page_size;
    Ok(wanted(file, offset, length, Space::File(whole)))
}

/// The pages of `file` that hold the `size` bytes of an area at `offset`, and
/// how far into them the area starts.
///
/// Neither has to be aligned (a dirty log of Cloud Hypervisor's is not), but
/// no page may lie wholly beyond the end of the file: the driver would fault
/// on it.
pub(super) fn area_extent(
    file: &MemoryFd,
    offset: u64,
    size: u64,
) -> Result<(Wanted, u64), MemoryError> {
    let page_size = file.page_size();
    let file_size = file.size().map_err(MemoryError::Size)?;
    let end = offset
        .checked_add(size)
        .filter(|end| *end <= file_size && size > 0);
    let end = end.ok_or(MemoryError::BeyondFile)?;
    let end = end
        .checked_next_multiple_of(page_size)
        .ok_or(MemoryError::BeyondFile)?;
    let within = offset % page_size;
    let start = offset - within;
    Ok((wanted(file, start, end - start, Space::Alone), within))
}

fn wanted(file: &MemoryFd, offset: u64, length: u64, space: Space) -> Wanted {
    Wanted {
        extent: Extent {
            file: file.identity(),
            offset,
            length,
        },
        alignment: ALIGNMENT.max(file.page_size()),
        before: None,
        space,
    }
}
