// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Parts of files that the VMM has opened.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use vhost_guest_vmm_traits::{RangeId, SharedMemoryMapper};

use super::askers::Askers;
use super::layout::Piece;
use super::MemoryError;
use crate::fd::MemoryFd;

/// A part of a file that the VMM has opened, to be attached to the window.
///
/// Dropping it has it closed, elsewhere: that may take as long as the file's
/// owner likes.
pub(super) struct Range {
    id: RangeId,
    piece: Piece,
    file: Arc<MemoryFd>,
    mapper: Arc<dyn SharedMemoryMapper>,
    askers: Askers,
    kept: bool,
}

impl Range {
    /// Opens a piece of a file, which may take as long as the file's owner
    /// likes.
    pub(super) fn open(
        mapper: &Arc<dyn SharedMemoryMapper>,
        file: &Arc<MemoryFd>,
        piece: Piece,
        askers: &Askers,
    ) -> Result<Self, MemoryError> {
        let id = mapper.open(file.as_fd(), piece.offset, piece.length);
        let id = id.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => MemoryError::NotMappable(error),
            _ => MemoryError::Map(error),
        })?;
        Ok(Self {
            id,
            piece,
            file: Arc::clone(file),
            mapper: Arc::clone(mapper),
            askers: askers.clone(),
            kept: false,
        })
    }

    /// What the VMM calls it.
    pub(super) fn id(&self) -> RangeId {
        self.id
    }

    /// Which part of which file it is.
    pub(super) fn piece(&self) -> &Piece {
        &self.piece
    }

    /// The file that it is a part of.
    pub(super) fn file(&self) -> &Arc<MemoryFd> {
        &self.file
    }

    /// Leaves it open when it is dropped: the guest may still have it.
    pub(super) fn keep_open(&mut self) {
        self.kept = true;
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range")
            .field("id", &self.id)
            .field("piece", &self.piece)
            .finish_non_exhaustive()
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if !self.kept {
            self.askers.close(&self.mapper, self.id);
        }
    }
}
