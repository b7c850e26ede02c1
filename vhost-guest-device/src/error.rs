// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whose fault it was, and what follows from that.
//!
//! Three parties can go wrong, and each gets its own answer:
//!
//! | who | answer |
//! |---|---|
//! | the frontend | it is disconnected (or refused, if it asked for an acknowledgement) |
//! | the guest | `DEVICE_NEEDS_RESET`, and the frontend is disconnected |
//! | the environment | reported to the VMM; the device stays consistent or is dead |

use std::io;

use crate::event_loop::poller::Unwaitable;
use crate::memory::MemoryError;
use crate::vmm::services::ServiceError;

/// Why a [`Builder`](crate::Builder) could not make a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The number of vrings is out of range.
    #[error("{0} vrings asked for; a device has 1 to 256")]
    Queues(u16),
    /// The window is not a power of two, or too small to hold anything.
    #[error("a window of {0:#x} bytes asked for; it has to be a power of two of at least 4 MiB")]
    WindowSize(u64),
    /// The guest's addresses are too narrow for the window.
    #[error("a window of {size:#x} bytes has no place in {bits} address bits")]
    WindowPlace {
        /// Bytes asked for.
        size: u64,
        /// Bits of a guest physical address.
        bits: u8,
    },
    /// The number of memory slots is out of range.
    #[error("{0} memory slots asked for; 1 to 509 are possible")]
    MemorySlots(u16),
    /// Messages would be too small, or larger than drivers have buffers for.
    #[error("messages of {0} bytes asked for; 512 to 4096 are possible")]
    MessageSize(u32),
    /// Buffers of device state would be too small or too large.
    #[error("migration messages of {0} bytes asked for; 4 KiB to 1 MiB are possible")]
    MigrationMessageSize(u32),
    /// The process may not open as many descriptors as a frontend may send.
    #[error(
        "{queues} vrings need up to {needed} descriptors; the limit of this process is {limit}"
    )]
    DescriptorLimit {
        /// Vrings asked for.
        queues: u16,
        /// Descriptors that frontends with that many vrings use.
        needed: u64,
        /// `RLIMIT_NOFILE`.
        limit: u64,
    },
    /// The operating system or the VMM's services failed.
    #[error("cannot set up the device: {0}")]
    Environment(#[from] io::Error),
}

/// A fault while the device works, by the party that caused it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The frontend hung up, without doing anything wrong.
    #[error("the frontend hung up")]
    HungUp,
    /// The frontend broke the protocol.
    #[error("frontend: {0}")]
    Frontend(String),
    /// The guest broke a rule of virtio or of the vhost-guest device.
    #[error("guest: {0}")]
    Guest(String),
    /// The environment failed, and the device has kept its promises: it drops
    /// the frontend and goes on.
    #[error("environment: {0}")]
    Environment(io::Error),
    /// The environment failed so that a promise cannot be kept any more
    /// (memory that does not come off the guest).
    #[error("dead: {0}")]
    Dead(io::Error),
}

impl Fault {
    /// A frontend's fault, from anything that can be printed.
    pub(crate) fn frontend(reason: impl ToString) -> Self {
        Self::Frontend(reason.to_string())
    }

    /// A guest's fault, from anything that can be printed.
    pub(crate) fn guest(reason: impl ToString) -> Self {
        Self::Guest(reason.to_string())
    }
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Refused(error) => Self::Environment(error),
            ServiceError::Dead(error) => Self::Dead(error),
        }
    }
}

impl From<Unwaitable> for Fault {
    fn from(error: Unwaitable) -> Self {
        match error.is_limit() {
            true => Self::Environment(error.into()),
            false => Self::frontend(error),
        }
    }
}

impl From<MemoryError> for Fault {
    fn from(error: MemoryError) -> Self {
        if error.is_fatal() {
            Self::Dead(io::Error::other(error))
        } else if error.is_environment() {
            Self::Environment(io::Error::other(error))
        } else {
            Self::frontend(error)
        }
    }
}

/// Why a handler did not carry out a well-formed request.
///
/// The frontend gets a negative acknowledgement if it asked for one, and is
/// disconnected otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// What was asked for cannot be had; nothing has changed.
    #[error("{0}")]
    Request(String),
    /// Not only this request is lost: see the fault.
    #[error("{0}")]
    Fatal(#[from] Fault),
}

impl Refusal {
    /// A refusal of this request alone, from anything that can be printed.
    pub(crate) fn request(reason: impl ToString) -> Self {
        Self::Request(reason.to_string())
    }
}
