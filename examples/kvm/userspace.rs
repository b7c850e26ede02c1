// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts without the kernel's help: the control that shows what measures
//! of the data path see when the VMM takes part in it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use vhost_guest_vmm_traits::{Arming, InterruptManager, MsiMessage, SourceId};

use super::lock;
use crate::vmm::{Events, Sources};

/// Eventfds that KVM does not know: a thread waits for them, and asks KVM for
/// an interrupt each time.
pub struct UserspaceInterrupts {
    shared: Arc<Shared>,
    forwarder: Option<JoinHandle<()>>,
}

struct Shared {
    vm: Arc<VmFd>,
    sources: Mutex<Sources>,
    events: Events,
    stop: AtomicBool,
}

impl UserspaceInterrupts {
    /// Starts the thread. It ends with the object.
    pub fn new(vm: Arc<VmFd>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            vm,
            sources: Mutex::new(Sources::new()),
            events: Events::new()?,
            stop: AtomicBool::new(false),
        });
        let forwarding = Arc::clone(&shared);
        let forwarder = thread::Builder::new().name("irq-forwarder".to_owned());
        let forwarder = forwarder.spawn(move || forwarding.forward())?;
        Ok(Self {
            shared,
            forwarder: Some(forwarder),
        })
    }
}

impl Shared {
    fn forward(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            for token in self.events.wait(None) {
                // Raised under the lock: once a source is disarmed, nothing of
                // it is on its way.
                let sources = lock(&self.sources);
                if let Some(message) = sources.take(token) {
                    self.raise(message);
                }
            }
        }
    }

    fn raise(&self, message: MsiMessage) {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        // A message that is none, which the guest may write, raises nothing.
        let _ = self.vm.signal_msi(msi);
    }
}

impl InterruptManager for UserspaceInterrupts {
    fn create_source(&self) -> io::Result<SourceId> {
        lock(&self.shared.sources).create()
    }

    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        lock(&self.shared.sources).arm_all(&self.shared.events, sources)
    }

    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut books = lock(&self.shared.sources);
        for arming in sources {
            let signalled = books.disarm(&self.shared.events, arming.source);
            if let Some(message) = signalled {
                self.shared.raise(message);
            }
        }
        Ok(())
    }

    fn destroy_source(&self, source: SourceId) {
        lock(&self.shared.sources).destroy(source);
    }
}

impl Drop for UserspaceInterrupts {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.events.wake();
        if let Some(forwarder) = self.forwarder.take() {
            let _ = forwarder.join();
        }
    }
}
