// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What `KVM_IOEVENTFD` does, for an emulated guest.

use std::collections::btree_map::{BTreeMap, Entry};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use vhost_guest_vmm_traits::IoEventFdRegistrar;

use super::eventfd::{self, Signaller};

/// Doorbells: guest physical addresses whose stores signal an eventfd.
///
/// The vCPU asks here before it gives a store to the device, so that no other
/// code and no other thread of the VMM is involved.
pub struct Doorbells {
    signaller: Signaller,
    table: RwLock<BTreeMap<u64, OwnedFd>>,
    rung: AtomicU64,
}

impl Doorbells {
    /// No doorbells yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            signaller: Signaller::new()?,
            table: RwLock::default(),
            rung: AtomicU64::new(0),
        })
    }

    /// The guest stores at `address`. Tells whether there is a doorbell.
    pub fn store(&self, address: u64) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let Some(eventfd) = table.get(&address) else {
            return false;
        };
        // Like KVM, there is nobody to tell.
        let _ = self.signaller.signal(eventfd);
        self.rung.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// How many doorbells there are.
    pub fn registered(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.len()
    }

    /// How many stores signalled an eventfd.
    pub fn rung(&self) -> u64 {
        self.rung.load(Ordering::Relaxed)
    }
}

impl IoEventFdRegistrar for Doorbells {
    fn register(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        eventfd::identity(eventfd)?;
        let eventfd = eventfd.try_clone_to_owned()?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.entry(address) {
            Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Entry::Vacant(entry) => {
                entry.insert(eventfd);
                Ok(())
            }
        }
    }

    fn unregister(&self, _: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let removed = table.remove(&address);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{eventfd, EventfdFlags};

    use super::*;

    #[test]
    fn rings_at_the_exact_address_only() {
        let doorbells = Doorbells::new().unwrap();
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        doorbells.register(fd.as_fd(), 0x1000).unwrap();
        assert!(doorbells.register(fd.as_fd(), 0x1000).is_err());
        assert!(!doorbells.store(0x1002));
        assert!(!eventfd::drain(&fd));
        assert!(doorbells.store(0x1000));
        assert!(eventfd::drain(&fd));
        doorbells.unregister(fd.as_fd(), 0x1000).unwrap();
        assert!(!doorbells.store(0x1000));
        assert!(doorbells.unregister(fd.as_fd(), 0x1000).is_err());
        assert_eq!(doorbells.rung(), 1);
    }
}
