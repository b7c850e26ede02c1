// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the guest sees: the function's registers, and its queues.
//!
//! [`registers`] is the whole of it, made of what [`pci`] and [`virtio`] define,
//! and of what they control: [`interrupts`] and [`doorbells`]. [`queue`] is the
//! device's end of a virtqueue, in [`driver_memory`]. [`snapshot`] is all of that
//! as bytes.

pub(crate) mod doorbells;
pub(crate) mod driver_memory;
pub(crate) mod interrupts;
pub(crate) mod pci;
pub(crate) mod queue;
pub(crate) mod registers;
pub(crate) mod snapshot;
pub(crate) mod virtio;
