// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A transport over a PCI bus that this program emulates.
//!
//! A userspace VMM, or a test, implements [`Bus`] on the device's side and
//! [`Interrupts`] on the interrupt controller's, lends guest memory, and runs
//! the driver in one of its threads as if that were a guest.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::arena::Arena;
use crate::transport::{DmaMemory, InterruptMode, MsiMessage, Transport, Wake};
use crate::vectors::VectorSet;
use crate::window::Window;

/// Command register of the PCI header.
const COMMAND: u16 = 0x04;
/// First base address register of the PCI header.
const BAR0: u16 = 0x10;
/// Where DMA memory is aligned to.
const PAGE: u64 = 4096;

/// The device's side of the bus: configuration space and BARs of one function.
pub trait Bus: Send + Sync {
    /// Reads 1, 2 or 4 bytes of configuration space.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Writes 1, 2 or 4 bytes of configuration space.
    ///
    /// A write to a base address register or the command register may move
    /// BARs; the bus sees to that before it returns.
    fn config_write(&self, offset: u16, data: &[u8]);

    /// Reads 1, 2, 4 or 8 bytes of a BAR. A 64-bit BAR goes by its lower
    /// number.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes 1, 2, 4 or 8 bytes of a BAR.
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]);
}

/// The interrupt controller: which messages there are, and a wait for them.
pub trait Interrupts: Send + Sync {
    /// The message that raises `vector`. Different vectors have different
    /// messages; the same vector always has the same.
    fn message(&self, vector: u16) -> MsiMessage;

    /// Waits until an interrupt has arrived since the last call returned,
    /// [`wake`](Self::wake) was called, or `timeout` (`None`: for ever) has
    /// passed; takes and returns the vectors that were raised. An interrupt
    /// that comes between two calls ends the second at once.
    fn wait(&self, timeout: Option<Duration>) -> VectorSet;

    /// Makes the wait in progress, or else the next one, return.
    fn wake(&self);
}

/// The machine that an [`Emulated`] transport runs on.
pub struct Platform {
    /// The function.
    pub bus: Arc<dyn Bus>,
    /// Its interrupts.
    pub interrupts: Arc<dyn Interrupts>,
    /// Guest memory that the driver may use for its queues; 1 MiB is ample.
    pub ram: Window,
    /// Guest physical address of `ram`, page-aligned.
    pub ram_address: u64,
    /// The memory behind the device's shared memory BAR (BAR4), as the VMM
    /// has it mapped; at least as long as the BAR.
    pub shared_memory: Window,
    /// Guest physical address from which on BARs are placed.
    pub mmio_address: u64,
}

/// Why a function cannot be driven over an emulated bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EmulatedError {
    /// The BARs do not fit into 64-bit address space behind
    /// [`Platform::mmio_address`], or a 32-bit BAR not below 4 GiB.
    #[error("no address for BAR {0}")]
    NoAddress(u8),
    /// [`Platform::ram_address`] is not page-aligned or leaves the address
    /// space.
    #[error("guest memory at a misaligned or impossible address")]
    RamAddress,
}

/// A [`Transport`] over a [`Bus`].
///
/// It does what firmware does on a real machine: finds out how large the
/// BARs are and gives them addresses.
pub struct Emulated {
    platform: Platform,
    bars: [u64; 6],
    arena: Arena,
}

/// Number of the shared memory BAR.
const SHARED_MEMORY_BAR: u8 = 4;

