// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads for work that a peer can delay, as long as it likes.
//!
//! Nobody waits for such work, so whoever gave it can abandon it: it ends by
//! itself, when the call that it is stuck in returns. What it costs is bounded:
//!
//! ```text
//!   Crew           one kind of threads: at most `Thread::count` of them at a time
//!    ├─ Share      one frontend's: at most `most` of its jobs run at a time,
//!    │             the others wait behind them
//!    └─ Share      the next frontend's, which does not wait behind those
//! ```
//!
//! So a stuck job costs a thread of the crew, and a place of the share that it
//! came from. Threads are made by the [`Launcher`] when there is work for them,
//! and end when there has been none for a while.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::launcher::{Launcher, Workplace};
use super::signal;
use crate::vmm::threads::Thread;

/// How long a thread waits for more work before it ends.
const LINGER: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// Threads of one kind. Dropping it waits for nothing: what waits is still
/// done, and what is stuck ends when it can.
pub(crate) struct Crew(Arc<Shared>);

/// The part of a crew that one frontend may use. Clones are the same share.
#[derive(Clone)]
pub(crate) struct Share(Arc<Place>);

/// No job can be begun: as many as are allowed are stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stuck;

/// What a job will have found out. Dropping it abandons the question: its answer
/// is dropped where it is found, or here if it is there already.
pub(crate) struct Answer<T>(Arc<Mutex<Option<T>>>);

struct Place {
    shared: Arc<Shared>,
    number: u64,
}

struct Shared {
    kind: Thread,
    /// Jobs of one share that may run at a time.
    most: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Present from the start of the device on.
    launcher: Option<Launcher>,
    parts: BTreeMap<u64, Part>,
    /// The number of the next share.
    free: u64,
    /// The share whose job was taken last: the next one is another's.
    served: u64,
    /// Threads that exist or are being made.
    threads: usize,
    /// Those that are being made.
    starting: usize,
    /// Those that wait for work.
    idle: usize,
    dismissed: bool,
}

/// What there is of one share.
#[derive(Default)]
struct Part {
    queue: VecDeque<Job>,
    running: usize,
    /// Nobody has the share any more.
    left: bool,
}

impl Part {
    /// Jobs that wait or run.
    fn jobs(&self) -> usize {
        self.queue.len() + self.running
    }

    fn is_over(&self) -> bool {
        self.left && self.queue.is_empty() && self.running == 0
    }
}

impl Crew {
    /// A crew, of whose jobs each share may have `most` running. What is pushed
    /// before the [`start`](Self::start) waits for it.
    pub(crate) fn new(kind: Thread, most: usize) -> Self {
        Self(Arc::new(Shared {
            kind,
            most,
            state: Mutex::default(),
            work: Condvar::new(),
        }))
    }

    /// Has threads made from now on, as they are needed. Idempotent.
    pub(crate) fn start(&self, launcher: &Launcher) {
        let mut state = self.0.state();
        state.launcher.get_or_insert_with(|| launcher.clone());
        self.0.staff(&mut state);
    }

    /// A share for somebody else than those before.
    pub(crate) fn share(&self) -> Share {
        let mut state = self.0.state();
        let number = state.free;
        state.free += 1;
        state.parts.insert(number, Part::default());
        drop(state);
        Share(Arc::new(Place {
            shared: Arc::clone(&self.0),
            number,
        }))
    }

    /// Jobs that run, of all shares.
    pub(crate) fn running(&self) -> usize {
        let state = self.0.state();
        state.parts.values().map(|part| part.running).sum()
    }

    /// Jobs that wait or run, of all shares.
    pub(crate) fn backlog(&self) -> usize {
        let state = self.0.state();
        state.parts.values().map(Part::jobs).sum()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.0.state().dismissed = true;
        self.0.work.notify_all();
    }
}

impl Share {
    /// Adds a job, which may have to wait for earlier ones. Never blocks.
    pub(crate) fn push(&self, job: impl FnOnce() + Send + 'static) {
        let shared = &self.0.shared;
        shared.push(&mut shared.state(), self.0.number, Box::new(job));
    }

