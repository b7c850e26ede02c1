// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors that a peer sent, and the threads that close them.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{fallocate, FallocateFlags};

use super::crew::{Crew, Share};
use super::launcher::Launcher;
use crate::vmm::threads::{PROMPT_REAPER, REAPER};

/// Descriptors of one frontend that wait for their end, above which the device
/// takes no more from it.
pub(crate) const OVERLOAD: usize = 64;

/// Descriptors of one frontend that may be stuck while others of it are closed.
const PATIENCE: usize = 2;

/// Closes descriptors, on threads that have nothing else to do.
///
/// Each frontend has a part of these threads. One that a FUSE server holds up is
/// replaced by the next; a frontend that holds up its whole part finds
/// [`Reaper::is_overloaded`] between it and its next message, and the next
/// frontend has a part of its own. Files of memory, which nobody can hold up, never
/// wait behind anything else: they have a thread to themselves. So have main
/// sockets that are empty.
///
/// Eventfds are not among them. One that is in an epoll set when its last
/// descriptor is closed is taken out of the set, under a lock that whoever waits
/// for the set can hold while its memory is not there (`eventpoll_release_file`).
///
/// Clones share the threads and the part.
#[derive(Clone)]
pub(crate) struct Reaper {
    crews: Arc<Crews>,
    /// For what may take as long as a peer likes.
    patient: Share,
    /// For memory, which takes its time, and no longer.
    memory: Share,
    /// For sockets in which nothing is left.
    sockets: Share,
    /// Descriptors that may wait for their end, of all frontends.
    most: usize,
}

struct Crews {
    patient: Crew,
    prompt: Crew,
}

impl Reaper {
    /// Descriptors stay open until [`start`](Self::start). With more than `most`
    /// of them waiting, no frontend is accepted.
    pub(crate) fn new(most: usize) -> Self {
        let crews = Arc::new(Crews {
            patient: Crew::new(REAPER, PATIENCE),
            prompt: Crew::new(PROMPT_REAPER, 1),
        });
        Self {
            patient: crews.patient.share(),
            memory: crews.prompt.share(),
            sockets: crews.prompt.share(),
            crews,
            most,
        }
    }

    /// Has threads made when there is something to close.
    pub(crate) fn start(&self, launcher: &Launcher) {
        self.crews.patient.start(launcher);
        self.crews.prompt.start(launcher);
    }

    /// With its threads.
    #[cfg(test)]
    pub(crate) fn spawn() -> Self {
        let reaper = Self::new(2 * OVERLOAD);
        reaper.start(&Launcher::start(None).unwrap());
        reaper
    }

    /// With room for so many that frontends leave behind.
    #[cfg(test)]
    pub(crate) fn leave(&mut self, most: usize) {
        self.most = most;
    }

    /// For another frontend, which does not wait behind the ones before.
    pub(crate) fn for_frontend(&self) -> Self {
        Self {
            patient: self.crews.patient.share(),
            ..self.clone()
        }
    }

    /// Descriptors that are not closed yet although nobody wants them.
    pub(crate) fn backlog(&self) -> usize {
        self.crews.patient.backlog() + self.crews.prompt.backlog()
    }

    /// Gives back the first `length` bytes of a memory file that was shared
    /// with this frontend, and closes it. It takes the file's lock, which the peer
    /// may be holding.
    pub(crate) fn empty(&self, fd: OwnedFd, length: u64) {
        self.patient.push(move || {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A file without room for a hole keeps its bytes: they are bounded.
            let _ = fallocate(&fd, hole, 0, length);
        });
    }

    /// Tells whether so many descriptors of this frontend wait that it must be up
    /// to something. The device takes nothing from it until they are fewer.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.patient.backlog() > OVERLOAD || self.memory.backlog() > self.most
    }

    /// Tells whether the frontends before have left so many descriptors that the
    /// process could not stand another one.
    pub(crate) fn is_full(&self) -> bool {
        let others = self.crews.patient.backlog() + self.sockets.backlog();
        others > self.most || self.memory.backlog() > self.most
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper")
            .field("backlog", &self.backlog())
            .finish()
    }
}

/// How long closing a descriptor may take.
#[derive(Clone, Copy, Debug)]
enum Closing {
    /// As long as a peer likes.
    Open,
    /// It ends by itself: a file of memory.
    Memory,
    /// So does this: a socket in which nothing is left.
    Socket,
    /// No time: it is nobody's but the device's.
    Here,
}

/// A descriptor that a peer sent. Dropping it hands it to the [`Reaper`]:
/// closing it may block.
///
/// It implements [`AsFd`] for the calls that are harmless on any descriptor;
/// everything else asks for one of the types that say what it is.
pub(crate) struct ForeignFd {
    /// Present until the drop.
    fd: Option<OwnedFd>,
    closing: Closing,
    reaper: Reaper,
}

impl ForeignFd {
    /// Takes a descriptor that was just received.
    pub(crate) fn new(fd: OwnedFd, reaper: &Reaper) -> Self {
        Self {
            fd: Some(fd),
            closing: Closing::Open,
            reaper: reaper.clone(),
        }
    }

    /// Takes note that closing it waits for nobody: it is a file of memfd, tmpfs
    /// or hugetlbfs.
    pub(super) fn is_memory(&mut self) {
        self.closing = Closing::Memory;
    }

    /// Takes note that it is a socket that nobody else can send to, and in which
    /// nothing is left: no descriptor is closed with it.
    pub(crate) fn is_empty_socket(&mut self) {
        self.closing = Closing::Socket;
    }

    /// Takes note that there is nothing of a peer's in it.
    pub(super) fn is_ours(&mut self) {
        self.closing = Closing::Here;
    }

    /// Closes it here, on a thread that nobody waits for.
    pub(super) fn close(mut self) {
        drop(self.fd.take());
    }
}

impl AsFd for ForeignFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => fd.as_fd(),
            None => unreachable!("only drop takes the descriptor"),
        }
    }
}

impl fmt::Debug for ForeignFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ForeignFd")
            .field(&self.as_fd().as_raw_fd())
            .finish()
    }
}

impl Drop for ForeignFd {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            let share = match self.closing {
                Closing::Open => &self.reaper.patient,
                Closing::Memory => &self.reaper.memory,
                Closing::Socket => &self.reaper.sockets,
                Closing::Here => return drop(fd),
            };
            share.push(move || drop(fd));
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::pipe;

    use super::*;

    /// Blocks until the last writer of the pipe is closed.
    fn wait_for_end(reader: &OwnedFd) {
        assert_eq!(rustix::io::read(reader, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn closes_what_is_dropped() {
        let reaper = Reaper::spawn();
        let (reader, writer) = pipe().unwrap();
        drop(ForeignFd::new(writer, &reaper));
        wait_for_end(&reader);
    }

    #[test]
    fn closes_what_outlives_every_other_handle() {
        let reaper = Reaper::spawn();
        let (reader, writer) = pipe().unwrap();
        let foreign = ForeignFd::new(writer, &reaper);
        drop(reaper);
        drop(foreign);
        wait_for_end(&reader);
    }

    #[test]
    fn reports_what_it_has_to_do() {
        let reaper = Reaper::spawn();
        assert_eq!(reaper.backlog(), 0);
        assert!(!reaper.is_overloaded() && !reaper.is_full());
        assert!(format!("{reaper:?}").contains("backlog: 0"));
    }
}
