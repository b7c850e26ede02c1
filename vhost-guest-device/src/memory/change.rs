// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a change of the window is about, and how it ends.

use vhost_guest_msg::{Inflight, LogArea, LogBase, MemRegion, MemTable, RemMemReg, SetInflight};

use super::table::{Placed, Table};
use super::MemoryError;
use crate::fd::ForeignFd;

/// Memory of the frontend that is not a region of its guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// The dirty log.
    Log,
    /// The record of requests that are under way.
    Inflight,
}

/// A message that changes what is in the window.
#[derive(Debug)]
pub(crate) enum Change<F = ForeignFd> {
    /// SET_MEM_TABLE: these regions in the place of all others.
    Table(MemTable<F>),
    /// ADD_MEM_REG.
    Add(MemRegion<F>),
    /// REM_MEM_REG.
    Remove(RemMemReg),
    /// SET_LOG_BASE: an area in the place of the one before.
    Log(LogArea, F),
    /// SET_INFLIGHT_FD: likewise.
    Inflight(Inflight, F),
}

/// A change that has happened, as the driver is to hear of it: user addresses are
/// window offsets.
#[derive(Debug)]
pub(crate) enum Changed {
    /// SET_MEM_TABLE.
    Table(MemTable<()>),
    /// ADD_MEM_REG.
    Added(MemRegion<()>),
    /// REM_MEM_REG. It stays attached until the ticket is settled.
    Removed(RemMemReg),
    /// SET_LOG_BASE, and the log's place in the frontend's own terms.
    Log(LogBase<()>, LogArea),
    /// SET_INFLIGHT_FD.
    Inflight(SetInflight<()>),
}

impl Change<()> {
    /// What the driver hears, if `table` is what there is now, and `before` what
    /// was there.
    pub(super) fn told(self, table: &Table, before: &Table) -> Result<Changed, MemoryError> {
        let area = || {
            let last = table.areas.last();
            last.and_then(|placed| placed.wanted.before)
                .unwrap_or_default()
        };
        // Places in the window have an end, so that nothing here overflows.
        let told = match self {
            Self::Table(regions) => {
                let mut places = table.regions.iter().map(Placed::window_offset);
                let moved = regions.relocate(|_, _| places.next().unwrap_or_default());
                moved.map(Changed::Table)
            }
            Self::Add(region) => {
                let offset = table.regions.last().map_or(0, Placed::window_offset);
                region.relocate(offset).map(Changed::Added)
            }
            Self::Remove(message) => {
                let at = before.find(&message.region);
                let placed = at.and_then(|at| before.regions.get(at));
                let offset = placed.map_or(0, Placed::window_offset);
                message.relocate(offset).map(Changed::Removed)
            }
            Self::Log(log, fd) => {
                let placed = LogBase::Shared { area: log, fd }.with_offset(area());
                placed.map(|placed| Changed::Log(placed, log))
            }
            Self::Inflight(record, fd) => {
                let placed = record.with_offset(area());
                let placed = placed.and_then(|record| SetInflight::new(record, fd));
                placed.map(Changed::Inflight)
            }
        };
        told.map_err(|_| MemoryError::NoRoom)
    }
}

/// What the driver said to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It replied to the message, or to a later one.
    Done,
    /// It sent a negative acknowledgement.
    Refused,
}

/// Where the driver believes a ring to be, because a SET_VRING_ADDR said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddress {
    /// The address that the frontend gave.
    pub(crate) user_address: u64,
    /// The address that the driver got.
    pub(crate) window_offset: u64,
}

/// Names a change that the driver has not replied to yet.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the change is pending until the ticket is settled"]
pub(crate) struct Ticket(pub(super) u64);
