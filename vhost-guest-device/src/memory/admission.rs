// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is done with a frontend's files before anything of them is lent.
//!
//! Each step asks the kernel something about a file, and whoever else has the file
//! can make it wait for the answer: `statx` for the inode's lock, `mmap` for the
//! lock of its mappings. So all of it is done in one go, where nobody waits for it,
//! on a copy of what is planned so far:
//!
//! ```text
//!   examine ──▶ plan ──▶ watch ──▶ open ──▶ look at the sizes again
//! ```

use std::collections::BTreeMap;
use std::io;
use std::ops;
use std::sync::Arc;

use vhost_guest_msg::{MemRegion, Region};
use vhost_guest_vmm_traits::SharedMemoryMapper;

use super::askers::Askers;
use super::change::{Area, Change, Changed, RingAddress};
use super::layout::{Layout, Piece, Wanted};
use super::plan::Plan;
use super::range::Range;
use super::table::{area_extent, region_extent, Placed, PlacedArea, Table};
use super::watch::{Watch, Watches};
use super::MemoryError;
use crate::fd::{FileIdentity, ForeignFd, MemoryFd, MemoryPolicy, Reaper};

/// A change whose files have to be looked at, and all that is needed for that.
pub(super) struct Admission {
    pub(super) rings: Vec<RingAddress>,
    pub(super) policy: MemoryPolicy,
    pub(super) table: Table,
    pub(super) layout: Layout,
    pub(super) files: BTreeMap<FileIdentity, Arc<MemoryFd>>,
    pub(super) watch: Watch,
    pub(super) mapper: Arc<dyn SharedMemoryMapper>,
    pub(super) reaper: Reaper,
    pub(super) askers: Askers,
}

/// A change that no file can hold up any more.
#[derive(Debug)]
pub(super) struct Admitted {
    /// How the driver is to hear of it.
    pub(super) changed: Changed,
    pub(super) table: Table,
    pub(super) layout: Layout,
    /// What is to be attached, and where.
    pub(super) ranges: Vec<(u64, Range)>,
    /// Window offsets of what is not needed any more.
    pub(super) retired: Vec<u64>,
    /// The files that the message came with.
    pub(super) files: Vec<Arc<MemoryFd>>,
    pub(super) watches: Watches,
}

/// A table that is to be.
struct Draft {
    table: Table,
    /// The files of what is new.
    files: Vec<Arc<MemoryFd>>,
    /// What is new: where it is among what the table wants.
    new: ops::Range<usize>,
    /// The message without its descriptors.
    message: Change<()>,
}

impl Admission {
    /// Does everything that may wait for a peer.
    ///
    /// # Errors
    ///
    /// Nothing has changed.
    pub(super) fn run(mut self, change: Change) -> Result<Admitted, MemoryError> {
        let Draft {
            mut table,
            files,
            new,
            message,
        } = self.draft(change)?;
        let wanted = table.wanted();
        let plan = self.plan(&wanted, &new)?;
        table.set_positions(&plan.positions);
        self.check_rings(&table)?;
        let changed = message.told(&table, &self.table)?;
        let watches = self.watch.add_all(&files, &self.reaper)?;
        let ranges = self.open(&plan, &files, new.start)?;
        check_sizes(wanted.get(new).unwrap_or_default(), &files)?;
        Ok(Admitted {
            changed,
            table,
            layout: plan.layout,
            ranges,
            retired: plan.retire,
            files,
            watches,
        })
    }

    /// The table as it is to be, without places for what is new in it.
    fn draft(&mut self, change: Change) -> Result<Draft, MemoryError> {
        let mut table = self.table.clone();
        let mut files = Vec::new();
        let message = match change {
            Change::Table(regions) => {
                let (regions, fds) = regions.detach();
                table.regions.clear();
                for (region, fd) in regions.regions().zip(fds) {
                    files.push(self.add(&mut table, *region, fd)?);
                }
                Change::Table(regions)
            }
            Change::Add(MemRegion { region, fd }) => {
                files.push(self.add(&mut table, region, fd)?);
                Change::Add(MemRegion { region, fd: () })
            }
            Change::Remove(message) => {
                let index = table.find(&message.region);
                table
                    .regions
                    .remove(index.ok_or(MemoryError::NoSuchRegion)?);
                Change::Remove(message)
            }
            Change::Log(area, fd) => {
                let place = (area.offset(), area.size());
                files.push(self.place(&mut table, Area::Log, fd, place)?);
                Change::Log(area, ())
            }
            Change::Inflight(record, fd) => {
                let place = (record.mmap_offset(), record.mmap_size());
                files.push(self.place(&mut table, Area::Inflight, fd, place)?);
                Change::Inflight(record, ())
            }
        };
        // What is new is the last of its kind.
        let end = match message {
            Change::Log(..) | Change::Inflight(..) => table.regions.len() + table.areas.len(),
            Change::Table(_) | Change::Add(_) | Change::Remove(_) => table.regions.len(),
        };
        Ok(Draft {
            new: end - files.len()..end,
            table,
            files,
            message,
        })
    }

