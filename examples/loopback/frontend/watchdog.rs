// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Ends the process when an answer is overdue.
//!
//! The frontend's library waits for answers without a limit. A thread of the
//! *frontend's* process watches it, so that the VMM has no timers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::loopback::failure::Failure;

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(20);

type Awaited = Option<(&'static str, Instant)>;

/// Watches what is being waited for.
pub struct Watchdog {
    awaited: Arc<Mutex<Awaited>>,
}

/// Something is being waited for as long as this exists.
pub struct Expected<'a> {
    watchdog: &'a Watchdog,
}

impl Watchdog {
    /// Starts the watching thread.
    pub fn start() -> Self {
        let awaited = Arc::new(Mutex::new(Awaited::None));
        let watched = awaited.clone();
        thread::spawn(move || loop {
            thread::sleep(Duration::from_millis(500));
            let overdue = lock(&watched).filter(|(_, since)| since.elapsed() > LIMIT);
            if let Some((what, _)) = overdue {
                let seconds = LIMIT.as_secs();
                let failure = Failure::Hang(format!("no answer to {what} for {seconds} s"));
                crate::loopback::fail(&failure);
            }
        });
        Self { awaited }
    }

    /// Notes that `what` is being waited for from now on.
    pub fn expect(&self, what: &'static str) -> Expected<'_> {
        *lock(&self.awaited) = Some((what, Instant::now()));
        Expected { watchdog: self }
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        *lock(&self.watchdog.awaited) = None;
    }
}

fn lock(awaited: &Mutex<Awaited>) -> MutexGuard<'_, Awaited> {
    awaited.lock().unwrap_or_else(PoisonError::into_inner)
}
