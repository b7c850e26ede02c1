// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VMM's side of interrupts, and whether it still does what it promised.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use vhost_guest_vmm_traits::{Arming, InterruptManager, SourceId};

/// An [`InterruptManager`] whose broken promises are remembered.
pub(super) struct Wires {
    manager: Arc<dyn InterruptManager>,
    /// Why a source may still be armed that should not be.
    broken: RefCell<Option<io::Error>>,
}

impl Wires {
    pub(super) fn new(manager: Arc<dyn InterruptManager>) -> Self {
        Wires {
            manager,
            broken: RefCell::new(None),
        }
    }

    /// What went wrong beyond repair since the last call.
    pub(super) fn take_broken(&self) -> Option<io::Error> {
        self.broken.take()
    }

    pub(super) fn create_source(&self) -> io::Result<SourceId> {
        self.manager.create_source()
    }

    pub(super) fn destroy_source(&self, source: SourceId) {
        self.manager.destroy_source(source);
    }

    /// Arms all of `sources` or none.
    pub(super) fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        if sources.is_empty() {
            return Ok(());
        }
        let outcome = self.manager.arm(sources);
        if outcome.is_err() {
            let _ = self.disarm(sources);
        }
        outcome
    }

    /// Disarms `sources`.
    ///
    /// # Errors
    ///
    /// Some may be armed still: the device is dead. Trying again is harmless.
    pub(super) fn disarm(&self, sources: &[Arming<'_>]) -> Result<(), Broken> {
        if sources.is_empty() {
            return Ok(());
        }
        self.manager.disarm(sources).map_err(|error| {
            self.broken.replace(Some(error));
            Broken
        })
    }
}

/// A source may be armed that should not be; [`Wires::take_broken`] says why.
#[derive(Debug)]
pub(crate) struct Broken;

impl From<Broken> for io::Error {
    fn from(_: Broken) -> Self {
        io::Error::other("an interrupt could not be disarmed")
    }
}
