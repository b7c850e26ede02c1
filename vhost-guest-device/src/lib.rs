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
//! | askers | look at memory files that a frontend sent, and have ranges of them opened and closed | yes, and nothing waits for them |
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
#![deny(clippy::mod_module_files)]

mod connection;
mod device;
mod error;
mod event_loop;
mod fd;
mod function;
mod guest;
mod host;
mod memory;
mod server;
mod shared;
mod sync;
#[cfg(test)]
mod tests;
mod vmm;

pub use error::BuildError;
pub use fd::{bind_socket, MemoryPolicy};
pub use function::{Builder, VhostGuest};
pub use guest::pci::{BarKind, BarMove, BarSpec};
pub use guest::snapshot::{Damage, SnapshotError};
pub use vmm::services::Services;
pub use vmm::statistics::Statistics;
pub use vmm::threads;
