// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is taken from the guest: all of a frontend's, memory that is not there,
//! and the window when it moves.

use std::io;

use super::Shared;
use crate::error::{Fault, FrontendFault};
use crate::event_loop::deadline::Deadline;
use crate::guest::pci::bars::WINDOW_BAR;
use crate::memory::askers::truncated_now;
use crate::memory::window::{detach_before, withdraw};
use crate::memory::{Misplaced, Missing};

impl Shared {
    /// Takes everything of the frontend's from the guest, whatever the guest
    /// thinks: memory, doorbells, interrupts. Idempotent, and a piece at a time, so
    /// that others have their turns at the locks.
    pub(crate) fn revoke(&self) {
        if !self.lose_frontend(Fault::Revoked) {
            self.epochs.raise();
        }
        if let Err(error) = self.take_everything() {
            self.die(error);
        }
        self.wake();
    }

    /// Takes what is of older epochs.
    pub(super) fn take_everything(&self) -> io::Result<()> {
        let notifications = self.detach_notifications();
        let memory = detach_before(&self.window, self.epochs.current());
        notifications.and(memory.map_err(io::Error::other))
    }

    /// Takes kicks and doorbells of older epochs.
    pub(crate) fn detach_notifications(&self) -> io::Result<()> {
        let now = self.epochs.current();
        loop {
            let deadline = Deadline::of_a_piece();
            let more = self.registers.lock().detach_some(now, deadline);
            if !more.map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }

    /// Places the window, or takes it out of the guest's address space.
    ///
    /// What a frontend that is gone has left in it does not show up at another
    /// place: the guest has asked for a reset, and may think that it is done.
    ///
    /// # Errors
    ///
    /// It is nowhere, or the device is dead.
    pub(super) fn place_window(&self, address: Option<u64>) -> io::Result<()> {
        if self.registers.lock().reset_pending() {
            if let Err(error) = detach_before(&self.window, self.epochs.current()) {
                self.die(io::Error::other(error));
            }
        }
        let placed = self.window.lock().place(address);
        placed.map_err(|misplaced| match misplaced {
            Misplaced::Nowhere(error) => error,
            Misplaced::Stuck(error) => {
                let kind = error.kind();
                self.die(io::Error::other(format!("the window is stuck: {error}")));
                kind.into()
            }
        })
    }

    /// A vCPU could not access memory. Returns whether it may try again: it was
    /// in the window, or there was something in the window that is out of it now.
    ///
    /// With an address in the window, no file is asked anything. Else the files are
    /// asked for their sizes, elsewhere, and for an instant: a frontend that does not
    /// let its own be known has to answer for what nobody else does.
    pub(crate) fn memory_fault(&self, address: Option<u64>) -> bool {
        let Some(address) = address else {
            let truncated = truncated_now(&self.window).unwrap_or_default();
            return self.withdraw(&match truncated.is_empty() {
                false => Missing::Truncated(truncated),
                true => Missing::Everything,
            });
        };
        match self.window_offset(address) {
            Some(offset) => {
                self.withdraw(&Missing::At(offset));
                // Another vCPU may have been faster with the same complaint.
                true
            }
            // It is not ours, or was before the window moved.
            None => self.memory_truncated(),
        }
    }

    /// Withdraws memory that files have lost. Returns whether there was any, as far as
    /// that is known.
    pub(crate) fn memory_truncated(&self) -> bool {
        let truncated = truncated_now(&self.window).unwrap_or_default();
        self.withdraw(&Missing::Truncated(truncated))
    }

    /// Where in the window an address is.
    fn window_offset(&self, address: u64) -> Option<u64> {
        let registers = self.registers.lock();
        let base = registers.bar_address(WINDOW_BAR)?;
        let offset = address.checked_sub(base)?;
        (offset < registers.window_size()).then_some(offset)
    }

    /// Takes memory from the guest that its frontend does not provide. Returns
    /// whether there was any; its frontend is to blame then.
    pub(crate) fn withdraw(&self, missing: &Missing) -> bool {
        match withdraw(&self.window, missing) {
            Ok(false) => return false,
            Ok(true) => {
                let fault = FrontendFault::Inaccessible;
                if !self.lose_frontend(fault.into()) {
                    let gone = FrontendFault::Inaccessible;
                    self.journal
                        .warn(format_args!("frontend, gone already: {gone}"));
                }
            }
            Err(error) => self.die(io::Error::other(error)),
        }
        true
    }
}
