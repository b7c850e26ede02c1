// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM asks when it stops its VM for a while.

use vm_memory::GuestAddressSpace;

use super::VhostGuest;
use crate::guest::pci::BarMove;
use crate::guest::snapshot::SnapshotError;

impl<M: GuestAddressSpace + Send + 'static> VhostGuest<M> {
    /// Makes the device stand still, for a VM that is stopped. Pausing twice
    /// is pausing once.
    ///
    /// When it returns, and until [`resume`](Self::resume), the device of its
    /// own accord
    ///
    /// - reads and writes neither the guest's memory nor the frontend's
    ///   sockets, accepts nobody, and changes no register;
    /// - raises no interrupt: the frontend's kicks and the device's own events
    ///   wait in their eventfds (all sources are disarmed);
    /// - is not ready ([`event_fd`](Self::event_fd)), whatever the frontend does;
    /// - lets no time limit run.
    ///
    /// It waits for the turn of the device's thread that is under way, which
    /// is bounded, and for nobody else: neither for the frontend nor for the
    /// guest. A frontend that sends without a break cannot delay it.
    ///
    /// What the frontend has shared stays mapped, and doorbells stay connected:
    /// stop the vCPUs first. A doorbell that was rung in userspace before may
    /// still be signalled, and one buffer of device state may still go through
    /// the frontend's pipe; the guest sees neither.
    ///
    /// All methods work in a pause as at other times: registers can be read
    /// and written, BARs moved, memory faults reported, everything revoked, the
    /// device dropped. Interrupts that follow from that wait for the end of the
    /// pause.
    ///
    /// A frontend notices a pause only by how long answers take.
    pub fn pause(&self) {
        self.device.pause();
    }

    /// Ends a [`pause`](Self::pause): interrupts that waited are raised, and
    /// the device goes on with what it finds. Without a pause it does nothing.
    pub fn resume(&self) {
        self.device.resume();
    }

    /// The state of a paused device as bytes: all registers, those of
    /// configuration space and the MSI-X table included, interrupts that
    /// wait, and how far the device is in its own queues. It fits the guest's
    /// memory as it is during the pause.
    ///
    /// The frontend is not part of it, nor are its memory, its kicks and its
    /// calls: they belong to a process that knows nothing of the snapshot. An
    /// MSI-X table that the VMM keeps ([`set_vector`](Self::set_vector)) is
    /// the VMM's to save.
    ///
    /// The format has a version and is documented in the source
    /// (`snapshot.rs`). It has at most 6 KiB, and nothing secret.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::NotPaused`].
    pub fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        self.device.snapshot()
    }

    /// Brings a paused device to the state that `snapshot` says: one that was
    /// just built, or one whose VM goes back in time. The device stays paused.
    ///
    /// Returns the BARs that are somewhere else now, as
    /// [`config_write`](Self::config_write) does. When the VMM has moved them
    /// and restored the guest's memory, it calls [`resume`](Self::resume).
    ///
    /// The registers read as they did, with one exception: a device that had a
    /// frontend has lost it. `BACKEND_UP` and `FRONTEND_UP` are clear,
    /// `DEVICE_NEEDS_RESET` is set, and the driver is interrupted, as for any
    /// loss; it resets the device, and the next frontend is served. Until
    /// then the window is empty: loads read all ones, stores are lost.
    ///
    /// The bytes are not trusted. All of them are checked before anything
    /// changes, and what is restored is a state to which a guest could have
    /// brought the device by itself.
    ///
    /// # Errors
    ///
    /// Nothing has changed, but for [`SnapshotError::Environment`].
    #[must_use = "the VMM has to move the BARs, too"]
    pub fn restore(&self, snapshot: &[u8]) -> Result<Vec<BarMove>, SnapshotError> {
        self.device.restore(snapshot)
    }
}
