// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the core asks the registers, and tells them.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use super::Registers;
use crate::fd::EventFd;
use crate::guest::doorbells::Doorbell;
use crate::guest::interrupts::Event;
use crate::guest::virtio::common_config::QueueSetup;
use crate::guest::virtio::device_config::{BACKEND_UP, FRONTEND_UP};
use crate::guest::virtio::{status, NO_VECTOR};
use crate::vmm::services::ServiceError;

impl Registers {
    /// Whether the driver has set `DRIVER_OK`, and nothing is wrong since.
    pub(crate) fn is_running(&self) -> bool {
        let wrong = self.common.has_status(status::NEEDS_RESET) || self.common.reset_pending();
        self.common.has_status(status::DRIVER_OK) && !wrong
    }

    /// Whether the device is out of order until it is reset.
    #[cfg(test)]
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

    /// Disconnects everything of the frontend's: kicks and doorbells.
    ///
    /// # Errors
    ///
    /// A doorbell may still be live: the device is dead.
    pub(crate) fn detach_frontend(&mut self) -> Result<(), ServiceError> {
        self.interrupts.detach_kicks();
        self.doorbells.clear().and(self.check_interrupts())
    }

    /// A part of a reset: takes some events' vectors, and what waits for them.
    /// Tells whether there were any.
    pub(crate) fn take_some_interrupts(&mut self, most: usize) -> bool {
        self.interrupts.unmap_some(most)
    }

    /// A part of a reset: disconnects some doorbells. Tells whether there were
    /// any.
    ///
    /// # Errors
    ///
    /// A doorbell may still be live: the device is dead.
    pub(crate) fn take_some_doorbells(&mut self, most: usize) -> Result<bool, ServiceError> {
        self.doorbells.clear_some(most)
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
