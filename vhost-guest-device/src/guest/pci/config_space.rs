// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The 256 bytes of configuration space of a conventional PCI function.
//!
//! | offset | bytes | register | value, or writable bits |
//! |---|---|---|---|
//! | 0x00 | 2 | vendor | 0x1AF4 |
//! | 0x02 | 2 | device | 0x1075 (0x1040 + 53) |
//! | 0x04 | 2 | command | memory space, bus master, interrupt disable |
//! | 0x06 | 2 | status | capability list |
//! | 0x08 | 1 | revision | 1 |
//! | 0x09 | 3 | class | 0x088000: other system peripheral |
//! | 0x0C | 1 | cache line size | all, no effect |
//! | 0x10 | 24 | BARs | see [`super::bars`] |
//! | 0x2C | 4 | subsystem | 0x1AF4, 0x0040 |
//! | 0x34 | 1 | capability list | 0x40, see [`super::capabilities`] |
//! | 0x3C | 1 | interrupt line | all, no effect |
//! | 0x3D | 1 | interrupt pin | 0: none |
//!
//! A BAR is decoded at the address in its register while memory space is on,
//! except in the course of a size probe (all ones in one of its halves), and
//! at address 0.

use super::bars::{bar_specs, BarMove, BarSpec};
use super::capabilities::{self, at, Shape};
use super::msix;
use crate::guest::snapshot::{ensure, Damage, CONFIG_SPACE};

/// Bytes of configuration space.
const SIZE: usize = CONFIG_SPACE;

const VENDOR: u16 = 0x1AF4;
const DEVICE: u16 = 0x1075;
const SUBSYSTEM: u16 = 0x0040;
const REVISION: u8 = 1;
const CLASS: [u8; 3] = [0x00, 0x80, 0x08];

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CACHE_LINE: usize = 0x0C;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3C;

const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTERRUPT_DISABLE: u16 = 1 << 10;
const CAPABILITY_LIST: u16 = 1 << 4;

const BAR_64_BIT: u32 = 0b100;
const BAR_PREFETCHABLE: u32 = 0b1000;

const MSIX_CONTROL: usize = at::MSIX as usize + 2;
const PCI_CFG_BAR: usize = at::PCI_CFG as usize + 4;
const PCI_CFG_OFFSET: usize = at::PCI_CFG as usize + 8;
const PCI_CFG_LENGTH: usize = at::PCI_CFG as usize + 12;
const PCI_CFG_DATA: usize = at::PCI_CFG as usize + 16;
const ADVANCED_CONTROL: usize = at::ADVANCED as usize + 4;
const INITIATE_RESET: u8 = 1;

/// What a write to configuration space has changed or asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// BARs that are decoded elsewhere now.
    pub(crate) moves: Vec<BarMove>,
    /// The new state of the bus master bit, if it changed.
    pub(crate) bus_master: Option<bool>,
    /// The new MSI-X message control, if it changed.
    pub(crate) msix_control: Option<u16>,
    /// A store to a BAR, through the virtio PCI configuration access
    /// capability.
    pub(crate) store: Option<CfgAccess>,
    /// A function level reset was asked for. The caller carries it out.
    pub(crate) function_reset: bool,
}

/// An access to a BAR by way of `pci_cfg_data` (virtio 1.2 §4.1.4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CfgAccess {
    /// BAR number.
    pub(crate) bar: u8,
    /// Offset in the BAR, a multiple of the length.
    pub(crate) offset: u64,
    /// 1, 2 or 4.
    pub(crate) length: usize,
    /// The value of a store.
    pub(crate) data: [u8; 4],
}

/// Configuration space of the function.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits that the guest can change.
    writable: [u8; SIZE],
    /// What `bytes` is after power-up.
    initial: [u8; SIZE],
    /// BAR registers (halves of BARs) that hold a size probe.
    probed: [bool; 6],
    bars: [BarSpec; 3],
}

impl ConfigSpace {
    /// The function after power-up: nothing decoded, not a bus master.
    pub(crate) fn new(shape: &Shape) -> Self {
        let mut space = ConfigSpace {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            initial: [0; SIZE],
            probed: [false; 6],
            bars: bar_specs(shape.window_size),
        };
        space.define_header();
        space.define_bars();
        for (at, bytes) in capabilities::list(shape) {
            space.define(usize::from(at), &bytes);
        }
        space.define_capability_writes();
        space.bytes = space.initial;
        space
    }

    fn define(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.initial.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        for (to, from) in self.writable.iter_mut().skip(at).zip(mask) {
            *to = *from;
        }
    }

