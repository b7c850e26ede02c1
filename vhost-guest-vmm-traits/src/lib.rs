// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a virtual machine monitor (VMM) lends to a vhost-guest device.
//!
//! The device owns the whole PCI function; what it cannot do by itself is
//! reach into the virtual machine. A VMM implements these traits once, and
//! every vhost-guest device that it creates uses them:
//!
//! | trait | question it answers | on KVM |
//! |---|---|---|
//! | [`InterruptManager`] | how does an eventfd become an MSI? | `KVM_SET_GSI_ROUTING`, `KVM_IRQFD` |
//! | [`IoEventFdRegistrar`] | how does a guest store become an eventfd? | `KVM_IOEVENTFD`, or nothing |
//! | [`SharedMemoryMapper`] | how does file memory appear in a BAR? | `KVM_SET_USER_MEMORY_REGION` |
//! | [`AddressTranslator`] | what does an I/O virtual address mean? | a virtual IOMMU, or nothing |
//! | [`ThreadHook`] | what runs first in a thread of the device? | seccomp filter, priority |
//! | [`DeviceNotifier`] | who hears of faults? | the VMM's log or event channel |
//!
//! # Rules for every method
//!
//! - Methods take `&self`, are called from any thread (a vCPU's, the device's
//!   own, the VMM's), never two at a time for the same object and device;
//!   [`open`](SharedMemoryMapper::open) and [`close`](SharedMemoryMapper::close)
//!   apart, which come at any time.
//! - They may block on the VMM's own machinery (an `ioctl`, a request to
//!   another process of the VMM), never on anything that the frontend or the
//!   guest controls; `open` and `close` apart, which are what may wait for a
//!   file's owner.
//! - They must not call back into the device: its lock is held.
//! - They do not panic. An error leaves everything as it was before the call,
//!   unless the method says otherwise.
//! - Descriptors are borrowed for the time of the call. What has to live
//!   longer is duplicated by the implementer.
//!
//! Nothing of rust-vmm's appears in a signature, so that VMMs with types of
//! their own implement the traits without conversions.
//!
//! # What will not change
//!
//! Nothing is released yet. The first release freezes the traits: an adapter that
//! works with it works with every later version. What may be added then is
//!
//! - a method with a default, which does what devices did without it;
//! - a trait of its own for something new, which a VMM may lend or not;
//! - a promise that the device makes.
//!
//! No method changes its signature or asks more of an implementer than it does
//! now, none loses its default. Structures get no fields, enumerations no
//! variants, traits no supertraits. The feature `test-utils` is for tests and
//! has no part in this.
//!
//! # Example
//!
//! ```
//! use std::io;
//! use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
//! use std::os::unix::net::UnixStream;
//! use std::sync::{Mutex, PoisonError};
//!
//! use vhost_guest_vmm_traits::IoEventFdRegistrar;
//!
//! /// The doorbells of a device in a jail: the VM's descriptor is in another
//! /// process, which is asked by a socket.
//! struct Doorbells {
//!     vmm: Mutex<UnixStream>,
//! }
//!
//! enum Request {
//!     Register { address: u64 },
//!     Unregister { address: u64 },
//! }
//!
//! # fn send(_: &UnixStream, _: Request, _: BorrowedFd<'_>) -> io::Result<()> { Ok(()) }
//! # fn receive(_: &UnixStream) -> io::Result<()> { Ok(()) }
//! impl Doorbells {
//!     fn ask(&self, request: Request, eventfd: BorrowedFd<'_>) -> io::Result<()> {
//!         // Two devices may call at the same time.
//!         let vmm = self.vmm.lock().unwrap_or_else(PoisonError::into_inner);
//!         send(&vmm, request, eventfd)?;
//!         // Not before the VMM has done it: `Ok` is a promise.
//!         receive(&vmm)
//!     }
//! }
//!
//! impl IoEventFdRegistrar for Doorbells {
//!     fn register(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
//!         self.ask(Request::Register { address }, eventfd)
//!     }
//!
//!     fn unregister(&self, eventfd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
//!         self.ask(Request::Unregister { address }, eventfd)
//!     }
//!
//!     fn fds_to_keep(&self) -> Vec<RawFd> {
//!         let vmm = self.vmm.lock().unwrap_or_else(PoisonError::into_inner);
//!         vec![vmm.as_raw_fd()]
//!     }
//! }
//! ```

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod doorbell;
mod host;
mod interrupt;
mod memory;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

pub use doorbell::IoEventFdRegistrar;
pub use host::{Access, AddressTranslator, DeviceNotifier, ThreadHook, Translation};
pub use interrupt::{Arming, InterruptManager, MsiMessage, SourceId};
pub use memory::{RangeId, SharedMemoryMapper};
