// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What goes wrong with the frontend's memory, and whose fault it is.

use std::io;

use thiserror::Error;

use super::plan::NoPlan;
use crate::fd::FdError;

/// Why a message about memory was not carried out. Except where it says
/// [`is_fatal`](Self::is_fatal), nothing has changed.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    /// A descriptor is not memory, or not usable as such.
    #[error(transparent)]
    Fd(#[from] FdError),
    /// A region or area reaches beyond the end of its file.
    #[error("the frontend's memory reaches beyond its file")]
    BeyondFile,
    /// A region overlaps another in guest addresses, or in user addresses with
    /// other bytes there.
    #[error("the frontend's memory regions overlap")]
    Overlap,
    /// More regions than the device carries.
    #[error("the frontend has more memory regions than the {0} that are allowed")]
    TooManyRegions(usize),
    /// Memory in more pieces than the device carries.
    #[error("the frontend's memory is in too many pieces")]
    TooManyPieces,
    /// The window is too small for the memory, or too crowded.
    #[error("the frontend's memory does not fit into the window")]
    NoRoom,
    /// The region to be removed does not exist.
    #[error("the frontend removes a memory region that it does not have")]
    NoSuchRegion,
    /// A region that the message does not speak of would have to move.
    #[error("the frontend removes a part of memory that cannot be divided")]
    Indivisible,
    /// A ring that the driver was told of would have to move.
    #[error("the frontend moves memory that holds a ring")]
    RingMoved,
    /// The file cannot be mapped writable.
    #[error("the frontend's memory cannot be mapped: {0}")]
    NotMappable(io::Error),
    /// The file's mode lets this process not notice when it shrinks.
    #[error("the frontend's memory may shrink and cannot be watched: {0}")]
    NotWatchable(io::Error),
    /// The host has no watch left, or the process no `/proc`.
    #[error("memory that may shrink cannot be watched: {0}")]
    Watch(io::Error),
    /// The VMM could not map it.
    #[error("the VMM could not map memory into the window: {0}")]
    Map(io::Error),
    /// The size of a file could not be found out.
    #[error("the size of a memory file could not be found out: {0}")]
    Size(io::Error),
    /// The VMM could not unmap something, so that the guest may still have it.
    #[error("the VMM could not unmap memory from the window: {0}")]
    Unmap(io::Error),
    /// That happened before.
    #[error("the window holds memory that could not be unmapped")]
    Dead,
    /// A reset or a revocation was faster.
    #[error("memory was taken from the guest meanwhile")]
    Stale,
    /// The driver has not answered the previous message about memory.
    #[error("the previous change of memory is not settled yet")]
    Pending,
    /// A part of the memory was withdrawn after a fault.
    #[error("a part of the frontend's memory was withdrawn after a fault")]
    Withdrawn,
}

impl MemoryError {
    /// Tells whether the device is dead: the guest may have memory that it must
    /// not have.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(self, Self::Unmap(_) | Self::Dead)
    }

    /// Tells whether the VMM's environment is at fault, not the frontend.
    pub(crate) fn is_environment(&self) -> bool {
        match self {
            Self::Fd(error) => error.is_environment(),
            Self::Watch(_) | Self::Map(_) | Self::Size(_) | Self::Unmap(_) => true,
            Self::Dead | Self::Pending => true,
            _ => false,
        }
    }
}

impl From<NoPlan> for MemoryError {
    fn from(error: NoPlan) -> Self {
        match error {
            NoPlan::NoRoom => Self::NoRoom,
            NoPlan::TooManyPieces => Self::TooManyPieces,
        }
    }
}
