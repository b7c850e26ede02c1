// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest side of vhost-guest: a driver for the device, and a server on which
//! vhost-user backends are written.
//!
//! A vhost-guest device brings the vhost-user protocol into a virtual
//! machine: requests of the frontend arrive in virtqueues, the memory of the
//! frontend's guest appears in a PCI BAR (the *window*), kicks are
//! interrupts, calls are stores to a doorbell BAR.
//!
//! 1. A [`Transport`] reaches the PCI function:
//!    [`Vfio`](crate::vfio::Vfio) in a Linux guest with an IOMMU,
//!    [`Sysfs`](crate::sysfs::Sysfs) in one without,
//!    [`Emulated`](crate::emulated::Emulated), or one of your own.
//! 2. [`Device::open`] finds and initialises the device.
//!    Or a kernel driver does both: [`Module`](crate::module::Module) is the
//!    same to a server, a [`Port`].
//! 3. [`serve`] answers every vhost-user request and runs the vrings, for a
//!    [`Backend`]: [`Blk`](crate::blk::Blk), or one of your own.
//!
//! ```no_run
//! # #[cfg(feature = "blk")] {
//! use vhost_guest_driver::blk::Blk;
//! use vhost_guest_driver::{serve, Device, Transport};
//!
//! fn disk(transport: impl Transport) -> Result<(), Box<dyn std::error::Error>> {
//!     let device = Device::open(transport)?;
//!     serve(device, Blk::open("disk.img", false)?.with_queues(4))?;
//!     Ok(())
//! }
//! # }
//! ```
//!
//! Everything that the device or the frontend wrote is checked before use.
//! A frontend that breaks the rules is disconnected and the next one served;
//! a device that does ends the server with an [`Error`].

#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![deny(missing_docs)]

extern crate alloc;

#[cfg(all(feature = "sysfs", target_os = "linux"))]
mod access;
#[cfg(any(feature = "emulated", all(feature = "sysfs", target_os = "linux")))]
mod arena;
mod backend;
#[cfg(feature = "blk")]
pub mod blk;
mod carried;
mod common;
#[cfg(test)]
mod crash;
mod device;
#[cfg(feature = "emulated")]
pub mod emulated;
mod error;
#[cfg(all(any(feature = "module", feature = "vfio"), target_os = "linux"))]
mod eventfd;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_packed;
#[cfg(test)]
mod fake_ring;
mod inflight;
mod iotlb;
mod log;
#[cfg(all(any(feature = "sysfs", feature = "module"), target_os = "linux"))]
mod mapping;
mod memory;
#[cfg(all(feature = "module", target_os = "linux"))]
pub mod module;
mod pci;
mod port;
mod queue;
mod server;
#[cfg(all(feature = "sysfs", target_os = "linux"))]
pub mod sysfs;
mod transport;
mod vectors;
#[cfg(all(feature = "vfio", target_os = "linux"))]
pub mod vfio;
mod vring;
mod window;

pub use backend::{Backend, State, Stateless};
pub use carried::Carried;
pub use device::{Device, Events, Inbound, Outbound, Status};
pub use error::Error;
pub use memory::Memory;
pub use port::Port;
pub use server::{serve, Disconnect, Server, Statistics, Stop, Turn};
pub use transport::{DmaMemory, InterruptMode, MsiMessage, Transport, Wake};
pub use vectors::{VectorSet, MAX_VECTORS};
pub use vring::{Chain, Ring, RingFault};
pub use window::{Pieces, Window, WindowError, Word};
