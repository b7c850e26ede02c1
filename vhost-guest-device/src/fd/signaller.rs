// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that signal foreign eventfds.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSliceMut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{preadv2, write, ReadWriteFlags};

use super::crew::{Crew, Share};
use super::kind::EventFd;
use super::launcher::Launcher;
use crate::vmm::threads::{RESCUER, SIGNALLER};

/// Eventfds that may wait for their signal: more than a device has doorbells.
const MAX_WAITING: usize = 1024;

/// Threads that one frontend may block, each on another eventfd.
const PATIENCE: usize = 2;

/// The offset that means "no offset" to `preadv2`; an eventfd has none.
const NO_OFFSET: u64 = u64::MAX;

/// How often a blocked thread's eventfd is read: first, and at last.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];

/// Signals eventfds whose other end a frontend holds.
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
/// blocks a thread, until it reads its eventfd. It can block two, which are not
/// the next frontend's; and when its eventfds are gone from the device
/// ([`forget`](Self::forget)), another thread reads them, again and again, until
/// those that are blocked have had their turn. A frontend that fills them
/// faster for ever keeps its two threads; it works for that, and the device
/// hardly does.
pub(crate) struct Signaller {
    writers: Crew,
    rescuer: Crew,
    /// Of the writers: the present frontend's.
    share: Mutex<Share>,
    /// Of the rescuer.
    rescue: Share,
    board: Arc<Board>,
}

/// What is to be signalled.
#[derive(Default)]
struct Board(Mutex<Signals>);

#[derive(Default)]
struct Signals {
    waiting: VecDeque<EventFd>,
    /// Jobs of the present share for those that wait: as many at least.
    jobs: usize,
    /// Which share that is.
    share: u64,
    writing: Vec<Writing>,
    /// Somebody frees the threads that are blocked for nothing.
    rescuing: bool,
}

/// An eventfd that a thread is writing.
struct Writing {
    eventfd: EventFd,
    /// It was signalled meanwhile.
    again: bool,
    /// It is not the device's any more.
    forgotten: bool,
}

impl Signaller {
    /// Signals wait until [`start`](Self::start).
    pub(crate) fn new() -> Self {
        let writers = Crew::new(SIGNALLER, PATIENCE);
        let rescuer = Crew::new(RESCUER, 1);
        Self {
            share: Mutex::new(writers.share()),
            rescue: rescuer.share(),
            writers,
            rescuer,
            board: Arc::default(),
        }
    }

    /// Has threads made when there is something to signal.
    pub(crate) fn start(&self, launcher: &Launcher) {
        self.writers.start(launcher);
        self.rescuer.start(launcher);
    }

    /// With its threads.
    #[cfg(test)]
    pub(crate) fn spawn() -> Self {
        let signaller = Self::new();
        signaller.start(&Launcher::start(None).unwrap());
        signaller
    }

    /// Signals `eventfd` soon. Never blocks.
    ///
    /// Returns false if too many eventfds wait, so that the signal is lost:
    /// only possible when a frontend has blocked all its threads.
    pub(crate) fn signal(&self, eventfd: &EventFd) -> bool {
        let mut signals = self.board.signals();
        if signals.waiting.contains(eventfd) {
            return true;
        }
        let mut writing = signals.writing.iter_mut();
        if let Some(writing) = writing.find(|writing| writing.eventfd == *eventfd) {
            // One thread is enough to be blocked on it.
            writing.again = true;
            return true;
        }
        if signals.waiting.len() >= MAX_WAITING {
            return false;
        }
        signals.waiting.push_back(eventfd.clone());
        if signals.jobs < signals.waiting.len() {
            signals.jobs += 1;
            let (board, number) = (Arc::clone(&self.board), signals.share);
            self.share().push(move || board.signal_next(number));
        }
        true
    }

    /// Ends all use of `eventfd`, which was detached from its doorbell: what
    /// waits is dropped, and a thread that is blocked on it is freed, if the
    /// frontend lets it. Never blocks.
    ///
    /// Tells whether there was a signal that may not have been made.
    pub(crate) fn forget(&self, eventfd: &EventFd) -> bool {
        let mut signals = self.board.signals();
        let at = signals.waiting.iter().position(|fd| fd == eventfd);
        let waited = at.and_then(|at| signals.waiting.remove(at));
        let mut writing = signals.writing.iter_mut();
        let writing = writing.find(|writing| writing.eventfd == *eventfd);
        let running = writing.is_some();
        if let Some(writing) = writing {
            writing.forgotten = true;
            writing.again = false;
            self.rescue(signals);
        }
        waited.is_some() || running
    }

