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

/// An eventfd that raises a message by way of a source.
#[derive(Clone, Copy, Debug)]
pub struct Arming<'a> {
    /// The source.
    pub source: SourceId,
    /// The eventfd.
    pub eventfd: BorrowedFd<'a>,
    /// The message that it raises.
    pub message: MsiMessage,
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
///            create_source               arm
///   (none) ────────────────▶ idle ──────────────────────▶ armed
///      ▲                     │  ▲                           │
///      └─────────────────────┘  └───────────────────────────┘
///          destroy_source                disarm
/// ```
pub trait InterruptManager: Send + Sync {
    /// Creates a source that is not armed.
    ///
    /// # Errors
    ///
    /// Any error is a fault of the environment: too many routes, no memory.
    fn create_source(&self) -> io::Result<SourceId>;

    /// Arms sources that are not armed: from now on each eventfd raises its
    /// message. One that is readable already raises it at once.
    ///
    /// The device passes many at a time where it can (MSI-X enable), so that
    /// a table of routes is written once. Routes come before eventfds.
    ///
    /// # Errors
    ///
    /// An eventfd that is armed for another source must be refused, as KVM does:
    /// of two that listen, one takes what the other should have had.
    ///
    /// On an error some of them may be armed: the device disarms all of them
    /// before it goes on. `InvalidInput` (`EINVAL`) if a descriptor is not an
    /// eventfd and `ResourceBusy` (`EBUSY`) if an eventfd is armed already are
    /// taken as a fault of the frontend that sent it, everything else as the
    /// environment's.
    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()>;

    /// Disarms sources: from now on their eventfds raise nothing. What was
    /// signalled before has been raised, and the eventfd is not readable right
    /// after this, unless it is signalled again (an `EFD_SEMAPHORE` eventfd
    /// may keep counts, and raises no more messages than it was signalled).
    /// A source that is not armed is left alone.
    ///
    /// # Errors
    ///
    /// Any error means that an eventfd may still raise a message. The device
    /// then reports itself dead. All that can be disarmed is.
    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()>;

    /// Gives back a source that is not armed.
    fn destroy_source(&self, source: SourceId);

    /// Descriptors of this object that a process jail must not close.
    fn fds_to_keep(&self) -> Vec<RawFd> {
        Vec::new()
    }
}
