// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One event with its eventfd, its vector and its source.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vhost_guest_vmm_traits::{Arming, MsiMessage, SourceId};

use super::Event;
use crate::fd::EventFd;
use crate::guest::virtio::NO_VECTOR;

/// The two kinds of eventfds.
#[derive(Debug)]
pub(super) enum LineFd {
    /// The device's own: non-blocking for certain.
    Own(OwnedFd),
    /// From the frontend: never read or written here.
    Foreign(EventFd),
}

impl AsFd for LineFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            LineFd::Own(fd) => fd.as_fd(),
            LineFd::Foreign(fd) => fd.as_fd(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) event: Event,
    pub(super) vector: u16,
    pub(super) eventfd: Option<LineFd>,
    /// Present exactly while there is a vector.
    pub(super) source: Option<SourceId>,
    /// What the source is armed with.
    pub(super) armed: Option<MsiMessage>,
    /// A kick that waited in the eventfd before is on its way to this one.
    pub(super) owed: bool,
    /// It may be armed with something else than it should be.
    pub(super) unsettled: bool,
}

impl Line {
    pub(super) fn new(event: Event, eventfd: Option<LineFd>) -> Self {
        Line {
            event,
            vector: NO_VECTOR,
            eventfd,
            source: None,
            armed: None,
            owed: false,
            unsettled: false,
        }
    }

    /// How it is armed now, if it is.
    pub(super) fn armed(&self) -> Option<Arming<'_>> {
        self.armed.and_then(|message| self.arming(message))
    }

    /// How it would be armed with `message`.
    pub(super) fn arming(&self, message: MsiMessage) -> Option<Arming<'_>> {
        let (eventfd, source) = (self.eventfd.as_ref()?.as_fd(), self.source?);
        Some(Arming {
            source,
            eventfd,
            message,
        })
    }

    /// Whether an event waits in the eventfd.
    pub(super) fn is_pending(&self) -> bool {
        let eventfd = self.eventfd.as_ref().filter(|_| self.armed.is_none());
        eventfd.is_some_and(|fd| readable(&[fd.as_fd()]) == [true])
    }

    /// Forgets events that nobody has been told of. Only the device's own
    /// eventfds: those of kicks are the frontend's.
    pub(super) fn drain(&self) {
        if let Some(LineFd::Own(fd)) = &self.eventfd {
            // Fails if there is nothing to forget.
            let _ = rustix::io::read(fd, &mut [0; 8]);
        }
    }
}

/// Which of `eventfds` are readable.
pub(super) fn readable(eventfds: &[BorrowedFd<'_>]) -> Vec<bool> {
    let mut fds: Vec<PollFd<'_>> = eventfds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    // With a timeout of 0 this neither waits nor is interrupted.
    let _ = poll(&mut fds, Some(&Timespec::default()));
    fds.iter()
        .map(|fd| fd.revents().contains(PollFlags::IN))
        .collect()
}
