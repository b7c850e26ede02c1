// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The shared memory window: which of the frontend's memory the guest has.
//!
//! | message | here |
//! |---|---|
//! | SET_MEM_TABLE | [`Memory::replace`] |
//! | ADD_MEM_REG | [`Memory::add`] |
//! | REM_MEM_REG | [`Memory::remove`] |
//! | SET_LOG_BASE, GET_INFLIGHT_FD, SET_INFLIGHT_FD | [`Memory::place_area`] |
//! | SET_VRING_ADDR, IOTLB updates | [`Memory::translate`] |
//! | the driver's reply to one of the first four | [`Memory::settle`] |
//!
//! Each change happens completely or not at all. What it takes away stays
//! mapped until the driver has proved that it knows; then [`Memory::settle`]
//! unmaps it, or takes the whole change back if the driver refused it. One
//! change is pending at a time: the next message about memory has to wait.
//!
//! The device never looks into the memory. It maps the pages of files that are
//! memory (see [`crate::fd`]) that have a byte on them which a message speaks of,
//! and nothing else.

mod change;
mod error;
mod layout;
mod placing;
mod plan;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use vhost_guest_msg::{MemRegion, MemTable, Region, RemMemReg};
use vhost_guest_vmm_traits::SharedMemoryMapper;

pub(crate) use self::change::{Area, Outcome, RingAddress, Ticket};
pub(crate) use self::error::MemoryError;
use self::layout::{Layout, Wanted};
use self::plan::Plan;
use self::table::{area_extent, region_extent, Placed, PlacedArea, Table};
use self::watch::check_sizes;
pub(crate) use self::watch::{Missing, Watch};
use crate::fd::{FileIdentity, ForeignFd, MemoryFd, MemoryPolicy};

/// Bounds for what a frontend can make the device do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryLimits {
    /// Bytes in the window. A sparse file of the frontend's can make this VMM
    /// pay for so much memory.
    pub(crate) window_size: u64,
    /// Regions at a time. Six times as many pieces can be mapped at a time:
    /// two tables are while one replaces the other, and the first and last page
    /// of a region may be mapped by themselves.
    pub(crate) max_regions: usize,
    /// Which files are memory.
    pub(crate) policy: MemoryPolicy,
}

/// A change that waits for the driver.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    /// The table before the change.
    before: Table,
    /// What the change mapped.
    added: Vec<u64>,
    /// What the change makes superfluous.
    retired: Vec<u64>,
}

/// The frontend's memory, as far as it is in the window.
pub(crate) struct Memory {
    mapper: Arc<dyn SharedMemoryMapper>,
    limits: MemoryLimits,
    table: Table,
    /// What is mapped; this is the book that unmapping goes by.
    layout: Layout,
    /// One descriptor for each mapped file.
    files: BTreeMap<FileIdentity, MemoryFd>,
    /// Tells when one of them shrinks.
    watch: Watch,
    pending: Option<Pending>,
    tickets: u64,
    withdrawn: bool,
    dead: bool,
}

impl Memory {
    /// An empty window.
    ///
    /// # Errors
    ///
    /// The environment's: no descriptor, or no inotify.
    pub(crate) fn new(
        mapper: Arc<dyn SharedMemoryMapper>,
        limits: MemoryLimits,
    ) -> io::Result<Self> {
        // Three pieces for a region or area (its first and last page may be
        // others' too), in two generations.
        let max_pieces = limits.max_regions.saturating_add(2).saturating_mul(6);
        Ok(Self {
            mapper,
            limits,
            table: Table::default(),
            layout: Layout::new(limits.window_size, max_pieces),
            files: BTreeMap::new(),
            watch: Watch::new()?,
            pending: None,
            tickets: 0,
            withdrawn: false,
            dead: false,
        })
    }

