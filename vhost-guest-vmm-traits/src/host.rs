// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The small services: address translation, thread start, fault reports.

use std::io;

/// What a translated range is going to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The device reads.
    Read,
    /// The device writes.
    Write,
}

/// A contiguous piece of a translated range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// Guest physical address of the first byte.
    pub guest_address: u64,
    /// Bytes that follow each other from there; at least 1.
    pub length: u64,
}

/// Translates the addresses in the device's own queues, for VMMs with a
/// virtual IOMMU in front of the device (`VIRTIO_F_ACCESS_PLATFORM`).
pub trait AddressTranslator: Send + Sync {
    /// Translates the start of the range of `length` bytes at `iova`.
    ///
    /// The answer may cover less than the range; the device asks again for the
    /// rest, because neighbours in I/O virtual space need not be neighbours in
    /// guest physical space.
    ///
    /// # Errors
    ///
    /// Any error means that the guest gave an address that is not mapped for
    /// this `access`.
    fn translate(&self, iova: u64, length: u64, access: Access) -> io::Result<Translation>;
}

/// Runs first in each thread that the device starts.
pub trait ThreadHook: Send + Sync {
    /// Called in the new thread before it does anything else: the place to
    /// install a seccomp filter, a priority, a CPU set. `name` is the
    /// thread's name.
    ///
    /// # Errors
    ///
    /// On an error the thread ends, and starting the device fails.
    fn thread_started(&self, name: &str) -> io::Result<()>;
}

/// Hears of faults that are not the VMM's doing.
///
/// Both methods are called with the device's lock held: take a note, return.
pub trait DeviceNotifier: Send + Sync {
    /// The device has set `DEVICE_NEEDS_RESET`: the frontend was lost or the
    /// guest broke a rule. The guest recovers by resetting the device.
    fn needs_reset(&self) {}

    /// The environment failed in a way that leaves the device unable to keep
    /// its promises (memory that could not be unmapped, for example). It
    /// accepts no frontend any more. A careful VMM unplugs it, or stops the VM.
    fn dead(&self, error: &io::Error) {
        let _ = error;
    }
}
