// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A row of eventfds at equally spaced addresses that move together.

use std::os::fd::AsFd;
use std::sync::Arc;

use vhost_guest_vmm_traits::IoEventFdRegistrar;

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
    base: Option<u64>,
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
            slots: (0..count).map(|_| empty()).collect(),
        }
    }

    /// The eventfd at `index`.
    pub(crate) fn get(&self, index: usize) -> Option<&F> {
        self.slots.get(index)?.eventfd.as_ref()
    }

    fn register(&mut self, index: usize, eventfd: F) -> Result<(), ServiceError> {
        let offset = index as u64 * u64::from(self.stride);
        let address = self.base.and_then(|base| base.checked_add(offset));
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

    /// Takes at most so many eventfds away, and returns them.
    pub(crate) fn clear_some(&mut self, most: usize) -> (Vec<F>, Result<(), ServiceError>) {
        let connected = (0..self.slots.len()).filter(|index| self.get(*index).is_some());
        let some: Vec<usize> = connected.take(most).collect();
        let mut detached = Vec::new();
        for index in some {
            if let Err(error) = self.unregister(index) {
                return (detached, Err(error));
            }
            let slot = self.slots.get_mut(index);
            detached.extend(slot.and_then(|slot| slot.eventfd.take()));
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
        if let Some(new) = new.clone() {
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

    /// Moves all to `base`, or out of the way.
    ///
    /// # Errors
    ///
    /// None is registered anywhere then, save those that the VMM could not
    /// unregister ([`ServiceError::Dead`]).
    pub(crate) fn place(&mut self, base: Option<u64>) -> Result<(), ServiceError> {
        if base == self.base {
            return Ok(());
        }
        self.base = None;
        self.unregister_all()?;
        self.base = base;
        for index in 0..self.slots.len() {
            let Some(eventfd) = self.get(index).cloned() else {
                continue;
            };
            if let Err(error) = self.register(index, eventfd) {
                self.base = None;
                return self.unregister_all().and(Err(error));
            }
        }
        Ok(())
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
