// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A row of eventfds at equally spaced addresses that move together.

use std::os::fd::AsFd;
use std::sync::Arc;

use vhost_guest_vmm_traits::IoEventFdRegistrar;

use crate::event_loop::deadline::Deadline;
use crate::vmm::services::ServiceError;

#[derive(Debug)]
struct Slot<F> {
    /// What a store should signal.
    eventfd: Option<F>,
    /// What a store signals, and where: the VMM's books.
    registered: Option<(F, u64)>,
}

/// Eventfds at `base + index * stride`.
pub(crate) struct IoEventFds<F> {
    /// Without one, every store reaches userspace.
    registrar: Option<Arc<dyn IoEventFdRegistrar>>,
    stride: u32,
    /// Where the first should be.
    base: Option<u64>,
    /// Not all are where they should be: see [`settle_some`](Self::settle_some).
    unsettled: bool,
    slots: Vec<Slot<F>>,
}

impl<F: AsFd + Clone> IoEventFds<F> {
    /// `count` slots without eventfds, placed nowhere.
    pub(crate) fn new(
        registrar: Option<Arc<dyn IoEventFdRegistrar>>,
        count: u16,
        stride: u32,
    ) -> Self {
        let empty = || Slot {
            eventfd: None,
            registered: None,
        };
        IoEventFds {
            registrar,
            stride,
            base: None,
            unsettled: false,
            slots: (0..count).map(|_| empty()).collect(),
        }
    }

    /// The eventfd at `index`.
    pub(crate) fn get(&self, index: usize) -> Option<&F> {
        self.slots.get(index)?.eventfd.as_ref()
    }

    /// Where a slot should be.
    fn address(&self, index: usize) -> Option<u64> {
        let offset = index as u64 * u64::from(self.stride);
        self.base.and_then(|base| base.checked_add(offset))
    }

    fn register(&mut self, index: usize, eventfd: F) -> Result<(), ServiceError> {
        let address = self.address(index);
        let (Some(registrar), Some(address)) = (&self.registrar, address) else {
            return Ok(());
        };
        if let Some(slot) = self.slots.get_mut(index) {
            registrar
                .register(eventfd.as_fd(), address)
                .map_err(ServiceError::Refused)?;
            slot.registered = Some((eventfd, address));
        }
        Ok(())
    }

    fn unregister(&mut self, index: usize) -> Result<(), ServiceError> {
        if let (Some(registrar), Some(slot)) = (&self.registrar, self.slots.get_mut(index)) {
            if let Some((eventfd, address)) = &slot.registered {
                registrar
                    .unregister(eventfd.as_fd(), *address)
                    .map_err(ServiceError::Dead)?;
                slot.registered = None;
            }
        }
        Ok(())
    }

    /// Takes eventfds away until the time is over, and returns them.
    pub(crate) fn clear_some(&mut self, until: Deadline) -> (Vec<F>, Result<(), ServiceError>) {
        let mut detached = Vec::new();
        for index in 0..self.slots.len() {
            if self.get(index).is_none() {
                continue;
            }
            if let Err(error) = self.unregister(index) {
                return (detached, Err(error));
            }
            let slot = self.slots.get_mut(index);
            detached.extend(slot.and_then(|slot| slot.eventfd.take()));
            if until.is_over() {
                break;
            }
        }
        (detached, Ok(()))
    }

    /// Unregisters all that are registered, as far as that goes.
    fn unregister_all(&mut self) -> Result<(), ServiceError> {
        let mut outcome = Ok(());
        for index in 0..self.slots.len() {
            // Every one has its turn, whatever becomes of those before.
            outcome = outcome.and(self.unregister(index));
        }
        outcome
    }

    /// Puts `new` at `index` and returns what was there.
    ///
    /// The old one goes first, since an address takes one eventfd only.
    ///
    /// # Errors
    ///
    /// The old one is still there. Should the VMM not even take it back, then
    /// it is reached through userspace only.
    pub(crate) fn set(&mut self, index: usize, new: Option<F>) -> Result<Option<F>, ServiceError> {
        self.unregister(index)?;
        // What moves takes this one along: at its new address there may be
        // another slot still.
        if let Some(new) = new.clone().filter(|_| !self.unsettled) {
            if let Err(error) = self.register(index, new) {
                if let Some(old) = self.get(index).cloned() {
                    let _ = self.register(index, old);
                }
                return Err(error);
            }
        }
        let slot = self.slots.get_mut(index);
        Ok(slot.and_then(|slot| std::mem::replace(&mut slot.eventfd, new)))
    }

    /// Says where they should be, or that they should be nowhere:
    /// [`settle_some`](Self::settle_some) moves them.
    pub(crate) fn place(&mut self, base: Option<u64>) {
        if base != self.base {
            self.base = base;
            self.unsettled = true;
        }
    }

    /// Moves slots to where they should be, until the time is over. Tells
    /// whether there are more.
    ///
    /// All are taken from where they were before any is put where another may
    /// have been: an address takes one eventfd only.
    ///
    /// # Errors
    ///
    /// With [`ServiceError::Refused`] they should be nowhere from now on, and
    /// there may be more to do. With [`ServiceError::Dead`] one is where it
    /// should not be.
    pub(crate) fn settle_some(&mut self, until: Deadline) -> Result<bool, ServiceError> {
        if !self.unsettled {
            return Ok(false);
        }
        let mut taken = Ok(());
        for index in 0..self.slots.len() {
            if self.is_misplaced(index) {
                // Every one has its turn, whatever becomes of those before.
                taken = taken.and(self.unregister(index));
                if taken.is_ok() && until.is_over() {
                    return Ok(true);
                }
            }
        }
        if let Err(error) = taken {
            (self.base, self.unsettled) = (None, false);
            return Err(error);
        }
        for index in 0..self.slots.len() {
            let Some(eventfd) = self.missing(index) else {
                continue;
            };
            if let Err(error) = self.register(index, eventfd) {
                self.base = None;
                return Err(error);
            }
            if until.is_over() {
                return Ok(true);
            }
        }
        self.unsettled = false;
        Ok(false)
    }

    /// Whether a slot is registered where it should not be.
    fn is_misplaced(&self, index: usize) -> bool {
        let registered = self
            .slots
            .get(index)
            .and_then(|slot| slot.registered.as_ref());
        registered.is_some_and(|(_, address)| self.address(index) != Some(*address))
    }

    /// What should be registered for a slot, and is not.
    fn missing(&self, index: usize) -> Option<F> {
        let slot = self.slots.get(index)?;
        let eventfd = slot.eventfd.clone().filter(|_| slot.registered.is_none());
        eventfd.filter(|_| self.registrar.is_some() && self.base.is_some())
    }

    /// Takes all eventfds away, and returns them.
    ///
    /// Those that the VMM could not unregister are noted, and tried again
    /// whenever their slots change.
    pub(crate) fn clear(&mut self) -> (Vec<F>, Result<(), ServiceError>) {
        let outcome = self.unregister_all();
        let eventfds = self.slots.iter_mut();
        let detached = eventfds.filter_map(|slot| slot.eventfd.take()).collect();
        (detached, outcome)
    }
}
