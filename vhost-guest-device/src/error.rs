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
//!
//! A fault says which rule was broken, with which message, and in which field or
//! queue; `docs/refusals.md` says why each rule is there.

mod environment;
mod frontend;
mod guest;

pub(crate) use environment::{DeadFault, EnvironmentFault};
pub(crate) use frontend::{FrontendFault, Unfulfillable};
pub(crate) use guest::{ChannelRule, GuestFault, QueueFault, RegisterFault};

use std::io;

use thiserror::Error;
use vhost_guest_msg::Invalid;

use crate::event_loop::poller::Unwaitable;
use crate::memory::MemoryError;
use crate::vmm::services::ServiceError;

/// Why a [`Builder`](crate::Builder) could not make a device.
#[derive(Debug, Error)]
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
#[derive(Debug, Error)]
pub(crate) enum Fault {
    /// The frontend hung up, without doing anything wrong.
    #[error("the frontend hung up")]
    HungUp,
    /// The guest took its backend down.
    #[error("the guest took its backend down")]
    BackendDown,
    /// The driver, or the guest's PCI software, or the VMM reset the device.
    #[error("the device was reset")]
    Reset,
    /// The VMM took everything from the guest.
    #[error("the VMM revoked the device")]
    Revoked,
    /// The connection was ended by somebody else, who says why.
    #[error("the connection is over")]
    Over,
    /// The frontend broke the protocol.
    #[error("frontend: {0}")]
    Frontend(#[from] FrontendFault),
    /// The guest broke a rule of virtio or of the vhost-guest device.
    #[error("guest: {0}")]
    Guest(#[from] GuestFault),
    /// The environment failed, and the device has kept its promises: it drops
    /// the frontend and goes on.
    #[error("environment: {0}")]
    Environment(#[from] EnvironmentFault),
    /// The environment failed so that a promise cannot be kept any more
    /// (memory that does not come off the guest).
    #[error("dead: {0}")]
    Dead(#[from] DeadFault),
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Refused(_) => EnvironmentFault::Service(error).into(),
            ServiceError::Dead(_) => DeadFault::Service(error).into(),
        }
    }
}

impl From<Unwaitable> for Fault {
    fn from(error: Unwaitable) -> Self {
        match error.is_limit() {
            true => EnvironmentFault::Unwaitable(error).into(),
            false => FrontendFault::Unwaitable(error).into(),
        }
    }
}

impl From<MemoryError> for Fault {
    fn from(error: MemoryError) -> Self {
        if matches!(error, MemoryError::Stale) {
            Self::Over
        } else if error.is_fatal() {
            DeadFault::Memory(error).into()
        } else if error.is_environment() {
            EnvironmentFault::Memory(error).into()
        } else {
            FrontendFault::Memory(error).into()
        }
    }
}

/// Why a handler did not carry out a well-formed request.
///
/// The frontend gets a negative acknowledgement if it asked for one, and is
/// disconnected otherwise.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    /// What was asked for cannot be had; nothing has changed.
    #[error(transparent)]
    Request(#[from] Unfulfillable),
    /// Not only this request is lost: see the fault.
    #[error(transparent)]
    Fatal(#[from] Fault),
}

impl From<FrontendFault> for Refusal {
    fn from(fault: FrontendFault) -> Self {
        Self::Fatal(fault.into())
    }
}

impl From<EnvironmentFault> for Refusal {
    fn from(fault: EnvironmentFault) -> Self {
        Self::Fatal(fault.into())
    }
}

impl From<Invalid> for Refusal {
    fn from(field: Invalid) -> Self {
        Self::Request(field.into())
    }
}
