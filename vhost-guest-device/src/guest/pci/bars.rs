// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The three base address registers (BARs), and what lies where in them.
//!
//! | BAR | type | size | content |
//! |---|---|---|---|
//! | 0, 1 | 64-bit | 64 KiB | the virtio structures, MSI-X table, pending bits |
//! | 2, 3 | 64-bit | 64 KiB | doorbells, nothing else |
//! | 4, 5 | 64-bit, prefetchable | set by the VMM | the window: shared memory |
//!
//! The doorbells have a BAR of their own, as large as the largest page that a
//! guest kernel may use, so that it can map them to an unprivileged process
//! (vhost-guest specification, PCI layout).
//!
//! Within BAR 0:
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0x0000 | 0x40 | virtio common configuration |
//! | 0x1000 | 1 | ISR status |
//! | 0x2000 | 36 | device configuration |
//! | 0x3000 | 4 per virtqueue | queue notification |
//! | 0x4000 | 4 | driver auxiliary notifications |
//! | 0x8000 | 16 per vector | MSI-X table |
//! | 0xC000 | 8 per 64 vectors | MSI-X pending bits |

/// BAR with the virtio structures.
pub(crate) const CONFIGURATION_BAR: u8 = 0;
/// BAR with the doorbells.
pub(crate) const DOORBELL_BAR: u8 = 2;
/// BAR with the shared memory window.
pub(crate) const WINDOW_BAR: u8 = 4;

/// Offset of the common configuration in BAR 0.
pub(crate) const COMMON: u64 = 0x0000;
/// Length of the common configuration.
pub(crate) const COMMON_LENGTH: u64 = 0x40;
/// Offset of the ISR status byte in BAR 0.
pub(crate) const ISR: u64 = 0x1000;
/// Length of the ISR status.
pub(crate) const ISR_LENGTH: u64 = 1;
/// Offset of the device configuration in BAR 0.
pub(crate) const DEVICE: u64 = 0x2000;
/// Length of the device configuration.
pub(crate) const DEVICE_LENGTH: u64 = 36;
/// Offset of the queue notification addresses in BAR 0.
pub(crate) const NOTIFY: u64 = 0x3000;
/// Bytes from one queue's notification address to the next one's.
pub(crate) const NOTIFY_MULTIPLIER: u32 = 4;
/// Offset of the driver auxiliary notification registers in BAR 0.
pub(crate) const DRIVER_AUX: u64 = 0x4000;
/// Length of the driver auxiliary notification registers.
pub(crate) const DRIVER_AUX_LENGTH: u64 = 4;
/// Offset of the MSI-X table in BAR 0.
pub(crate) const MSIX_TABLE: u64 = 0x8000;
/// Offset of the MSI-X pending bits in BAR 0.
pub(crate) const MSIX_PENDING: u64 = 0xC000;
/// Size of BAR 0.
pub(crate) const CONFIGURATION_SIZE: u64 = 0x1_0000;
/// Bytes from one doorbell to the next.
pub(crate) const DOORBELL_MULTIPLIER: u32 = 4;
/// Size of BAR 2: the largest page size in use.
pub(crate) const DOORBELL_SIZE: u64 = 0x1_0000;

/// Most vrings that one device serves.
pub(crate) const MAX_VRINGS: u16 = 256;
/// Virtqueues that may exist: four for messages, two for migration.
pub(crate) const MAX_VIRTQUEUES: u16 = 6;

/// Interrupt vectors of a device for `vrings` vrings: one for configuration
/// changes, one for each virtqueue, one for each kick.
pub(crate) const fn vectors(vrings: u16) -> u16 {
    1 + MAX_VIRTQUEUES + vrings
}

/// Doorbells of a device for `vrings` vrings: call and error for each, and
/// one for the dirty log.
pub(crate) const fn doorbells(vrings: u16) -> u16 {
    2 * vrings + 1
}

// The structures do not run into each other at the largest size.
const _: () = {
    let table = vectors(MAX_VRINGS) as u64 * 16;
    assert!(MSIX_TABLE + table <= MSIX_PENDING);
    assert!(MSIX_PENDING + (vectors(MAX_VRINGS) as u64).div_ceil(64) * 8 <= CONFIGURATION_SIZE);
    let bells = doorbells(MAX_VRINGS) as u64 * DOORBELL_MULTIPLIER as u64;
    assert!(bells <= DOORBELL_SIZE);
};

/// What a BAR of the device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BarKind {
    /// Registers: every access is the device's to answer.
    Configuration,
    /// Doorbells: stores become signals without leaving the kernel, where
    /// the VMM can do that; the others are the device's to answer.
    Doorbells,
    /// The window on the frontend's memory. Accesses where nothing is mapped
    /// are the device's to answer.
    SharedMemory,
}

/// One BAR that a VMM has to find room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BarSpec {
    /// Number of the BAR: 0, 2 or 4. All are 64 bits wide and take the next
    /// number as well.
    pub index: u8,
    /// Size in bytes, a power of two. The address is a multiple of it.
    pub size: u64,
    /// Whether it may go into a bridge's prefetchable range.
    pub prefetchable: bool,
    /// What it is for.
    pub kind: BarKind,
}

/// A BAR that is somewhere else now.
///
/// The VMM takes it out of its bus where it was, puts it in at the new
/// address, and then tells the device that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BarMove {
    /// Number of the BAR: 0, 2 or 4.
    pub bar: u8,
    /// Guest physical address; `None` if it is not decoded any more.
    pub address: Option<u64>,
}

/// The three BARs of a device with a window of `window_size` bytes.
pub(crate) const fn bar_specs(window_size: u64) -> [BarSpec; 3] {
    [
        BarSpec {
            index: CONFIGURATION_BAR,
            size: CONFIGURATION_SIZE,
            prefetchable: false,
            kind: BarKind::Configuration,
        },
        BarSpec {
            index: DOORBELL_BAR,
            size: DOORBELL_SIZE,
            prefetchable: false,
            kind: BarKind::Doorbells,
        },
        BarSpec {
            index: WINDOW_BAR,
            size: window_size,
            prefetchable: true,
            kind: BarKind::SharedMemory,
        },
    ]
}
