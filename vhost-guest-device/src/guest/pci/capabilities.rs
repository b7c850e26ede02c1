// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The capability list, at fixed places in configuration space.
//!
//! | offset | bytes | capability |
//! |---|---|---|
//! | 0x40 | 16 | virtio common configuration |
//! | 0x50 | 16 | virtio ISR status |
//! | 0x60 | 16 | virtio device configuration |
//! | 0x70 | 20 | virtio queue notification |
//! | 0x84 | 16 | driver auxiliary notifications (kicks) |
//! | 0x94 | 20 | device auxiliary notifications (doorbells) |
//! | 0xA8 | 24 | shared memory |
//! | 0xC0 | 20 | access to the BARs through configuration space |
//! | 0xD4 | 12 | MSI-X |
//! | 0xE0 | 6 | advanced features: function level reset |
//!
//! The virtio ones have a common head (virtio 1.2 §4.1.4):
//!
//! | byte | field |
//! |---|---|
//! | 0 | capability identifier, 0x09 (vendor specific) |
//! | 1 | next capability |
//! | 2 | length |
//! | 3 | type |
//! | 4 | BAR |
//! | 5 | identifier of the shared memory |
//! | 8 | offset in the BAR, le32 |
//! | 12 | length in the BAR, le32 |

use super::bars::{
    self, COMMON, COMMON_LENGTH, CONFIGURATION_BAR, DEVICE, DEVICE_LENGTH, DOORBELL_BAR,
    DOORBELL_MULTIPLIER, DRIVER_AUX, DRIVER_AUX_LENGTH, ISR, ISR_LENGTH, MSIX_PENDING, MSIX_TABLE,
    NOTIFY, NOTIFY_MULTIPLIER, WINDOW_BAR,
};

/// Places of the capabilities in configuration space.
pub(crate) mod at {
    /// Virtio common configuration; the head of the list.
    pub(crate) const COMMON: u8 = 0x40;
    /// Virtio ISR status.
    pub(crate) const ISR: u8 = 0x50;
    /// Virtio device configuration.
    pub(crate) const DEVICE: u8 = 0x60;
    /// Virtio queue notification.
    pub(crate) const NOTIFY: u8 = 0x70;
    /// Driver auxiliary notifications.
    pub(crate) const DRIVER_AUX: u8 = 0x84;
    /// Device auxiliary notifications.
    pub(crate) const DEVICE_AUX: u8 = 0x94;
    /// Shared memory.
    pub(crate) const SHARED_MEMORY: u8 = 0xA8;
    /// Access to the BARs through configuration space.
    pub(crate) const PCI_CFG: u8 = 0xC0;
    /// MSI-X.
    pub(crate) const MSIX: u8 = 0xD4;
    /// Advanced features.
    pub(crate) const ADVANCED: u8 = 0xE0;
}

/// Virtio capability types (virtio 1.2 §4.1.4; 6 and 7 are the draft's).
mod cfg_type {
    pub(crate) const COMMON: u8 = 1;
    pub(crate) const NOTIFY: u8 = 2;
    pub(crate) const ISR: u8 = 3;
    pub(crate) const DEVICE: u8 = 4;
    pub(crate) const PCI: u8 = 5;
    pub(crate) const DEVICE_AUX: u8 = 6;
    pub(crate) const DRIVER_AUX: u8 = 7;
    pub(crate) const SHARED_MEMORY: u8 = 8;
}

const VENDOR_SPECIFIC: u8 = 0x09;
const MSIX: u8 = 0x11;
const ADVANCED_FEATURES: u8 = 0x13;

/// What the capabilities say about one device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Virtqueues: 4, or 6 with migration.
    pub(crate) virtqueues: u16,
    /// Vrings that the device serves.
    pub(crate) vrings: u16,
    /// Size of the window.
    pub(crate) window_size: u64,
}

/// One capability: its place and its bytes, the next pointer still 0.
type Capability = (u8, Vec<u8>);

