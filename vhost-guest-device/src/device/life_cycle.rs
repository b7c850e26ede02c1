// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What happens to the device as a whole: set-up, faults, loss, reset, and the
//! end.

use std::fmt;
use std::io;
use std::sync::Arc;

use vhost_guest_vmm_traits::ThreadHook;
use vm_memory::GuestAddressSpace;

use super::{Condition, Device, MAX_QUEUE_SIZE};
use crate::error::{Fault, FrontendFault, GuestFault};
use crate::event_loop::poller::Token;
use crate::guest::interrupts::ArmFailure;
use crate::guest::pci::bars::WINDOW_BAR;
use crate::guest::pci::BarMove;
use crate::guest::queue::MessageQueue;
use crate::guest::registers::Effect;
use crate::guest::virtio::feature;
use crate::memory::{Misplaced, Missing};
use crate::vmm::services::ServiceError;

impl<M: GuestAddressSpace> Device<M> {
    /// Carries out what follows from a register access. Returns the BARs that
    /// the VMM has to move.
    pub(crate) fn apply(&mut self, effects: impl IntoIterator<Item = Effect>) -> Vec<BarMove> {
        let mut moves = Vec::new();
        for effect in effects {
            match effect {
                Effect::Reset | Effect::FunctionReset => {
                    self.guest_leaves("the device was reset");
                    self.reset_requested();
                }
                Effect::QueueEnabled(queue) => {
                    if let Err(fault) = self.open_queue(queue) {
                        self.fail(fault);
                    }
                }
                Effect::QueueReset(queue) => self.close_queue(queue),
                Effect::BackendUp(false) if self.connection.is_some() => {
                    self.guest_leaves("the guest took its backend down");
                    self.lose_frontend();
                }
                Effect::BackendUp(_) | Effect::DriverOk | Effect::BusMaster => {}
                Effect::QueueNotified(queue) => self.registers.notify_queue(queue),
                Effect::DoorbellRung => {
                    // The signaller has it; the worker has nothing to do.
                    self.statistics.userspace_doorbells += 1;
                    continue;
                }
                Effect::BarMoves(mut moved) => moves.append(&mut moved),
                Effect::GuestFault(fault) => self.fail(GuestFault::Register(fault).into()),
                Effect::InterruptsFailed(failures) => {
                    failures
                        .into_iter()
                        .for_each(|failure| self.interrupt_failed(failure));
                    continue;
                }
            }
            self.wake();
        }
        if let Err(error) = self.registers.check_interrupts() {
            self.fail(error.into());
        }
        moves
    }

    /// An interrupt could not be armed. A kick that will never arrive must not
    /// be a secret: if its eventfd is at fault, that costs its frontend.
    fn interrupt_failed(&mut self, failure: ArmFailure) {
        let bad_kick = failure.bad_kick();
        let ArmFailure { event, error } = failure;
        match bad_kick {
            Some(vring) if self.connection.is_some() => {
                self.fail(FrontendFault::Kick { vring, error }.into());
                self.wake();
            }
            // It was lost to another of its kicks.
            Some(_) => {}
            None => self
                .journal
                .warn(format_args!("environment: {event:?} not armed: {error}")),
        }
    }

    /// The driver has enabled a queue.
    fn open_queue(&mut self, index: u16) -> Result<(), Fault> {
        self.open_queue_at(index, (0, 0))
    }

    /// Opens a queue where it was left.
    pub(super) fn open_queue_at(&mut self, index: u16, position: (u16, u16)) -> Result<(), Fault> {
        let Some(rings) = self.registers.queue(index) else {
            return Ok(());
        };
        let event_idx = self.registers.features() & feature::EVENT_IDX != 0;
        let memory = self.guest.view(self.registers.features());
        let mut queue = MessageQueue::open(index, MAX_QUEUE_SIZE, rings, event_idx, &memory)?;
        queue.set_position(position);
        self.queues.open(index, queue);
        Ok(())
    }

    /// The driver resets a queue: buffers of it are dropped, messages kept.
    fn close_queue(&mut self, index: u16) {
        self.queues.close(index);
        self.unopened.remove(&index);
        if let Some(connection) = &mut self.connection {
            connection.forget_buffer(index);
        }
        self.registers.queue_reset_done(index);
    }

    /// The VMM has placed a BAR: what is in it moves along.
    ///
    /// # Errors
    ///
    /// The environment's. The device is consistent, and slower (doorbells) or
    /// without its window.
    pub(crate) fn bar_moved(&mut self, bar: u8, address: Option<u64>) -> io::Result<()> {
        match self.registers.bar_moved(bar, address) {
            Ok(()) => {}
            Err(ServiceError::Refused(error)) => return Err(error),
            Err(error) => {
                self.fail(error.into());
                return Err(io::Error::other("a doorbell could not be disconnected"));
            }
        }
        if bar == WINDOW_BAR {
            self.window_waits = self.registers.reset_pending();
            let address = self.registers.bar_address(bar);
            self.place_window(address.filter(|_| !self.window_waits))?;
        }
        Ok(())
    }

    /// Places the window, or takes it out of the guest's address space.
    ///
    /// # Errors
    ///
    /// It is nowhere, or the device is dead.
    pub(super) fn place_window(&mut self, address: Option<u64>) -> io::Result<()> {
        let placed = self.window.lock().place(address);
        placed.map_err(|misplaced| match misplaced {
            Misplaced::Nowhere(error) => error,
            Misplaced::Stuck(error) => {
                let kind = error.kind();
                self.die(io::Error::other(format!("the window is stuck: {error}")));
                kind.into()
            }
        })
    }

