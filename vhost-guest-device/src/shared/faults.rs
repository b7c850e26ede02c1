// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The end of a frontend, and of the device, as vCPUs and the VMM bring them
//! about.

use std::io;

use super::{Condition, Shared};
use crate::error::Fault;
use crate::memory::window::detach_before;

impl Shared {
    /// The frontend has to go, or the guest broke a rule: the guest is shown at
    /// once that the device needs a reset. The server closes the rest, and tells
    /// why.
    pub(crate) fn lose(&self, fault: Fault) {
        let new = {
            let mut registers = self.registers.lock();
            self.epochs.raise();
            registers.lose(fault)
        };
        self.tell_needs_reset(new);
        self.wake();
    }

    /// The same, if there is a frontend. Tells whether there was one.
    pub(super) fn lose_frontend(&self, fault: Fault) -> bool {
        let new = {
            let mut registers = self.registers.lock();
            if !registers.has_frontend() || registers.needs_reset() {
                return false;
            }
            self.epochs.raise();
            registers.lose(fault)
        };
        self.tell_needs_reset(new);
        self.wake();
        true
    }

    /// The guest was restored, and its frontend did not come along.
    pub(crate) fn frontend_did_not_come_along(&self) {
        let new = {
            let mut registers = self.registers.lock();
            registers.frontend_up() && registers.set_needs_reset()
        };
        self.tell_needs_reset(new);
    }

    /// Tells the VMM that the guest has to reset the device, if that is news.
    pub(crate) fn tell_needs_reset(&self, new: bool) {
        if let Some(notifier) = self.notifier.as_ref().filter(|_| new) {
            notifier.needs_reset();
        }
    }

    /// The environment failed so that a promise cannot be kept: no frontend is
    /// accepted any more. What can be taken from the guest is taken.
    pub(crate) fn die(&self, error: io::Error) {
        if !self.pass(&[Condition::Prepared, Condition::Alive], Condition::Dead) {
            return;
        }
        self.journal.warn(format_args!("dead: {error}"));
        let epoch = self.epochs.raise();
        {
            let mut registers = self.registers.lock();
            registers.detach_all();
            registers.set_needs_reset();
        }
        // It is tried again when the device is dropped.
        let _ = detach_before(&self.window, epoch);
        if let Some(notifier) = &self.notifier {
            notifier.dead(&error);
        }
        self.wake();
    }
}
