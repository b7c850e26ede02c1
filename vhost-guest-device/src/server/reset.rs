// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Resets.
//!
//! A driver has to wait until `device_status` reads 0 (virtio 1.2 §4.1.4.3.2), so
//! a reset may take its time, and whoever asks for it need not wait for each
//! doorbell and each piece of memory that goes:
//!
//! ```text
//!   vCPU    device_status = 0 ──▶ reset pending: no queue is used, writes are
//!                                 lost, device_status reads non-zero
//!   server      one turn after the other: the frontend, then interrupts,
//!               doorbells and memory, a few at a time
//!           ◀── device_status reads 0
//! ```

use std::io;

use vm_memory::GuestAddressSpace;

use super::Server;
use crate::error::Fault;
use crate::event_loop::deadline::Deadline;
use crate::shared::Shared;

impl<M: GuestAddressSpace> Server<M> {
    /// Does a piece of the reset that is pending, or ends it.
    pub(super) fn continue_reset(&mut self, shared: &Shared) {
        if self.connection.is_some() {
            self.tell(shared, &Fault::Reset);
            self.close_connection(shared);
            return shared.wake();
        }
        match take_some(shared) {
            Ok(true) => return shared.wake(),
            Ok(false) => {}
            Err(error) => shared.die(error),
        }
        self.end_reset(shared);
    }

    /// Does the reset that is pending, if one is, all at once.
    pub(crate) fn reset_now(&mut self, shared: &Shared) {
        while shared.registers.lock().reset_pending() {
            self.continue_reset(shared);
        }
    }

    /// Nothing of the frontend's is left: all is as at the beginning.
    fn end_reset(&mut self, shared: &Shared) {
        self.limit_orphaned_memory(shared);
        self.queues.clear();
        self.unopened.clear();
        self.renew_memory(shared.epochs.current());
        let outcome = shared.registers.lock().reset();
        if let Err(error) = outcome {
            shared.die(io::Error::other(error));
        }
    }
}

/// Takes a few of the frontend's things from the guest. Tells whether there may be
/// more.
fn take_some(shared: &Shared) -> io::Result<bool> {
    let deadline = Deadline::of_a_piece();
    let more = shared.registers.lock().reset_some(deadline);
    if more.map_err(io::Error::other)? {
        return Ok(true);
    }
    let now = shared.epochs.current();
    let more = shared
        .window
        .lock()
        .detach_some(now, Deadline::of_a_piece());
    more.map_err(io::Error::other)
}
