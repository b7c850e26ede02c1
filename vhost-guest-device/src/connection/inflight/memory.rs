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
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};

use crate::error::{EnvironmentFault, Fault, GuestFault};
use crate::fd::{FileIdentity, Reaper};
use crate::host;

/// The record that was made last, and the one that was set last. Frontends may
/// keep the files of earlier ones; these are emptied, so that nobody can make the
/// VMM pay for many.
///
/// A record that was set says what a backend has under way. A frontend that asks
/// for another one, or a second frontend, must not empty it.
#[derive(Debug)]
pub(crate) struct InflightMemory {
    limit: u64,
    latest: Option<Made>,
    set: Option<Made>,
    /// The latest was set, and the guest has not answered yet.
    pending: bool,
}

/// A file that was made for a record.
#[derive(Debug)]
struct Made {
    file: OwnedFd,
    identity: FileIdentity,
    size: u64,
    /// Whose frontend asked for it.
    reaper: Reaper,
}

impl InflightMemory {
    /// No record yet; each may have up to `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            latest: None,
            set: None,
            pending: false,
        }
    }

    /// Makes the memory for a record of `size` bytes, all zero. Its size is
    /// sealed. The one made before is emptied, if it was not set.
    ///
    /// # Errors
    ///
    /// The guest wants more than the VMM allows, or there is no such memory.
    pub(crate) fn make(&mut self, size: u64, reaper: &Reaper) -> Result<OwnedFd, Fault> {
        let limit = self.limit;
        if size > limit {
            return Err(GuestFault::InflightSize { size, limit }.into());
        }
        let (memory, made) = make(size, reaper).map_err(EnvironmentFault::Inflight)?;
        if self.pending {
            // The frontend went away before the guest's answer came. It counts
            // on what it set.
            self.keep_latest();
        }
        empty(self.latest.replace(made));
        Ok(memory)
    }

    /// SET_INFLIGHT_FD with `file`, which may be one of somebody else's.
    pub(crate) fn set(&mut self, file: Option<FileIdentity>) {
        self.pending = self.is_latest(file);
    }

    /// The guest has the record in `file`: it took the one that was set last, or
    /// did not and keeps the one before.
    pub(crate) fn settle(&mut self, file: Option<FileIdentity>) {
        if self.pending && self.is_latest(file) {
            self.keep_latest();
        }
        self.pending = false;
    }

    fn is_latest(&self, file: Option<FileIdentity>) -> bool {
        let latest = self.latest.as_ref().map(|latest| latest.identity);
        file.is_some() && file == latest
    }

    fn keep_latest(&mut self) {
        let before = std::mem::replace(&mut self.set, self.latest.take());
        self.pending = false;
        empty(before);
    }
}

/// Punching a hole takes the file's lock, which the frontend may be holding: a
/// thread does it that nobody waits for, at the expense of the frontend that asked
/// for the file.
fn empty(made: Option<Made>) {
    if let Some(made) = made {
        made.reaper.empty(made.file, made.size);
    }
}

/// A file of `size` bytes for the frontend, and what is kept of it.
fn make(size: u64, reaper: &Reaper) -> io::Result<(OwnedFd, Made)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = host::ask(|| memfd_create("vhost-guest-inflight", flags))?;
    host::ask(|| ftruncate(&memory, size))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    host::ask(|| fcntl_add_seals(&memory, seals))?;
    let made = Made {
        identity: FileIdentity::of(memory.as_fd())?,
        file: memory.try_clone()?,
        size,
        reaper: reaper.clone(),
    };
    Ok((memory, made))
}
