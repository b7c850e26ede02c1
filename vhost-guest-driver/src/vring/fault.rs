// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What keeps a request from being served.

use thiserror::Error;

use crate::inflight::Unsound;
use crate::iotlb::{Lost, Miss};
use crate::window::WindowError;

/// How the frontend's guest broke a vring. The vring stays out of use until
/// the frontend starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RingFault {
    /// The available index is further ahead than the ring is long.
    #[error("the available index {0} jumps")]
    AvailableIndex(u16),
    /// More descriptors are available than a packed ring has.
    #[error("more descriptors are available than there are")]
    TooManyAvailable,
    /// A descriptor index is beyond its table.
    #[error("there is no descriptor {0}")]
    DescriptorIndex(u16),
    /// A chain is longer than its table: a loop.
    #[error("a descriptor chain loops")]
    Loop,
    /// An indirect descriptor inside an indirect table, with a next one, or
    /// without the feature.
    #[error("an indirect descriptor where none may be")]
    Indirect,
    /// An indirect table of impossible length.
    #[error("an indirect table of {0} bytes")]
    IndirectLen(u32),
    /// A device-readable descriptor follows a device-writable one.
    #[error("device-readable after device-writable descriptors")]
    Direction,
    /// An address outside the memory that the frontend shares.
    #[error("there is no memory at {0:#x}")]
    Address(u64),
    /// The dirty log has no bit for an address that would be written.
    #[error("the dirty log does not reach {0:#x}")]
    Log(u64),
    /// The record of requests in flight is none that a backend has written.
    #[error("the record of requests in flight is unsound")]
    Record,
    /// More pieces of memory, or bytes, than a request may have.
    #[error("a descriptor chain is too long")]
    TooLong,
    /// The ring itself left the memory.
    #[error(transparent)]
    Memory(#[from] WindowError),
}

impl From<Unsound> for RingFault {
    fn from(_: Unsound) -> Self {
        Self::Record
    }
}

/// Why a request is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    Fault(RingFault),
    Miss(Miss),
}

impl Halt {
    /// It needs `address`.
    pub(super) fn new(lost: Lost, address: u64) -> Self {
        match lost {
            Lost::Nowhere => Self::Fault(RingFault::Address(address)),
            Lost::Miss(miss) => Self::Miss(miss),
        }
    }
}

impl<F: Into<RingFault>> From<F> for Halt {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}