    /// Replaces the table of regions (SET_MEM_TABLE).
    ///
    /// Returns the table as the driver gets it: user addresses are window
    /// offsets.
    ///
    /// # Errors
    ///
    /// Nothing has changed then, unless the error is fatal.
    pub(crate) fn replace(
        &mut self,
        regions: MemTable<ForeignFd>,
        rings: &[RingAddress],
    ) -> Result<(MemTable<()>, Ticket), MemoryError> {
        self.check_ready()?;
        let count = regions.regions().len();
        self.check_count(count)?;
        let (regions, fds) = regions.detach();
        let mut table = Table {
            regions: Vec::with_capacity(count),
            areas: self.table.areas.clone(),
        };
        let mut files = Vec::with_capacity(count);
        for (region, fd) in regions.regions().zip(fds) {
            let (placed, file) = self.examine(*region, fd)?;
            table.check_apart(&placed)?;
            table.regions.push(placed);
            files.push(file);
        }
        let ticket = self.change(table, files, 0..count, rings)?;
        let mut places = self.table.regions.iter().map(Placed::window_offset);
        let moved = regions.relocate(|_, _| places.next().unwrap_or_default());
        // Places in the window have an end.
        Ok((moved.map_err(|_| MemoryError::NoRoom)?, ticket))
    }

    /// Adds a region (ADD_MEM_REG). Returns it as the driver gets it.
    ///
    /// # Errors
    ///
    /// Nothing has changed then, unless the error is fatal.
    pub(crate) fn add(
        &mut self,
        added: MemRegion<ForeignFd>,
        rings: &[RingAddress],
    ) -> Result<(MemRegion<()>, Ticket), MemoryError> {
        self.check_ready()?;
        self.check_count(self.table.regions.len().saturating_add(1))?;
        let MemRegion { region, fd } = added;
        let (placed, file) = self.examine(region, fd)?;
        self.table.check_apart(&placed)?;
        let mut table = self.table.clone();
        let index = table.regions.len();
        table.regions.push(placed);
        let ticket = self.change(table, vec![file], index..index + 1, rings)?;
        let offset = self.table.regions.last().map_or(0, Placed::window_offset);
        let moved = MemRegion { region, fd: () }.relocate(offset);
        Ok((moved.map_err(|_| MemoryError::NoRoom)?, ticket))
    }

    /// Removes a region (REM_MEM_REG). Returns it as the driver knows it; it
    /// stays mapped until the ticket is settled.
    ///
    /// # Errors
    ///
    /// Nothing has changed then, unless the error is fatal.
    pub(crate) fn remove(
        &mut self,
        message: RemMemReg,
        rings: &[RingAddress],
    ) -> Result<(RemMemReg, Ticket), MemoryError> {
        self.check_ready()?;
        let index = self
            .table
            .find(&message.region)
            .ok_or(MemoryError::NoSuchRegion)?;
        let mut table = self.table.clone();
        let offset = table.regions.remove(index).window_offset();
        let moved = message.relocate(offset).map_err(|_| MemoryError::NoRoom)?;
        let ticket = self.change(table, Vec::new(), 0..0, rings)?;
        Ok((moved, ticket))
    }

    /// Puts an area into the window, in place of an older one of its kind, and
    /// returns the window offset of its first byte.
    ///
    /// # Errors
    ///
    /// Nothing has changed then, unless the error is fatal.
    pub(crate) fn place_area(
        &mut self,
        area: Area,
        fd: ForeignFd,
        offset: u64,
        size: u64,
    ) -> Result<(u64, Ticket), MemoryError> {
        self.check_ready()?;
        let file = MemoryFd::check(fd, self.limits.policy)?;
        let mut wanted = area_extent(&file, offset, size)?;
        let mut table = self.table.clone();
        if let Some(at) = table.areas.iter().position(|placed| placed.area == area) {
            wanted.before = table.areas.remove(at).wanted.before;
        }
        table.areas.push(PlacedArea { area, wanted });
        let index = table.regions.len() + table.areas.len() - 1;
        let ticket = self.change(table, vec![file], index..index + 1, &[])?;
        let placed = self
            .table
            .areas
            .last()
            .and_then(|placed| placed.wanted.before);
        Ok((placed.ok_or(MemoryError::NoRoom)?, ticket))
    }

