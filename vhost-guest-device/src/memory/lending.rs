// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A change of the window on its way: what it brings is attached, what it took away
//! is detached, both in pieces.
//!
//! ```text
//!   begin ──▶ admission ──▶ attaching ──▶ pending ──▶ leaving
//!             (elsewhere)   (in pieces)   (driver)    (in pieces)
//! ```
//!
//! A slot costs something in each VMM, and there can be hundreds. So nobody holds
//! the window's lock for more than a piece of time, and no turn of the worker's
//! takes longer.

use super::admission::{Admission, Admitted};
use super::change::{Change, Changed, Outcome, RingAddress, Ticket};
use super::range::Range;
use super::table::Table;
use super::{Memory, MemoryError};
use crate::event_loop::deadline::Deadline;
use crate::fd::Answer;

/// How far a change is that the driver has not heard of yet.
pub(super) enum UnderWay {
    /// Its files are looked at.
    Admitting(Answer<Result<Admitted, MemoryError>>),
    /// What it brings is attached.
    Attaching(Box<Attaching>),
    /// It failed. What was attached goes first.
    Failed(MemoryError),
}

/// A change whose files are admitted.
#[derive(Debug)]
pub(super) struct Attaching {
    changed: Changed,
    table: Table,
    layout: super::Layout,
    retired: Vec<u64>,
    /// What is to be attached.
    ranges: std::vec::IntoIter<(u64, Range)>,
    /// What is.
    attached: Vec<u64>,
}

/// A change that waits for the driver.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: u64,
    /// The table before the change.
    before: Table,
    /// What the change attached.
    added: Vec<u64>,
    /// What the change makes superfluous.
    retired: Vec<u64>,
}

impl Memory {
    /// Begins a change. Until it has [happened](Self::lend) there is no other.
    /// `rings` are where the driver believes rings to be.
    ///
    /// # Errors
    ///
    /// Nothing has changed.
    pub(crate) fn begin(
        &mut self,
        change: Change,
        rings: Vec<RingAddress>,
    ) -> Result<(), MemoryError> {
        self.window.lock().check(self.epoch)?;
        if self.is_pending() || self.under_way.is_some() {
            return Err(MemoryError::Pending);
        }
        self.check_count(&change)?;
        let admission = Admission {
            rings,
            policy: self.limits.policy,
            table: self.table.clone(),
            layout: self.layout.clone(),
            files: self.files.clone(),
            watch: self.watch.clone(),
            mapper: self.mapper.clone(),
            reaper: self.reaper.clone(),
            askers: self.askers.clone(),
        };
        let answer = self.askers.admit(move || admission.run(change));
        self.under_way = Some(UnderWay::Admitting(answer));
        Ok(())
    }

    fn check_count(&self, change: &Change) -> Result<(), MemoryError> {
        let count = match change {
            Change::Table(table) => table.regions().len(),
            Change::Add(_) => self.table.regions.len().saturating_add(1),
            Change::Remove(_) | Change::Log(..) | Change::Inflight(..) => 0,
        };
        let max = self.limits.max_regions;
        match count <= max {
            true => Ok(()),
            false => Err(MemoryError::TooManyRegions(max)),
        }
    }

    /// Whether the files of the change that has begun are admitted, so that it can
    /// go on. What it makes watch is in [`changes`](Self::changes) now.
    pub(crate) fn is_admitted(&mut self) -> bool {
        let Some(UnderWay::Admitting(answer)) = &self.under_way else {
            return self.under_way.is_some();
        };
        let Some(admitted) = answer.take() else {
            return false;
        };
        self.under_way = Some(match admitted {
            Ok(admitted) => UnderWay::Attaching(Box::new(self.adopt(admitted))),
            Err(error) => UnderWay::Failed(error),
        });
        true
    }

    /// Whether somebody looks at the frontend's files, and is not done.
    #[cfg(test)]
    pub(crate) fn waits_for_files(&self) -> bool {
        match &self.under_way {
            Some(UnderWay::Admitting(answer)) => !answer.is_there(),
            _ => self.sizes.is_some(),
        }
    }

