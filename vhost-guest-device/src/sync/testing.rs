// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How long each lock is held, and by whom, in the tests of this crate. (Elsewhere the
//! VMM's services are a real kernel's, which may take seconds for an eventfd on a busy
//! host, and a thread may have a filter that forbids to look at the time.)
//!
//! Time in which the thread was ready to run and did not get a processor does not
//! count (`/proc/thread-self/schedstat`), so a busy machine makes no difference. Time in
//! which it slept does: that is what must not happen.
//!
//! When a lock is dropped, its longest hold has to be within the lock's bound. With
//! `VHOST_GUEST_LOCKS` in the environment, all holds are appended to the file that it
//! names.

use std::env;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Upper ends of the classes in which holds are counted, in microseconds.
const CLASSES: [u64; 8] = [10, 30, 100, 300, 1_000, 3_000, 10_000, u64::MAX];

/// What is known of one lock.
#[derive(Debug)]
pub(super) struct Record {
    name: &'static str,
    bound: Duration,
    holds: Mutex<Holds>,
}

#[derive(Debug, Default)]
struct Holds {
    counts: [u64; CLASSES.len()],
    longest: Duration,
    /// Who held it for so long.
    by: Option<&'static Location<'static>>,
    longest_wait: Duration,
}

/// A point in the life of a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    at: Instant,
    /// How long the thread has waited for a processor so far.
    delayed: Duration,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            delayed: delayed(),
        }
    }

    fn elapsed(self) -> Duration {
        let elapsed = self.at.elapsed();
        // What is short is short in any case.
        if elapsed < Duration::from_millis(1) {
            return elapsed;
        }
        elapsed.saturating_sub(delayed().saturating_sub(self.delayed))
    }
}

/// How long this thread has waited for a processor; nothing where the kernel does
/// not say.
fn delayed() -> Duration {
    use std::cell::OnceCell;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    thread_local!(static STATISTICS: OnceCell<Option<File>> = const { OnceCell::new() });
    let read = |file: &File| -> Option<Duration> {
        let mut text = [0; 64];
        let length = file.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        let nanoseconds = text.split_whitespace().nth(1)?.parse().ok()?;
        Some(Duration::from_nanos(nanoseconds))
    };
    // A thread that is about to end has no such variables any more.
    let found = STATISTICS.try_with(|file| {
        let file = file.get_or_init(|| File::open("/proc/thread-self/schedstat").ok());
        file.as_ref().and_then(read)
    });
    found.ok().flatten().unwrap_or_default()
}

impl Record {
    /// A lock that is never to be held for longer than this.
    pub(super) fn new(name: &'static str, bound: Duration) -> Self {
        Self {
            name,
            bound,
            holds: Mutex::default(),
        }
    }

    /// It was taken, after a wait since `asked`.
    pub(super) fn taken(&self, asked: Instant) -> Moment {
        let mut holds = self.holds();
        holds.longest_wait = holds.longest_wait.max(asked.elapsed());
        Moment::now()
    }

    /// It is given back.
    pub(super) fn given_back(&self, since: Moment, by: &'static Location<'static>) {
        let held = since.elapsed();
        let mut holds = self.holds();
        let class = CLASSES
            .iter()
            .position(|end| held.as_micros() < u128::from(*end));
        if let Some(count) = class.and_then(|class| holds.counts.get_mut(class)) {
            *count += 1;
        }
        if held > holds.longest {
            (holds.longest, holds.by) = (held, Some(by));
        }
    }

    fn holds(&self) -> std::sync::MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line for the file: name, counts by class, longest hold and wait, by whom.
    fn line(&self) -> String {
        let holds = self.holds();
        let mut line = self.name.to_owned();
        for count in holds.counts {
            let _ = write!(line, "\t{count}");
        }
        let (held, waited) = (holds.longest.as_micros(), holds.longest_wait.as_micros());
        let by = holds.by.map_or_else(String::new, ToString::to_string);
        let _ = writeln!(line, "\t{held}\t{waited}\t{by}");
        line
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(path) = env::var_os("VHOST_GUEST_LOCKS") {
            let file = OpenOptions::new().create(true).append(true).open(path);
            // One write, since processes share the file.
            let _ = file.and_then(|mut file| file.write_all(self.line().as_bytes()));
        }
        let (longest, by) = {
            let holds = self.holds();
            (holds.longest, holds.by)
        };
        if longest > self.bound && !thread::panicking() {
            let (name, bound) = (self.name, self.bound);
            panic!("{name} was locked for {longest:?} by {by:?}; {bound:?} are allowed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(record: &Record, time: Duration) {
        let since = record.taken(Instant::now());
        thread::sleep(time);
        record.given_back(since, Location::caller());
    }

    #[test]
    fn who_sleeps_under_a_lock_is_found() {
        let record = Record::new("a lock", Duration::from_millis(10));
        hold(&record, Duration::ZERO);
        drop(record);
        let record = Record::new("a lock", Duration::from_millis(10));
        hold(&record, Duration::from_millis(20));
        let line = record.line();
        assert!(line.contains("testing.rs"), "{line}");
        let dropped = std::panic::catch_unwind(move || drop(record));
        assert!(dropped.is_err());
    }
}
