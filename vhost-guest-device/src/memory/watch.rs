// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Notices a frontend that truncates memory which it has shared.
//!
//! A vCPU that touches such memory is told by the VMM (`memory_fault`), or is
//! not: a kernel with asynchronous page faults may let it try again for ever.
//! So the files are watched. Nothing happens while nobody changes their size:
//! guests write through mappings, of which inotify does not speak. A file that
//! cannot be watched is not taken, unless it is sealed against shrinking.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::layout::Wanted;
use super::{Memory, MemoryError};
use crate::fd::{FileIdentity, MemoryFd};

/// The files that are watched.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: OwnedFd,
    /// Watch descriptors.
    watched: BTreeMap<FileIdentity, i32>,
}

impl Watch {
    /// Watches nothing.
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            inotify,
            watched: BTreeMap::new(),
        })
    }

    /// Readable when a file has changed.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes note of changes: of 64 at most, and the rest makes it readable
    /// again. A frontend that goes on writing could make more for ever.
    pub(super) fn take(&self) {
        // An event is 16 bytes and bears no name. Which file it was does not
        // matter: all are looked at.
        let mut events = [0; 1024];
        let _ = rustix::io::read(&self.inotify, &mut events);
    }

    /// Watches `file` too, unless nobody can make it smaller.
    ///
    /// # Errors
    ///
    /// It cannot be watched: whoever uses it would not learn that it shrank.
    pub(crate) fn add(&mut self, file: &MemoryFd) -> Result<(), Errno> {
        if file.keeps_its_size() || self.watched.contains_key(&file.identity()) {
            return Ok(());
        }
        let path = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
        let watch = inotify::add_watch(&self.inotify, path, WatchFlags::MODIFY)?;
        self.watched.insert(file.identity(), watch);
        Ok(())
    }

    /// Watches no other files than `files`. To be called before those are
    /// closed: a watch holds a file like a descriptor, and whoever lets go last
    /// has to free its memory.
    pub(super) fn retain(&mut self, files: impl Fn(FileIdentity) -> bool) {
        let inotify = &self.inotify;
        self.watched.retain(|identity, watch| {
            let stays = files(*identity);
            if !stays {
                // It is there as long as it is in the books.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            stays
        });
    }
}

impl Memory {
    /// Readable when a file has changed that is mapped: see
    /// [`take_changes`](Self::take_changes).
    pub(crate) fn changes(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Takes note of changes of files, of which each may have made one smaller.
    pub(crate) fn take_changes(&self) {
        self.watch.take();
    }

    /// Watches files that are to be mapped.
    pub(super) fn watch_all(&mut self, files: &[Arc<MemoryFd>]) -> Result<(), MemoryError> {
        for file in files {
            self.watch.add(file).map_err(blame)?;
        }
        Ok(())
    }
}

/// Whose fault it is that a file cannot be watched: its mode is its owner's
/// affair, limits and `/proc` are the host's.
pub(super) fn blame(error: Errno) -> MemoryError {
    match error {
        Errno::ACCESS | Errno::PERM => MemoryError::NotWatchable(error.into()),
        _ => MemoryError::Watch(error.into()),
    }
}

/// Makes sure that files still have what is wanted of them, now that nobody can
/// make them smaller unnoticed.
pub(super) fn check_sizes(wanted: &[Wanted], files: &[Arc<MemoryFd>]) -> Result<(), MemoryError> {
    for (wanted, file) in wanted.iter().zip(files) {
        let size = file.size().map_err(MemoryError::Size)?;
        if wanted.extent.end() > size {
            return Err(MemoryError::BeyondFile);
        }
    }
    Ok(())
}
