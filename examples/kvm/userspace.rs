// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Notification without the kernel's help: the control that shows what measures
//! of the data path see when the VMM takes part in it.

use std::io;
use std::os::fd::BorrowedFd;

use vhost_guest_vmm_traits::IoEventFdRegistrar;

/// Doorbells that KVM does not know: each store leaves the guest, reaches the
/// device, and a thread of the device's signals the eventfd.
pub struct UserspaceDoorbells;

impl IoEventFdRegistrar for UserspaceDoorbells {
    fn register(&self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn unregister(&self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }
}
