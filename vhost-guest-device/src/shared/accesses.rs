// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Accesses of the guest's, and BARs that move.

use std::io;

use vhost_guest_vmm_traits::MsiMessage;

use super::Shared;
use crate::error::{FrontendFault, GuestFault};
use crate::event_loop::deadline::Deadline;
use crate::guest::interrupts::ArmFailure;
use crate::guest::pci::bars::WINDOW_BAR;
use crate::guest::pci::BarMove;
use crate::guest::registers::Effect;
use crate::vmm::services::ServiceError;

impl Shared {
    /// The guest reads configuration space.
    pub(crate) fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.registers.lock().config_read(offset, data);
    }

    /// The guest writes configuration space. Returns the BARs that the VMM has to
    /// move.
    pub(crate) fn config_write(&self, offset: u16, data: &[u8]) -> Vec<BarMove> {
        let effects = self.registers.lock().config_write(offset, data);
        self.apply(effects)
    }

    /// The guest reads from a BAR.
    pub(crate) fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.registers.lock().bar_read(bar, offset, data);
    }

    /// The guest writes to a BAR.
    pub(crate) fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        let effect = self.registers.lock().bar_write(bar, offset, data);
        // Only configuration space moves BARs.
        let _ = self.apply(effect);
    }

    /// The VMM sets an entry of the MSI-X table.
    pub(crate) fn set_vector(&self, vector: u16, message: Option<MsiMessage>) {
        let effect = self.registers.lock().set_vector(vector, message);
        let _ = self.apply([effect]);
    }

    /// The function is reset, by the VMM: the PCI side of it at once, the rest as
    /// any device reset. Returns the BARs that the VMM has to take off its bus.
    pub(crate) fn function_reset(&self) -> Vec<BarMove> {
        let effects = self.registers.lock().function_reset();
        self.apply(effects)
    }

    /// Interrupts are held back, or let go.
    pub(crate) fn pause_interrupts(&self, paused: bool) {
        self.registers.lock().set_paused(paused);
        self.sync_interrupts();
        self.check_interrupts();
    }

    /// Carries out what follows from a register access. Returns the BARs that
    /// the VMM has to move.
    pub(super) fn apply(&self, effects: impl IntoIterator<Item = Effect>) -> Vec<BarMove> {
        let mut moves = Vec::new();
        for effect in effects {
            match effect {
                Effect::Reset => {
                    self.epochs.raise();
                    self.wake();
                }
                Effect::Look => self.wake(),
                Effect::Lost => {
                    self.epochs.raise();
                    self.tell_needs_reset(true);
                    self.wake();
                }
                Effect::Interrupts => self.sync_interrupts(),
                Effect::NotArmed(failure) => self.not_armed(failure),
                Effect::QueueNotified(queue) => self.registers.lock().notify_queue(queue),
                Effect::BarMoves(mut moved) => moves.append(&mut moved),
                // The signaller has it; the server has nothing to do.
                Effect::DoorbellRung => self.counters.userspace_doorbells.add(1),
                Effect::GuestFault(fault) => self.lose(GuestFault::Register(fault).into()),
            }
        }
        self.check_interrupts();
        moves
    }

    /// Arms and disarms what has to be, a batch at a time.
    fn sync_interrupts(&self) {
        loop {
            let (failures, more) = self.registers.lock().sync_some_interrupts();
            failures
                .into_iter()
                .for_each(|failure| self.not_armed(failure));
            if !more {
                return;
            }
        }
    }

    /// An interrupt could not be armed. A kick that will never arrive must not
    /// be a secret: if its eventfd is at fault, that costs its frontend.
    fn not_armed(&self, failure: ArmFailure) {
        let bad_kick = failure.bad_kick();
        let ArmFailure { event, error } = failure;
        match bad_kick {
            // If it is gone, it was lost to another of its kicks.
            Some(vring) => _ = self.lose_frontend(FrontendFault::Kick { vring, error }.into()),
            None => self
                .journal
                .warn(format_args!("environment: {event:?} not armed: {error}")),
        }
    }

    /// An interrupt that should be disarmed may still be armed: that is the end.
    fn check_interrupts(&self) {
        let broken = self.registers.lock().check_interrupts();
        if let Err(error) = broken {
            self.die(io::Error::other(error));
        }
    }

    /// The VMM has placed a BAR: what is in it moves along, a piece at a time.
    ///
    /// # Errors
    ///
    /// The environment's. The device is consistent, and slower (doorbells) or
    /// without its window.
    pub(crate) fn bar_moved(&self, bar: u8, address: Option<u64>) -> io::Result<()> {
        let decoded = {
            let mut registers = self.registers.lock();
            registers.bar_moved(bar, address);
            registers.bar_address(bar).filter(|_| address.is_some())
        };
        if bar == WINDOW_BAR {
            return self.place_window(decoded);
        }
        let mut outcome = Ok(());
        loop {
            let moved = self
                .registers
                .lock()
                .move_some_eventfds(Deadline::of_a_piece());
            match moved {
                Ok(true) => {}
                Ok(false) => return outcome,
                // They go nowhere now, which there may be more to do for.
                Err(ServiceError::Refused(error)) => outcome = Err(error),
                Err(ServiceError::Dead(error)) => {
                    self.die(error);
                    return Err(io::Error::other("a doorbell could not be disconnected"));
                }
            }
        }
    }
}
