// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is attached to the window now.
//!
//! | who | does |
//! |---|---|
//! | the worker | attaches what a change of memory brings, detaches what it took away |
//! | who resets or revokes | raises the epoch, and detaches what is older ([`detach_before`]) |
//! | a vCPU that cannot access memory | [`withdraw`] |
//! | who moves the BAR | [`Window::place`] |
//!
//! Everything here touches the VMM's slots and nothing else. It has a lock of its
//! own, so that none of them waits for a peer, nor for who does.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use vhost_guest_vmm_traits::SharedMemoryMapper;

use super::askers::Askers;
use super::range::Range;
use super::MemoryError;
use crate::event_loop::deadline::Deadline;
use crate::sync::{Epoch, Epochs, Ordered};

/// Memory in the window that the guest must not touch any more.
#[derive(Clone, Debug)]
pub(crate) enum Missing {
    /// What [was found](truncated) to have pages behind the end of its file, in order.
    Truncated(Vec<Place>),
    /// What is at this window offset: a vCPU could not access it, and whatever the
    /// size of its file is, there was no page for it.
    At(u64),
    /// Nobody knows what: everything.
    Everything,
}

/// Where a range is attached, if it is not detached meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    at: u64,
    serial: u64,
}

/// Why the window is not where it should be.
#[derive(Debug)]
pub(crate) enum Misplaced {
    /// It is nowhere now.
    Nowhere(io::Error),
    /// It could not be taken from where it was: fatal.
    Stuck(io::Error),
}

/// A range in the window.
#[derive(Debug)]
struct Attached {
    range: Range,
    serial: u64,
    epoch: Epoch,
    /// It could not be detached.
    stuck: bool,
}

impl Attached {
    fn place(&self, at: u64) -> Place {
        let serial = self.serial;
        Place { at, serial }
    }

    /// Whether it has this window offset, if it is at `at`.
    fn covers(&self, at: u64, offset: u64) -> bool {
        let within = offset.checked_sub(at);
        within.is_some_and(|within| within < self.range.piece().length)
    }
}

/// The window of a device.
pub(crate) struct Window {
    mapper: Arc<dyn SharedMemoryMapper>,
    epochs: Arc<Epochs>,
    /// Ask the present frontend's files.
    askers: Askers,
    /// By window offset; they do not overlap.
    attached: BTreeMap<u64, Attached>,
    /// How many ranges were attached so far.
    serial: u64,
    /// The latest epoch from which memory was withdrawn.
    withdrawn: Option<Epoch>,
    dead: bool,
}

impl Window {
    /// An empty window, which is nowhere.
    pub(crate) fn new(
        mapper: Arc<dyn SharedMemoryMapper>,
        epochs: Arc<Epochs>,
        askers: Askers,
    ) -> Self {
        Self {
            mapper,
            epochs,
            askers,
            attached: BTreeMap::new(),
            serial: 0,
            withdrawn: None,
            dead: false,
        }
    }

    /// Who asks the files of the frontend that is there.
    pub(super) fn askers(&self) -> Askers {
        self.askers.clone()
    }

    /// Another frontend is there, with files of its own.
    pub(super) fn set_askers(&mut self, askers: Askers) {
        self.askers = askers;
    }

    /// The epoch that it is now.
    pub(super) fn epoch(&self) -> Epoch {
        self.epochs.current()
    }

    /// Attaches a range, unless the epoch that it is for is over.
    ///
    /// # Errors
    ///
    /// It is not attached then.
    pub(super) fn attach(
        &mut self,
        epoch: Epoch,
        at: u64,
        range: Range,
    ) -> Result<(), MemoryError> {
        self.check(epoch)?;
        self.mapper
            .attach(range.id(), at)
            .map_err(MemoryError::Map)?;
        self.serial += 1;
        let attached = Attached {
            range,
            serial: self.serial,
            epoch,
            stuck: false,
        };
        self.attached.insert(at, attached);
        Ok(())
    }

    /// Makes sure that memory may be attached for this epoch.
    pub(super) fn check(&self, epoch: Epoch) -> Result<(), MemoryError> {
        if self.dead {
            return Err(MemoryError::Dead);
        }
        if epoch != self.epochs.current() {
            return Err(MemoryError::Stale);
        }
        if self.withdrawn == Some(epoch) {
            return Err(MemoryError::Withdrawn);
        }
        Ok(())
    }

    /// Detaches what is attached at `at` for this epoch, if something is.
    ///
    /// # Errors
    ///
    /// The guest may still have it: fatal.
    pub(super) fn detach(&mut self, epoch: Epoch, at: u64) -> Result<(), MemoryError> {
        match self.attached.get(&at) {
            Some(attached) if attached.epoch == epoch => self.take(at),
            _ => Ok(()),
        }
    }

