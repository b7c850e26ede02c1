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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::MemoryError;
use crate::fd::{FileIdentity, ForeignFd, MemoryFd, Reaper};
use crate::host;

/// The files of one frontend that are watched, by an instance of inotify that is
/// made when it is needed.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// Closed elsewhere: the kernel waits until nobody looks at its watches.
    inotify: Option<Arc<ForeignFd>>,
    /// Watch descriptors.
    watched: BTreeMap<FileIdentity, i32>,
}

impl Watch {
    /// Readable when a file has changed. `None` if none can.
    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_deref().map(AsFd::as_fd)
    }

    /// Takes note of changes: of 64 at most, and the rest makes it readable
    /// again. A frontend that goes on writing could make more for ever.
    pub(super) fn take(&self) {
        // An event is 16 bytes and bears no name. Which file it was does not
        // matter: all are looked at.
        let mut events = [0; 1024];
        if let Some(inotify) = &self.inotify {
            let _ = rustix::io::read(inotify, &mut events);
        }
    }

    /// Watches files too, but for those that nobody can make smaller.
    ///
    /// # Errors
    ///
    /// One cannot be watched: whoever uses it would not learn that it shrank.
    /// Nothing has changed.
    pub(super) fn add_all(
        &self,
        files: &[Arc<MemoryFd>],
        reaper: &Reaper,
    ) -> Result<Watches, MemoryError> {
        let mut watches = Watches {
            inotify: self.inotify.clone(),
            new: BTreeMap::new(),
        };
        for file in files.iter().filter(|file| !file.keeps_its_size()) {
            let known = |watches: &BTreeMap<_, _>| watches.contains_key(&file.identity());
            if !known(&self.watched) && !known(&watches.new) {
                watches.add(file, reaper).map_err(blame)?;
            }
        }
        Ok(watches)
    }

    /// Watches nothing any more. If something that was begun for it is not done yet,
    /// that keeps the instance: it could take a watch away from who comes next.
    pub(super) fn reset(&mut self) {
        self.retain(|_| false);
        self.inotify
            .take_if(|inotify| Arc::strong_count(inotify) > 1);
    }

    /// Keeps watches that are new.
    pub(super) fn keep(&mut self, mut watches: Watches) {
        self.inotify = watches.inotify.take();
        self.watched.append(&mut watches.new);
    }

    /// Watches no other files than `files`. To be called before those are
    /// closed: a watch holds a file like a descriptor, and whoever lets go last
    /// has to free its memory.
    pub(super) fn retain(&mut self, files: impl Fn(FileIdentity) -> bool) {
        let Some(inotify) = &self.inotify else {
            return;
        };
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

/// Watches that have been set, and are taken back if nobody keeps them.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Option<Arc<ForeignFd>>,
    new: BTreeMap<FileIdentity, i32>,
}

impl Watches {
    fn add(&mut self, file: &MemoryFd, reaper: &Reaper) -> Result<(), Errno> {
        let inotify = match &self.inotify {
            Some(inotify) => inotify,
            None => {
                let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
                let inotify = host::ask(|| inotify::init(flags))?;
                let inotify = ForeignFd::new(inotify, reaper);
                self.inotify.insert(Arc::new(inotify))
            }
        };
        let path = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
        let watch = host::ask(|| inotify::add_watch(inotify, path, WatchFlags::MODIFY))?;
        self.new.insert(file.identity(), watch);
        Ok(())
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        if let Some(inotify) = &self.inotify {
            for watch in self.new.values() {
                let _ = inotify::remove_watch(inotify, *watch);
            }
        }
    }
}

/// Whose fault it is that a file cannot be watched: its mode is its owner's
/// affair, limits and `/proc` are the host's.
pub(super) fn blame(error: Errno) -> MemoryError {
    match error {
        Errno::ACCESS | Errno::PERM => MemoryError::NotWatchable(error.into()),
        _ => MemoryError::Watch(io::Error::from(error)),
    }
}