    /// All eventfds of the frontend's were forgotten. Threads that it has blocked
    /// are not the next one's affair.
    pub(crate) fn leave_frontend(&self) {
        let mut signals = self.board.signals();
        let mut share = self.share();
        if share.backlog() > 0 {
            *share = self.writers.share();
            signals.share += 1;
            signals.jobs = 0;
        }
    }

    /// Sees to it that threads are freed.
    fn rescue(&self, mut signals: MutexGuard<'_, Signals>) {
        if !std::mem::replace(&mut signals.rescuing, true) {
            let board = Arc::clone(&self.board);
            self.rescue.push(move || board.rescue());
        }
    }

    fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks a thread on a full eventfd, until that is read: as if a frontend
    /// had filled it after the look at it.
    #[cfg(test)]
    pub(crate) fn block_on(&self, full: &EventFd) {
        let (board, eventfd) = (Arc::clone(&self.board), full.clone());
        self.share().push(move || {
            board.signals().begin(eventfd.clone());
            add_one(&eventfd);
            board.end(&eventfd);
        });
        while !self.board.is_writing(full) {
            thread::yield_now();
        }
    }

    /// Signals that wait or are under way.
    #[cfg(test)]
    pub(crate) fn backlog(&self) -> usize {
        let signals = self.board.signals();
        signals.waiting.len() + signals.writing.len()
    }
}

impl fmt::Debug for Signaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signaller").finish_non_exhaustive()
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        let mut signals = self.board.signals();
        // They are dropped outside the lock.
        let waiting = std::mem::take(&mut signals.waiting);
        for writing in &mut signals.writing {
            writing.forgotten = true;
            writing.again = false;
        }
        if signals.writing.is_empty() {
            drop(signals);
        } else {
            self.rescue(signals);
        }
        drop(waiting);
    }
}

impl Signals {
    fn begin(&mut self, eventfd: EventFd) {
        self.writing.push(Writing {
            eventfd,
            again: false,
            forgotten: false,
        });
    }
}

impl Board {
    fn signals(&self) -> MutexGuard<'_, Signals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writer's job: the next signal, if it is still wanted.
    fn signal_next(&self, share: u64) {
        let mut signals = self.signals();
        if signals.share == share {
            signals.jobs -= 1;
        }
        let Some(eventfd) = signals.waiting.pop_front() else {
            return;
        };
        signals.begin(eventfd.clone());
        drop(signals);
        add_one_in_time(&eventfd);
        self.end(&eventfd);
    }

    /// It was written. If it was signalled meanwhile, it is again.
    fn end(&self, eventfd: &EventFd) {
        while !self.is_done(eventfd) {
            add_one_in_time(eventfd);
        }
    }

    /// Tells whether that is all.
    fn is_done(&self, eventfd: &EventFd) -> bool {
        let mut signals = self.signals();
        let mut writing = signals.writing.iter_mut();
        let Some(at) = writing.position(|writing| writing.eventfd == *eventfd) else {
            return true;
        };
        let again = &mut signals.writing[at].again;
        if std::mem::take(again) {
            return false;
        }
        let done = signals.writing.swap_remove(at);
        drop(signals);
        drop(done);
        true
    }

    /// The rescuer's job: reads the eventfds that threads are blocked on for
    /// nothing, until no thread is.
    fn rescue(&self) {
        let [mut pause, longest] = PAUSES;
        let mut before = 0;
        loop {
            let mut signals = self.signals();
            let writing = signals.writing.iter();
            let blocked = writing.filter(|writing| writing.forgotten);
            let blocked: Vec<_> = blocked.map(|writing| writing.eventfd.clone()).collect();
            if blocked.is_empty() {
                signals.rescuing = false;
                return;
            }
            drop(signals);
            pause = match blocked.len() > before {
                true => PAUSES[0],
                false => (2 * pause).min(longest),
            };
            before = blocked.len();
            blocked.iter().for_each(make_room);
            drop(blocked);
            thread::sleep(pause);
        }
    }

    #[cfg(test)]
    fn is_writing(&self, eventfd: &EventFd) -> bool {
        let signals = self.signals();
        let mut writing = signals.writing.iter();
        writing.any(|writing| writing.eventfd == *eventfd)
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

/// Signals, unless a signal is pending.
fn add_one_in_time(eventfd: &EventFd) {
    if has_room(eventfd) {
        add_one(eventfd);
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
mod tests;
