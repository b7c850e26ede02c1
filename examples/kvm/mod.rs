// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A small VMM on KVM: one vCPU, a serial console, vhost-guest devices.
//!
//! It boots a Linux kernel with an initramfs ([`linux`]), or any code that
//! starts in 64-bit mode. It is there to be read and copied from:
//!
//! | module | what it shows |
//! |---|---|
//! | [`adapter`] | the traits of `vhost-guest-vmm-traits` on KVM |
//! | [`machine`] | how a device is made and plugged |
//! | [`pci`] | how configuration space and BARs are routed, and BARs moved |
//! | [`vcpu`] | what a vCPU does with exits, memory faults among them |
//!
//! The rest is what any VMM for x86-64 needs.

mod acpi;
pub mod adapter;
pub mod bus;
mod error;
pub mod linux;
pub mod long_mode;
pub mod machine;
pub mod options;
pub mod pci;
mod program;
pub mod userspace;
pub mod vcpu;

pub use error::Error;
pub use machine::Machine;
pub use program::main;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost_guest_device::VhostGuest;
use vm_memory::GuestMemoryMmap;

/// The guest's memory.
pub type Memory = Arc<GuestMemoryMmap>;
/// A vhost-guest device of this VMM's.
pub type Function = Arc<VhostGuest<Memory>>;

/// Takes a lock, whatever became of a thread that held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
