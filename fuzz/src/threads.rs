// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device's threads: the fuzzed code must come to rest after each step, so
//! that one input always leads to the same run.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::gettid;
use vhost_guest_vmm_traits::ThreadHook;

/// As long as nobody waits for: a device that is busy without input is a find.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes down which threads there are.
#[derive(Default)]
pub struct Threads(Mutex<Vec<String>>);

impl ThreadHook for Threads {
    fn thread_started(&self, _name: &str) -> io::Result<()> {
        let path = format!("/proc/self/task/{}/stat", gettid().as_raw_nonzero());
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paths.push(path);
        Ok(())
    }
}

impl Threads {
    /// Waits until all of them sleep: whoever has something to do is runnable
    /// from the moment that it was woken. Twice, because one that was seen
    /// asleep may have been woken by one that was looked at later.
    pub fn rest(&self) {
        let paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let mut asleep = 0;
        while asleep < 2 {
            if paths.iter().all(|path| is_asleep(path)) {
                asleep += 1;
                continue;
            }
            asleep = 0;
            assert!(began.elapsed() < PATIENCE, "the device never rests");
            thread::yield_now();
        }
    }
}

/// Whether the thread sleeps, or is gone (proc(5), `/proc/pid/stat`).
fn is_asleep(path: &str) -> bool {
    let Ok(stat) = fs::read_to_string(path) else {
        return true;
    };
    // The name before the state is in parentheses, and may contain any.
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with(['S', 'Z', 'X']))
}
