// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The virtio common configuration structure (virtio 1.2 §4.1.4.3).
//!
//! | offset | width | register |
//! |---|---|---|
//! | 0, 4 | 32 | device_feature_select, device_feature |
//! | 8, 12 | 32 | driver_feature_select, driver_feature |
//! | 16 | 16 | config_msix_vector |
//! | 18 | 16 | num_queues |
//! | 20 | 8 | device_status |
//! | 21 | 8 | config_generation |
//! | 22 | 16 | queue_select |
//! | 24 | 16 | queue_size |
//! | 26 | 16 | queue_msix_vector |
//! | 28 | 16 | queue_enable |
//! | 30 | 16 | queue_notify_off |
//! | 32, 40, 48 | 64 | queue_desc, queue_driver, queue_device |

use crate::pci::Location;
use crate::transport::Transport;

pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 64;
pub(crate) const FAILED: u8 = 128;

/// No MSI-X vector.
pub(crate) const NO_VECTOR: u16 = 0xffff;

const DEVICE_STATUS: u64 = 20;

/// Where a virtqueue is, for [`Common::enable_queue`].
pub(crate) struct QueueAddresses {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

/// Register accesses to the common configuration structure.
pub(crate) struct Common<'a, T> {
    pub transport: &'a T,
    pub location: Location,
}

impl<T: Transport> Common<'_, T> {
    fn read16(&self, offset: u64) -> u16 {
        u16::from_le_bytes(self.location.read(self.transport, offset))
    }

    fn write16(&self, offset: u64, value: u16) {
        self.location
            .write(self.transport, offset, value.to_le_bytes());
    }

    fn write32(&self, offset: u64, value: u32) {
        self.location
            .write(self.transport, offset, value.to_le_bytes());
    }

    fn write64(&self, offset: u64, value: u64) {
        // 64-bit registers are written in halves (virtio 1.2 §4.1.3.1).
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }

    pub fn status(&self) -> u8 {
        let [status] = self.location.read(self.transport, DEVICE_STATUS);
        status
    }

    pub fn set_status(&self, status: u8) {
        self.location.write(self.transport, DEVICE_STATUS, [status]);
    }

    pub fn generation(&self) -> u8 {
        let [generation] = self.location.read(self.transport, 21);
        generation
    }

    pub fn num_queues(&self) -> u16 {
        self.read16(18)
    }

    pub fn device_features(&self) -> u64 {
        (0..2).fold(0, |features, half| {
            self.write32(0, half);
            let word = u32::from_le_bytes(self.location.read(self.transport, 4));
            features | u64::from(word) << (32 * half)
        })
    }

    pub fn set_driver_features(&self, features: u64) {
        for half in 0..2 {
            self.write32(8, half);
            self.write32(12, (features >> (32 * half)) as u32);
        }
    }

    /// Maps configuration changes to `vector`; whether the device took it.
    pub fn set_config_vector(&self, vector: u16) -> bool {
        self.write16(16, vector);
        self.read16(16) == vector
    }

    /// Selects a virtqueue; the methods below go to it. Returns its maximum
    /// size, 0 if there is no such queue.
    pub fn select_queue(&self, queue: u16) -> u16 {
        self.write16(22, queue);
        self.read16(24)
    }

    /// Maps the selected queue to `vector`; whether the device took it.
    pub fn set_queue_vector(&self, vector: u16) -> bool {
        self.write16(26, vector);
        self.read16(26) == vector
    }

    pub fn queue_notify_off(&self) -> u16 {
        self.read16(30)
    }

    pub fn enable_queue(&self, queue: &QueueAddresses) {
        self.write16(24, queue.size);
        self.write64(32, queue.descriptors);
        self.write64(40, queue.available);
        self.write64(48, queue.used);
        self.write16(28, 1);
    }
}