    fn define_header(&mut self) {
        self.define(0x00, &VENDOR.to_le_bytes());
        self.define(0x02, &DEVICE.to_le_bytes());
        self.define(STATUS, &CAPABILITY_LIST.to_le_bytes());
        self.define(0x08, &[REVISION]);
        self.define(0x09, &CLASS);
        self.define(0x2C, &VENDOR.to_le_bytes());
        self.define(0x2E, &SUBSYSTEM.to_le_bytes());
        self.define(CAPABILITIES, &[at::COMMON]);
        let command = MEMORY_SPACE | BUS_MASTER | INTERRUPT_DISABLE;
        self.allow(COMMAND, &command.to_le_bytes());
        self.allow(CACHE_LINE, &[0xFF]);
        self.allow(INTERRUPT_LINE, &[0xFF]);
    }

    fn define_bars(&mut self) {
        for bar in self.bars {
            let at = BARS + usize::from(bar.index) * 4;
            let prefetchable = if bar.prefetchable {
                BAR_PREFETCHABLE
            } else {
                0
            };
            self.define(at, &(BAR_64_BIT | prefetchable).to_le_bytes());
            // The address bits below the size read 0, which tells the size.
            self.allow(at, &(!(bar.size - 1)).to_le_bytes());
        }
    }

