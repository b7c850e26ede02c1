// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What threads agree by.

use std::time::Duration;

/// The model in `tests/rooms.rs` has others.
mod atomic {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}
pub(crate) mod epoch;
pub(crate) mod ordered;
#[cfg(test)]
mod testing;

pub(crate) use self::epoch::{Epoch, Epochs};
pub(crate) use self::ordered::{Ordered, OrderedGuard};

/// For how long a vCPU may find a lock held, at worst: a piece of work, and the single
/// call of a service's that goes beyond it.
pub(crate) const BOUND: Duration = Duration::from_millis(100);

/// The same for the room of the connection, in which no vCPU waits: the VMM resets or
/// restores the device there, with one call of a service's for each thing that goes.
pub(crate) const BOUND_OF_THE_SERVER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
