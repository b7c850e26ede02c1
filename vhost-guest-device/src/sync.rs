// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What threads agree by.

/// The model in `tests/rooms.rs` has others.
mod atomic {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}
pub(crate) mod epoch;
pub(crate) mod ordered;

pub(crate) use self::epoch::{Epoch, Epochs};
pub(crate) use self::ordered::{Ordered, OrderedGuard};

#[cfg(test)]
mod tests;
