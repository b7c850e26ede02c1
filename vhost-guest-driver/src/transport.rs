// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What carries the driver to one PCI function.

use alloc::sync::Arc;
use core::time::Duration;

use crate::vectors::VectorSet;
use crate::window::Window;

/// A message-signalled interrupt: a store of `data` at `address`
/// (PCI Local Bus 3.0 §6.8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MsiMessage {
    /// Bus address of the store.
    pub address: u64,
    /// The value stored.
    pub data: u32,
}

/// How the interrupts of the function reach the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptMode {
    /// Not at all: the driver looks at its queues again and again.
    Polling,
    /// As MSI-X; the driver writes [`Transport::msi_message`] of each vector
    /// into the table and enables MSI-X.
    Table {
        /// How many vectors there are, at least 1.
        vectors: u16,
    },
    /// As MSI-X; the platform has written the table and enabled MSI-X.
    Platform {
        /// How many vectors there are, at least 1.
        vectors: u16,
    },
    /// As MSI-X, with the table written by the driver; but nobody tells the
    /// driver of them: it polls all the same.
    Unheard {
        /// How many vectors there are, at least 1.
        vectors: u16,
    },
}

/// Memory of the driver that the device can access.
#[derive(Clone, Debug)]
pub struct DmaMemory {
    /// The driver's view.
    pub memory: Window,
    /// Where the device finds the first byte.
    pub address: u64,
}

/// Ends a [`Transport::wait`] from another thread.
pub trait Wake: Send + Sync {
    /// Makes the wait in progress, or else the next one, return.
    fn wake(&self);
}

/// Access to one PCI function, its interrupts, and memory that it can reach.
///
/// Implementations: [`emulated::Emulated`](crate::emulated::Emulated) on a
/// bus that another part of the same program emulates,
/// [`sysfs::Sysfs`](crate::sysfs::Sysfs) and [`vfio::Vfio`](crate::vfio::Vfio)
/// on Linux; bare metal outside this crate.
///
/// Accesses to registers do not fail: as on a PCI bus, a read that nobody
/// answers gives all ones, and a write that nobody takes is lost. The driver
/// never trusts what it reads.
///
/// When a transport is handed to the driver, the BARs have addresses.
pub trait Transport {
    /// Reads `data.len()` (1, 2, 4) bytes of configuration space at the
    /// naturally aligned `offset`.
    fn config_read(&self, offset: u16, data: &mut [u8]);

    /// Writes `data.len()` (1, 2, 4) bytes of configuration space at the
    /// naturally aligned `offset`.
    fn config_write(&self, offset: u16, data: &[u8]);

    /// Length of a BAR, 0 if the function does not have it. A 64-bit BAR
    /// goes by its lower number.
    fn bar_len(&self, bar: u8) -> u64;

    /// Reads `data.len()` (1, 2, 4, 8) bytes of a BAR in one access, at the
    /// naturally aligned `offset`.
    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes `data.len()` (1, 2, 4, 8) bytes of a BAR in one access, at the
    /// naturally aligned `offset`.
    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]);

    /// The part of a memory BAR that can be accessed with plain loads and
    /// stores, or `None` if it lies outside the BAR.
    fn window(&self, bar: u8, offset: u64, len: u64) -> Option<Window>;

    /// Allocates page-aligned memory that the device can access, for as long
    /// as the transport exists. `None`: there is not so much.
    ///
    /// The driver calls this when it opens the device, not for each request
    /// nor for each frontend.
    fn allocate_dma(&self, len: usize) -> Option<DmaMemory>;

    /// Whether there is an IOMMU in front of the function, so that addresses of
    /// [DMA memory](Self::allocate_dma) are the IOMMU's.
    ///
    /// The driver then refuses a device that goes past the IOMMU.
    fn is_behind_iommu(&self) -> bool {
        false
    }

    /// Prepares up to `wanted` MSI-X vectors.
    fn interrupts(&self, wanted: u16) -> InterruptMode;

    /// The message that raises `vector` (with [`InterruptMode::Table`]).
    fn msi_message(&self, vector: u16) -> MsiMessage;

    /// Waits until an interrupt has arrived since the last call returned,
    /// [`Wake::wake`] was called, or `timeout` (`None`: for ever) has
    /// passed; returns the vectors that were raised.
    ///
    /// A timeout of zero only looks. An interrupt is never lost: one that
    /// comes between two calls ends the second at once.
    fn wait(&self, timeout: Option<Duration>) -> VectorSet;

    /// How long a device that does not interrupt is left alone at the most.
    fn poll_interval(&self) -> Duration {
        Duration::from_millis(1)
    }

    /// What ends a [`wait`](Self::wait).
    fn waker(&self) -> Arc<dyn Wake>;
}
