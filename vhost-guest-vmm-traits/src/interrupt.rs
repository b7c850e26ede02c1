// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Eventfds that raise message-signalled interrupts.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// A message-signalled interrupt: a store of `data` at `address`
/// (PCI Local Bus 3.0 §6.8.1; the upper half of the address included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MsiMessage {
    /// Guest physical address of the store.
    pub address: u64,
    /// The value stored.
    pub data: u32,
}

/// Names one interrupt source of an [`InterruptManager`].
///
/// The number is the implementer's own choice: an index, a GSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// One change that [`InterruptManager::update`] makes.
#[derive(Clone, Copy, Debug)]
pub enum SourceChange<'a> {
    /// From now on `eventfd` raises `message`.
    ///
    /// If the eventfd is readable already, the interrupt is raised at once.
    Arm {
        /// The source, which is not armed.
        source: SourceId,
        /// The eventfd; each is armed in at most one source at a time.
        eventfd: BorrowedFd<'a>,
        /// The message to raise.
        message: MsiMessage,
    },
    /// From now on `eventfd` raises nothing.
    ///
    /// What was signalled before has been raised or is gone: the eventfd is
    /// not readable right after this, unless it is signalled again.
    Disarm {
        /// The source, which is armed.
        source: SourceId,
        /// The eventfd that it was armed with.
        eventfd: BorrowedFd<'a>,
    },
}

/// Turns eventfds into message-signalled interrupts without a thread.
///
/// Interrupts are handed out as *sources*, one for each event of the device
/// (configuration change, each queue, each kick), on demand. Several sources
/// may raise the same message: the guest may map any number of events to one
/// vector. The device's own interrupts are eventfds on the same path.
///
/// Masking is the device's business: a masked source is simply not armed.
///
/// # Lifecycle of a source
///
/// ```text
///            create_source          Arm(eventfd, message)
///   (none) ────────────────▶ idle ──────────────────────▶ armed
///      ▲                     │  ▲                           │
///      └─────────────────────┘  └───────────────────────────┘
///          destroy_source             Disarm(eventfd)
/// ```
pub trait InterruptManager: Send + Sync {
    /// Creates a source that is not armed.
    ///
    /// # Errors
    ///
    /// Any error is a fault of the environment: too many routes, no memory.
    fn create_source(&self) -> io::Result<SourceId>;

    /// Makes all of `changes`, in order, as one step.
    ///
    /// On `Ok`, all changes are in force: an eventfd that was disarmed raises
    /// nothing any more, one that was armed raises its message. The device
    /// passes many changes at a time where it can (mask all, MSI-X enable), so
    /// that a table of routes is written once.
    ///
    /// # Errors
    ///
    /// On an error no source named by an `Arm` is armed. Every `Disarm` has
    /// been made. `InvalidInput` (`EINVAL`) if a descriptor is not an eventfd.
    fn update(&self, changes: &[SourceChange<'_>]) -> io::Result<()>;

    /// Gives back a source that is not armed.
    fn destroy_source(&self, source: SourceId);

    /// Descriptors of this object that a process jail must not close.
    fn fds_to_keep(&self) -> Vec<RawFd> {
        Vec::new()
    }
}
