// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM lends, and what it means that it failed.

mod error;

pub(crate) use error::{is_descriptors_fault, ServiceError};

use std::sync::Arc;

use vhost_guest_vmm_traits::{
    AddressTranslator, DeviceNotifier, InterruptManager, IoEventFdRegistrar, SharedMemoryMapper,
    ThreadHook,
};

/// What a VMM lends to a device: the traits of `vhost-guest-vmm-traits`, and
/// the memory of the guest that the device is plugged into.
pub struct Services<M> {
    /// Turns eventfds into interrupts.
    pub interrupts: Arc<dyn InterruptManager>,
    /// Turns guest stores into signals, if the VMM's kernel can do that.
    /// Without it each doorbell store and each notification of a queue arrives
    /// by [`VhostGuest::bar_write`](crate::VhostGuest::bar_write), and a thread of the device's signals.
    pub doorbells: Option<Arc<dyn IoEventFdRegistrar>>,
    /// Shows frontend memory in this device's window.
    pub window: Arc<dyn SharedMemoryMapper>,
    /// The guest's memory, in which the device's own queues are.
    pub memory: M,
    /// Translates the addresses in the device's own queues, if a virtual IOMMU
    /// is in front of the device: it then offers `VIRTIO_F_ACCESS_PLATFORM`.
    pub translator: Option<Arc<dyn AddressTranslator>>,
    /// Hears of faults, if the VMM wants to.
    pub notifier: Option<Arc<dyn DeviceNotifier>>,
    /// Runs first in each thread of the device.
    pub thread_hook: Option<Arc<dyn ThreadHook>>,
}
