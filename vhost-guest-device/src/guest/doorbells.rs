// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest stores that become signals.
//!
//! The guest signals the frontend through *doorbells* in BAR 2, and the device
//! through the notification addresses of the virtqueues in BAR 0. Both are
//! eventfds that the VMM connects to addresses.
//!
//! Doorbell `index` is at `index * 4` in BAR 2, for N vrings:
//!
//! | index | doorbell |
//! |---|---|
//! | 0 to N - 1 | call of a vring |
//! | N to 2 N - 1 | error of a vring |
//! | 2 N | dirty log |
//!
//! A store of 1, 2, 4 or 8 bytes at exactly this address rings, whatever its
//! value; any other store does nothing. A doorbell without an eventfd does
//! nothing (vhost-guest specification, PCI layout).

mod ioeventfds;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{eventfd, EventfdFlags};
use vhost_guest_vmm_traits::IoEventFdRegistrar;

use crate::event_loop::deadline::Deadline;
use crate::fd::{EventFd, Signaller};
use crate::guest::pci::bars::{self, DOORBELL_MULTIPLIER, NOTIFY_MULTIPLIER};
use crate::host;
use crate::vmm::services::ServiceError;
use ioeventfds::IoEventFds;

/// Something that the guest tells the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Doorbell {
    /// The backend has used buffers of this vring.
    Call(u16),
    /// The backend found an error in this vring.
    Err(u16),
    /// The backend has written to the dirty log.
    Log,
}

/// The doorbells of BAR 2.
pub(crate) struct Doorbells {
    vrings: u16,
    signaller: Arc<Signaller>,
    bells: IoEventFds<EventFd>,
}

impl Doorbells {
    /// Doorbells for `vrings` vrings, none connected.
    pub(crate) fn new(
        registrar: Option<Arc<dyn IoEventFdRegistrar>>,
        signaller: Arc<Signaller>,
        vrings: u16,
    ) -> Self {
        let count = bars::doorbells(vrings);
        Doorbells {
            vrings,
            signaller,
            bells: IoEventFds::new(registrar, count, DOORBELL_MULTIPLIER),
        }
    }

    fn index(&self, doorbell: Doorbell) -> Option<usize> {
        let vring = |vring: u16| (vring < self.vrings).then_some(usize::from(vring));
        match doorbell {
            Doorbell::Call(call) => vring(call),
            Doorbell::Err(err) => vring(err).map(|err| err + usize::from(self.vrings)),
            Doorbell::Log => Some(2 * usize::from(self.vrings)),
        }
    }

    /// Connects a doorbell to an eventfd of the frontend's, in place of the
    /// one before, or disconnects it.
    ///
    /// # Errors
    ///
    /// There is no such doorbell, or the VMM cannot do it. Then the eventfd
    /// before is still connected.
    pub(crate) fn set(
        &mut self,
        doorbell: Doorbell,
        new: Option<EventFd>,
    ) -> Result<(), ServiceError> {
        let missing = || ServiceError::Refused(io::ErrorKind::InvalidInput.into());
        let index = self.index(doorbell).ok_or_else(missing)?;
        let old = self.bells.set(index, new.clone())?;
        if let Some(old) = old.filter(|old| new.as_ref() != Some(old)) {
            // A signal that was still on its way to the old eventfd goes to
            // the new one, and from there to the next one, if it has to. One
            // too many does no harm, one too few does.
            if self.signaller.forget(&old) {
                if let Some(new) = new {
                    self.signaller.signal(&new);
                }
            }
        }
        Ok(())
    }

    /// The doorbells should be at BAR address `base`, or nowhere.
    pub(crate) fn place(&mut self, base: Option<u64>) {
        self.bells.place(base);
    }

    /// Moves doorbells to where they should be, until the time is over. Tells
    /// whether there are more.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Refused`]: they should be nowhere from now on, and no store
    /// of the guest's reaches an eventfd but by [`store`](Self::store).
    pub(crate) fn settle_some(&mut self, until: Deadline) -> Result<bool, ServiceError> {
        self.bells.settle_some(until)
    }

