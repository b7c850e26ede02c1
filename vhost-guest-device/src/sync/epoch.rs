// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Times of which each ends with a revocation or a reset.
//!
//! Who takes everything from the guest waits for nobody, not even for who is just
//! about to give it something. So the time that ends is declared over *first*:
//!
//! ```text
//!   reset     raise the epoch ──▶ lock the room, take what is older ──▶ …
//!   worker    …work for epoch 4… ──▶ lock the room, compare: 4 is over ──▶ throw it away
//! ```
//!
//! Whichever of the two has the room first, nothing of an epoch that is over
//! is left in it.

use super::atomic::{AtomicU64, Ordering};

/// One of these times. A later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(u64);

/// The times of one device.
#[derive(Debug, Default)]
pub(crate) struct Epochs(AtomicU64);

impl Epochs {
    /// The epoch that it is now. It may be over in the next moment, except
    /// while the room is locked that it is compared for: who raises it has
    /// still to come by.
    pub(crate) fn current(&self) -> Epoch {
        Epoch(self.0.load(Ordering::SeqCst))
    }

    /// Begins another epoch. What belongs to those before it is to be taken
    /// from the guest next.
    pub(crate) fn raise(&self) -> Epoch {
        Epoch(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}