    /// A vCPU could not access memory. Returns whether it may try again: it was
    /// in the window, or there was something in the window that is out of it now.
    pub(crate) fn memory_fault(&mut self, address: Option<u64>) -> bool {
        let missing = match address.map(|address| self.window_offset(address)) {
            None => Missing::Somewhere,
            Some(Some(offset)) => Missing::At(offset),
            // It is not ours, or was before the window moved.
            Some(None) => Missing::Truncated,
        };
        let withdrawn = self.withdraw(missing);
        // Another vCPU may have been faster with the same complaint.
        withdrawn || matches!(missing, Missing::At(_))
    }

    /// Where in the window an address is.
    fn window_offset(&self, address: u64) -> Option<u64> {
        let base = self.registers.bar_address(WINDOW_BAR)?;
        let offset = address.checked_sub(base)?;
        (offset < self.memory.window_size()).then_some(offset)
    }

    /// Takes memory from the guest that its frontend does not provide. Returns
    /// whether there was any; its frontend is to blame then.
    pub(crate) fn withdraw(&mut self, missing: Missing) -> bool {
        let fault = match self.window.lock().withdraw(missing) {
            Ok(false) => return false,
            Ok(true) => FrontendFault::Inaccessible.into(),
            Err(error) => error.into(),
        };
        self.fail(fault);
        self.wake();
        true
    }

    /// Answers a fault (see [`crate::error`]).
    pub(super) fn fail(&mut self, fault: Fault) {
        let line = self.told(&fault);
        match &fault {
            Fault::HungUp => self.journal.info(format_args!("{line}")),
            _ => self.journal.warn(format_args!("{line}")),
        }
        match fault {
            Fault::Dead(error) => self.die(io::Error::other(error)),
            _ => self.lose_frontend(),
        }
    }

    /// What happened, and where the connection is that it ends.
    pub(crate) fn told(&self, what: &dyn fmt::Display) -> String {
        match &self.connection {
            Some(connection) => format!("{what}; {}", connection.account()),
            None => what.to_string(),
        }
    }

    /// The guest ends the connection, in the middle of something or not.
    pub(super) fn guest_leaves(&mut self, what: &str) {
        if self.connection.is_some() {
            let line = self.told(&what);
            self.journal.info(format_args!("{line}"));
        }
    }

    /// The frontend is gone, or has to go: its notifications end, the guest
    /// learns of it, its memory stays until the driver has reset the device.
    pub(super) fn lose_frontend(&mut self) {
        let outcome = self.disconnect();
        self.limit_orphaned_memory(true);
        if self.registers.set_needs_reset() {
            if let Some(notifier) = &self.notifier {
                notifier.needs_reset();
            }
        }
        if let Err(error) = outcome {
            self.die(error);
        }
    }

    /// Closes sockets, doorbells and kicks.
    pub(super) fn disconnect(&mut self) -> io::Result<()> {
        self.drop_connection();
        self.registers.detach_frontend().map_err(io::Error::other)
    }

    /// Closes sockets.
    pub(super) fn drop_connection(&mut self) {
        if let Some((connection, mut on, _)) = self.connected() {
            connection.close_channel(&mut on);
            on.poller
                .unwatch(Token::Frontend, connection.socket.as_fd());
        }
        self.connection = None;
    }

    /// Takes everything of the frontend's from the guest, whatever the guest
    /// thinks: memory, doorbells, interrupts. Idempotent.
    pub(crate) fn revoke(&mut self) {
        let was_connected = self.connection.is_some();
        let disconnected = self.disconnect();
        let unmapped = self.revoke_memory().map_err(io::Error::other);
        if was_connected {
            self.lose_frontend();
        }
        self.limit_orphaned_memory(false);
        if let Err(error) = disconnected.and(unmapped) {
            self.die(error);
        }
    }

    /// The VMM resets the function, with its bus or with the whole machine: at
    /// once. Returns the BARs that it has to take off its bus.
    pub(crate) fn function_reset(&mut self) -> Vec<BarMove> {
        let effects = self.registers.function_reset();
        let moves = self.apply(effects);
        if self.registers.reset_pending() {
            self.reset();
        }
        moves
    }

    /// The environment failed so that a promise cannot be kept: no frontend is
    /// accepted any more. What can be taken from the guest is taken.
    pub(crate) fn die(&mut self, error: io::Error) {
        if matches!(self.condition, Condition::Dead | Condition::Stopped) {
            return;
        }
        self.condition = Condition::Dead;
        self.journal.warn(format_args!("dead: {error}"));
        let _ = self.disconnect();
        let _ = self.revoke_memory();
        self.registers.set_needs_reset();
        if let Some(notifier) = &self.notifier {
            notifier.dead(&error);
        }
    }

    /// Starts the threads for what a peer can delay, and accepts frontends
    /// from now on. Idempotent.
    ///
    /// # Errors
    ///
    /// A thread could not be created, or its hook failed. Those that exist stay
    /// for the next try.
    pub(crate) fn start(&mut self, hook: Option<&Arc<dyn ThreadHook>>) -> io::Result<()> {
        self.reaper.start(hook)?;
        self.signaller.start(hook)?;
        if let Some(pump) = &self.pump {
            pump.start_threads(hook)?;
        }
        if self.condition == Condition::Prepared {
            self.condition = Condition::Alive;
        }
        if self.wants_frontend() {
            // The driver was faster.
            self.wake();
        }
        Ok(())
    }

    /// The VMM drops the device: everything is revoked, and the worker ends.
    pub(crate) fn stop(&mut self) {
        if self.condition == Condition::Prepared {
            // There is nothing to take back, and a process that was forked may
            // have started a copy: its eventfds and timers are the same.
            self.condition = Condition::Stopped;
            return;
        }
        self.revoke();
        self.condition = Condition::Stopped;
        self.wake();
    }

    /// Whether the worker is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.condition == Condition::Stopped
    }
}
