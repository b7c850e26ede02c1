// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The thread that makes threads.
//!
//! A thread inherits the filter of the one that makes it, and to make one takes
//! system calls and locks of the whole process. So neither a vCPU nor the worker
//! does it: they say that there is work, and this thread, which the VMM started
//! with the device, does the rest.

use std::collections::VecDeque;
use std::io;
use std::sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use vhost_guest_vmm_traits::ThreadHook;

use crate::vmm::threads::LAUNCHER;

/// Time until a thread that could not be made is tried again.
const REST: Duration = Duration::from_millis(100);

/// Where a thread is wanted.
pub(super) trait Workplace: Send + Sync + 'static {
    /// The name of the thread.
    fn name(&self) -> &'static str;

    /// What it does, until there is nothing left to do.
    fn work(self: Arc<Self>);
}

/// Makes threads. Devices of a process that were given the same hook, or none,
/// share the thread for it; it ends with the last of them.
#[derive(Clone)]
pub(crate) struct Launcher(pub(super) Arc<Process>);

/// What there is of it in a process.
pub(super) struct Process {
    /// The process, which is another one after a fork.
    id: u32,
    office: Arc<Office>,
}

struct Office {
    hook: Option<Arc<dyn ThreadHook>>,
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Default)]
struct Orders {
    queue: VecDeque<Order>,
    /// Why one was not carried out.
    failure: Option<io::Error>,
    dismissed: bool,
}

struct Order {
    workplace: Arc<dyn Workplace>,
    not_before: Option<Instant>,
}

/// The launchers of this process, and of one that it was forked from.
static LAUNCHERS: Mutex<Vec<Weak<Process>>> = Mutex::new(Vec::new());

impl Launcher {
    /// The launcher for `hook`, which runs first in every thread. Its own thread
    /// is started unless it is there already.
    ///
    /// # Errors
    ///
    /// The thread could not be created, or its hook failed.
    pub(crate) fn start(hook: Option<&Arc<dyn ThreadHook>>) -> io::Result<Self> {
        let mut launchers = LAUNCHERS.lock().unwrap_or_else(PoisonError::into_inner);
        launchers.retain(|known| known.strong_count() > 0);
        let id = std::process::id();
        let known = launchers.iter().filter_map(Weak::upgrade);
        if let Some(process) = known.into_iter().find(|known| known.serves(id, hook)) {
            return Ok(Self(process));
        }
        let office = Arc::new(Office {
            hook: hook.cloned(),
            orders: Mutex::default(),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&office);
        launch(LAUNCHER.name, hook.cloned(), move || theirs.work())?;
        let process = Arc::new(Process { id, office });
        launchers.push(Arc::downgrade(&process));
        Ok(Self(process))
    }

    /// Why a thread could not be made, if that happened since the last time. It is
    /// tried again.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        self.0.office.orders().failure.take()
    }

    /// Has a thread made for `workplace`. Waits for nothing.
    pub(super) fn launch(&self, workplace: Arc<dyn Workplace>) {
        let not_before = None;
        self.0.office.orders().queue.push_back(Order {
            workplace,
            not_before,
        });
        self.0.office.changed.notify_one();
    }
}

impl Process {
    fn serves(&self, id: u32, hook: Option<&Arc<dyn ThreadHook>>) -> bool {
        let same = match (&self.office.hook, hook) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.id == id && same
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.office.orders().dismissed = true;
        self.office.changed.notify_one();
    }
}

impl Office {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(workplace) = self.next() {
            let (name, place) = (workplace.name(), Arc::clone(&workplace));
            let launched = launch(name, self.hook.clone(), move || place.work());
            if let Err(error) = launched {
                let mut orders = self.orders();
                orders.failure = Some(error);
                orders.queue.push_back(Order {
                    workplace,
                    not_before: Some(Instant::now() + REST),
                });
            }
        }
    }

    /// The next order whose time has come. `None`: there will be no more.
    fn next(&self) -> Option<Arc<dyn Workplace>> {
        let mut orders = self.orders();
        loop {
            let now = Instant::now();
            let due = |order: &Order| order.not_before.is_none_or(|time| time <= now);
            if let Some(at) = orders.queue.iter().position(due) {
                return orders.queue.remove(at).map(|order| order.workplace);
            }
            if orders.dismissed && orders.queue.is_empty() {
                return None;
            }
            orders = match orders.queue.is_empty() {
                true => self.changed.wait(orders),
                false => {
                    let waited = self.changed.wait_timeout(orders, REST);
                    waited.map(|(orders, _)| orders).map_err(|error| {
                        let (orders, _) = error.into_inner();
                        PoisonError::new(orders)
                    })
                }
            }
            .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts a thread, and waits until `hook` has run in it.
fn launch(
    name: &'static str,
    hook: Option<Arc<dyn ThreadHook>>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let (started, start) = mpsc::sync_channel(1);
    let body = move || {
        let hooked = hook.map_or(Ok(()), |hook| hook.thread_started(name));
        let failed = hooked.is_err();
        // Who made it waits for exactly one word.
        let _ = started.send(hooked);
        if !failed {
            work();
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(body)?;
    let ended = || io::Error::other("a thread ended in its start hook");
    start.recv().map_err(|_| ended())?
}
