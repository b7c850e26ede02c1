// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the VMM does to the device as a whole: starts it, resets it, pauses it,
//! restores it, drops it.
//!
//! None of these is for a vCPU: some wait for the turn that is under way, which is
//! short and waits for nobody.

use std::io;

use vm_memory::GuestAddressSpace;

use super::Device;
use crate::fd::Launcher;
use crate::guest::pci::BarMove;
use crate::guest::snapshot::SnapshotError;
use crate::server::Server;
use crate::shared::Condition;

impl<M: GuestAddressSpace> Device<M> {
    /// Has threads made for what a peer can delay, when there is such work, and
    /// accepts frontends from now on. Idempotent.
    pub(crate) fn start(&self, launcher: &Launcher) {
        self.server().start_threads(launcher);
        self.signaller.start(launcher);
        self.shared.pass(&[Condition::Prepared], Condition::Alive);
        if self.server().wants_frontend(&self.shared) {
            // The driver was faster.
            self.shared.wake();
        }
    }

    /// The VMM resets the function, with its bus or with the whole machine. When
    /// this returns it is done, and the device touches nothing of the guest's.
    /// Returns the BARs that the VMM has to take off its bus.
    pub(crate) fn function_reset(&self) -> Vec<BarMove> {
        self.reset_in(&mut self.server())
    }

    fn reset_in(&self, server: &mut Server<M>) -> Vec<BarMove> {
        let moves = self.shared.function_reset();
        server.reset_now(&self.shared);
        moves
    }

    /// Stands still until [`resume`](Self::resume). Idempotent.
    pub(crate) fn pause(&self) {
        self.server().pause(&self.shared);
    }

    /// Goes on where the pause began. Idempotent.
    pub(crate) fn resume(&self) {
        self.server().resume(&self.shared);
    }

    /// The paused device as bytes.
    pub(crate) fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        self.server().snapshot(&self.shared)
    }

    /// Becomes what `bytes` say. Returns the BARs that have moved.
    pub(crate) fn restore(&self, bytes: &[u8]) -> Result<Vec<BarMove>, SnapshotError> {
        let mut server = self.server();
        if !server.is_paused() {
            return Err(SnapshotError::NotPaused);
        }
        let (saved, before) = {
            let registers = self.shared.registers.lock();
            (registers.parse(bytes)?, registers.bar_addresses())
        };
        // Everything of a frontend's goes, whatever it was before.
        let _ = self.reset_in(&mut server);
        if self.shared.condition() == Condition::Dead {
            self.decode_nothing();
            return Err(io::Error::other("the device is dead").into());
        }
        let positions = saved.positions.clone();
        let restored = self.shared.registers.lock().restore(saved, before);
        let moves = match restored {
            Ok(moves) => moves,
            Err(error) => {
                let _ = self.reset_in(&mut server);
                self.decode_nothing();
                return Err(error.into());
            }
        };
        server.restored(positions);
        self.shared.frontend_did_not_come_along();
        Ok(moves)
    }

    /// Takes doorbells and window out of the guest's address space. The VMM is
    /// not told of moves that it could make.
    fn decode_nothing(&self) {
        let bars = self.shared.registers.lock().bars();
        for bar in bars {
            // What cannot be taken away is the end of the device.
            let _ = self.shared.bar_moved(bar.index, None);
        }
    }

    /// The VMM drops the device: everything is revoked, and the worker ends.
    pub(crate) fn stop(&self) {
        if self.shared.pass(&[Condition::Prepared], Condition::Stopped) {
            // There is nothing to take back, and a process that was forked may
            // have started a copy: its eventfds and timers are the same.
            return;
        }
        self.shared.revoke();
        let last = [Condition::Alive, Condition::Dead];
        self.shared.pass(&last, Condition::Stopped);
        self.shared.wake();
    }
}
