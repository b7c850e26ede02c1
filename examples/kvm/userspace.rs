// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts without the kernel's help: the control that shows what measures
//! of the data path see when the VMM takes part in it.

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;

use crate::vmm::Forwarder;

/// Eventfds that KVM does not know: a thread waits for them, and asks KVM for
/// an interrupt each time.
pub fn interrupts(vm: Arc<VmFd>) -> io::Result<Forwarder> {
    Forwarder::start(move |message| {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        // A message that is none, which the guest may write, raises nothing.
        let _ = vm.signal_msi(msi);
    })
}