    /// Adds a region to a table that is to be. Returns its file.
    fn add(
        &mut self,
        table: &mut Table,
        region: Region,
        fd: ForeignFd,
    ) -> Result<Arc<MemoryFd>, MemoryError> {
        let file = self.examine(fd)?;
        let mut wanted = region_extent(&region, &file)?;
        wanted.before = self.table.place_of(&region, &wanted.extent);
        let placed = Placed { region, wanted };
        table.check_apart(&placed)?;
        table.regions.push(placed);
        Ok(file)
    }

    /// Puts an area into a table that is to be, in the place of an older one of its
    /// kind. Returns its file.
    fn place(
        &mut self,
        table: &mut Table,
        area: Area,
        fd: ForeignFd,
        (offset, size): (u64, u64),
    ) -> Result<Arc<MemoryFd>, MemoryError> {
        let file = self.examine(fd)?;
        let mut wanted = area_extent(&file, offset, size)?;
        if let Some(at) = table.areas.iter().position(|placed| placed.area == area) {
            wanted.before = table.areas.remove(at).wanted.before;
        }
        table.areas.push(PlacedArea { area, wanted });
        Ok(file)
    }

    /// Finds out whether a descriptor is memory. Of each file, one is kept.
    fn examine(&mut self, fd: ForeignFd) -> Result<Arc<MemoryFd>, MemoryError> {
        let file = MemoryFd::check(fd, self.policy)?;
        let entry = self.files.entry(file.identity());
        Ok(Arc::clone(entry.or_insert_with(|| Arc::new(file))))
    }

    /// Finds places for all that is wanted, of which `new` is what the message
    /// speaks of.
    fn plan(&self, wanted: &[Wanted], new: &ops::Range<usize>) -> Result<Plan, MemoryError> {
        let plan = self.layout.plan(wanted)?;
        // What the message does not speak of, the driver would not look for
        // elsewhere.
        let mut places = wanted.iter().zip(&plan.positions).enumerate();
        let stays = |(index, (wanted, position)): (usize, (&Wanted, &u64))| {
            new.contains(&index) || wanted.before == Some(*position)
        };
        match places.all(stays) {
            true => Ok(plan),
            false => Err(MemoryError::Indivisible),
        }
    }

    /// Makes sure that no ring would be elsewhere.
    fn check_rings(&self, table: &Table) -> Result<(), MemoryError> {
        for ring in &self.rings {
            let mut places = table.places(ring.user_address, 1).peekable();
            if places.peek().is_some() && places.all(|offset| offset != ring.window_offset) {
                return Err(MemoryError::RingMoved);
            }
        }
        Ok(())
    }

    /// Opens what the plan asks for. `files` are those of what the message
    /// speaks of, the first of which is number `first` in the plan.
    fn open(
        &self,
        plan: &Plan,
        files: &[Arc<MemoryFd>],
        first: usize,
    ) -> Result<Vec<(u64, Range)>, MemoryError> {
        let open = |(index, at, piece): &(usize, u64, Piece)| {
            let file = index.checked_sub(first).and_then(|index| files.get(index));
            let Some(file) = file else {
                let missing = "no descriptor for a part of the memory";
                return Err(MemoryError::Map(io::Error::other(missing)));
            };
            let range = Range::open(&self.mapper, file, *piece, &self.askers)?;
            Ok((*at, range))
        };
        plan.map.iter().map(open).collect()
    }
}

/// Makes sure that files still have what is wanted of them, now that nobody can
/// make them smaller unnoticed.
fn check_sizes(wanted: &[Wanted], files: &[Arc<MemoryFd>]) -> Result<(), MemoryError> {
    for (wanted, file) in wanted.iter().zip(files) {
        let size = file.size().map_err(MemoryError::Size)?;
        if wanted.extent.end() > size {
            return Err(MemoryError::BeyondFile);
        }
    }
    Ok(())
}
