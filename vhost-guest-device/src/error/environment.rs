// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What fails below the device: the VMM's services, and the host's limits.

use std::io;

use thiserror::Error;

use crate::event_loop::poller::Unwaitable;
use crate::fd::{FdError, NoChannel, PumpError};
use crate::memory::MemoryError;
use crate::vmm::services::ServiceError;

/// A failure behind which every promise still holds: it costs a connection.
#[derive(Debug, Error)]
pub(crate) enum EnvironmentFault {
    /// The window, or the watch over the files in it.
    #[error(transparent)]
    Memory(MemoryError),
    /// An interrupt or a doorbell.
    #[error(transparent)]
    Service(ServiceError),
    /// The kernel does not say what a descriptor is.
    #[error(transparent)]
    Descriptor(FdError),
    /// A limit of the host's lets nobody wait.
    #[error(transparent)]
    Unwaitable(Unwaitable),
    /// The threads that move device state.
    #[error(transparent)]
    Transfer(PumpError),
    /// A backend channel.
    #[error(transparent)]
    Channel(NoChannel),
    /// No file for a record of requests under way.
    #[error("no memory for in-flight requests: {0}")]
    Inflight(#[source] io::Error),
    /// The process has as many descriptors open as it may.
    #[error("no room for the descriptors that came with a message")]
    Descriptors,
}

/// A failure behind which a promise cannot be kept.
#[derive(Debug, Error)]
pub(crate) enum DeadFault {
    /// Memory that does not come off the guest.
    #[error(transparent)]
    Memory(MemoryError),
    /// An eventfd of a frontend's that stays connected to a guest address.
    #[error(transparent)]
    Service(ServiceError),
}
