// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Notices a frontend that truncates memory which it has shared.
//!
//! A vCPU that touches such memory is told by the VMM (`memory_fault`), or is
//! not: a kernel with asynchronous page faults may let it try again for ever.
//! So the files are watched. Nothing happens while nobody changes their size:
//! guests write through mappings, of which inotify does not speak.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::MemoryFd;
use crate::fd::FileIdentity;

/// The files that are watched.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: OwnedFd,
    /// Watch descriptors; `None` for a file that cannot be watched.
    watched: BTreeMap<FileIdentity, Option<i32>>,
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
    pub(crate) fn take(&self) {
        // An event is 16 bytes and bears no name. Which file it was does not
        // matter: all are looked at.
        let mut events = [0; 1024];
        let _ = rustix::io::read(&self.inotify, &mut events);
    }

    /// Watches `files`, and no others.
    ///
    /// A file that cannot be watched (no `/proc` in a jail, too many watches)
    /// is left to `memory_fault`.
    pub(crate) fn follow(&mut self, files: &BTreeMap<FileIdentity, MemoryFd>) {
        if self.watched.keys().eq(files.keys()) {
            return;
        }
        let inotify = &self.inotify;
        self.watched.retain(|identity, watch| {
            let stays = files.contains_key(identity);
            if let Some(watch) = watch.filter(|_| !stays) {
                // It fails if the file is gone, and the watch with it.
                let _ = inotify::remove_watch(inotify, watch);
            }
            stays
        });
        for (identity, file) in files {
            self.watched.entry(*identity).or_insert_with(|| {
                let path = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
                inotify::add_watch(inotify, path, WatchFlags::MODIFY).ok()
            });
        }
    }
}
