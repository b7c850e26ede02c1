// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a change of the window is about, and how it ends.

/// Memory of the frontend that is not a region of its guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// The dirty log.
    Log,
    /// The record of requests that are under way.
    Inflight,
}

/// What the driver said to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It replied to the message, or to a later one.
    Done,
    /// It sent a negative acknowledgement.
    Refused,
}

/// Where the driver believes a ring to be, because a SET_VRING_ADDR said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddress {
    /// The address that the frontend gave.
    pub(crate) user_address: u64,
    /// The address that the driver got.
    pub(crate) window_offset: u64,
}

/// Names a change that the driver has not replied to yet.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the change is pending until the ticket is settled"]
pub(crate) struct Ticket(pub(super) u64);