    /// Begins a job that would be of no use if it had to wait for others to end.
    ///
    /// # Errors
    ///
    /// It would have to.
    pub(crate) fn begin(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Stuck> {
        let shared = &self.0.shared;
        let mut state = shared.state();
        let mine = state.parts.get(&self.0.number).map_or(0, Part::jobs);
        if mine >= shared.most || state.busy(shared.most) >= shared.kind.count {
            return Err(Stuck);
        }
        shared.push(&mut state, self.0.number, Box::new(job));
        Ok(())
    }

    /// Has a question answered, and signals `wake` when it is. It may have to wait
    /// for earlier jobs.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        wake: &Arc<OwnedFd>,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Answer<T> {
        let slot = Arc::new(Mutex::new(None));
        let (theirs, wake) = (Arc::clone(&slot), Arc::clone(wake));
        self.push(move || {
            let answer = question();
            // Whoever finds the answer finds the signal, too.
            let mut slot = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            *slot = Some(answer);
            signal(&wake);
        });
        Answer(slot)
    }

    /// Jobs that wait or run.
    pub(crate) fn backlog(&self) -> usize {
        let state = self.0.shared.state();
        state.parts.get(&self.0.number).map_or(0, Part::jobs)
    }
}

impl<T> Answer<T> {
    /// Whether it is there.
    #[cfg(test)]
    pub(crate) fn is_there(&self) -> bool {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.is_some()
    }

    /// The answer, once it is there.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(part) = state.parts.get_mut(&self.number) {
            part.left = true;
        }
        state.tidy(self.number);
    }
}

impl State {
    /// Jobs that could run now, if there were threads.
    fn runnable(&self, most: usize) -> usize {
        let parts = self.parts.values();
        let now = |part: &Part| part.queue.len().min(most.saturating_sub(part.running));
        parts.map(now).sum()
    }

    /// Jobs that run or could.
    fn busy(&self, most: usize) -> usize {
        let running: usize = self.parts.values().map(|part| part.running).sum();
        running + self.runnable(most)
    }

    /// The next job, and its share: each share in its turn.
    fn take(&mut self, most: usize) -> Option<(u64, Job)> {
        let after = self.served.saturating_add(1);
        let ready = |(_, part): &(&u64, &Part)| !part.queue.is_empty() && part.running < most;
        let mut parts = self.parts.range(after..).chain(self.parts.range(..after));
        let number = *parts.find(ready)?.0;
        let part = self.parts.get_mut(&number)?;
        let job = part.queue.pop_front()?;
        part.running += 1;
        self.served = number;
        Some((number, job))
    }

    fn tidy(&mut self, number: u64) {
        if self.parts.get(&number).is_some_and(Part::is_over) {
            self.parts.remove(&number);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, state: &mut State, number: u64, job: Job) {
        if let Some(part) = state.parts.get_mut(&number) {
            part.queue.push_back(job);
        }
        self.staff(state);
        self.work.notify_one();
    }

    /// Sees to it that there are threads for what can run.
    fn staff(self: &Arc<Self>, state: &mut State) {
        let Some(launcher) = state.launcher.clone() else {
            return;
        };
        let wanted = state.runnable(self.most);
        while state.idle + state.starting < wanted && state.threads < self.kind.count {
            state.threads += 1;
            state.starting += 1;
            launcher.launch(Arc::clone(self) as Arc<dyn Workplace>);
        }
    }
}

impl Workplace for Shared {
    fn name(&self) -> &'static str {
        self.kind.name
    }

    fn work(self: Arc<Self>) {
        let _present = Present(&self);
        let mut state = self.state();
        state.starting -= 1;
        loop {
            if let Some((number, job)) = state.take(self.most) {
                drop(state);
                let running = Running(&self, number);
                job();
                drop(running);
                state = self.state();
                continue;
            }
            if state.dismissed {
                return;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, LINGER);
            let (now, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            state.idle -= 1;
            if waited.timed_out() && state.runnable(self.most) == 0 {
                return;
            }
        }
    }
}

/// A thread, which may panic.
struct Present<'a>(&'a Arc<Shared>);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.threads -= 1;
        // What came while it left.
        self.0.staff(&mut state);
    }
}

/// A job of a share's, likewise.
struct Running<'a>(&'a Shared, u64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let Some(part) = state.parts.get_mut(&self.1) {
            part.running -= 1;
        }
        state.tidy(self.1);
    }
}

#[cfg(test)]
mod tests;