impl Emulated {
    /// Sizes and places the BARs of the function, in ascending order from
    /// `platform.mmio_address` on.
    pub fn new(platform: Platform) -> Result<Self, EmulatedError> {
        let ram_end = platform.ram_address.checked_add(platform.ram.len());
        if !platform.ram_address.is_multiple_of(PAGE) || ram_end.is_none() {
            return Err(EmulatedError::RamAddress);
        }
        let mut bars = [0; 6];
        // BARs are sized while the function decodes no accesses to them
        // (PCI Local Bus 3.0 §6.2.5.1).
        platform.bus.config_write(COMMAND, &[0, 0]);
        let mut next = platform.mmio_address;
        let mut bar = 0;
        while let Some(len) = bars.get_mut(usize::from(bar)) {
            let slot = BarSlot::probe(&*platform.bus, bar);
            if slot.len != 0 {
                let error = EmulatedError::NoAddress(bar);
                let address = next.checked_next_multiple_of(slot.len).ok_or(error)?;
                next = address.checked_add(slot.len).ok_or(error)?;
                if !slot.wide && next > 1 << 32 {
                    return Err(error);
                }
                slot.place(&*platform.bus, address);
                *len = slot.len;
            }
            bar += if slot.wide { 2 } else { 1 };
        }
        let arena = Arena::new(DmaMemory {
            memory: platform.ram.clone(),
            address: platform.ram_address,
        });
        Ok(Self {
            platform,
            bars,
            arena,
        })
    }
}

/// A base address register, or a pair of them.
struct BarSlot {
    offset: u16,
    len: u64,
    wide: bool,
}

impl BarSlot {
    fn probe(bus: &dyn Bus, bar: u8) -> Self {
        let offset = BAR0 + 4 * u16::from(bar);
        let low = Self::writable_bits(bus, offset);
        // Memory BARs only: bit 0 is I/O, bits 2..1 = 2 are 64 bits wide.
        let wide = low & 0b111 == 0b100 && bar < 5;
        let mut mask = u64::from(low & !0xf);
        if wide {
            mask |= u64::from(Self::writable_bits(bus, offset + 4)) << 32;
        } else if mask != 0 {
            mask |= 0xffff_ffff << 32;
        }
        // The lowest writable bit is the length, if all above are writable.
        let len = mask.wrapping_neg() & mask;
        let decodes = low & 1 == 0 && len != 0 && mask == len.wrapping_neg();
        Self {
            offset,
            len: if decodes { len } else { 0 },
            wide,
        }
    }

    fn writable_bits(bus: &dyn Bus, offset: u16) -> u32 {
        let mut value = [0; 4];
        bus.config_write(offset, &[0xff; 4]);
        bus.config_read(offset, &mut value);
        u32::from_le_bytes(value)
    }

    fn place(&self, bus: &dyn Bus, address: u64) {
        let [low, high] = [address as u32, (address >> 32) as u32];
        bus.config_write(self.offset, &low.to_le_bytes());
        if self.wide {
            bus.config_write(self.offset + 4, &high.to_le_bytes());
        }
    }
}

struct Waker(Arc<dyn Interrupts>);

impl Wake for Waker {
    fn wake(&self) {
        self.0.wake();
    }
}

impl Transport for Emulated {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.platform.bus.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.platform.bus.config_write(offset, data);
    }

    fn bar_len(&self, bar: u8) -> u64 {
        self.bars.get(usize::from(bar)).copied().unwrap_or(0)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.platform.bus.bar_read(bar, offset, data);
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.platform.bus.bar_write(bar, offset, data);
    }

    fn window(&self, bar: u8, offset: u64, len: u64) -> Option<Window> {
        let end = offset.checked_add(len)?;
        if bar != SHARED_MEMORY_BAR || end > self.bar_len(bar) {
            return None;
        }
        self.platform.shared_memory.slice(offset, len).ok()
    }

    fn allocate_dma(&self, len: usize) -> Option<DmaMemory> {
        self.arena.allocate(len)
    }

    fn interrupts(&self, wanted: u16) -> InterruptMode {
        InterruptMode::Table { vectors: wanted }
    }

    fn msi_message(&self, vector: u16) -> MsiMessage {
        self.platform.interrupts.message(vector)
    }

    fn wait(&self, timeout: Option<Duration>) -> VectorSet {
        self.platform.interrupts.wait(timeout)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Waker(self.platform.interrupts.clone()))
    }
}

#[cfg(test)]
mod tests;
