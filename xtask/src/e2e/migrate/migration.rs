// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A migration that lasts for as long as a test wants.

use std::thread;
use std::time::{Duration, Instant};

use super::qmp::{member, Qmp};
use crate::error::Result;

/// How long one migration may take.
const LIMIT: Duration = Duration::from_secs(120);
/// A migration ends once what is left to be sent takes less than a millisecond.
const START: &str = "\"downtime-limit\":1,\"max-bandwidth\":33554432";
/// That is less than a page, now, so that it never ends: not even on a machine
/// that is so busy that the guest does not get to dirty many.
const HOLD: &str = "\"max-bandwidth\":3145728";
/// It ends soon.
const END: &str = "\"downtime-limit\":2000,\"max-bandwidth\":1073741824";
/// The first pass over the memory is nearly done when so much is left of it.
const NEARLY: usize = 8 << 20;

impl Qmp {
    /// Starts a migration, which goes on until it is told to end, if the guest keeps
    /// its memory changing; returns when all memory has been sent once.
    pub fn start_migration(&mut self, to: &str) -> Result<()> {
        let number = |state: &str, name| member(state, name).and_then(|n| n.parse().ok());
        // One is in the beginning.
        let passed = move |state: &str| number(state, "dirty-sync-count") > Some(1);
        self.execute("migrate-set-parameters", START)?;
        self.execute("migrate", &format!("\"uri\":\"{to}\""))?;
        self.wait(|state| {
            let left = number(state, "remaining");
            passed(state) || left.is_some_and(|left| left < NEARLY)
        })?;
        self.execute("migrate-set-parameters", HOLD)?;
        self.wait(passed)?;
        self.is_migrating()
    }

    /// The migration must not have ended.
    pub fn is_migrating(&mut self) -> Result<()> {
        let state = self.execute("query-migrate", "")?;
        match member(&state, "status") {
            Some("active") => Ok(()),
            _ => Err(format!("the migration ended too early: {}", state.trim_end()).into()),
        }
    }

    /// Lets the migration come to its end, and waits for it.
    pub fn end_migration(&mut self) -> Result<()> {
        self.execute("migrate-set-parameters", END)?;
        self.wait_for_migration("completed")
    }

    /// Waits until the migration has this status.
    pub fn wait_for_migration(&mut self, status: &str) -> Result<()> {
        self.wait(|state| member(state, "status") == Some(status))
    }

    /// Waits for a state of the migration.
    fn wait(&mut self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let state = self.execute("query-migrate", "")?;
            if wanted(&state) {
                return Ok(());
            }
            let failed = member(&state, "status") == Some("failed");
            if failed || Instant::now() >= deadline {
                return Err(format!("the migration comes to nothing: {}", state.trim_end()).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
