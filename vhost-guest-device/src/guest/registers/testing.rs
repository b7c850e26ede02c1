// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the tests of registers, interrupts and doorbells share.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};

use crate::fd::{EventFd, FdKinds, ForeignFd, Reaper, Signaller};

/// A frontend that sends eventfds.
pub(crate) struct Peer {
    reaper: Reaper,
    kinds: FdKinds,
    pub(crate) signaller: Arc<Signaller>,
}

impl Peer {
    pub(crate) fn new() -> Self {
        Peer {
            reaper: Reaper::spawn(),
            kinds: FdKinds::new().unwrap(),
            signaller: Arc::new(Signaller::spawn()),
        }
    }

    /// A fresh eventfd, as received.
    pub(crate) fn eventfd(&self) -> EventFd {
        self.receive(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
    }

    /// An eventfd that blocks whoever writes to it, until it is read.
    pub(crate) fn full_eventfd(&self) -> EventFd {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        self.receive(fd)
    }

    /// The same eventfd, received a second time.
    pub(crate) fn again(&self, eventfd: &EventFd) -> EventFd {
        self.receive(eventfd.as_fd().try_clone_to_owned().unwrap())
    }

    fn receive(&self, fd: std::os::fd::OwnedFd) -> EventFd {
        EventFd::check(ForeignFd::new(fd, &self.reaper), &self.kinds).unwrap()
    }
}

/// Signals an eventfd.
pub(crate) fn signal(eventfd: impl AsFd) {
    rustix::io::write(eventfd, &1_u64.to_ne_bytes()).unwrap();
}

/// Reads an eventfd; 0 if it is not readable.
pub(crate) fn take(eventfd: impl AsFd) -> u64 {
    let mut fds = [PollFd::new(&eventfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap();
    if fds[0].revents().is_empty() {
        return 0;
    }
    let mut count = [0; 8];
    rustix::io::read(&eventfd, &mut count).unwrap();
    u64::from_ne_bytes(count)
}

/// Waits until an eventfd is readable, and reads it.
pub(crate) fn wait(eventfd: impl AsFd) -> u64 {
    poll(&mut [PollFd::new(&eventfd, PollFlags::IN)], None).unwrap();
    take(eventfd)
}
