// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One log line per fault, and no more lines than a peer deserves.
//!
//! A peer that misbehaves in a loop must not fill the VMM's log: a token
//! bucket limits the lines, and what was left out is counted and told with the
//! next line that gets through. Lines never contain bytes of a peer's payload.

use std::fmt::Arguments;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that may follow each other without a pause.
const BURST: u32 = 10;
/// Time after which one more line is allowed.
const REFILL: Duration = Duration::from_secs(1);

/// Under whose name the lines appear.
const TARGET: &str = "vhost_guest_device";

/// Tokens for lines of one kind.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Bucket {
    fn full() -> Self {
        Self {
            tokens: BURST,
            refilled: Instant::now(),
            suppressed: 0,
        }
    }

    /// Takes a token. `Some(n)` means that a line may be written, and that `n`
    /// lines were suppressed before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs();
        let earned = u32::try_from(elapsed / REFILL.as_secs()).unwrap_or(BURST);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.refilled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed = self.suppressed.saturating_add(1);
                None
            }
        }
    }
}

/// A rate-limited log, one for each device. Faults and the normal course of
/// events have a bucket each, so that frontends that come and go cannot hide
/// why they went.
#[derive(Debug)]
pub(crate) struct Journal {
    faults: Mutex<Bucket>,
    events: Mutex<Bucket>,
}

impl Journal {
    /// A journal with full buckets.
    pub(crate) fn new() -> Self {
        Self {
            faults: Mutex::new(Bucket::full()),
            events: Mutex::new(Bucket::full()),
        }
    }

    /// Logs a line about a peer's fault or the environment's.
    pub(crate) fn warn(&self, line: Arguments<'_>) {
        match admit(&self.faults) {
            Some(0) => log::warn!(target: TARGET, "{line}"),
            Some(n) => log::warn!(target: TARGET, "{line} ({n} earlier lines suppressed)"),
            None => {}
        }
    }

    /// Logs a line about the normal course of events.
    pub(crate) fn info(&self, line: Arguments<'_>) {
        if admit(&self.events).is_some() {
            log::info!(target: TARGET, "{line}");
        }
    }
}

/// Takes a token. The lock is free again when the line is written: a logger may
/// take its time.
fn admit(bucket: &Mutex<Bucket>) -> Option<u64> {
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    bucket.admit(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suppresses_a_flood_and_tells_how_much_it_left_out() {
        let mut bucket = Bucket::full();
        let start = bucket.refilled;
        let written = (0..1000).filter(|_| bucket.admit(start).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(bucket.admit(start + REFILL), Some(1000 - u64::from(BURST)));
        assert_eq!(bucket.admit(start + REFILL), None);
        assert_eq!(bucket.admit(start + 1000 * REFILL), Some(1));
    }
}
