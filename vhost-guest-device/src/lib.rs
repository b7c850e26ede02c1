// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vhost-guest device.

#![deny(missing_docs)]
#![forbid(unsafe_code)]
#![allow(dead_code)]

mod doorbells;
mod error;
mod fd;
mod interrupts;
mod journal;
mod listener;
mod memory;
mod pci;
mod poller;
mod queue;
mod registers;
mod statistics;
mod virtio;

pub use error::BuildError;
pub use pci::{BarKind, BarMove, BarSpec};
pub use statistics::Statistics;
