// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sees threads that are stuck.

use std::fs;
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// No input takes a tenth of it, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is told of a thread (proc(5)).
const FILES: [&str; 4] = ["comm", "wchan", "syscall", "stack"];

/// Ends the process unless it is dropped in time.
pub struct Watchdog(#[allow(dead_code)] Sender<()>);

impl Watchdog {
    /// Begins to watch; `what` is said when time is over.
    #[must_use]
    pub fn start(what: &'static str) -> Self {
        let (alive, watched) = channel::<()>();
        thread::spawn(move || {
            if watched.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!("stuck: {what}");
                tell();
                std::process::abort();
            }
        });
        Self(alive)
    }
}

/// Tells where each thread is.
fn tell() {
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        for file in FILES {
            let text = fs::read_to_string(task.path().join(file)).unwrap_or_default();
            eprint!("{file}: {} ", text.trim_end());
        }
        eprintln!();
    }
}
