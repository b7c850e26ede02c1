// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device configuration (vhost-guest specification, device
//! configuration). Little-endian.
//!
//! | offset | bytes | register | access |
//! |---|---|---|---|
//! | 0 | 4 | `max_vhost_queues` | read |
//! | 4 | 4 | `max_message_size`, header included | read |
//! | 8 | 4 | `max_migration_message_size` | read |
//! | 12 | 2 | `max_chained_rx_descriptors` | read |
//! | 14 | 2 | `max_chained_tx_descriptors` | read |
//! | 16 | 16 | `uuid` | read |
//! | 32 | 2 | `vhost_user_device_type` | written once, if it reads 0 |
//! | 34 | 2 | `status` | bit 0 `BACKEND_UP`, bit 1 `FRONTEND_UP` |
//!
//! The registers that may be written are written by 2 bytes each, both
//! together by 4 at 32, and `status` also by 1 byte at 34. Any other write is
//! ignored and counted.

use super::{copy_from, number};
use crate::guest::snapshot::{ensure, flag, Damage, DeviceRecord};

/// Bytes of the device configuration.
const SIZE: usize = 36;
const DEVICE_TYPE: u64 = 32;
const STATUS: u64 = 34;

/// Status: the driver's backend is ready for a frontend.
pub(crate) const BACKEND_UP: u16 = 1;
/// Status: a frontend is connected.
pub(crate) const FRONTEND_UP: u16 = 2;

/// What the VMM decides about a device, as the driver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Vrings that the device serves; at most 256.
    pub(crate) max_vhost_queues: u16,
    /// Size of the largest message, header included.
    pub(crate) max_message_size: u32,
    /// Size of the largest migration message; 0 without migration queues.
    pub(crate) max_migration_message_size: u32,
    /// Longest chain of device-writable descriptors; at least 1.
    pub(crate) max_chained_rx_descriptors: u16,
    /// Longest chain of device-readable descriptors; at least 1.
    pub(crate) max_chained_tx_descriptors: u16,
    /// Identifies the service; nil if there is nothing to identify.
    pub(crate) uuid: [u8; 16],
    /// Virtio type of the implemented device; 0 leaves it to the driver.
    pub(crate) device_type: u16,
}

/// The device configuration.
#[derive(Debug)]
pub(crate) struct DeviceConfig {
    properties: Properties,
    device_type: u16,
    status: u16,
    generation: u8,
    /// Whether a field was read since `generation` moved last.
    read: bool,
    ignored_writes: u64,
}

impl DeviceConfig {
    /// The configuration after reset.
    pub(crate) fn new(properties: Properties) -> Self {
        DeviceConfig {
            device_type: properties.device_type,
            properties,
            status: 0,
            generation: 0,
            read: false,
            ignored_writes: 0,
        }
    }

