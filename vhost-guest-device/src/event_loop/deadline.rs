// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Long work in pieces, by time.
//!
//! What a piece of work costs is the VMM's affair: a system call for each eventfd
//! here, a message to another process there. So work that others wait for is not
//! cut by number, but by the time that it has taken so far.

use std::time::{Duration, Instant};

/// How long a piece of work may take. Whoever waits for a lock waits for one piece
/// of each who asked before, and for the single call with which a piece ends.
const PIECE: Duration = Duration::from_millis(2);

/// When a piece of work has to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// The end of a piece that begins now.
    pub(crate) fn of_a_piece() -> Self {
        Self(Instant::now() + PIECE)
    }

    /// Whether the time is over.
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// One that is over: each piece has one thing in it.
    #[cfg(test)]
    pub(crate) fn passed() -> Self {
        Self(Instant::now())
    }
}
