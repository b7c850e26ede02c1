// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the VMM holds on behalf of a frontend, for finding leaks.

use std::fmt;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::loopback::failure::{Context, Failure};

/// How long giving back may take: closing descriptors has a thread of its own.
const LIMIT: Duration = Duration::from_secs(10);

/// Counts of what must not grow from frontend to frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    descriptors: usize,
    threads: usize,
    mappings: usize,
}

impl Resources {
    /// Counts now. The VMM counts the `mappings` of its window.
    pub fn now(mappings: usize) -> io::Result<Self> {
        Ok(Self {
            descriptors: fs::read_dir("/proc/self/fd")?.count(),
            threads: fs::read_dir("/proc/self/task")?.count(),
            mappings,
        })
    }

    /// Waits until everything that came since `self` is gone again.
    pub fn expect_again(&self, mappings: impl Fn() -> usize) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            let now = Self::now(mappings()).context("counting descriptors")?;
            if now == *self {
                return Ok(());
            }
            if start.elapsed() > LIMIT {
                return Err(Failure::Leak(format!("{self} before, {now} after")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} descriptors, {} threads, {} window mappings",
            self.descriptors, self.threads, self.mappings
        )
    }
}
