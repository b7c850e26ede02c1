// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A fixed crew of threads for work that a peer can delay.

use std::collections::VecDeque;
use std::io;
use std::sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use vhost_guest_vmm_traits::ThreadHook;

use crate::vmm::threads::Thread;

/// A piece of work that may block for as long as a peer likes.
pub(super) trait Job: Sized + Send + 'static {
    /// What a running job is known by while it runs.
    type Key: Clone + PartialEq + Send;

    /// Prepares a thread for such jobs, after its hook.
    ///
    /// # Errors
    ///
    /// The thread cannot do them.
    fn prepare() -> io::Result<()> {
        Ok(())
    }

    /// The key of this job.
    fn key(&self) -> Self::Key;

    /// Does the work.
    fn run(self, crew: &Shared<Self>);
}

/// Threads that take jobs from one queue.
///
/// All of them exist from the start: a job that blocks costs one thread, the
/// others go on, and no thread has to be created in the middle of an attack or
/// under a seccomp filter. What is pushed before they exist waits for them.
/// Dropping the crew waits for nothing: the threads
/// finish the queue and end, one that is blocked ends when its job does.
pub(super) struct Crew<J: Job> {
    kind: Thread,
    /// How many threads exist.
    started: Mutex<usize>,
    shared: Arc<Shared<J>>,
}

/// What [`Crew::withdraw`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Withdrawn {
    /// Jobs waited, and are gone.
    pub(super) any: bool,
    /// A job runs, which nobody can take away.
    pub(super) running: bool,
}

/// What the threads of a crew share.
pub(super) struct Shared<J: Job> {
    state: Mutex<State<J>>,
    work: Condvar,
}

struct State<J: Job> {
    queue: VecDeque<J>,
    running: Vec<J::Key>,
    dismissed: bool,
}

impl<J: Job> Shared<J> {
    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a job known by `key` is running.
    pub(super) fn is_running(&self, key: &J::Key) -> bool {
        self.state().running.contains(key)
    }

    /// The next job, which counts as running from here on.
    fn next(&self) -> Option<(J, J::Key)> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.queue.pop_front() {
                let key = job.key();
                state.running.push(key.clone());
                return Some((job, key));
            }
            if state.dismissed {
                return None;
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, key: &J::Key) {
        let mut state = self.state();
        if let Some(at) = state.running.iter().position(|k| k == key) {
            state.running.swap_remove(at);
        }
    }

    fn work(&self) {
        while let Some((job, key)) = self.next() {
            job.run(self);
            self.done(&key);
        }
    }
}

impl<J: Job> Crew<J> {
    /// A crew of such threads, which are not started yet.
    pub(super) fn new(kind: Thread) -> Self {
        Self {
            kind,
            started: Mutex::new(0),
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    queue: VecDeque::new(),
                    running: Vec::new(),
                    dismissed: false,
                }),
                work: Condvar::new(),
            }),
        }
    }

    /// Starts the threads that do not exist yet, and waits until `hook` has
    /// run in each.
    ///
    /// # Errors
    ///
    /// A thread could not be created, or its hook failed.
    pub(super) fn start(&self, hook: Option<&Arc<dyn ThreadHook>>) -> io::Result<()> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        while *started < self.kind.count {
            self.start_one(hook.cloned())?;
            *started += 1;
        }
        Ok(())
    }

    fn start_one(&self, hook: Option<Arc<dyn ThreadHook>>) -> io::Result<()> {
        let (shared, name) = (Arc::clone(&self.shared), self.kind.name);
        let (started, start) = mpsc::sync_channel(1);
        let body = move || {
            let hooked = hook.map_or(Ok(()), |hook| hook.thread_started(name));
            let outcome = hooked.and_then(|()| J::prepare());
            let failed = outcome.is_err();
            let _ = started.send(outcome);
            if !failed {
                shared.work();
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(body)?;
        let ended = || io::Error::other("the thread ended in its start hook");
        start.recv().map_err(|_| ended())?
    }

    /// Adds a job. Never blocks.
    pub(super) fn push(&self, job: J) {
        self.shared.state().queue.push_back(job);
        self.shared.work.notify_one();
    }

    /// Adds a job that goes before the others.
    pub(super) fn push_first(&self, job: J) {
        self.shared.state().queue.push_front(job);
        self.shared.work.notify_one();
    }

    /// Adds a job unless one with the same key waits already, or `limit` jobs
    /// do. Tells whether one with this key waits now.
    pub(super) fn push_once(&self, job: J, limit: usize) -> bool {
        let key = job.key();
        let mut state = self.shared.state();
        if state.queue.iter().any(|waiting| waiting.key() == key) {
            return true;
        }
        if state.queue.len() >= limit {
            return false;
        }
        state.queue.push_back(job);
        drop(state);
        self.shared.work.notify_one();
        true
    }

    /// Takes the waiting jobs with this key away.
    pub(super) fn withdraw(&self, key: &J::Key) -> Withdrawn {
        let mut state = self.shared.state();
        let queue = std::mem::take(&mut state.queue);
        let (withdrawn, kept) = queue.into_iter().partition(|job| job.key() == *key);
        state.queue = kept;
        let running = state.running.contains(key);
        drop(state);
        // What a job owns is dropped outside the lock.
        let withdrawn: VecDeque<J> = withdrawn;
        Withdrawn {
            any: !withdrawn.is_empty(),
            running,
        }
    }

    /// Takes all waiting jobs away, and returns the keys of the running ones.
    pub(super) fn withdraw_all(&self) -> Vec<J::Key> {
        let mut state = self.shared.state();
        let withdrawn = std::mem::take(&mut state.queue);
        let running = state.running.clone();
        drop(state);
        drop(withdrawn);
        running
    }

    /// Tells whether a job known by `key` is running.
    #[cfg(test)]
    pub(super) fn is_running(&self, key: &J::Key) -> bool {
        self.shared.is_running(key)
    }

    /// Jobs that wait or run.
    pub(super) fn backlog(&self) -> usize {
        let state = self.shared.state();
        state.queue.len() + state.running.len()
    }
}

impl<J: Job> Drop for Crew<J> {
    fn drop(&mut self) {
        self.shared.state().dismissed = true;
        self.shared.work.notify_all();
    }
}
