// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that signal foreign eventfds.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{preadv2, write, ReadWriteFlags};
use vhost_guest_vmm_traits::ThreadHook;

use super::crew::{Crew, Job, Shared};
use super::kind::EventFd;
use crate::vmm::threads::SIGNALLER;

/// Eventfds that may wait for their signal: more than a device has doorbells.
const MAX_WAITING: usize = 1024;

/// The offset that means "no offset" to `preadv2`; an eventfd has none.
const NO_OFFSET: u64 = u64::MAX;

/// Signals eventfds whose other end a frontend holds. A second thread keeps
/// things moving, and unblocks the first, when a frontend manages to block it.
///
/// Most signals never pass here: the kernel signals the eventfd of a doorbell
/// by itself. What is left are stores that reached the VMM (through the PCI
/// configuration window, in the moment an eventfd is replaced, or always in a
/// VMM without ioeventfds). They must not be lost, and `write` to an eventfd
/// blocks while its counter is full; no flag that the frontend cannot change
/// prevents that. So a signal is queued here, and signals to one eventfd
/// that wait are one signal.
///
/// A full counter means that a signal is pending already: such an eventfd is
/// not written. A frontend that fills it between this look and the write
/// blocks a thread, until it reads its eventfd or
/// [`forget`](Self::forget) reads it.
pub(crate) struct Signaller {
    crew: Crew<Work>,
}

enum Work {
    Signal(EventFd),
    /// Reads from the eventfd until the thread that is blocked on it is free.
    Unblock(EventFd),
    /// A signal whose eventfd a frontend filled after the look at it.
    #[cfg(test)]
    LostRace(EventFd),
}

impl Signaller {
    /// Without threads: signals wait until [`start`](Self::start).
    pub(crate) fn new() -> Self {
        Self {
            crew: Crew::new(SIGNALLER),
        }
    }

    /// Starts the threads; `hook` runs first in each.
    ///
    /// # Errors
    ///
    /// A thread could not be created, or its hook failed.
    pub(crate) fn start(&self, hook: Option<&Arc<dyn ThreadHook>>) -> io::Result<()> {
        self.crew.start(hook)
    }

    /// With its threads.
    #[cfg(test)]
    pub(crate) fn spawn(hook: Option<&Arc<dyn ThreadHook>>) -> io::Result<Self> {
        let signaller = Self::new();
        signaller.start(hook)?;
        Ok(signaller)
    }

    /// Signals `eventfd` soon. Never blocks.
    ///
    /// Returns false if too many eventfds wait, so that the signal is lost:
    /// only possible when a frontend has blocked all threads.
    pub(crate) fn signal(&self, eventfd: &EventFd) -> bool {
        self.crew
            .push_once(Work::Signal(eventfd.clone()), MAX_WAITING)
    }

    /// Ends all use of `eventfd`, which was detached from its doorbell: what
    /// waits is dropped, and a thread that is blocked on it is freed. Never
    /// blocks.
    ///
    /// Tells whether there was a signal that may not have been made.
    pub(crate) fn forget(&self, eventfd: &EventFd) -> bool {
        let found = self.crew.withdraw(&Some(eventfd.clone()));
        if found.running {
            self.unblock(eventfd.clone());
        }
        found.any || found.running
    }

    /// Blocks a thread on a full eventfd, until that is read.
    #[cfg(test)]
    pub(crate) fn block_on(&self, full: &EventFd) {
        self.crew.push(Work::LostRace(full.clone()));
        while !self.crew.is_running(&Some(full.clone())) {
            thread::yield_now();
        }
    }

    /// Frees the thread that is writing to `eventfd` if it is blocked: at once
    /// if nobody interferes; else one of the threads keeps at it.
    fn unblock(&self, eventfd: EventFd) {
        make_room(&eventfd);
        self.crew.push_first(Work::Unblock(eventfd));
    }

    /// Signals that wait or are under way.
    pub(crate) fn backlog(&self) -> usize {
        self.crew.backlog()
    }
}

impl fmt::Debug for Signaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signaller")
            .field("backlog", &self.backlog())
            .finish()
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        for eventfd in self.crew.withdraw_all().into_iter().flatten() {
            self.unblock(eventfd);
        }
    }
}

impl Job for Work {
    /// The eventfd that is being written.
    type Key = Option<EventFd>;

    fn key(&self) -> Self::Key {
        match self {
            Self::Signal(eventfd) => Some(eventfd.clone()),
            Self::Unblock(_) => None,
            #[cfg(test)]
            Self::LostRace(eventfd) => Some(eventfd.clone()),
        }
    }

