// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the rest of the device asks the registers, and tells them.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::{Effect, Registers};
use crate::error::Fault;
use crate::event_loop::deadline::Deadline;
use crate::fd::EventFd;
use crate::guest::doorbells::Doorbell;
use crate::guest::interrupts::Event;
use crate::guest::virtio::common_config::QueueSetup;
use crate::guest::virtio::device_config::{BACKEND_UP, FRONTEND_UP};
use crate::guest::virtio::{status, NO_VECTOR};
use crate::sync::Epoch;
use crate::vmm::services::ServiceError;

impl Registers {
    /// Whether the driver has set `DRIVER_OK`, and nothing is wrong since.
    pub(crate) fn is_running(&self) -> bool {
        let wrong = self.common.has_status(status::NEEDS_RESET) || self.common.reset_pending();
        self.common.has_status(status::DRIVER_OK) && !wrong
    }

    /// Whether the device is out of order until it is reset.
    pub(crate) fn needs_reset(&self) -> bool {
        self.common.has_status(status::NEEDS_RESET)
    }

    /// Whether a reset was asked for that is not done.
    pub(crate) fn reset_pending(&self) -> bool {
        self.common.reset_pending()
    }

    /// The features in force: none before `FEATURES_OK`.
    pub(crate) fn features(&self) -> u64 {
        self.common.negotiated()
    }

    /// Virtqueues that the driver has enabled, and how it has set them up.
    pub(crate) fn enabled_queues(&self) -> Vec<(u16, QueueSetup)> {
        let queues = (0..self.common.queues()).map(|queue| (queue, self.queue(queue)));
        let enabled = queues.filter_map(|(queue, setup)| Some((queue, setup?)));
        enabled.collect()
    }

    /// Virtqueues whose reset the driver has asked for.
    pub(crate) fn resetting_queues(&self) -> Vec<u16> {
        self.common.resetting_queues()
    }

    /// How the driver has set up a queue, if it is enabled.
    pub(crate) fn queue(&self, queue: u16) -> Option<QueueSetup> {
        self.common.enabled_queue(queue)
    }

    /// Whether the driver has set `BACKEND_UP`.
    pub(crate) fn backend_up(&self) -> bool {
        self.device.backend_up()
    }

    /// The virtio type of the implemented device; 0 if it is not decided.
    #[cfg(test)]
    pub(crate) fn device_type(&self) -> u16 {
        self.device.device_type()
    }

    /// Writes to the device configuration that had no effect.
    pub(crate) fn ignored_writes(&self) -> u64 {
        self.device.ignored_writes()
    }

    /// Shows the driver whether a frontend is connected, with an interrupt.
    pub(crate) fn set_frontend_up(&mut self, up: bool) {
        let rest = self.device.status() & !FRONTEND_UP;
        let changed = self
            .device
            .set_status(rest | if up { FRONTEND_UP } else { 0 });
        if changed {
            self.raise_config_change();
        }
    }

    /// Puts the device out of order: the frontend was lost, or the guest broke
    /// a rule. `BACKEND_UP` and `FRONTEND_UP` are cleared. Tells whether this
    /// is new. A device that is being reset has nothing to tell.
    pub(crate) fn set_needs_reset(&mut self) -> bool {
        if self.reset_pending() {
            return false;
        }
        let rest = self.device.status() & !(BACKEND_UP | FRONTEND_UP);
        let changed = self.device.set_status(rest);
        let new = self.common.set_needs_reset();
        if new || changed {
            self.raise_config_change();
        }
        new
    }

    /// Interrupts the driver for a change of the configuration; not before
    /// `DRIVER_OK`, when a device must not.
    pub(crate) fn raise_config_change(&mut self) {
        if self.common.has_status(status::DRIVER_OK) {
            self.interrupts.signal(Event::Config);
        }
    }

    /// Interrupts the driver for used buffers in a queue.
    pub(crate) fn signal_queue(&mut self, queue: u16) {
        self.interrupts.signal(Event::Queue(queue));
    }

    /// The eventfds that the driver's queue notifications signal, by queue.
    pub(crate) fn queue_eventfds(&self) -> &[Arc<OwnedFd>] {
        self.notify.eventfds()
    }