    /// Detaches ranges of epochs before this one, until the time is over. Tells
    /// whether there may be more.
    ///
    /// # Errors
    ///
    /// Some could not be detached: fatal. Calling it again goes on with the
    /// others; only [`try_again`](Self::try_again) tries those again.
    pub(crate) fn detach_some(
        &mut self,
        before: Epoch,
        until: Deadline,
    ) -> Result<bool, MemoryError> {
        let old = |(at, attached): (&u64, &Attached)| {
            (attached.epoch < before && !attached.stuck).then_some(*at)
        };
        let old: Vec<_> = self.attached.iter().filter_map(old).collect();
        for at in old {
            self.take(at)?;
            if until.is_over() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lets what could not be detached be tried again.
    pub(super) fn try_again(&mut self) {
        self.attached.values_mut().for_each(|a| a.stuck = false);
    }

    /// Finds what is to be withdrawn. The frontend that does not provide the memory
    /// that it shared loses it: nothing more is attached in this epoch.
    fn condemn(&mut self, missing: &Missing) -> Vec<Place> {
        let all = self.attached.iter().map(|(at, a)| (a.place(*at), a));
        let lost = all.filter(|(place, attached)| match missing {
            Missing::Truncated(places) => places.binary_search(place).is_ok(),
            Missing::At(offset) => attached.covers(place.at, *offset),
            Missing::Everything => true,
        });
        let (lost, epochs): (Vec<_>, Vec<_>) = lost.map(|(at, a)| (at, a.epoch)).unzip();
        self.withdrawn = self.withdrawn.max(epochs.into_iter().max());
        lost
    }

    /// Places the window, or takes it out of the guest's address space.
    ///
    /// # Errors
    ///
    /// It is nowhere, or stuck.
    pub(crate) fn place(&mut self, address: Option<u64>) -> Result<(), Misplaced> {
        let Err(error) = self.mapper.place(address) else {
            return Ok(());
        };
        let hidden = match address {
            Some(_) => self.mapper.place(None),
            None => Err(error.kind().into()),
        };
        self.dead |= hidden.is_err();
        Err(match hidden {
            Ok(()) => Misplaced::Nowhere(error),
            Err(error) => Misplaced::Stuck(error),
        })
    }

    /// Whether nothing is attached.
    pub(crate) fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// Bytes that are attached.
    #[cfg(test)]
    pub(crate) fn attached_bytes(&self) -> u64 {
        let ranges = self.attached.values();
        ranges.map(|attached| attached.range.piece().length).sum()
    }

    /// What is attached: window offset, file offset, length.
    #[cfg(test)]
    pub(super) fn ranges(&self) -> Vec<(u64, u64, u64)> {
        let piece = |attached: &Attached| *attached.range.piece();
        let ranges = self.attached.iter().map(|(at, a)| (*at, piece(a)));
        ranges.map(|(at, p)| (at, p.offset, p.length)).collect()
    }

    /// Detaches what is at a window offset.
    fn take(&mut self, at: u64) -> Result<(), MemoryError> {
        let Some(attached) = self.attached.get_mut(&at) else {
            return Ok(());
        };
        if let Err(error) = self.mapper.detach(attached.range.id()) {
            attached.stuck = true;
            self.dead = true;
            return Err(MemoryError::Unmap(error));
        }
        // Closed when it is dropped, elsewhere.
        self.attached.remove(&at);
        Ok(())
    }

    /// Detaches what is at these places, from the last on, for as long as a piece may
    /// take. Leaves those that are left.
    fn take_some(
        &mut self,
        places: &mut Vec<Place>,
        deadline: Deadline,
    ) -> Result<(), MemoryError> {
        let mut outcome = Ok(());
        while let Some(Place { at, serial }) = places.pop() {
            let attached = self.attached.get(&at);
            if attached.is_some_and(|attached| attached.serial == serial) {
                outcome = outcome.and(self.take(at));
            }
            if deadline.is_over() {
                break;
            }
        }
        outcome
    }
}

/// Detaches everything that was attached before this epoch. When it returns `Ok`,
/// the guest has none of it. Others get at the window in between.
///
/// # Errors
///
/// Something could not be detached, all that could be is: fatal. Calling it again
/// tries again.
pub(crate) fn detach_before(window: &Ordered<Window>, epoch: Epoch) -> Result<(), MemoryError> {
    let mut outcome = Ok(());
    window.lock().try_again();
    loop {
        let some = window.lock().detach_some(epoch, Deadline::of_a_piece());
        match some {
            Ok(true) => {}
            Ok(false) => return outcome,
            Err(error) => outcome = Err(error),
        }
    }
}

/// Withdraws memory that is not there. Tells whether there was any. Others get at
/// the window in between.
///
/// # Errors
///
/// Something could not be detached: fatal.
pub(crate) fn withdraw(window: &Ordered<Window>, missing: &Missing) -> Result<bool, MemoryError> {
    let mut lost = window.lock().condemn(missing);
    let found = !lost.is_empty();
    let mut outcome = Ok(());
    while !lost.is_empty() {
        let deadline = Deadline::of_a_piece();
        outcome = outcome.and(window.lock().take_some(&mut lost, deadline));
    }
    outcome.map(|()| found)
}

/// Where ranges are that have pages behind the end of their file. To be called where
/// nobody waits: it asks each file for its size.
pub(crate) fn truncated(window: &Ordered<Window>) -> Vec<Place> {
    let attached: Vec<_> = {
        let window = window.lock();
        let attached = window.attached.iter();
        let piece = |(at, a): (&u64, &Attached)| {
            let file = Arc::clone(a.range.file());
            (a.place(*at), a.range.piece().end(), file)
        };
        attached.map(piece).collect()
    };
    let mut ends = BTreeMap::new();
    let lost = attached.into_iter().filter(|(_, end, file)| {
        let file_end = ends
            .entry(file.identity())
            .or_insert_with(|| file.pages_end().unwrap_or(0));
        end > file_end
    });
    lost.map(|(place, ..)| place).collect()
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("ranges", &self.attached.len())
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Who wants to know whether it worked has called before.
        self.try_again();
        for at in self.attached.keys().copied().collect::<Vec<_>>() {
            let _ = self.take(at);
        }
        let stuck = self.attached.values_mut();
        stuck.for_each(|stuck| stuck.range.keep_open());
    }
}
