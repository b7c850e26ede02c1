// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vhost-guest device.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod builder;
mod device;
mod doorbells;
mod error;
mod fd;
mod function;
mod interrupts;
mod journal;
mod listener;
#[allow(dead_code)] // areas are for messages that are masked yet
mod memory;
mod pci;
mod poller;
mod queue;
#[allow(dead_code)] // its tests look at more than the device does
mod registers;
mod relay;
mod statistics;
#[cfg(test)]
mod tests;
#[allow(dead_code)] // as for `registers`
mod virtio;
mod worker;

pub use builder::{Builder, Services};
pub use error::BuildError;
pub use fd::MemoryPolicy;
pub use function::VhostGuest;
pub use pci::{BarKind, BarMove, BarSpec};
pub use statistics::Statistics;
