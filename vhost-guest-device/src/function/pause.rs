// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM asks when it stops its VM for a while.

use vm_memory::GuestAddressSpace;

use super::VhostGuest;
use crate::worker::lock;

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
        lock(&self.device).pause();
    }

    /// Ends a [`pause`](Self::pause): interrupts that waited are raised, and
    /// the device goes on with what it finds. Without a pause it does nothing.
    pub fn resume(&self) {
        lock(&self.device).resume();
    }
}