    /// A store of `width` bytes at `offset` in BAR 2 has reached userspace.
    /// Tells whether it rang a doorbell.
    ///
    /// It comes here by way of configuration space, in a moment when the
    /// eventfd is not registered, or always, in a VMM that cannot do better.
    pub(crate) fn store(&mut self, offset: u64, width: usize) -> bool {
        let stride = u64::from(DOORBELL_MULTIPLIER);
        if !matches!(width, 1 | 2 | 4 | 8) || !offset.is_multiple_of(stride) {
            return false;
        }
        let index = usize::try_from(offset / stride).ok();
        let eventfd = index.and_then(|index| self.bells.get(index));
        eventfd.is_some_and(|fd| self.signaller.signal(fd))
    }

    /// Disconnects all doorbells: the frontend is gone.
    ///
    /// # Errors
    ///
    /// A doorbell may still be live: the device is dead.
    pub(crate) fn clear(&mut self) -> Result<(), ServiceError> {
        let (detached, outcome) = self.bells.clear();
        for eventfd in detached {
            self.signaller.forget(&eventfd);
        }
        self.signaller.leave_frontend();
        outcome
    }

    /// Disconnects doorbells until the time is over. Tells whether there were
    /// any.
    ///
    /// # Errors
    ///
    /// A doorbell may still be live: the device is dead.
    pub(crate) fn clear_some(&mut self, until: Deadline) -> Result<bool, ServiceError> {
        let (detached, outcome) = self.bells.clear_some(until);
        for eventfd in &detached {
            self.signaller.forget(eventfd);
        }
        outcome.map(|()| !detached.is_empty())
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// The notification addresses of the device's own virtqueues, in BAR 0.
pub(crate) struct QueueNotify {
    notify: IoEventFds<Arc<OwnedFd>>,
    eventfds: Vec<Arc<OwnedFd>>,
}

impl QueueNotify {
    /// Notification of `virtqueues` queues.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub(crate) fn new(
        registrar: Option<Arc<dyn IoEventFdRegistrar>>,
        virtqueues: u16,
    ) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let mut notify = IoEventFds::new(registrar, virtqueues, NOTIFY_MULTIPLIER);
        let mut eventfds = Vec::new();
        for queue in 0..virtqueues {
            let own = Arc::new(host::ask(|| eventfd(0, flags))?);
            eventfds.push(Arc::clone(&own));
            // Nothing is placed yet, so this cannot fail.
            let _ = notify.set(usize::from(queue), Some(own));
        }
        Ok(QueueNotify { notify, eventfds })
    }

    /// The notification addresses should be at `base`, or nowhere.
    pub(crate) fn place(&mut self, base: Option<u64>) {
        self.notify.place(base);
    }

    /// Moves them there until the time is over. Tells whether there are more.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Refused`]: they should be nowhere from now on;
    /// notifications reach userspace.
    pub(crate) fn settle_some(&mut self, until: Deadline) -> Result<bool, ServiceError> {
        self.notify.settle_some(until)
    }

    /// The eventfds that the driver's notifications signal, by queue.
    pub(crate) fn eventfds(&self) -> &[Arc<OwnedFd>] {
        &self.eventfds
    }

    /// The eventfd of one queue.
    pub(crate) fn eventfd(&self, queue: u16) -> Option<BorrowedFd<'_>> {
        Some(self.eventfds.get(usize::from(queue))?.as_fd())
    }

    /// Passes on a notification that has reached userspace.
    pub(crate) fn signal(&self, queue: u16) {
        if let Some(eventfd) = self.eventfd(queue) {
            // Fails if the counter is full: then it is signalled already.
            let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
        }
    }
}

impl Drop for QueueNotify {
    fn drop(&mut self) {
        let _ = self.notify.clear();
    }
}

#[cfg(test)]
mod tests;
