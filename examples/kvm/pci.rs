// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The PCI bus: a host bridge, and vhost-guest devices from 00:01.0 on.

use vhost_guest_device::{BarMove, BarSpec};

use super::Function;

/// Configuration mechanism 1 (PCI Local Bus 3.0 §3.2.2.3.2): the port of the
/// address register, four bytes wide.
pub const CONFIG_ADDRESS: u16 = 0xCF8;
/// The first of four ports of the data register.
pub const CONFIG_DATA: u16 = 0xCFC;
const ENABLE: u32 = 1 << 31;

/// What the host bridge shows: vendor, device, status and class. Without one
/// Linux does not believe that there is PCI.
const HOST_BRIDGE: [u32; 4] = [0x1237_8086, 0, 0x0600_0000, 0];

struct Slot {
    function: Function,
    /// Where each BAR is routed now.
    bars: Vec<(BarSpec, Option<u64>)>,
}

/// An address of the bus: a BAR of a function, and an offset in it.
pub struct Hit {
    /// The function.
    pub function: Function,
    /// Number of the BAR.
    pub bar: u8,
    /// Offset in the BAR.
    pub offset: u64,
}

/// The bus.
#[derive(Default)]
pub struct PciBus {
    address: u32,
    /// Empty where a function was unplugged.
    slots: Vec<Option<Slot>>,
}

impl PciBus {
    /// Plugs a function into the first free slot. Returns its device number,
    /// or nothing if the bus is full.
    pub fn plug(&mut self, function: Function) -> Option<u8> {
        let free = self.slots.iter().position(Option::is_none);
        let free = free.unwrap_or(self.slots.len());
        let device = u8::try_from(free + 1).ok();
        let device = device.filter(|device| *device < 32)?;
        let bars = function.bars().iter().map(|bar| (*bar, None)).collect();
        let plugged = Some(Slot { function, bars });
        match self.slots.get_mut(free) {
            Some(slot) => *slot = plugged,
            None => self.slots.push(plugged),
        }
        Some(device)
    }

    /// Takes a function off the bus: what the guest does where it was reaches
    /// nobody from now on.
    pub fn unplug(&mut self, function: &Function) {
        for slot in &mut self.slots {
            slot.take_if(|slot| Function::ptr_eq(&slot.function, function));
        }
    }

    /// Resets all functions, as the bus's reset line does.
    pub fn reset(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            for moved in slot.function.reset() {
                slot.move_bar(moved);
            }
        }
    }

    /// All functions.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.slots.iter().flatten().map(|slot| &slot.function)
    }

    /// Reads or writes of the address register.
    pub fn address_register(&mut self) -> &mut u32 {
        &mut self.address
    }

    /// Device number and register that an access to the data register means:
    /// there is one bus, and there are no multi-function devices.
    fn selected(&self, byte: u16) -> Option<(usize, u16)> {
        let elsewhere = self.address & (0xFF << 16 | 7 << 8) != 0;
        let device = (self.address >> 11 & 31) as usize;
        let register = (self.address & 0xFC) as u16 + byte;
        (self.address & ENABLE != 0 && !elsewhere).then_some((device, register))
    }

    /// The guest reads the data register, from byte `byte` of it on.
    pub fn read_data(&self, byte: u16, data: &mut [u8]) {
        if let Some((device, register)) = self.selected(byte) {
            self.config_read(device, register, data);
        } else {
            data.fill(0xFF);
        }
    }

    /// The guest writes the data register, from byte `byte` of it on.
    pub fn write_data(&mut self, byte: u16, data: &[u8]) {
        if let Some((device, register)) = self.selected(byte) {
            self.config_write(device, register, data);
        }
    }

    /// Reads configuration space; all ones where no device is.
    pub fn config_read(&self, device: usize, register: u16, data: &mut [u8]) {
        match device.checked_sub(1) {
            None => {
                let bytes = HOST_BRIDGE.map(u32::to_le_bytes);
                for (at, byte) in (usize::from(register)..).zip(data) {
                    *byte = bytes.as_flattened().get(at).copied().unwrap_or(0);
                }
            }
            Some(slot) => match self.slots.get(slot) {
                Some(Some(slot)) => slot.function.config_read(register, data),
                _ => data.fill(0xFF),
            },
        }
    }

    /// Writes configuration space, and moves the BARs that have to be moved.
    ///
    /// The bus is locked meanwhile, so no other vCPU finds one halfway. That
    /// is safe: the device never calls the bus.
    pub fn config_write(&mut self, device: usize, register: u16, data: &[u8]) {
        let slot = device.checked_sub(1);
        let slot = slot.and_then(|slot| self.slots.get_mut(slot));
        if let Some(slot) = slot.and_then(Option::as_mut) {
            for moved in slot.function.config_write(register, data) {
                slot.move_bar(moved);
            }
        }
    }

    /// What is at a guest physical address.
    pub fn find(&self, address: u64) -> Option<Hit> {
        self.slots
            .iter()
            .flatten()
            .find_map(|slot| slot.find(address))
    }
}

impl Slot {
    fn move_bar(&mut self, moved: BarMove) {
        for (spec, address) in &mut self.bars {
            if spec.index == moved.bar {
                *address = moved.address;
            }
        }
        if let Err(error) = self.function.bar_moved(moved.bar, moved.address) {
            // Doorbells are slow now, or the window is gone, until the guest
            // places the BAR again. Not a reason to stop.
            log::warn!("BAR {} at {:x?}: {error}", moved.bar, moved.address);
        }
    }

    fn find(&self, address: u64) -> Option<Hit> {
        self.bars.iter().find_map(|(spec, base)| {
            let offset = address.checked_sub((*base)?)?;
            (offset < spec.size).then(|| Hit {
                function: Function::clone(&self.function),
                bar: spec.index,
                offset,
            })
        })
    }
}
