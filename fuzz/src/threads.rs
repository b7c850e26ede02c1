// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device's threads: the fuzzed code must come to rest after each step, so
//! that one input always leads to the same run.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// As long as nobody waits for: a device that is busy without input is a find.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the names of the device's threads begin. One that is made inherits the name
/// of the one that makes it, so it is among them from the first moment on.
const NAMES: &str = "(vhost-guest";

/// Waits until all of them sleep: whoever has something to do is runnable from
/// the moment that it was woken. Twice, because one that was seen asleep may have
/// been woken by one that was looked at later.
pub fn rest() {
    let began = Instant::now();
    let mut asleep = 0;
    while asleep < 2 {
        if are_asleep() {
            asleep += 1;
            continue;
        }
        asleep = 0;
        assert!(began.elapsed() < PATIENCE, "the device never rests");
        thread::yield_now();
    }
}

/// Whether each thread sleeps, or is gone (proc(5), `/proc/pid/stat`).
fn are_asleep() -> bool {
    let tasks = fs::read_dir("/proc/self/task").expect("threads");
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let mut states = stats.filter_map(|stat| {
        let (name, rest) = stat.rsplit_once(") ")?;
        name.contains(NAMES)
            .then(|| rest.starts_with(['S', 'Z', 'X']))
    });
    states.all(|asleep| asleep)
}
