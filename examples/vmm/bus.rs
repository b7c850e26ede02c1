// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's side of the device: a PCI bus with one function.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use vhost_guest_device::VhostGuest;
use vhost_guest_driver::emulated::Bus;
use vm_memory::GuestMemoryMmap;

use super::doorbells::Doorbells;

/// The memory of the emulated guest.
pub type Ram = Arc<GuestMemoryMmap>;

/// The device, over this memory.
pub type Device = VhostGuest<Ram>;

/// A BAR that has no address.
const NOWHERE: u64 = u64::MAX;

/// Routes the guest's accesses to doorbells and to the device.
pub struct PciBus {
    device: Device,
    doorbells: Arc<Doorbells>,
    /// Guest physical addresses, by BAR number.
    bars: [AtomicU64; 6],
    /// The device is not on the bus any more.
    unplugged: AtomicBool,
}

impl PciBus {
    /// Plugs `device` in; the guest has not placed its BARs yet.
    pub fn new(device: Device, doorbells: Arc<Doorbells>) -> Self {
        Self {
            device,
            doorbells,
            bars: [(); 6].map(|()| AtomicU64::new(NOWHERE)),
            unplugged: AtomicBool::new(false),
        }
    }

    /// Unplugs the device, whatever the guest is doing with it: everything of
    /// the frontend's goes at once, then no access reaches it any more.
    pub fn unplug(&self) {
        self.device.revoke();
        self.unplugged.store(true, Ordering::Release);
    }

    fn is_there(&self) -> bool {
        !self.unplugged.load(Ordering::Acquire)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The guest physical address of an access, if the BAR has one.
    fn address(&self, bar: u8, offset: u64) -> Option<u64> {
        let base = self.bars.get(usize::from(bar))?.load(Ordering::Acquire);
        base.checked_add(offset)
            .filter(|_| base != NOWHERE && self.is_there())
    }
}

impl Bus for PciBus {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        match self.is_there() {
            true => self.device.config_read(offset, data),
            false => data.fill(0xff),
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        if !self.is_there() {
            return;
        }
        for moved in self.device.config_write(offset, data) {
            if let Some(bar) = self.bars.get(usize::from(moved.bar)) {
                bar.store(moved.address.unwrap_or(NOWHERE), Ordering::Release);
            }
            // Doorbells and memory follow. If they cannot, the BAR decodes
            // nothing, as it would with a broken bridge.
            if let Err(error) = self.device.bar_moved(moved.bar, moved.address) {
                eprintln!("loopback: BAR {} cannot be placed: {error}", moved.bar);
            }
        }
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        match self.address(bar, offset) {
            Some(_) => self.device.bar_read(bar, offset, data),
            None => data.fill(0xff),
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        // As on KVM: a store at a doorbell does not get out of the kernel.
        match self.address(bar, offset) {
            Some(address) if self.doorbells.store(address) => {}
            Some(_) => self.device.bar_write(bar, offset, data),
            None => {}
        }
    }
}
