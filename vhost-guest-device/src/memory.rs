// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The shared memory window: which of the frontend's memory the guest has.
//!
//! | message | here |
//! |---|---|
//! | SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG, SET_LOG_BASE, SET_INFLIGHT_FD | [`Memory::begin`] a [`Change`], then [`Memory::lend`] |
//! | the driver's reply to one of these | [`Memory::settle`], then [`Memory::take_back`] |
//! | SET_VRING_ADDR, IOTLB updates | [`Memory::translate`] |
//!
//! Each change happens completely or not at all. What it takes away stays
//! attached until the driver has proved that it knows; then [`Memory::settle`]
//! lets it go, or takes the whole change back if the driver refused it. One
//! change is pending at a time: the next message about memory has to wait.
//!
//! [`Memory`] is what is planned, and one connection's; [`Window`] is what the
//! guest has now, and anybody may take it away ([`window`]).
//!
//! The device never looks into the memory. It maps the pages of files that are
//! memory (see [`crate::fd`]) that have a byte on them which a message speaks of,
//! and nothing else.

mod admission;
pub(crate) mod askers;
mod change;
mod error;
mod layout;
mod lending;
mod placing;
mod plan;
mod range;
mod table;
mod watch;
pub(crate) mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vhost_guest_vmm_traits::SharedMemoryMapper;

pub(crate) use self::askers::Askers;
use self::askers::Question;
pub(crate) use self::change::{Area, Change, Changed, Outcome, RingAddress, Ticket};
pub(crate) use self::error::MemoryError;
use self::layout::Layout;
use self::lending::{Pending, UnderWay};
use self::table::Table;
use self::watch::Watch;
pub(crate) use self::window::{Misplaced, Missing, Window};
use crate::fd::{FileIdentity, Launcher, MemoryFd, MemoryPolicy, Reaper};
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

/// The frontend's memory: what is to be in the window, and where.
pub(crate) struct Memory {
    mapper: Arc<dyn SharedMemoryMapper>,
    window: Arc<Ordered<Window>>,
    reaper: Reaper,
    askers: Askers,
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
    /// How large are files that have changed?
    sizes: Option<Question>,
    /// A change that the driver has not heard of yet.
    under_way: Option<UnderWay>,
    /// A change that it has heard of, and not answered.
    pending: Option<Pending>,
    /// Where things are that are to be detached.
    leaving: Vec<u64>,
    tickets: u64,
}

impl Memory {
    /// Nothing, in an empty window. `mapper` opens what `window` attaches.
    pub(crate) fn new(
        mapper: Arc<dyn SharedMemoryMapper>,
        window: Arc<Ordered<Window>>,
        reaper: Reaper,
        limits: MemoryLimits,
    ) -> Self {
        let (askers, epoch) = {
            let window = window.lock();
            (window.askers(), window.epoch())
        };
        Self {
            mapper,
            window,
            reaper,
            askers,
            limits,
            epoch,
            table: Table::default(),
            layout: limits.layout(),
            files: BTreeMap::new(),
            watch: Watch::default(),
            sizes: None,
            under_way: None,
            pending: None,
            leaving: Vec::new(),
            tickets: 0,
        }
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

    /// Forgets everything: the window was emptied of what was there before
    /// `epoch`, or is just being emptied. What comes now is for `epoch`.
    ///
    /// What [`changes`](Self::changes) said to wait for is waited for no longer.
    pub(crate) fn renew(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.table = Table::default();
        self.sizes = None;
        self.under_way = None;
        self.pending = None;
        self.leaving.clear();
        self.layout = self.limits.layout();
        self.let_go();
        self.watch.reset();
        self.askers = self.askers.for_frontend();
        self.window.lock().set_askers(self.askers.clone());
    }

    /// Readable when a file has changed that is lent: see
    /// [`take_changes`](Self::take_changes). `None` while no file can.
    pub(crate) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_fd()
    }

    /// Takes note of changes of files, of which each may have made one smaller: their
    /// sizes are asked for.
    pub(crate) fn take_changes(&mut self) {
        self.watch.take();
        match &mut self.sizes {
            Some(question) => question.renew(),
            None => self.sizes = Some(Question::ask(&self.window)),
        }
    }

    /// What the files have lost that have changed, once that is known.
    pub(crate) fn lost(&mut self) -> Option<Missing> {
        let (lost, again) = self.sizes.as_ref()?.answer()?;
        self.sizes = again.then(|| Question::ask(&self.window));
        Some(lost)
    }

    /// Whether frontends before have left so much to do that another one could not
    /// share memory.
    pub(crate) fn is_full(&self) -> bool {
        self.askers.is_full()
    }

    /// Has threads made when there is something to do.
    pub(crate) fn start_threads(&self, launcher: &Launcher) {
        self.askers.start(launcher);
    }

    /// Lets no file answer how large it is until what this returns is dropped.
    #[cfg(test)]
    pub(crate) fn hold_sizes(&self) -> std::sync::mpsc::Sender<()> {
        self.askers.hold_sizes()
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