    /// The file that an area is in, if it is in the window.
    pub(crate) fn file_of(&self, area: Area) -> Option<FileIdentity> {
        let mut areas = self.table.areas.iter();
        let placed = areas.find(|placed| placed.area == area)?;
        Some(placed.wanted.extent.file)
    }

    /// Where a range of the frontend's user addresses is in the window: all of
    /// it in one region.
    pub(crate) fn translate(&self, user_address: u64, length: u64) -> Option<u64> {
        self.table.translate(user_address, length)
    }

    /// Tells whether a change waits for the driver, so that the next one has to
    /// wait for it.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Tells whether the pending change takes something away, so that only the
    /// driver's reply can end it.
    pub(crate) fn needs_proof(&self) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|pending| !pending.retired.is_empty())
    }

    /// Ends a change, now that the driver has replied: unmaps what it does not
    /// need any more, or takes the change back. A ticket of the past has no
    /// effect.
    ///
    /// # Errors
    ///
    /// Something could not be unmapped: fatal.
    pub(crate) fn settle(&mut self, ticket: Ticket, outcome: Outcome) -> Result<(), MemoryError> {
        let Some(pending) = self.pending.take_if(|pending| pending.ticket == ticket.0) else {
            return Ok(());
        };
        let superfluous = match outcome {
            Outcome::Done => pending.retired,
            Outcome::Refused => {
                self.table = pending.before;
                pending.added
            }
        };
        self.unmap(superfluous)
    }

    /// Takes everything out of the window, whatever anybody thinks. When it
    /// returns, the guest has none of the frontend's memory.
    ///
    /// # Errors
    ///
    /// Something could not be unmapped: fatal. Calling it again tries again.
    pub(crate) fn revoke(&mut self) -> Result<(), MemoryError> {
        self.table = Table::default();
        self.pending = None;
        self.withdrawn = false;
        let everything = self.layout.pieces().keys().copied().collect();
        let outcome = self.unmap(everything);
        self.layout.forget_space();
        outcome
    }

    /// A part of [`revoke`](Self::revoke): takes a few pieces out of the
    /// window. Tells whether there were any.
    ///
    /// # Errors
    ///
    /// Something could not be unmapped: fatal.
    pub(crate) fn revoke_some(&mut self, most: usize) -> Result<bool, MemoryError> {
        let pieces = self.layout.pieces().keys().copied();
        let some: Vec<_> = pieces.take(most).collect();
        let any = !some.is_empty();
        self.unmap(some)?;
        Ok(any)
    }

    /// Bytes in the window, with memory or without.
    pub(crate) fn window_size(&self) -> u64 {
        self.limits.window_size
    }

    /// The most regions at a time.
    pub(crate) fn max_regions(&self) -> usize {
        self.limits.max_regions
    }

    /// Regions in the table.
    #[cfg(test)]
    pub(crate) fn region_count(&self) -> usize {
        self.table.regions.len()
    }

    /// Bytes that are mapped.
    pub(crate) fn mapped_bytes(&self) -> u64 {
        self.layout
            .pieces()
            .values()
            .map(|piece| piece.length)
            .sum()
    }

    fn check_ready(&self) -> Result<(), MemoryError> {
        if self.dead {
            return Err(MemoryError::Dead);
        }
        if self.withdrawn {
            return Err(MemoryError::Withdrawn);
        }
        if self.pending.is_some() {
            return Err(MemoryError::Pending);
        }
        Ok(())
    }

    fn check_count(&self, regions: usize) -> Result<(), MemoryError> {
        let max = self.limits.max_regions;
        (regions <= max)
            .then_some(())
            .ok_or(MemoryError::TooManyRegions(max))
    }

    fn examine(&self, region: Region, fd: ForeignFd) -> Result<(Placed, MemoryFd), MemoryError> {
        let file = MemoryFd::check(fd, self.limits.policy)?;
        let mut wanted = region_extent(&region, &file)?;
        wanted.before = self.table.place_of(&region, &wanted.extent);
        Ok((Placed { region, wanted }, file))
    }

    /// Carries out a change. `new` are the indices of what the message speaks
    /// of, among what `table` wants, and `files` their files.
    fn change(
        &mut self,
        mut table: Table,
        files: Vec<MemoryFd>,
        new: Range<usize>,
        rings: &[RingAddress],
    ) -> Result<Ticket, MemoryError> {
        let wanted = table.wanted();
        let plan = self.layout.plan(&wanted)?;
        // What the message does not speak of, the driver would not look for
        // elsewhere.
        let mut places = wanted.iter().zip(&plan.positions).enumerate();
        let stays = |(index, (wanted, position)): (usize, (&Wanted, &u64))| {
            new.contains(&index) || wanted.before == Some(*position)
        };
        if !places.all(stays) {
            return Err(MemoryError::Indivisible);
        }
        table.set_positions(&plan.positions);
        for ring in rings {
            let mut places = table.places(ring.user_address, 1).peekable();
            if places.peek().is_some() && places.all(|offset| offset != ring.window_offset) {
                return Err(MemoryError::RingMoved);
            }
        }
        let mut mapped = Vec::with_capacity(plan.map.len());
        let acquired = self
            .watch_all(&files)
            .and_then(|()| self.map(&plan, &files, &new, &mut mapped))
            .and_then(|()| check_sizes(wanted.get(new).unwrap_or_default(), &files));
        if let Err(error) = acquired {
            self.unmap(mapped)?;
            return Err(error);
        }
        Ok(self.commit(table, plan, files))
    }

    /// Maps what the plan asks for, and says in `mapped` how far it came.
    fn map(
        &mut self,
        plan: &Plan,
        files: &[MemoryFd],
        new: &Range<usize>,
        mapped: &mut Vec<u64>,
    ) -> Result<(), MemoryError> {
        for (index, at, piece) in &plan.map {
            let file = index
                .checked_sub(new.start)
                .and_then(|index| files.get(index));
            let Some(file) = file else {
                let missing = "no descriptor for a part of the memory";
                return Err(MemoryError::Map(io::Error::other(missing)));
            };
            self.mapper
                .map(*at, file.as_fd(), piece.offset, piece.length)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::PermissionDenied => MemoryError::NotMappable(error),
                    _ => MemoryError::Map(error),
                })?;
            self.layout.insert(*at, *piece);
            mapped.push(*at);
        }
        Ok(())
    }

    fn commit(&mut self, table: Table, plan: Plan, files: Vec<MemoryFd>) -> Ticket {
        self.tickets += 1;
        self.pending = Some(Pending {
            ticket: self.tickets,
            before: std::mem::replace(&mut self.table, table),
            added: plan.map.iter().map(|(_, at, _)| *at).collect(),
            retired: plan.retire,
        });
        self.layout = plan.layout;
        for file in files {
            self.files.entry(file.identity()).or_insert(file);
        }
        Ticket(self.tickets)
    }

    /// Unmaps pieces, all that can be.
    fn unmap(&mut self, pieces: Vec<u64>) -> Result<(), MemoryError> {
        let mut outcome = Ok(());
        for at in pieces {
            let Some(piece) = self.layout.pieces().get(&at) else {
                continue;
            };
            match self.mapper.unmap(at, piece.length) {
                Ok(()) => self.layout.remove(at),
                Err(error) => {
                    self.dead = true;
                    outcome = outcome.and(Err(MemoryError::Unmap(error)));
                }
            }
        }
        let layout = &self.layout;
        self.watch.retain(|identity| layout.uses(identity));
        self.files.retain(|identity, _| layout.uses(*identity));
        outcome
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("limits", &self.limits)
            .field("regions", &self.table.regions.len())
            .field("mapped_bytes", &self.mapped_bytes())
            .field("pending", &self.pending.is_some())
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Who wants to know whether it worked calls it himself.
        let _ = self.revoke();
    }
}

#[cfg(test)]
mod tests;
