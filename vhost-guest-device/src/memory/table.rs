// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's memory as it described it, and where that is in the window.

use vhost_guest_msg::Region;

use super::layout::{Extent, Space, Wanted};
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

    /// Whether a user address that is in both regions is the same byte in both.
    fn is_alias(&self, other: &Self) -> bool {
        let origin = |placed: &Self| {
            let user_address = placed.region.user_address();
            user_address.wrapping_sub(placed.wanted.extent.offset)
        };
        self.wanted.extent.file == other.wanted.extent.file && origin(self) == origin(other)
    }
}

/// An area that is not a region, and its place.
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
        self.places(user_address, length).next()
    }

    /// The same for each alias.
    pub(super) fn places(&self, user_address: u64, length: u64) -> impl Iterator<Item = u64> + '_ {
        self.regions.iter().filter_map(move |placed| {
            let within = placed.region.find_user(user_address, length)?;
            // The first byte has to exist even if none is asked for.
            (within < placed.region.size()).then_some(())?;
            placed.wanted.before?.checked_add(within)
        })
    }

    /// Makes sure that a region fits to those that are there: the frontend's
    /// guest has one memory at one address, and so has the frontend. Two regions
    /// at the same user addresses are aliases if they show the same bytes there.
    pub(super) fn check_apart(&self, new: &Placed) -> Result<(), MemoryError> {
        let conflict = |placed: &Placed| match placed.region.check_apart(&new.region) {
            Ok(()) => false,
            Err(_) if overlap_in_guest(&placed.region, &new.region) => true,
            Err(_) => !placed.is_alias(new),
        };
        match self.regions.iter().any(conflict) {
            true => Err(MemoryError::Overlap),
            false => Ok(()),
        }
    }
}

fn overlap_in_guest(one: &Region, other: &Region) -> bool {
    // No region reaches beyond the end of its address space.
    let end = |region: &Region| region.guest_address().saturating_add(region.size());
    one.guest_address() < end(other) && other.guest_address() < end(one)
}

/// What `region` wants of `file`, which has to have all of its bytes.
pub(super) fn region_extent(region: &Region, file: &MemoryFd) -> Result<Wanted, MemoryError> {
    extent(file, region.mmap_offset(), region.size(), Space::File)
}

/// What an area of `size` bytes at `offset` wants of `file`.
pub(super) fn area_extent(file: &MemoryFd, offset: u64, size: u64) -> Result<Wanted, MemoryError> {
    extent(file, offset, size, Space::Alone)
}

/// Neither offset nor size has to be a multiple of pages (libblkio's memory for
/// virtqueues is not, nor is Cloud Hypervisor's dirty log), but no page may lie
/// wholly beyond the end of the file: the driver would fault on it.
fn extent(file: &MemoryFd, offset: u64, size: u64, space: Space) -> Result<Wanted, MemoryError> {
    let file_size = file.size().map_err(MemoryError::Size)?;
    let end = offset.checked_add(size);
    if size == 0 || end.is_none_or(|end| end > file_size) {
        return Err(MemoryError::BeyondFile);
    }
    Ok(Wanted {
        extent: Extent {
            file: file.identity(),
            offset,
            length: size,
        },
        page_size: file.page_size(),
        file_size,
        before: None,
        space,
    })
}
