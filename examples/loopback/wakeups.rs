// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How often the threads of a process ran, from /proc.
//!
//! A thread that was woken up and slept again has switched context once more.
//! The kernel counts that for each thread, and the counts can be read from
//! another process, so that looking does not wake what is looked at.

use std::collections::BTreeMap;
use std::fs;
use std::io;

/// The name of the thread that plays the guest's processor. It is not part of
/// the VMM: on KVM, what it does happens in the guest.
pub const VCPU: &str = "vcpu0";

/// Context switches of each thread of the VMM, by (name, thread id).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switches(BTreeMap<(String, u32), u64>);

impl Switches {
    /// Reads the counts of process `pid`.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut switches = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            let id = task.file_name().to_string_lossy().parse().unwrap_or(0);
            let name = fs::read_to_string(task.path().join("comm"));
            let status = fs::read_to_string(task.path().join("status"));
            // A thread may end while it is looked at.
            let (Ok(name), Ok(status)) = (name, status) else {
                continue;
            };
            if name.trim() != VCPU {
                switches.insert((name.trim().to_owned(), id), in_status(&status));
            }
        }
        Ok(Self(switches))
    }

    /// What was added since `before`, by thread name.
    pub fn since(&self, before: &Self) -> BTreeMap<String, u64> {
        let mut added = BTreeMap::new();
        for (thread, count) in &self.0 {
            let earlier = before.0.get(thread).copied().unwrap_or(0);
            *added.entry(thread.0.clone()).or_default() += count.saturating_sub(earlier);
        }
        added
    }
}

fn in_status(status: &str) -> u64 {
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(key, _)| key.ends_with("voluntary_ctxt_switches"))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_both_kinds_of_switches() {
        let status = "Name:\ta\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(in_status(status), 695);
    }

    #[test]
    fn counts_a_thread_that_sleeps() {
        let (wake, woken) = std::sync::mpsc::channel();
        let sleeper = std::thread::Builder::new().name("sleeper".into());
        let sleeper = sleeper
            .spawn(move || while woken.recv().is_ok() {})
            .unwrap();
        let pid = std::process::id();
        let before = Switches::of(pid).unwrap();
        let mut now = before.clone();
        // Until the thread has been seen to run.
        while now.since(&before).get("sleeper") < Some(&1) {
            wake.send(()).unwrap();
            now = Switches::of(pid).unwrap();
        }
        drop(wake);
        sleeper.join().unwrap();
    }
}
