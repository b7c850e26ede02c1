// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM's process holds, as the kernel and the VMM count it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use vhost_guest_device::threads::{ALL, LAUNCHER, WORKER};

use crate::loopback::failure::{Context, Failure};
use crate::vmm::Machine;

/// How long the VMM may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What must be the same before and after, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(BTreeMap<String, u64>);

impl Held {
    /// What the kernel counts for this process, now.
    pub fn by_process() -> io::Result<Self> {
        let mut held = Self::default();
        held.count_descriptors()?;
        held.count_mappings()?;
        held.set("threads", fs::read_dir("/proc/self/task")?.count());
        Ok(held)
    }

    /// Also what the VMM counts.
    fn now(machine: &Machine) -> io::Result<Self> {
        let mut held = Self::by_process()?;
        held.set("window mappings", machine.slots().attached());
        held.set("ioeventfds", machine.doorbells().registered());
        held.set("interrupt sources", machine.interrupts().sources());
        held.set("armed sources", machine.interrupts().armed());
        Ok(held)
    }

    /// Counts when nobody is connected any more, and nothing changes.
    pub fn at_rest(machine: &Machine) -> Result<Self, Failure> {
        let start = Instant::now();
        let mut before = Self::now(machine).context("counting")?;
        loop {
            thread::sleep(10 * PAUSE);
            let now = Self::now(machine).context("counting")?;
            let rests = machine.slots().attached() == 0 && !lingers().context("counting")?;
            if now == before && rests {
                return Ok(now);
            }
            if start.elapsed() > PATIENCE {
                return Err(Failure::Hang("the VMM does not come to rest".into()));
            }
            before = now;
        }
    }

    /// Waits until everything that came since is gone again. Returns what is
    /// different if it does not go.
    pub fn expect_again(
        &self,
        machine: &Machine,
        patience: Duration,
    ) -> Result<Vec<String>, Failure> {
        let start = Instant::now();
        loop {
            let now = Self::now(machine).context("counting")?;
            let growth = self.growth(&now);
            if growth.is_empty() || start.elapsed() > patience {
                return Ok(growth);
            }
            thread::sleep(PAUSE);
        }
    }

    /// What there is more of `now`. Threads that have nothing to do end; the C
    /// library keeps stacks and heaps for the next ones, for as many as there have
    /// been at a time.
    pub fn growth(&self, now: &Self) -> Vec<String> {
        let mut names: Vec<_> = self.0.keys().chain(now.0.keys()).collect();
        names.sort();
        names.dedup();
        let count = |held: &Self, name: &str| held.0.get(name).copied().unwrap_or(0);
        let counts = names
            .into_iter()
            .map(|name| (name, count(self, name), count(now, name)));
        counts
            .filter(|(name, before, after)| *after > before + kept(name))
            .map(|(name, before, after)| format!("{name}: {before} before, {after} after"))
            .collect()
    }

    fn set(&mut self, name: &str, count: usize) {
        self.0.insert(name.to_owned(), count as u64);
    }

    fn add(&mut self, name: String) {
        *self.0.entry(name).or_default() += 1;
    }

    /// Descriptors by kind; what epoll sets hold, and inotify watches.
    fn count_descriptors(&mut self) -> io::Result<()> {
        for entry in fs::read_dir("/proc/self/fd")? {
            let entry = entry?;
            // One may be gone by now.
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let kind = without_digits(&target.to_string_lossy());
            self.add(format!("descriptors: {kind}"));
            let info = format!("/proc/self/fdinfo/{}", entry.file_name().to_string_lossy());
            let info = fs::read_to_string(info).unwrap_or_default();
            for line in info.lines() {
                if line.starts_with("tfd:") {
                    self.add("in epoll sets".into());
                } else if line.starts_with("inotify wd:") {
                    self.add("inotify watches".into());
                }
            }
        }
        Ok(())
    }

    /// Mappings by protection and name. Their sizes are not looked at: heap and
    /// stacks grow in place. What is in them counts as [`resident`].
    fn count_mappings(&mut self) -> io::Result<()> {
        for line in fs::read_to_string("/proc/self/maps")?.lines() {
            let mut fields = line.split_whitespace();
            let protection = fields.nth(1).unwrap_or_default();
            let name = fields.nth(3).map(without_digits).unwrap_or_default();
            self.add(format!("mappings: {protection} {name}"));
        }
        Ok(())
    }
}

/// Whether a thread of the device's waits for more work, and will end soon.
pub fn lingers() -> io::Result<bool> {
    for task in fs::read_dir("/proc/self/task")? {
        let name = fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        let [worker, launcher] = [WORKER, LAUNCHER].map(|thread| thread.name);
        let name = name.trim();
        if name.starts_with(worker) && name != worker && name != launcher {
            return Ok(true);
        }
    }
    Ok(false)
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, count)| writeln!(f, "{count:6} {name}"))
    }
}

/// How many mappings of this kind may be kept for threads.
fn kept(name: &str) -> u64 {
    let threads: usize = ALL.iter().map(|thread| thread.count).sum();
    match name.trim_end() {
        "mappings: rw-p" | "mappings: ---p" => threads as u64,
        _ => 0,
    }
}

/// Inode numbers differ from one to the next.
fn without_digits(name: &str) -> String {
    name.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Memory of this process that is in RAM (RSS), in KiB.
pub fn resident() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let missing = || io::Error::other("VmRSS");
    let number = number.and_then(|number| number.parse().ok());
    number.ok_or_else(missing).context("/proc/self/status")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(names: &[(&str, u64)]) -> Held {
        Held(names.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect())
    }

    #[test]
    fn names_what_has_grown() {
        let before = held(&[("a", 1), ("b", 2), ("c", 3)]);
        let after = held(&[("a", 1), ("b", 3), ("d", 1)]);
        let growth = before.growth(&after);
        assert_eq!(growth, ["b: 2 before, 3 after", "d: 0 before, 1 after"]);
        assert!(before.growth(&before).is_empty());
    }

    #[test]
    fn tells_kinds_of_descriptors_apart() {
        let file = fs::File::open("/dev/null").unwrap();
        let mut held = Held::default();
        held.count_descriptors().unwrap();
        assert!(held.0.contains_key("descriptors: /dev/null"), "{held}");
        drop(file);
        assert_eq!(without_digits("socket:[123]"), "socket:[]");
    }
}