    fn run(self, crew: &Shared<Self>) {
        match self {
            Self::Signal(eventfd) => {
                if has_room(&eventfd) {
                    add_one(&eventfd);
                }
            }
            #[cfg(test)]
            Self::LostRace(eventfd) => add_one(&eventfd),
            Self::Unblock(eventfd) => {
                let writer = Some(eventfd.clone());
                while crew.is_running(&writer) {
                    make_room(&eventfd);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }
}

/// Tells whether a write of 1 would succeed now.
fn has_room(eventfd: &EventFd) -> bool {
    let mut fds = [PollFd::new(eventfd, PollFlags::OUT)];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => fds[0].revents().contains(PollFlags::OUT),
        Err(_) => false,
    }
}

/// Signals; blocks if the eventfd is full.
fn add_one(eventfd: &EventFd) {
    // Fails only where the frontend set O_NONBLOCK and the counter is full:
    // then a signal is pending.
    let _ = write(eventfd, &1_u64.to_ne_bytes());
}

/// Reads a full eventfd, so that a write of 1 can go on.
fn make_room(eventfd: &EventFd) {
    if !has_room(eventfd) {
        let mut count = [0; 8];
        // Fails only if the frontend was faster: then there is room.
        let mut parts = [IoSliceMut::new(&mut count)];
        let _ = preadv2(eventfd, &mut parts, NO_OFFSET, ReadWriteFlags::NOWAIT);
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::event::{eventfd, EventfdFlags};
    use rustix::io::read;
    use vhost_guest_vmm_traits::test_utils::TestVmm;

    use super::*;
    use crate::fd::{FdKinds, ForeignFd, Reaper};

    const THREADS: usize = SIGNALLER.count;
    /// The highest value of an eventfd's counter; one more blocks.
    const FULL: u64 = u64::MAX - 1;

    /// An eventfd as a frontend keeps it, and as the device received it.
    fn received(count: u64) -> (OwnedFd, EventFd) {
        let ours = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        write(&ours, &count.to_ne_bytes()).unwrap();
        let reaper = Reaper::spawn(None).unwrap();
        let sent = ForeignFd::new(ours.try_clone().unwrap(), &reaper);
        let kinds = FdKinds::new().unwrap();
        (ours, EventFd::check(sent, &kinds).unwrap())
    }

    /// Blocks until there is something to read.
    fn count(fd: impl AsFd) -> u64 {
        let mut count = [0; 8];
        assert_eq!(read(fd, &mut count), Ok(8));
        u64::from_ne_bytes(count)
    }

    fn wait_until(condition: impl Fn() -> bool) {
        while !condition() {
            thread::yield_now();
        }
    }

    /// A signaller with nothing but blocked threads, and what they block on.
    fn blocked() -> (Signaller, Vec<(OwnedFd, EventFd)>) {
        let signaller = Signaller::spawn(None).unwrap();
        let full: Vec<_> = (0..THREADS).map(|_| received(FULL)).collect();
        for (_, eventfd) in &full {
            signaller.crew.push(Work::LostRace(eventfd.clone()));
        }
        for (_, eventfd) in &full {
            wait_until(|| signaller.crew.is_running(&Some(eventfd.clone())));
        }
        (signaller, full)
    }

    #[test]
    fn signals_arrive() {
        let signaller = Signaller::spawn(None).unwrap();
        let (ours, eventfd) = received(0);
        assert!(signaller.signal(&eventfd));
        assert_eq!(count(&ours), 1);
        assert!(signaller.signal(&eventfd));
        assert_eq!(count(&ours), 1);
    }

    #[test]
    fn leaves_a_full_eventfd_as_it_is() {
        let signaller = Signaller::spawn(None).unwrap();
        let (ours, eventfd) = received(FULL);
        assert!(signaller.signal(&eventfd));
        wait_until(|| signaller.backlog() == 0);
        assert_eq!(count(&ours), FULL);
    }

    #[test]
    fn serves_others_while_one_blocks() {
        let signaller = Signaller::spawn(None).unwrap();
        let (_full, full) = received(FULL);
        signaller.crew.push(Work::LostRace(full));
        let (ours, eventfd) = received(0);
        assert!(signaller.signal(&eventfd));
        assert_eq!(count(&ours), 1);
    }

    #[test]
    fn forget_frees_blocked_threads() {
        let (signaller, full) = blocked();
        let (ours, waiting) = received(0);
        assert!(signaller.signal(&waiting));
        for (_, eventfd) in &full {
            signaller.forget(eventfd);
        }
        assert_eq!(count(&ours), 1);
        wait_until(|| signaller.backlog() == 0);
    }

    #[test]
    fn drop_returns_and_frees_blocked_threads() {
        let (signaller, full) = blocked();
        drop(signaller);
        for (_, eventfd) in &full {
            wait_until(|| eventfd.holders() == 1);
        }
    }

    #[test]
    fn forgets_signals_that_wait() {
        let (signaller, _full) = blocked();
        let (_ours, eventfd) = received(0);
        assert!(signaller.signal(&eventfd));
        signaller.forget(&eventfd);
        assert_eq!(eventfd.holders(), 1);
    }

    #[test]
    fn waiting_signals_are_one_and_their_number_has_an_end() {
        let (signaller, _full) = blocked();
        let (_ours, first) = received(0);
        for _ in 0..3 {
            assert!(signaller.signal(&first));
        }
        assert_eq!(signaller.backlog(), THREADS + 1);

        // As if a device had more doorbells than it can have.
        let reaper = Reaper::spawn(None).unwrap();
        let kinds = FdKinds::new().unwrap();
        let ours = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let more: Vec<_> = (0..MAX_WAITING)
            .map(|_| ForeignFd::new(ours.try_clone().unwrap(), &reaper))
            .map(|fd| EventFd::check(fd, &kinds).unwrap())
            .collect();
        let taken = more.iter().filter(|fd| signaller.signal(fd)).count();
        assert_eq!(taken, MAX_WAITING - 1);
        assert!(signaller.signal(&first));
        assert_eq!(signaller.backlog(), THREADS + MAX_WAITING);
    }

    #[test]
    fn fails_when_a_hook_fails() {
        for n in 0..THREADS {
            let vmm = Arc::new(TestVmm::new());
            vmm.fail_nth(n, ErrorKind::PermissionDenied);
            let error = Signaller::spawn(Some(&(vmm as _))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        }
    }
}