    fn define_capability_writes(&mut self) {
        let control = msix::ENABLE | msix::FUNCTION_MASK;
        self.allow(MSIX_CONTROL, &control.to_le_bytes());
        self.allow(PCI_CFG_BAR, &[0xFF]);
        self.allow(PCI_CFG_OFFSET, &[0xFF; 4]);
        self.allow(PCI_CFG_LENGTH, &[0xFF; 4]);
        self.allow(PCI_CFG_DATA, &[0xFF; 4]);
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    fn command(&self) -> u16 {
        self.word(COMMAND)
    }

    /// Whether accesses to the BARs are decoded.
    pub(crate) fn memory_space(&self) -> bool {
        self.command() & MEMORY_SPACE != 0
    }

    /// Whether the function may access memory and raise interrupts.
    pub(crate) fn bus_master(&self) -> bool {
        self.command() & BUS_MASTER != 0
    }

    /// Message control of MSI-X.
    pub(crate) fn msix_control(&self) -> u16 {
        self.word(MSIX_CONTROL) & (msix::ENABLE | msix::FUNCTION_MASK)
    }

    /// The three BARs.
    pub(crate) fn bars(&self) -> [BarSpec; 3] {
        self.bars
    }

    /// Where `bar` (0, 2, 4) is decoded now.
    pub(crate) fn bar_address(&self, bar: u8) -> Option<u64> {
        let spec = self.bars.iter().find(|spec| spec.index == bar)?;
        let index = usize::from(bar);
        if !self.memory_space() || self.probed[index] || self.probed[index + 1] {
            return None;
        }
        let at = BARS + index * 4;
        let address = u64::from(self.dword(at)) | u64::from(self.dword(at + 4)) << 32;
        let address = address & !(spec.size - 1);
        let fits = address.checked_add(spec.size - 1).is_some();
        (address != 0 && fits).then_some(address)
    }

    /// Where the BARs are decoded.
    pub(crate) fn bar_addresses(&self) -> [Option<u64>; 3] {
        self.bars.map(|spec| self.bar_address(spec.index))
    }

    /// Puts an address into the registers of `bar`, for a VMM that assigns
    /// addresses itself. Misaligned bits are lost.
    pub(crate) fn set_bar_address(&mut self, bar: u8, address: u64) {
        let Some(spec) = self.bars.iter().find(|spec| spec.index == bar) else {
            return;
        };
        let address = address & !(spec.size - 1);
        let at = BARS + usize::from(bar) * 4;
        for (i, byte) in address.to_le_bytes().into_iter().enumerate() {
            self.bytes[at + i] = self.initial[at + i] | byte;
        }
        let index = usize::from(bar);
        self.probed[index] = false;
        self.probed[index + 1] = false;
    }

    /// Reads; all ones behind the end.
    pub(crate) fn read(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xFF);
        }
    }

    /// Writes, and tells what that changed. Never fails: bits that are not
    /// writable keep their values.
    pub(crate) fn write(&mut self, offset: u16, data: &[u8]) -> Written {
        let offset = usize::from(offset);
        let (addresses, bus_master) = (self.bar_addresses(), self.bus_master());
        let control = self.msix_control();
        for (at, value) in (offset..SIZE).zip(data) {
            let writable = self.writable[at];
            self.bytes[at] = self.bytes[at] & !writable | value & writable;
        }
        self.note_probes(offset, data);
        Written {
            moves: self.moves_since(addresses),
            bus_master: Some(self.bus_master()).filter(|now| *now != bus_master),
            msix_control: Some(self.msix_control()).filter(|now| *now != control),
            store: touches_cfg_data(offset, data.len())
                .then(|| self.cfg_access())
                .flatten(),
            function_reset: (offset..SIZE)
                .zip(data)
                .any(|(at, value)| at == ADVANCED_CONTROL && value & INITIATE_RESET != 0),
        }
    }

    /// Notes which halves of BARs hold a size probe after a write.
    ///
    /// A probe writes all ones. That cannot be told from the register, where
    /// the bits below the size are 0: such an address may be a real one.
    fn note_probes(&mut self, offset: usize, data: &[u8]) {
        for (index, probed) in self.probed.iter_mut().enumerate() {
            let at = BARS + index * 4;
            if offset < at + 4 && at < offset + data.len() && !data.is_empty() {
                *probed = offset == at && data == [0xFF; 4];
            }
        }
    }

    /// The BARs that are somewhere else than they were `before`.
    pub(crate) fn moves_since(&self, before: [Option<u64>; 3]) -> Vec<BarMove> {
        let now = self.bars.iter().zip(self.bar_addresses());
        let moved = now.zip(before).filter(|((_, now), before)| now != before);
        moved
            .map(|((spec, address), _)| BarMove {
                bar: spec.index,
                address,
            })
            .collect()
    }

    /// The access to a BAR that touching `pci_cfg_data` makes, if the guest
    /// has set up one that is allowed.
    pub(crate) fn cfg_access(&self) -> Option<CfgAccess> {
        let length = self.dword(PCI_CFG_LENGTH);
        let offset = self.dword(PCI_CFG_OFFSET);
        let allowed = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length);
        allowed.then(|| CfgAccess {
            bar: self.bytes[PCI_CFG_BAR],
            offset: u64::from(offset),
            length: length as usize,
            data: self.dword(PCI_CFG_DATA).to_le_bytes(),
        })
    }

    /// Fills `pci_cfg_data` with what a read by way of it has found.
    pub(crate) fn set_cfg_data(&mut self, data: &[u8]) {
        let window = &mut self.bytes[PCI_CFG_DATA..PCI_CFG_DATA + 4];
        for (to, from) in window.iter_mut().zip(data) {
            *to = *from;
        }
    }

    /// The bytes, and which halves of BARs hold a size probe.
    pub(crate) fn save(&self) -> ([u8; SIZE], u8) {
        let probed = self.probed.iter().rev();
        let probed = probed.fold(0, |bits, probed| bits << 1 | u8::from(*probed));
        (self.bytes, probed)
    }

    /// Such a function with other contents of its registers, as they are in a
    /// snapshot.
    pub(crate) fn restored(&self, bytes: &[u8; SIZE], probed: u8) -> Result<Self, Damage> {
        let mut restored = self.clone();
        for (at, byte) in bytes.iter().enumerate() {
            let fixed = !self.writable[at];
            let right = (byte ^ self.initial[at]) & fixed == 0;
            ensure(right, Damage::ConfigurationSpace)?;
        }
        restored.bytes = *bytes;
        ensure(probed >> self.probed.len() == 0, Damage::SizeProbe)?;
        for (index, half) in restored.probed.iter_mut().enumerate() {
            *half = probed >> index & 1 != 0;
            let mut bytes = (BARS + 4 * index..).take(4);
            let ones = bytes.all(|at| restored.bytes[at] == self.initial[at] | self.writable[at]);
            ensure(!*half || ones, Damage::SizeProbe)?;
        }
        Ok(restored)
    }

    /// Function level reset: everything as after power-up. Tells which BARs
    /// are not decoded any more.
    pub(crate) fn reset(&mut self) -> Vec<BarMove> {
        let addresses = self.bar_addresses();
        self.bytes = self.initial;
        self.probed = [false; 6];
        self.moves_since(addresses)
    }
}

/// Whether an access of `length` bytes at `offset` touches `pci_cfg_data`.
pub(crate) fn touches_cfg_data(offset: usize, length: usize) -> bool {
    length > 0 && offset < PCI_CFG_DATA + 4 && offset + length > PCI_CFG_DATA
}

#[cfg(test)]
mod tests;
