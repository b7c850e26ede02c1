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
//! attached until the driver has proved that it knows; then [`Memory::settle`]
//! detaches it, or takes the whole change back if the driver refused it. One
//! change is pending at a time: the next message about memory has to wait.
//!
//! [`Memory`] is what is planned, and one connection's; [`Window`] is what the
//! guest has now, and anybody may take it away ([`window`]).
//!
//! The device never looks into the memory. It maps the pages of files that are
//! memory (see [`crate::fd`]) that have a byte on them which a message speaks of,
//! and nothing else.

mod change;
mod error;
mod layout;
mod placing;
mod plan;
mod range;
mod table;
mod watch;
pub(crate) mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops;
use std::sync::Arc;

use vhost_guest_msg::{MemRegion, MemTable, Region, RemMemReg};
use vhost_guest_vmm_traits::SharedMemoryMapper;

pub(crate) use self::change::{Area, Outcome, RingAddress, Ticket};
pub(crate) use self::error::MemoryError;
use self::layout::{Layout, Piece, Wanted};
use self::plan::Plan;
use self::range::Range;
use self::table::{area_extent, region_extent, Placed, PlacedArea, Table};
use self::watch::check_sizes;
pub(crate) use self::watch::Watch;
pub(crate) use self::window::{Misplaced, Missing, Window};
use crate::fd::{FileIdentity, ForeignFd, MemoryFd, MemoryPolicy, Reaper};
use crate::sync::{Epoch, Ordered};

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

impl MemoryLimits {
    /// An empty window with these limits.
    fn layout(&self) -> Layout {
        // Three pieces for a region or area (its first and last page may be
        // others' too), in two generations.
        let max_pieces = self.max_regions.saturating_add(2).saturating_mul(6);
        Layout::new(self.window_size, max_pieces)
    }
}

/// A change that waits for the driver.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    /// The table before the change.
    before: Table,
    /// What the change attached.
    added: Vec<u64>,
    /// What the change makes superfluous.
    retired: Vec<u64>,
}

/// The frontend's memory: what is to be in the window, and where.
pub(crate) struct Memory {
    mapper: Arc<dyn SharedMemoryMapper>,
    window: Arc<Ordered<Window>>,
    reaper: Reaper,
    limits: MemoryLimits,
    /// The epoch that everything here is for.
    epoch: Epoch,
    table: Table,
    /// What is attached, if nobody has taken it away.
    layout: Layout,
    /// One descriptor for each file in the layout.
    files: BTreeMap<FileIdentity, Arc<MemoryFd>>,
    /// Tells when one of them shrinks.
    watch: Watch,
    pending: Option<Pending>,
    tickets: u64,
}

impl Memory {
    /// Nothing, in an empty window. `mapper` opens what `window` attaches, and
    /// `reaper` closes it.
    ///
    /// # Errors
    ///
    /// The environment's: no descriptor, or no inotify.
    pub(crate) fn new(
        mapper: Arc<dyn SharedMemoryMapper>,
        window: Arc<Ordered<Window>>,
        reaper: Reaper,
        epoch: Epoch,
        limits: MemoryLimits,
    ) -> io::Result<Self> {
        Ok(Self {
            mapper,
            window,
            reaper,
            limits,
            epoch,
            table: Table::default(),
            layout: limits.layout(),
            files: BTreeMap::new(),
            watch: Watch::new()?,
            pending: None,
            tickets: 0,
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

    /// Ends a change, now that the driver has replied: detaches what it does not
    /// need any more, or takes the change back. A ticket of the past has no
    /// effect.
    ///
    /// # Errors
    ///
    /// Something could not be detached: fatal.
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
        self.detach(&superfluous)
    }

    /// Forgets everything: the window was emptied of what was there before
    /// `epoch`, or is just being emptied. What comes now is for `epoch`.
    pub(crate) fn renew(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.table = Table::default();
        self.pending = None;
        self.layout = self.limits.layout();
        self.let_go();
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

    fn check_ready(&self) -> Result<(), MemoryError> {
        self.window.lock().check(self.epoch)?;
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
        new: ops::Range<usize>,
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
        let files: Vec<_> = files.into_iter().map(|file| self.keep(file)).collect();
        let attached = self
            .watch_all(&files)
            .and_then(|()| self.open(&plan, &files, new.start))
            .and_then(|ranges| {
                check_sizes(wanted.get(new).unwrap_or_default(), &files)?;
                self.attach(ranges)
            });
        if let Err(error) = attached {
            self.let_go();
            return Err(error);
        }
        Ok(self.commit(table, plan))
    }

    /// Keeps one descriptor for each file.
    fn keep(&mut self, file: MemoryFd) -> Arc<MemoryFd> {
        let entry = self.files.entry(file.identity());
        Arc::clone(entry.or_insert_with(|| Arc::new(file)))
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
            let range = Range::open(&self.mapper, file, *piece, &self.reaper)?;
            Ok((*at, range))
        };
        plan.map.iter().map(open).collect()
    }

    /// Attaches all ranges, or none.
    fn attach(&self, ranges: Vec<(u64, Range)>) -> Result<(), MemoryError> {
        let mut window = self.window.lock();
        let mut attached = Vec::with_capacity(ranges.len());
        for (at, range) in ranges {
            if let Err(error) = window.attach(self.epoch, at, range) {
                let back = attached.iter().map(|at| window.detach(self.epoch, *at));
                // What is fatal is worse than what it was about.
                return back.fold(Ok(()), Result::and).and(Err(error));
            }
            attached.push(at);
        }
        Ok(())
    }

    fn commit(&mut self, table: Table, plan: Plan) -> Ticket {
        self.tickets += 1;
        self.pending = Some(Pending {
            ticket: self.tickets,
            before: std::mem::replace(&mut self.table, table),
            added: plan.map.iter().map(|(_, at, _)| *at).collect(),
            retired: plan.retire,
        });
        self.layout = plan.layout;
        Ticket(self.tickets)
    }

    /// Detaches pieces, all that can be.
    fn detach(&mut self, pieces: &[u64]) -> Result<(), MemoryError> {
        let mut outcome = Ok(());
        let mut window = self.window.lock();
        for at in pieces {
            match window.detach(self.epoch, *at) {
                Ok(()) => self.layout.remove(*at),
                Err(error) => outcome = Err(error),
            }
        }
        drop(window);
        self.let_go();
        outcome
    }

    /// Lets go of files that are not in the layout.
    fn let_go(&mut self) {
        let layout = &self.layout;
        self.watch.retain(|identity| layout.uses(identity));
        self.files.retain(|identity, _| layout.uses(*identity));
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("limits", &self.limits)
            .field("regions", &self.table.regions.len())
            .field("window", &self.window)
            .field("pending", &self.pending.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
