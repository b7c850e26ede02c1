// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a device has done, in numbers.

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
