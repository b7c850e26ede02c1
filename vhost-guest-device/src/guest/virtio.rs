// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The registers that virtio defines for a device on PCI.

pub(crate) mod common_config;
pub(crate) mod device_config;

/// Bits of the device status (virtio 1.2 §2.1).
pub(crate) mod status {
    /// The driver is ready; the device may use the queues.
    pub(crate) const DRIVER_OK: u8 = 4;
    /// The features are settled.
    pub(crate) const FEATURES_OK: u8 = 8;
    /// The device is out of order until it is reset. Set by the device.
    pub(crate) const NEEDS_RESET: u8 = 64;
}

/// Feature bits of this device, as masks.
pub(crate) mod feature {
    /// Messages are big-endian (`VIRTIO_VHOST_GUEST_F_BIG_ENDIAN`).
    pub(crate) const BIG_ENDIAN: u64 = 1;
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
    /// `VIRTIO_F_EVENT_IDX`.
    pub(crate) const EVENT_IDX: u64 = 1 << 29;
    /// `VIRTIO_F_VERSION_1`.
    pub(crate) const VERSION_1: u64 = 1 << 32;
    /// `VIRTIO_F_ACCESS_PLATFORM`.
    pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;
    /// `VIRTIO_F_RING_RESET`.
    pub(crate) const RING_RESET: u64 = 1 << 40;

    /// What the device offers.
    ///
    /// The device never swaps bytes of a message, so it offers `BIG_ENDIAN`
    /// exactly on big-endian hosts; `ACCESS_PLATFORM` needs a translator.
    pub(crate) const fn offered(translated: bool) -> u64 {
        let mut features = VERSION_1 | INDIRECT_DESC | EVENT_IDX | RING_RESET;
        if cfg!(target_endian = "big") {
            features |= BIG_ENDIAN;
        }
        if translated {
            features |= ACCESS_PLATFORM;
        }
        features
    }
}

/// No interrupt vector (virtio 1.2 §4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xFFFF;

/// The little-endian number that `data` is, if it is 1, 2, 4 or 8 bytes.
pub(crate) fn number(data: &[u8]) -> Option<u64> {
    let number = data.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    matches!(data.len(), 1 | 2 | 4 | 8).then_some(number)
}

/// Copies from the bytes of a register block; 0 behind its end.
pub(crate) fn copy_from(block: &[u8], offset: u64, data: &mut [u8]) {
    for (i, byte) in (0..).zip(data) {
        let at = usize::try_from(offset.saturating_add(i)).ok();
        *byte = at.and_then(|at| block.get(at)).copied().unwrap_or(0);
    }
}