    /// The eventfds of the device's own interrupts.
    pub(crate) fn interrupt_eventfds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.interrupts.own_eventfds()
    }

    /// The eventfd that notifications of a queue signal.
    pub(crate) fn queue_eventfd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        self.notify.eventfd(queue)
    }

    /// Bytes in the window.
    pub(crate) fn window_size(&self) -> u64 {
        self.setup.window_size
    }

    /// Passes on a queue notification that has reached userspace.
    pub(crate) fn notify_queue(&self, queue: u16) {
        self.notify.signal(queue);
    }

    /// The device does not use a queue any more, as the driver asked.
    pub(crate) fn queue_reset_done(&mut self, queue: u16) {
        if self.common.queue_reset_done(queue) {
            self.interrupts.set_vector(Event::Queue(queue), NO_VECTOR);
        }
    }

    /// Connects or disconnects the kick of a vring.
    ///
    /// # Errors
    ///
    /// As [`Interrupts::attach_kick`].
    pub(crate) fn set_kick(
        &mut self,
        vring: u16,
        kick: Option<EventFd>,
    ) -> Result<(), ServiceError> {
        self.interrupts.attach_kick(vring, kick)
    }

    /// Connects or disconnects a doorbell.
    ///
    /// # Errors
    ///
    /// As [`Doorbells::set`].
    pub(crate) fn set_doorbell(
        &mut self,
        doorbell: Doorbell,
        eventfd: Option<EventFd>,
    ) -> Result<(), ServiceError> {
        self.doorbells.set(doorbell, eventfd)
    }

    /// Shows the driver a frontend, whose kicks and doorbells are connected from
    /// now on, in its epoch.
    pub(crate) fn frontend_came(&mut self, epoch: Epoch) {
        self.frontend = Some(epoch);
        self.set_frontend_up(true);
    }

    /// Whether kicks or doorbells of a frontend's are connected, or may be.
    pub(crate) fn has_frontend(&self) -> bool {
        self.frontend.is_some()
    }

    /// The guest has taken its backend down: its frontend goes.
    pub(super) fn backend_down(&mut self) -> Effect {
        let lost = self.frontend_up() && self.lose(Fault::BackendDown);
        match lost {
            true => Effect::Lost,
            false => Effect::Look,
        }
    }

    /// The frontend has to go, or none can come: the device is out of order
    /// ([`set_needs_reset`](Self::set_needs_reset)). Whoever serves the frontend
    /// does the rest, and tells why. Tells whether this is new.
    pub(crate) fn lose(&mut self, fault: Fault) -> bool {
        // The first reason is the one that counts.
        self.loss.get_or_insert(fault);
        self.set_needs_reset()
    }

    /// Why the frontend has to go, if that was not told yet.
    pub(crate) fn take_loss(&mut self) -> Option<Fault> {
        self.loss.take()
    }

    /// Disconnects kicks and doorbells of a frontend that is not of the epoch
    /// `now`, until the time is over. Tells whether there are more.
    ///
    /// # Errors
    ///
    /// One may still be live: the device is dead.
    pub(crate) fn detach_some(
        &mut self,
        now: Epoch,
        until: Deadline,
    ) -> Result<bool, ServiceError> {
        if self.frontend.is_none_or(|epoch| epoch == now) {
            return Ok(false);
        }
        loop {
            let kicks = self.interrupts.detach_some_kicks();
            self.check_interrupts()?;
            if !(kicks.is_ok_and(|any| any) || self.doorbells.clear_some(until)?) {
                self.frontend = None;
                return Ok(false);
            }
            if until.is_over() {
                return Ok(true);
            }
        }
    }

    /// Disconnects all kicks and doorbells that can be: the device is dead.
    pub(crate) fn detach_all(&mut self) {
        while let Ok(true) = self.interrupts.detach_some_kicks() {}
        let _ = self.doorbells.clear();
    }

    /// A part of a reset: takes events' vectors, and what waits for them, then
    /// doorbells, until the time is over. Tells whether there are more.
    ///
    /// # Errors
    ///
    /// One may still be live: the device is dead.
    pub(crate) fn reset_some(&mut self, until: Deadline) -> Result<bool, ServiceError> {
        loop {
            let any = self.interrupts.unmap_some();
            self.check_interrupts()?;
            if !(any || self.doorbells.clear_some(until)?) {
                return Ok(false);
            }
            if until.is_over() {
                return Ok(true);
            }
        }
    }

    /// Device reset, and the end of one that was asked for: all that virtio
    /// defines is as after power-up. The PCI function stays as it is.
    ///
    /// # Errors
    ///
    /// A doorbell may still be live: the device is dead. All else is done.
    pub(crate) fn reset(&mut self) -> Result<(), ServiceError> {
        self.interrupts.reset();
        self.device.reset();
        self.kick_select = 0;
        let outcome = self.doorbells.clear();
        (self.frontend, self.loss) = (None, None);
        self.common.reset();
        outcome.and(self.check_interrupts())
    }

    /// Whether every interrupt that should be disarmed is.
    ///
    /// # Errors
    ///
    /// One may be armed still: the device is dead.
    pub(crate) fn check_interrupts(&self) -> Result<(), ServiceError> {
        self.interrupts
            .take_broken()
            .map_or(Ok(()), |error| Err(ServiceError::Dead(error)))
    }
}
