// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest stores that signal an eventfd.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// Connects guest stores to eventfds.
///
/// A doorbell is one guest physical address. A store of any width (1, 2, 4 or
/// 8 bytes) and any value at exactly this address signals the eventfd; there
/// is no data match. The store does not leave the kernel, so the eventfd may
/// be one that a hostile frontend holds the other end of: the kernel's signal
/// never blocks. A guest's *load* from the address may signal it as well: some
/// kernels do not tell the two apart, and it harms nobody.
///
/// A VMM that cannot do this lends nothing of the kind: stores reach the device
/// by its BARs then, and a thread of its own signals.
pub trait IoEventFdRegistrar: Send + Sync {
    /// Connects the doorbell at `address` to `eventfd`.
    ///
    /// On `Ok`, every store at `address` that starts afterwards signals
    /// `eventfd`. There is at most one registration for an address.
    ///
    /// Cost: one system call; the device does this for each call and error
    /// eventfd that a frontend sends, and for all of them when a BAR moves.
    ///
    /// # Errors
    ///
    /// `InvalidInput` (`EINVAL`) if the descriptor is not an eventfd;
    /// anything else is taken as a fault of the VMM's environment.
    fn register(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()>;

    /// Disconnects the doorbell at `address`, which is connected to `eventfd`.
    ///
    /// On `Ok`, no store at `address` signals `eventfd` any more, and the
    /// kernel holds no reference to it.
    ///
    /// # Errors
    ///
    /// Any error means that the doorbell may still be live. The device then
    /// reports itself dead.
    fn unregister(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()>;

    /// Descriptors of this object that a process jail must not close.
    fn fds_to_keep(&self) -> Vec<RawFd> {
        Vec::new()
    }
}
