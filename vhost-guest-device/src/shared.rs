// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What vCPUs, the VMM and the worker share: the rooms of the registers and of
//! the window, and the epoch.
//!
//! ```text
//!    vCPUs, the VMM                                        worker
//!        │                                                    │
//!        ▼                                                    ▼
//!   ┌─ registers ─┐ ┌─── window ───┐  epoch  ┌──────────── server ───────────┐
//!   │ what the    │ │ what is      │ ◀────── │ listener, connection, queues, │
//!   │ guest sees  │ │ attached now │  looks  │ plans for memory              │
//!   └─────────────┘ └──────────────┘         └───────────────────────────────┘
//! ```
//!
//! Whoever can be kept waiting by a peer holds neither lock. Under them there are
//! only calls of the VMM's services about what was checked before, in pieces of
//! bounded time. Neither is taken while the other is held.
//!
//! A vCPU, or the VMM, never waits for the server. What it changes, it changes in
//! these rooms, and raises the epoch first: what the server has under way for an
//! older one comes to nothing (see [`Epochs`]). Then it wakes the server, which
//! finds in the registers what is left to do.

mod accesses;
mod faults;
mod revocation;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use vhost_guest_vmm_traits::DeviceNotifier;

use crate::event_loop::poller;
use crate::guest::registers::Registers;
use crate::memory::Window;
use crate::sync::{Epochs, Ordered, BOUND};
use crate::vmm::journal::Journal;
use crate::vmm::statistics::Counters;

/// Whether the device works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Not started: no thread exists, and no frontend is accepted.
    Prepared,
    /// A frontend is accepted when the driver wants one.
    Alive,
    /// The environment failed: no frontend is accepted any more.
    Dead,
    /// The VMM has dropped the device.
    Stopped,
}

/// The rooms that everybody enters.
pub(crate) struct Shared {
    /// What the guest sees.
    pub registers: Ordered<Registers>,
    /// What the guest has of a frontend's memory.
    pub window: Arc<Ordered<Window>>,
    /// Raised before anything is taken from these rooms.
    pub epochs: Arc<Epochs>,
    pub journal: Journal,
    pub counters: Counters,
    condition: Mutex<Condition>,
    notifier: Option<Arc<dyn DeviceNotifier>>,
    wake: Arc<OwnedFd>,
}

impl Shared {
    /// Rooms of a device that is not started.
    pub(crate) fn new(
        registers: Registers,
        window: Arc<Ordered<Window>>,
        epochs: Arc<Epochs>,
        notifier: Option<Arc<dyn DeviceNotifier>>,
        wake: Arc<OwnedFd>,
    ) -> Self {
        Self {
            registers: Ordered::new("registers", BOUND, registers),
            window,
            epochs,
            journal: Journal::new(),
            counters: Counters::default(),
            condition: Mutex::new(Condition::Prepared),
            notifier,
            wake,
        }
    }

    /// Asks the server for a turn.
    pub(crate) fn wake(&self) {
        poller::wake(&self.wake);
    }

    /// Readable when a turn was asked for.
    pub(crate) fn wakes(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Whether the device works.
    pub(crate) fn condition(&self) -> Condition {
        *self
            .condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// From one condition to another, if it is that one.
    pub(crate) fn pass(&self, from: &[Condition], to: Condition) -> bool {
        let mut condition = self
            .condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let passes = from.contains(&condition);
        if passes {
            *condition = to;
        }
        passes
    }
}
