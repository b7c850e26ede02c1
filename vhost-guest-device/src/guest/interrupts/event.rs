// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What interrupts are for, and that one could not be armed.

use std::io;

use crate::vmm::services::is_descriptors_fault;

/// Something that the driver wants to be interrupted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Event {
    /// The device status or configuration has changed.
    Config,
    /// The device has used buffers of this virtqueue.
    Queue(u16),
    /// The frontend kicks this vring.
    Kick(u16),
}

/// An event that should raise its interrupt, and does not.
#[derive(Debug)]
pub(crate) struct ArmFailure {
    /// Which one.
    pub(crate) event: Event,
    /// What the VMM said. For a kick it may be the frontend's doing: the same
    /// eventfd for two vrings, for example.
    pub(crate) error: io::Error,
}

impl ArmFailure {
    /// The vring whose kick is an eventfd that cannot be armed, through the
    /// fault of the frontend that sent it.
    pub(crate) fn bad_kick(&self) -> Option<u16> {
        match self.event {
            Event::Kick(vring) if is_descriptors_fault(&self.error) => Some(vring),
            _ => None,
        }
    }
}
