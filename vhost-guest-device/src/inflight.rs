// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory for the record of requests that are under way.
//!
//! vhost-user has the backend make it (`GET_INFLIGHT_FD`); a guest has no
//! file to give, so the device does. The frontend keeps the file, and brings
//! it back (`SET_INFLIGHT_FD`) whenever the backend starts or starts again:
//! only then is it mapped.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{fcntl_add_seals, fstat, ftruncate, memfd_create, MemfdFlags, SealFlags};

use crate::fd::Reaper;

/// The one record that was made last. Frontends may keep the files of earlier
/// ones; these are emptied, so that nobody can make the VMM pay for many.
#[derive(Debug)]
pub(crate) struct InflightMemory {
    limit: u64,
    latest: Option<OwnedFd>,
}

/// Why there is no memory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflightError {
    /// The guest wants more than the VMM allows.
    #[error("wants {size} bytes for in-flight requests; the limit is {limit}")]
    TooLarge {
        /// Bytes wanted.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The environment's fault.
    #[error("no memory for in-flight requests: {0}")]
    Environment(#[from] io::Error),
}

impl InflightMemory {
    /// No record yet; each may have up to `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            latest: None,
        }
    }

    /// Makes the memory for a record of `size` bytes, all zero. Its size is
    /// sealed. The one made before is emptied.
    pub(crate) fn make(&mut self, size: u64, reaper: &Reaper) -> Result<OwnedFd, InflightError> {
        let limit = self.limit;
        if size > limit {
            return Err(InflightError::TooLarge { size, limit });
        }
        self.empty_latest(reaper)?;
        let memory = make(size).map_err(io::Error::from)?;
        self.latest = Some(memory.try_clone()?);
        Ok(memory)
    }

    /// Punching a hole takes the file's lock, which the frontend may be
    /// holding: a thread does it that nobody waits for.
    fn empty_latest(&mut self, reaper: &Reaper) -> io::Result<()> {
        if let Some(memory) = self.latest.take() {
            let size = u64::try_from(fstat(&memory)?.st_size).unwrap_or(0);
            reaper.empty(memory, size);
        }
        Ok(())
    }
}

fn make(size: u64) -> rustix::io::Result<OwnedFd> {
    let memory = memfd_create(
        "vhost-guest-inflight",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    ftruncate(&memory, size)?;
    fcntl_add_seals(
        &memory,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memory)
}
