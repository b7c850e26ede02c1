// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors that a peer sent, and the threads that close them.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{fallocate, FallocateFlags};
use vhost_guest_vmm_traits::{RangeId, SharedMemoryMapper, ThreadHook};

use super::crew::{Crew, Job, Shared};
use crate::vmm::threads::{PROMPT_REAPER, REAPER};

/// Descriptors waiting for their end, above which the device takes no more.
pub(crate) const OVERLOAD: usize = 128;

/// Closes descriptors, on threads that have nothing else to do.
///
/// One that a FUSE server holds up is replaced by the next; a frontend that
/// holds up all of them finds [`Reaper::is_overloaded`] between it and its next
/// connection. Memory and eventfds, which nobody can hold up, never wait behind
/// the others: they have a thread to themselves.
///
/// Clones share the threads. They end when the last clone and the last
/// [`ForeignFd`] are gone and all is closed.
#[derive(Clone)]
pub(crate) struct Reaper {
    /// For what may take as long as a peer likes.
    patient: Arc<Crew<End>>,
    /// For what takes its time, and no longer.
    prompt: Arc<Crew<End>>,
}

impl Reaper {
    /// Without threads: descriptors stay open until [`start`](Self::start).
    pub(crate) fn new() -> Self {
        Self {
            patient: Arc::new(Crew::new(REAPER)),
            prompt: Arc::new(Crew::new(PROMPT_REAPER)),
        }
    }

    /// Starts the threads; `hook` runs first in each.
    ///
    /// # Errors
    ///
    /// A thread could not be created, or its hook failed.
    pub(crate) fn start(&self, hook: Option<&Arc<dyn ThreadHook>>) -> io::Result<()> {
        self.patient.start(hook)?;
        self.prompt.start(hook)
    }

    /// With its threads.
    #[cfg(test)]
    pub(crate) fn spawn(hook: Option<&Arc<dyn ThreadHook>>) -> io::Result<Self> {
        let reaper = Self::new();
        reaper.start(hook)?;
        Ok(reaper)
    }

    /// Descriptors that are not closed yet although nobody wants them.
    pub(crate) fn backlog(&self) -> usize {
        self.patient.backlog() + self.prompt.backlog()
    }

    /// Gives back the first `length` bytes of a memory file that was shared
    /// with a peer, and closes it. It takes the file's lock, which the peer may
    /// be holding.
    pub(crate) fn empty(&self, fd: OwnedFd, length: u64) {
        self.patient.push(End::Fd { fd, empty: length });
    }

    /// Closes a range of a file that the VMM has opened.
    pub(crate) fn close_range(&self, mapper: &Arc<dyn SharedMemoryMapper>, range: RangeId) {
        let mapper = Arc::clone(mapper);
        self.prompt.push(End::Range { mapper, range });
    }

    /// Tells whether so many descriptors wait that their sender must be up to
    /// something. The device takes nothing from a frontend and accepts nobody
    /// until the backlog is smaller.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.backlog() > OVERLOAD
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper")
            .field("backlog", &self.backlog())
            .finish()
    }
}

/// Something to be closed.
enum End {
    /// A descriptor, after its file has been emptied of so many bytes.
    Fd { fd: OwnedFd, empty: u64 },
    /// A range of a file that the VMM has opened.
    Range {
        mapper: Arc<dyn SharedMemoryMapper>,
        range: RangeId,
    },
}

impl Job for End {
    type Key = ();

    fn key(&self) {}

    fn run(self, _: &Shared<Self>) {
        match self {
            Self::Fd { fd, empty } => {
                if empty > 0 {
                    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    // A file without room for a hole keeps its bytes: they are
                    // bounded.
                    let _ = fallocate(&fd, hole, 0, empty);
                }
            }
            Self::Range { mapper, range } => mapper.close(range),
        }
    }
}

/// A descriptor that a peer sent. Dropping it hands it to the [`Reaper`]:
/// closing it may block.
///
/// It implements [`AsFd`] for the calls that are harmless on any descriptor;
/// everything else asks for one of the types that say what it is.
pub(crate) struct ForeignFd {
    /// Present until the drop.
    fd: Option<OwnedFd>,
    prompt: bool,
    reaper: Reaper,
}

impl ForeignFd {
    /// Takes a descriptor that was just received.
    pub(crate) fn new(fd: OwnedFd, reaper: &Reaper) -> Self {
        Self {
            fd: Some(fd),
            prompt: false,
            reaper: reaper.clone(),
        }
    }

    /// Takes note that closing it waits for nobody: it is an eventfd, or a file of
    /// memfd, tmpfs or hugetlbfs.
    pub(super) fn mark_prompt(&mut self) {
        self.prompt = true;
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
            let crew = match self.prompt {
                true => &self.reaper.prompt,
                false => &self.reaper.patient,
            };
            crew.push(End::Fd { fd, empty: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::pipe::pipe;
    use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};

    use super::*;
    use crate::vmm::threads::Thread;

    const THREADS: usize = REAPER.count + PROMPT_REAPER.count;

    /// Blocks until the last writer of the pipe is closed.
    fn wait_for_end(reader: &OwnedFd) {
        assert_eq!(rustix::io::read(reader, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn closes_what_is_dropped() {
        let reaper = Reaper::spawn(None).unwrap();
        let (reader, writer) = pipe().unwrap();
        drop(ForeignFd::new(writer, &reaper));
        wait_for_end(&reader);
    }

    #[test]
    fn closes_what_outlives_every_other_handle() {
        let reaper = Reaper::spawn(None).unwrap();
        let (reader, writer) = pipe().unwrap();
        let foreign = ForeignFd::new(writer, &reaper);
        drop(reaper);
        drop(foreign);
        wait_for_end(&reader);
    }

    #[test]
    fn reports_what_it_has_to_do() {
        let reaper = Reaper::spawn(None).unwrap();
        assert_eq!(reaper.backlog(), 0);
        assert!(!reaper.is_overloaded());
        assert!(format!("{reaper:?}").contains("backlog: 0"));
    }

    #[test]
    fn runs_the_hook_in_each_thread() {
        let vmm = Arc::new(TestVmm::new());
        let hook: Arc<dyn ThreadHook> = Arc::clone(&vmm) as _;
        let _reaper = Reaper::spawn(Some(&hook)).unwrap();
        let kinds = [REAPER, PROMPT_REAPER].into_iter();
        let threads = kinds.flat_map(|kind| std::iter::repeat_n(kind, kind.count));
        let name = |thread: Thread| thread.name.to_owned();
        let started = threads.map(|thread| Call::ThreadStarted { name: name(thread) });
        assert_eq!(vmm.calls(), started.collect::<Vec<_>>());
    }

    #[test]
    fn fails_when_a_hook_fails() {
        for n in 0..THREADS {
            let vmm = Arc::new(TestVmm::new());
            vmm.fail_nth(n, ErrorKind::PermissionDenied);
            let error = Reaper::spawn(Some(&(vmm as _))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn fails_when_a_hook_panics() {
        struct Panics(AtomicUsize);
        impl ThreadHook for Panics {
            fn thread_started(&self, _: &str) -> io::Result<()> {
                match self.0.fetch_add(1, Ordering::Relaxed) {
                    0 => std::panic::resume_unwind(Box::new("quiet")),
                    _ => Err(Error::other("not reached")),
                }
            }
        }
        let hook: Arc<dyn ThreadHook> = Arc::new(Panics(AtomicUsize::new(0)));
        assert!(Reaper::spawn(Some(&hook)).is_err());
    }
}
