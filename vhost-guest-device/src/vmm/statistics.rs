// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device has done, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a device since it was made.
///
/// They are for people and tests; nothing in the device depends on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Frontends that connected.
    pub frontends: u64,
    /// Requests of the frontend's, forwarded to the guest or refused.
    pub requests: u64,
    /// Replies of the guest's that went to the frontend.
    pub replies: u64,
    /// Backend requests of the guest's that went to the frontend.
    pub backend_requests: u64,
    /// Replies of the frontend's to backend requests.
    pub backend_replies: u64,
    /// Bytes of device state that were saved or loaded.
    pub state_bytes: u64,
    /// Messages that the device made itself (barriers), or swallowed.
    pub own_messages: u64,
    /// Doorbell stores that arrived in userspace instead of as an ioeventfd.
    pub userspace_doorbells: u64,
    /// Writes of the driver's to the device configuration that had no effect.
    pub ignored_writes: u64,
    /// Turns of the device's worker.
    pub turns: u64,
}

/// What is counted, by whoever does it: nobody waits for anybody to read it.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub frontends: Counter,
    pub requests: Counter,
    pub replies: Counter,
    pub backend_requests: Counter,
    pub backend_replies: Counter,
    pub state_bytes: Counter,
    pub own_messages: Counter,
    pub userspace_doorbells: Counter,
    pub turns: Counter,
}

impl Counters {
    /// What was counted so far.
    pub(crate) fn read(&self, ignored_writes: u64) -> Statistics {
        Statistics {
            frontends: self.frontends.read(),
            requests: self.requests.read(),
            replies: self.replies.read(),
            backend_requests: self.backend_requests.read(),
            backend_replies: self.backend_replies.read(),
            state_bytes: self.state_bytes.read(),
            own_messages: self.own_messages.read(),
            userspace_doorbells: self.userspace_doorbells.read(),
            turns: self.turns.read(),
            ignored_writes,
        }
    }
}

/// A number that grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`.
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number now.
    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
