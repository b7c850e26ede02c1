// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Snapshots of a device that stands still.

use std::io;

use vm_memory::GuestAddressSpace;

use super::{Condition, Device};
use crate::guest::pci::BarMove;
use crate::guest::snapshot::SnapshotError;

impl<M: GuestAddressSpace> Device<M> {
    /// The device as bytes.
    pub(crate) fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        if !self.is_paused() {
            return Err(SnapshotError::NotPaused);
        }
        let position = |queue| {
            let unopened = self.unopened.get(&queue).copied();
            unopened.or(self.queues.position(queue)).unwrap_or_default()
        };
        Ok(self.registers.save(position))
    }

    /// Becomes what `bytes` say. Returns the BARs that have moved.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<Vec<BarMove>, SnapshotError> {
        if !self.is_paused() {
            return Err(SnapshotError::NotPaused);
        }
        let saved = self.registers.parse(bytes)?;
        let before = self.registers.bar_addresses();
        // Everything of a frontend's goes, whatever it was before.
        let _ = self.function_reset();
        if self.condition == Condition::Dead {
            self.decode_nothing();
            return Err(io::Error::other("the device is dead").into());
        }
        let positions = saved.positions.clone();
        let moves = match self.registers.restore(saved, before) {
            Ok(moves) => moves,
            Err(error) => {
                let _ = self.function_reset();
                self.decode_nothing();
                return Err(error.into());
            }
        };
        let queues = (0..).zip(positions);
        self.unopened = queues
            .filter(|(queue, _)| self.registers.queue(*queue).is_some())
            .collect();
        if self.registers.frontend_up() {
            self.lose_frontend();
            // Its memory did not come along.
            self.limit_orphaned_memory(false);
        }
        Ok(moves)
    }

    /// Takes doorbells and window out of the guest's address space. The VMM is
    /// not told of moves that it could make.
    fn decode_nothing(&mut self) {
        for bar in self.registers.bars() {
            // What cannot be taken away is the end of the device.
            let _ = self.bar_moved(bar.index, None);
        }
    }

    /// The pause is over: the guest's memory is there, and translates.
    pub(super) fn open_restored_queues(&mut self) {
        for (queue, position) in std::mem::take(&mut self.unopened) {
            if let Err(fault) = self.open_queue_at(queue, position) {
                self.fail(fault);
            }
        }
    }
}
