// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Resets: at once, or by the worker in pieces.
//!
//! A driver has to wait until `device_status` reads 0 (virtio 1.2 §4.1.4.3.2),
//! so a reset may take its time. In a VMM where each doorbell and each piece
//! of memory that goes costs something, the vCPU that asked, and those that
//! wait for the lock behind it, need not wait for all of them:
//!
//! ```text
//!   vCPU    device_status = 0 ──▶ reset pending: no queue is used, writes are
//!                                 lost, device_status reads non-zero
//!   worker      one turn after the other: the frontend, then interrupts,
//!               doorbells and memory, a few at a time
//!           ◀── device_status reads 0
//! ```

use std::io;

use vm_memory::GuestAddressSpace;

use super::Device;
use crate::guest::pci::bars::WINDOW_BAR;

/// Kernel objects that are taken away in one turn.
const PIECES: usize = 16;

impl<M: GuestAddressSpace> Device<M> {
    /// The driver or the guest's PCI software asks for a reset. Legal in every
    /// state; the listener survives.
    pub(super) fn reset_requested(&mut self) {
        if self.resets_in_pieces {
            // The next turns do it: whoever calls asks for one.
            self.epochs.raise();
        } else {
            self.reset();
        }
    }

    /// Resets the device, all at once.
    pub(super) fn reset(&mut self) {
        let disconnected = self.disconnect();
        let unmapped = self.revoke_memory().map_err(io::Error::other);
        self.limit_orphaned_memory(false);
        self.queues.clear();
        self.unopened.clear();
        let registers = self.registers.reset().map_err(io::Error::other);
        if let Err(error) = disconnected.and(unmapped).and(registers) {
            self.die(error);
        }
        self.place_window_again();
    }

    /// Does a piece of the reset that is pending, or ends it.
    pub(super) fn continue_reset(&mut self) {
        if self.connection.is_some() {
            self.drop_connection();
        } else {
            match self.take_a_piece() {
                Ok(true) => {}
                Ok(false) => self.reset(),
                Err(error) => {
                    self.reset();
                    self.die(error);
                }
            }
        }
        if self.registers.reset_pending() {
            self.wake();
        }
    }

    /// Takes a few of the frontend's things from the guest. Tells whether there
    /// were any.
    fn take_a_piece(&mut self) -> io::Result<bool> {
        let registers = &mut self.registers;
        let taken = registers.take_some_interrupts(PIECES)
            || registers
                .take_some_doorbells(PIECES)
                .map_err(io::Error::other)?;
        registers.check_interrupts().map_err(io::Error::other)?;
        let epoch = self.epochs.current();
        let detach = || self.window.lock().detach_some(epoch, PIECES);
        Ok(taken || detach().map_err(io::Error::other)?)
    }

    /// A BAR moved while a reset was pending: the window was taken out of the
    /// guest's address space, since the guest must not find anything in it at
    /// a new place. Now it is empty.
    fn place_window_again(&mut self) {
        if !std::mem::take(&mut self.window_waits) {
            return;
        }
        let address = self.registers.bar_address(WINDOW_BAR);
        if let Err(error) = self.place_window(address) {
            self.journal
                .warn(format_args!("environment: the window is nowhere: {error}"));
        }
    }
}