    fn block(&self) -> [u8; SIZE] {
        let p = &self.properties;
        let mut block = [0; SIZE];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&u32::from(p.max_vhost_queues).to_le_bytes());
        put(&p.max_message_size.to_le_bytes());
        put(&p.max_migration_message_size.to_le_bytes());
        put(&p.max_chained_rx_descriptors.to_le_bytes());
        put(&p.max_chained_tx_descriptors.to_le_bytes());
        put(&p.uuid);
        put(&self.device_type.to_le_bytes());
        put(&self.status.to_le_bytes());
        block
    }

    /// Reads; 0 behind the end.
    pub(crate) fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.read = true;
        copy_from(&self.block(), offset, data);
    }

    /// Writes. `needs_reset` keeps `BACKEND_UP` from being set.
    ///
    /// Returns the new state of `BACKEND_UP` if the write changed it.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], needs_reset: bool) -> Option<bool> {
        let value = number(data).unwrap_or_default();
        match (offset, data.len()) {
            (DEVICE_TYPE, 4) => {
                self.write_type(value as u16);
                self.write_status((value >> 16) as u16, needs_reset)
            }
            (DEVICE_TYPE, 2) => {
                self.write_type(value as u16);
                None
            }
            (STATUS, 1 | 2) => self.write_status(value as u16, needs_reset),
            _ => {
                self.ignored_writes += 1;
                None
            }
        }
    }

    fn write_type(&mut self, device_type: u16) {
        if self.device_type == 0 && self.status & BACKEND_UP == 0 {
            self.device_type = device_type;
        } else if self.device_type != device_type {
            self.ignored_writes += 1;
        }
    }

    fn write_status(&mut self, status: u16, needs_reset: bool) -> Option<bool> {
        let up = status & BACKEND_UP != 0;
        let refused = up && (needs_reset || self.device_type == 0);
        if refused || up == self.backend_up() {
            return None;
        }
        self.status ^= BACKEND_UP;
        Some(up)
    }

    /// Whether the driver has set `BACKEND_UP`.
    pub(crate) fn backend_up(&self) -> bool {
        self.status & BACKEND_UP != 0
    }

    /// Whether the device shows a frontend.
    #[cfg(test)]
    pub(crate) fn frontend_up(&self) -> bool {
        self.status & FRONTEND_UP != 0
    }

    /// The virtio type of the implemented device; 0 if it is not decided.
    #[cfg(test)]
    pub(crate) fn device_type(&self) -> u16 {
        self.device_type
    }

    /// Changes `status` from the device's side. Tells whether that changed
    /// anything; then the driver has to be interrupted.
    pub(crate) fn set_status(&mut self, status: u16) -> bool {
        let changed = self.status != status;
        if changed {
            self.status = status;
            self.moved();
        }
        changed
    }

    /// The current `status`.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Moves the generation, unless nobody has read since it moved last.
    fn moved(&mut self) {
        if std::mem::take(&mut self.read) {
            self.generation = self.generation.wrapping_add(1);
        }
    }

    /// The value of `config_generation`.
    pub(crate) fn generation(&self) -> u8 {
        self.generation
    }

    /// Writes that had no effect because there is nothing to write there.
    pub(crate) fn ignored_writes(&self) -> u64 {
        self.ignored_writes
    }

    /// The registers in a snapshot.
    pub(crate) fn save(&self) -> DeviceRecord {
        DeviceRecord {
            device_type: self.device_type.into(),
            status: self.status.into(),
            generation: self.generation,
            read: self.read.into(),
        }
    }

    /// Such a configuration with the contents of a snapshot.
    pub(crate) fn restored(&self, record: &DeviceRecord) -> Result<Self, Damage> {
        let chosen = self.properties.device_type;
        let device_type = record.device_type.get();
        let possible = chosen == 0 || device_type == chosen;
        ensure(possible, Damage::DeviceType)?;
        let status = record.status.get();
        ensure(status & !(BACKEND_UP | FRONTEND_UP) == 0, Damage::Status)?;
        let decided = status & BACKEND_UP == 0 || device_type != 0;
        ensure(decided, Damage::TypelessBackend)?;
        Ok(Self {
            properties: self.properties,
            device_type,
            status,
            generation: record.generation,
            read: flag(record.read, Damage::ConfigurationGeneration)?,
            ignored_writes: self.ignored_writes,
        })
    }

    /// Device reset: the VMM's values again.
    pub(crate) fn reset(&mut self) {
        self.device_type = self.properties.device_type;
        self.status = 0;
        self.moved();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROPERTIES: Properties = Properties {
        max_vhost_queues: 0x0100,
        max_message_size: 0x1000,
        max_migration_message_size: 0x0201_0403,
        max_chained_rx_descriptors: 0x0605,
        max_chained_tx_descriptors: 0x0807,
        uuid: [0xA5; 16],
        device_type: 0,
    };

    fn config(device_type: u16) -> DeviceConfig {
        DeviceConfig::new(Properties {
            device_type,
            ..PROPERTIES
        })
    }

    fn read(config: &mut DeviceConfig, offset: u64, length: usize) -> u64 {
        let mut data = [0; 8];
        config.read(offset, &mut data[..length]);
        u64::from_le_bytes(data)
    }

    #[test]
    fn a_backend_in_a_snapshot_has_a_type() {
        let config = config(0);
        let restored = |device_type: u16, status: u16| {
            let record = DeviceRecord {
                device_type: device_type.into(),
                status: status.into(),
                ..config.save()
            };
            config.restored(&record).is_ok()
        };
        assert!(restored(0, 0) && restored(0, FRONTEND_UP));
        assert!(restored(2, 0) && restored(2, BACKEND_UP));
        assert!(!restored(0, BACKEND_UP));
        assert!(!restored(0, BACKEND_UP | FRONTEND_UP));
    }

    #[test]
    fn reads_each_field_in_each_width() {
        let mut config = config(0x0102);
        config.set_status(FRONTEND_UP);
        let fields = [
            (0, 4, 0x0100),
            (4, 4, 0x1000),
            (8, 4, 0x0201_0403),
            (12, 2, 0x0605),
            (14, 2, 0x0807),
            (16, 4, 0xA5A5_A5A5),
            (28, 4, 0xA5A5_A5A5),
            (32, 2, 0x0102),
            (34, 2, 0x0002),
            (32, 4, 0x0002_0102),
        ];
        for (offset, length, value) in fields {
            assert_eq!(read(&mut config, offset, length), value);
            for byte in 0..length as u64 {
                let expected = value >> (8 * byte) & 0xFF;
                assert_eq!(read(&mut config, offset + byte, 1), expected);
            }
        }
        assert_eq!(read(&mut config, 34, 4), 2);
        assert_eq!(read(&mut config, 36, 8), 0);
        assert_eq!(read(&mut config, u64::MAX - 1, 8), 0);
    }

    #[test]
    fn takes_the_type_once() {
        let mut config = config(0);
        config.write(32, &2_u16.to_le_bytes(), false);
        assert_eq!(config.device_type(), 2);
        config.write(32, &3_u16.to_le_bytes(), false);
        assert_eq!((config.device_type(), config.ignored_writes()), (2, 1));
        config.reset();
        assert_eq!(config.device_type(), 0);
        config.write(32, &3_u16.to_le_bytes(), false);
        assert_eq!(config.device_type(), 3);
    }

    #[test]
    fn keeps_the_type_that_the_vmm_set() {
        let mut config = config(26);
        config.write(32, &2_u16.to_le_bytes(), false);
        assert_eq!(config.device_type(), 26);
        config.reset();
        assert_eq!(config.device_type(), 26);
    }

    #[test]
    fn sets_type_and_status_together() {
        let mut config = config(0);
        let up = config.write(32, &0x0001_0002_u32.to_le_bytes(), false);
        assert_eq!((up, config.device_type()), (Some(true), 2));
        assert_eq!(read(&mut config, 32, 4), 0x0001_0002);
    }

    #[test]
    fn takes_status_by_one_byte() {
        let mut config = config(2);
        assert_eq!(config.write(34, &[1], false), Some(true));
        assert_eq!(config.write(34, &[1], false), None);
        assert_eq!(config.write(34, &[0], false), Some(false));
        assert_eq!(config.write(34, &[1, 0], false), Some(true));
        assert_eq!(config.ignored_writes(), 0);
    }

    #[test]
    fn refuses_backend_up_without_a_type_or_out_of_order() {
        let mut undecided = config(0);
        assert_eq!(undecided.write(34, &[1], false), None);
        let both = 0x0001_0000_u32.to_le_bytes();
        assert_eq!(undecided.write(32, &both, false), None);
        assert!(!undecided.backend_up());

        let mut decided = config(2);
        assert_eq!(decided.write(34, &[1], true), None);
        assert!(!decided.backend_up());
        decided.write(34, &[1], false);
        assert_eq!(decided.write(34, &[0], true), Some(false));
    }

    #[test]
    fn lets_the_driver_write_nothing_else() {
        let mut config = config(2);
        let before: Vec<u64> = (0..36).map(|at| read(&mut config, at, 1)).collect();
        let mut writes = 0;
        for offset in 0..40 {
            for length in [0, 1, 2, 3, 4, 8] {
                let status =
                    (offset == 34 && matches!(length, 1 | 2)) || (offset, length) == (32, 4);
                if !status {
                    config.write(offset, &[0xFF; 8][..length], false);
                    writes += 1;
                }
            }
        }
        let after: Vec<u64> = (0..36).map(|at| read(&mut config, at, 1)).collect();
        assert_eq!(before, after);
        assert_eq!(config.ignored_writes(), writes);
        // FRONTEND_UP is the device's.
        config.write(34, &[3], false);
        assert!(config.backend_up() && !config.frontend_up());
    }

    #[test]
    fn moves_the_generation_when_the_device_changed_a_field_after_a_read() {
        let mut config = config(2);
        config.set_status(FRONTEND_UP);
        assert_eq!(config.generation(), 0);
        // However often it changes between two reads, it is seen.
        for expected in 1..=255_u8 {
            read(&mut config, 34, 2);
            for _ in 0..128 {
                config.set_status(0);
                config.set_status(FRONTEND_UP);
            }
            assert_eq!(config.generation(), expected);
        }
        read(&mut config, 34, 2);
        assert!(!config.set_status(FRONTEND_UP));
        assert_eq!(config.generation(), 255);
        config.write(34, &[1], false);
        assert_eq!(config.generation(), 255);
    }
}