/// Head of a virtio capability, for a structure in BAR `bar`.
fn virtio(cfg_type: u8, length: u8, bar: u8, offset: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![VENDOR_SPECIFIC, 0, length, cfg_type, bar, 0, 0, 0];
    // The upper halves are 0 for all but the shared memory, which adds them.
    bytes.extend_from_slice(&(offset as u32).to_le_bytes());
    bytes.extend_from_slice(&(size as u32).to_le_bytes());
    bytes
}

/// A structure in the configuration BAR.
fn structure(cfg_type: u8, offset: u64, size: u64) -> Vec<u8> {
    virtio(cfg_type, 16, CONFIGURATION_BAR, offset, size)
}

fn notify(shape: &Shape) -> Vec<u8> {
    let size = u64::from(shape.virtqueues) * u64::from(NOTIFY_MULTIPLIER);
    let mut bytes = virtio(cfg_type::NOTIFY, 20, CONFIGURATION_BAR, NOTIFY, size);
    bytes.extend_from_slice(&NOTIFY_MULTIPLIER.to_le_bytes());
    bytes
}

fn device_aux(shape: &Shape) -> Vec<u8> {
    let size = u64::from(bars::doorbells(shape.vrings)) * u64::from(DOORBELL_MULTIPLIER);
    let mut bytes = virtio(cfg_type::DEVICE_AUX, 20, DOORBELL_BAR, 0, size);
    bytes.extend_from_slice(&DOORBELL_MULTIPLIER.to_le_bytes());
    bytes
}

fn shared_memory(shape: &Shape) -> Vec<u8> {
    let mut bytes = virtio(
        cfg_type::SHARED_MEMORY,
        24,
        WINDOW_BAR,
        0,
        shape.window_size,
    );
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    bytes.extend_from_slice(&((shape.window_size >> 32) as u32).to_le_bytes());
    bytes
}

fn pci_cfg() -> Vec<u8> {
    let mut bytes = virtio(cfg_type::PCI, 20, 0, 0, 0);
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

fn msix(shape: &Shape) -> Vec<u8> {
    let mut bytes = vec![MSIX, 0];
    // Table size is encoded as the number of the last vector.
    bytes.extend_from_slice(&(bars::vectors(shape.vrings) - 1).to_le_bytes());
    let bar = u32::from(CONFIGURATION_BAR);
    bytes.extend_from_slice(&(MSIX_TABLE as u32 | bar).to_le_bytes());
    bytes.extend_from_slice(&(MSIX_PENDING as u32 | bar).to_le_bytes());
    bytes
}

/// Function level reset, and the transactions-pending bit that goes with it
/// (Advanced Capabilities ECN for conventional PCI).
fn advanced() -> Vec<u8> {
    vec![ADVANCED_FEATURES, 0, 6, 0b11, 0, 0]
}

/// All capabilities, in the order of the list, linked.
pub(crate) fn list(shape: &Shape) -> Vec<Capability> {
    let mut list = vec![
        (
            at::COMMON,
            structure(cfg_type::COMMON, COMMON, COMMON_LENGTH),
        ),
        (at::ISR, structure(cfg_type::ISR, ISR, ISR_LENGTH)),
        (
            at::DEVICE,
            structure(cfg_type::DEVICE, DEVICE, DEVICE_LENGTH),
        ),
        (at::NOTIFY, notify(shape)),
        (
            at::DRIVER_AUX,
            structure(cfg_type::DRIVER_AUX, DRIVER_AUX, DRIVER_AUX_LENGTH),
        ),
        (at::DEVICE_AUX, device_aux(shape)),
        (at::SHARED_MEMORY, shared_memory(shape)),
        (at::PCI_CFG, pci_cfg()),
        (at::MSIX, msix(shape)),
        (at::ADVANCED, advanced()),
    ];
    let next: Vec<u8> = list.iter().skip(1).map(|(at, _)| *at).collect();
    for ((_, bytes), next) in list.iter_mut().zip(next) {
        bytes[1] = next;
    }
    list
}
