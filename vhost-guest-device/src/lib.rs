// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A PCI virtio device that serves vhost-user from inside a guest.
//!
//! The device is a vhost-user *server*: a frontend (QEMU, Cloud Hypervisor,
//! crosvm) connects to its socket as to any backend. What it receives it hands
//! to the driver in its own guest, and that guest does the backend's work:
//!
//! - **messages** travel through virtqueues, checked and rewritten on the way;
//! - **memory** that the frontend shares appears in a BAR, the *window*;
//! - **kicks** of the frontend's become interrupts (irqfd), **calls** of the
//!   guest's are stores that signal the frontend's eventfds (ioeventfd). No
//!   thread of the VMM's runs for either.
//!
//! [`VhostGuest`] is the whole PCI function: configuration space, BARs, MSI-X,
//! virtio registers, queues. A VMM lends it what it cannot have by itself, as
//! implementations of the traits in [`vhost_guest_vmm_traits`]
//! ([`Services`]), routes accesses to it, and reports memory faults.
//!
//! # Whom it trusts
//!
//! Nobody but the VMM. The frontend and the guest may work together; neither
//! can panic, block or grow the VMM beyond what [`Builder`] bounds, or reach
//! memory that it was not given. There is no `unsafe` in this crate.
//!
//! # Threads
//!
//! | thread | does | can a peer delay it? |
//! |---|---|---|
//! | `vhost-guest`, or the VMM's event loop | messages, one bounded turn at a time | no |
//! | reapers | close descriptors that a frontend sent | yes, and nothing waits for them |
//! | signallers | write to eventfds that a frontend sent | yes, and nothing waits for them |
//! | pumps | move device state through a frontend's pipe, with [`Builder::migration`] | yes, and nothing waits for them |
//!
//! [`threads`] has their names and numbers, and what they ask of the kernel.
//!
//! # Life cycle
//!
//! ```text
//!   reset ──DRIVER_OK──▶ idle ──BACKEND_UP──▶ listening ──accept──▶ connected
//!     ▲                                                                │
//!     │                                        frontend lost, or the   │
//!     └──── driver writes 0 ──── needs reset ◀─guest broke a rule ─────┘
//! ```

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod alarm;
mod builder;
mod connection;
mod device;
mod doorbells;
mod driver_memory;
mod error;
mod fd;
mod function;
mod interrupts;
mod journal;
mod listener;
mod memory;
mod options;
mod ordered;
mod pci;
mod poller;
mod queue;
mod registers;
mod services;
mod snapshot;
mod socket_file;
mod statistics;
#[cfg(test)]
mod tests;
pub mod threads;
mod virtio;
mod worker;

pub use builder::Builder;
pub use error::BuildError;
pub use fd::MemoryPolicy;
pub use function::VhostGuest;
pub use pci::{BarKind, BarMove, BarSpec};
pub use services::Services;
pub use snapshot::SnapshotError;
pub use socket_file::bind_socket;
pub use statistics::Statistics;
