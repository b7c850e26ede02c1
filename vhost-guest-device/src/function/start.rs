// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The threads' beginning.

use std::sync::PoisonError;

use vm_memory::GuestAddressSpace;

use super::VhostGuest;
use crate::device::worker::Worker;
use crate::error::BuildError;
use crate::fd::Launcher;

impl<M: GuestAddressSpace + Send + 'static> VhostGuest<M> {
    /// Starts the thread for messages of a device that was made by
    /// [`Builder::prepare`](crate::Builder::prepare), in the process that calls
    /// this: from now on the device accepts frontends. Starting twice is
    /// starting once.
    ///
    /// A process may start a device that it got by `fork`. Any other copy of
    /// it must not be started, and can be dropped at any time.
    ///
    /// # Errors
    ///
    /// A thread could not be created, or its
    /// [`ThreadHook`](vhost_guest_vmm_traits::ThreadHook) failed. It can be
    /// tried again.
    pub fn start(&self) -> Result<(), BuildError> {
        self.start_without_thread()?;
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            *worker = Some(Worker::start(&self.device, self.hook.clone())?);
        }
        Ok(())
    }

    /// As [`start`](Self::start), but for the thread that moves messages: an
    /// event loop of the VMM's takes its place, as for
    /// [`Builder::build_without_thread`](crate::Builder::build_without_thread).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_without_thread(&self) -> Result<(), BuildError> {
        let launcher = Launcher::start(self.hook.as_ref())?;
        self.device.start(&launcher);
        Ok(())
    }
}