    /// Takes over what was found out elsewhere.
    fn adopt(&mut self, admitted: Admitted) -> Attaching {
        let Admitted {
            changed,
            table,
            layout,
            ranges,
            retired,
            files,
            watches,
        } = admitted;
        self.watch.keep(watches);
        for file in files {
            self.files.entry(file.identity()).or_insert(file);
        }
        Attaching {
            changed,
            table,
            layout,
            retired,
            attached: Vec::with_capacity(ranges.len()),
            ranges: ranges.into_iter(),
        }
    }

    /// Attaches what the change brings, for as long as a piece may take. `None` if
    /// there is more to do.
    ///
    /// # Errors
    ///
    /// The change is over, and has not happened; unless the error is fatal,
    /// everything is as before.
    pub(crate) fn lend(
        &mut self,
        deadline: Deadline,
    ) -> Result<Option<(Changed, Ticket)>, MemoryError> {
        match self.under_way.take() {
            Some(UnderWay::Attaching(attaching)) => return Ok(self.attach(attaching, deadline)),
            Some(UnderWay::Failed(error)) => {
                if self.take_back(deadline)? {
                    return Err(error);
                }
                self.under_way = Some(UnderWay::Failed(error));
            }
            before => self.under_way = before,
        }
        Ok(None)
    }

    fn attach(
        &mut self,
        mut attaching: Box<Attaching>,
        deadline: Deadline,
    ) -> Option<(Changed, Ticket)> {
        let mut window = self.window.lock();
        for (at, range) in attaching.ranges.by_ref() {
            if let Err(error) = window.attach(self.epoch, at, range) {
                drop(window);
                self.leaving = attaching.attached;
                self.under_way = Some(UnderWay::Failed(error));
                return None;
            }
            attaching.attached.push(at);
            if deadline.is_over() {
                break;
            }
        }
        drop(window);
        if attaching.ranges.len() > 0 {
            self.under_way = Some(UnderWay::Attaching(attaching));
            return None;
        }
        self.tickets += 1;
        self.layout = attaching.layout;
        self.pending = Some(Pending {
            ticket: self.tickets,
            before: std::mem::replace(&mut self.table, attaching.table),
            added: attaching.attached,
            retired: attaching.retired,
        });
        Some((attaching.changed, Ticket(self.tickets)))
    }

    /// Tells whether a change waits for the driver, or what changes took away is not
    /// gone, so that the next one has to wait.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some() || !self.leaving.is_empty() || self.askers.is_overloaded()
    }

    /// Tells whether the pending change takes something away, so that only the
    /// driver's reply can end it.
    pub(crate) fn needs_proof(&self) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|pending| !pending.retired.is_empty())
    }

    /// Ends a change, now that the driver has replied: what it does not need any
    /// more is to [go](Self::take_back), or all that it brought if the driver
    /// refused it. A ticket of the past has no effect.
    pub(crate) fn settle(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(pending) = self.pending.take_if(|pending| pending.ticket == ticket.0) else {
            return;
        };
        self.leaving = match outcome {
            Outcome::Done => pending.retired,
            Outcome::Refused => {
                self.table = pending.before;
                pending.added
            }
        };
    }

    /// Detaches what is to go, for as long as a piece may take. Tells whether all of
    /// it is gone.
    ///
    /// # Errors
    ///
    /// Something could not be detached: fatal. Calling it again goes on with the
    /// rest.
    pub(crate) fn take_back(&mut self, deadline: Deadline) -> Result<bool, MemoryError> {
        let mut window = self.window.lock();
        let mut outcome = Ok(());
        while let Some(at) = self.leaving.pop() {
            match window.detach(self.epoch, at) {
                Ok(()) => self.layout.remove(at),
                Err(error) => outcome = Err(error),
            }
            if deadline.is_over() {
                break;
            }
        }
        drop(window);
        if self.leaving.is_empty() {
            self.let_go();
        }
        outcome.map(|()| self.leaving.is_empty())
    }

    /// Lets go of files that are not in the layout.
    pub(super) fn let_go(&mut self) {
        let layout = &self.layout;
        self.watch.retain(|identity| layout.uses(identity));
        self.files.retain(|identity, _| layout.uses(*identity));
    }
}
