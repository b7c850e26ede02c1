// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that have to do with frontends' files, as long as these like.

use std::os::fd::OwnedFd;
use std::sync::{mpsc, Arc};
use std::time::{Duration, Instant};

use vhost_guest_vmm_traits::{RangeId, SharedMemoryMapper};

use super::window::{truncated, Missing, Place, Window};
use crate::event_loop::poller;
use crate::fd::{Answer, Crew, Launcher, Share};
use crate::sync::Ordered;
use crate::vmm::threads::FILES;

/// Shares of one frontend: so many threads it can keep waiting.
const SHARES: usize = 4;

/// Ranges of one frontend that may wait for their end, above which nothing more
/// of it is opened.
const OVERLOAD: usize = 64;

/// Questions of vCPUs about sizes that may wait.
const QUESTIONS: usize = 64;

/// How long somebody waits who wants to know sizes: a vCPU, with which nothing
/// else waits. Tests on a busy machine want an answer.
const PATIENCE: Duration = match cfg!(test) {
    false => Duration::from_millis(5),
    true => Duration::from_secs(1),
};

/// How long a file may leave open how large it is, after it has changed.
const LIMIT: Duration = Duration::from_secs(1);

/// These threads, and one frontend's shares of them.
#[derive(Clone)]
pub(crate) struct Askers {
    crew: Arc<Crew>,
    /// Signalled when something is done.
    wake: Arc<OwnedFd>,
    admission: Share,
    closing: Share,
    sizes: Share,
    changes: Share,
}

impl Askers {
    /// Nothing is done before the [`start`](Self::start).
    pub(crate) fn new(wake: Arc<OwnedFd>) -> Self {
        Self::of(Arc::new(Crew::new(FILES, 1)), wake)
    }

    fn of(crew: Arc<Crew>, wake: Arc<OwnedFd>) -> Self {
        Self {
            admission: crew.share(),
            closing: crew.share(),
            sizes: crew.share(),
            changes: crew.share(),
            wake,
            crew,
        }
    }

    /// Has threads made when there is something to do.
    pub(crate) fn start(&self, launcher: &Launcher) {
        self.crew.start(launcher);
    }

    /// For another frontend, which does not wait for the files of those before.
    pub(super) fn for_frontend(&self) -> Self {
        Self::of(Arc::clone(&self.crew), Arc::clone(&self.wake))
    }

    /// Whether the files of frontends before keep so many threads waiting that
    /// another frontend could not have its share.
    pub(super) fn is_full(&self) -> bool {
        self.crew.running() + SHARES > FILES.count
    }

    /// Whether so much of this frontend waits for its end that nothing more of it is to
    /// be opened. There is a turn when that is over.
    pub(super) fn is_overloaded(&self) -> bool {
        self.closing.backlog() > OVERLOAD
    }

    /// Has something found out that a change of memory depends on.
    pub(super) fn admit<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Answer<T> {
        self.admission.ask(&self.wake, question)
    }

    /// Waits until something is done, as a device does.
    #[cfg(test)]
    pub(super) fn wait(&self) {
        rustix::io::read(&self.wake, &mut [0; 8]).unwrap();
    }

    /// Lets no file answer until what this returns is dropped.
    #[cfg(test)]
    pub(super) fn hold_sizes(&self) -> mpsc::Sender<()> {
        let (held, hold) = mpsc::channel();
        let hold = Arc::new(std::sync::Mutex::new(hold));
        for share in [&self.sizes, &self.changes] {
            let hold = Arc::clone(&hold);
            share.push(move || hold.lock().unwrap().recv().unwrap_or_default());
        }
        held
    }

    /// Closes a range of a file that the VMM has opened.
    pub(super) fn close(&self, mapper: &Arc<dyn SharedMemoryMapper>, range: RangeId) {
        let (mapper, askers) = (Arc::clone(mapper), self.clone());
        self.closing.push(move || {
            let was_overloaded = askers.is_overloaded();
            mapper.close(range);
            // This one still counts.
            if was_overloaded && askers.closing.backlog() <= OVERLOAD + 1 {
                poller::wake(&askers.wake);
            }
        });
    }
}

/// A question after the sizes of files, because one has changed.
pub(super) struct Question {
    answer: Answer<Vec<Place>>,
    asked: Instant,
    /// A file has changed meanwhile.
    again: bool,
}

impl Question {
    /// Has all files asked that are lent.
    pub(super) fn ask(window: &Arc<Ordered<Window>>) -> Self {
        let (askers, window) = (window.lock().askers(), Arc::clone(window));
        Self {
            answer: askers.changes.ask(&askers.wake, move || truncated(&window)),
            asked: Instant::now(),
            again: false,
        }
    }

    /// A file has changed again.
    pub(super) fn renew(&mut self) {
        self.again = true;
    }

    /// What was found out, and whether it has to be asked again. A frontend that does
    /// not let its file answer for so long loses all of them.
    pub(super) fn answer(&self) -> Option<(Missing, bool)> {
        match self.answer.take() {
            Some(places) => Some((Missing::Truncated(places), self.again)),
            None if self.asked.elapsed() > LIMIT => Some((Missing::Everything, false)),
            None => None,
        }
    }
}

/// Where ranges are that have pages behind the end of their file. `None` if that
/// could not be found out soon.
pub(crate) fn truncated_now(window: &Arc<Ordered<Window>>) -> Option<Vec<Place>> {
    let askers = window.lock().askers();
    if askers.sizes.backlog() > QUESTIONS {
        return None;
    }
    let (tell, told) = mpsc::sync_channel(1);
    let window = Arc::clone(window);
    askers.sizes.push(move || {
        // Whoever asked may have gone.
        let _ = tell.send(truncated(&window));
    });
    told.recv_timeout(PATIENCE).ok()
}
