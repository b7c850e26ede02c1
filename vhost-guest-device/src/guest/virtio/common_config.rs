// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The common configuration (virtio 1.2 §4.1.4.3). Little-endian.
//!
//! | offset | bytes | register | access |
//! |---|---|---|---|
//! | 0x00 | 4 | `device_feature_select` | read, write |
//! | 0x04 | 4 | `device_feature` | read |
//! | 0x08 | 4 | `driver_feature_select` | read, write |
//! | 0x0C | 4 | `driver_feature` | read; write before `FEATURES_OK` |
//! | 0x10 | 2 | `config_msix_vector` | read, write |
//! | 0x12 | 2 | `num_queues` | read |
//! | 0x14 | 1 | `device_status` | read, write |
//! | 0x15 | 1 | `config_generation` | read |
//! | 0x16 | 2 | `queue_select` | read, write |
//! | 0x18 | 2 | `queue_size` | read; write while disabled |
//! | 0x1A | 2 | `queue_msix_vector` | read, write |
//! | 0x1C | 2 | `queue_enable` | read; write 1 |
//! | 0x1E | 2 | `queue_notify_off` | read |
//! | 0x20 | 8 | `queue_desc` | read; write while disabled |
//! | 0x28 | 8 | `queue_driver` | read; write while disabled |
//! | 0x30 | 8 | `queue_device` | read; write while disabled |
//! | 0x38 | 2 | `queue_notify_data` | reads 0: the feature is not offered |
//! | 0x3A | 2 | `queue_reset` | read; write 1 |
//!
//! Registers are written by their own width; the 8-byte ones also by halves.
//! Reads may have any width. With an invalid `queue_select` the vector reads
//! 0xFFFF, the other queue registers read 0, and writes to them are ignored.

use super::{copy_from, feature, number, status, NO_VECTOR};
use crate::error::RegisterFault;
use crate::guest::snapshot::{ensure, flag, CommonRecord, Damage, QueueRecord};

/// Bytes of the block.
const SIZE: usize = 0x40;

/// What the driver has set up for one virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueSetup {
    /// Number of descriptors, a power of two.
    pub(crate) size: u16,
    /// Guest address of the descriptor table, a multiple of 16.
    pub(crate) descriptors: u64,
    /// Guest address of the available ring, a multiple of 2.
    pub(crate) avail: u64,
    /// Guest address of the used ring, a multiple of 4.
    pub(crate) used: u64,
}

impl QueueSetup {
    fn after_reset(max_size: u16) -> Self {
        QueueSetup {
            size: max_size,
            descriptors: 0,
            avail: 0,
            used: 0,
        }
    }

    /// Whether the rings are aligned and end within the address space.
    fn is_valid(&self) -> bool {
        let size = u64::from(self.size);
        let parts = [
            (self.descriptors, 16, 16 * size),
            (self.avail, 2, 6 + 2 * size),
            (self.used, 4, 6 + 8 * size),
        ];
        parts.iter().all(|(address, align, length)| {
            address.is_multiple_of(*align) && address.checked_add(*length).is_some()
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct QueueRegisters {
    setup: QueueSetup,
    enabled: bool,
    resetting: bool,
}

/// What a write asks for, beyond what the registers read from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// A device reset. `device_status` reads non-zero until it is done.
    Reset,
    /// The driver has set `DRIVER_OK`.
    DriverOk,
    /// A queue is enabled.
    QueueEnabled,
    /// The reset of a queue, which ends with
    /// [`queue_reset_done`](CommonConfig::queue_reset_done).
    QueueReset,
    /// A vector for configuration changes.
    ConfigVector(u16),
    /// A vector for a queue.
    QueueVector(u16, u16),
    /// The driver broke a rule.
    Fault(RegisterFault),
}

/// The vectors as the driver reads them: what it asked for, or `NO_VECTOR`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors {
    /// That of configuration changes.
    pub(crate) config: u16,
    /// That of the queue that is selected.
    pub(crate) queue: u16,
}

/// The common configuration.
#[derive(Debug)]
pub(crate) struct CommonConfig {
    offered: u64,
    max_queue_size: u16,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    device_status: u8,
    /// The driver has asked for a reset that is not done yet.
    reset_pending: bool,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl CommonConfig {
    /// The registers after reset, for `queues` virtqueues of at most
    /// `max_queue_size` descriptors, a power of two.
    pub(crate) fn new(offered: u64, queues: u16, max_queue_size: u16) -> Self {
        let queue = QueueRegisters {
            setup: QueueSetup::after_reset(max_queue_size),
            enabled: false,
            resetting: false,
        };
        CommonConfig {
            offered,
            max_queue_size,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            device_status: 0,
            reset_pending: false,
            queue_select: 0,
            queues: vec![queue; usize::from(queues)],
        }
    }

    /// Number of virtqueues.
    pub(crate) fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    /// `device_status` as the driver reads it: not 0 before a reset is done,
    /// even if it was 0 when the reset was asked for.
    pub(crate) fn device_status(&self) -> u8 {
        self.device_status.max(u8::from(self.reset_pending))
    }

    /// Whether the driver has asked for a reset that is not done yet.
    pub(crate) fn reset_pending(&self) -> bool {
        self.reset_pending
    }

    /// A reset has begun that the driver did not ask for here.
    pub(crate) fn begin_reset(&mut self) {
        self.reset_pending = true;
    }

    /// Whether all of `bits` are set in `device_status`.
    pub(crate) fn has_status(&self, bits: u8) -> bool {
        self.device_status & bits == bits
    }

    /// Sets `NEEDS_RESET`. Tells whether it was clear.
    pub(crate) fn set_needs_reset(&mut self) -> bool {
        let clear = !self.has_status(status::NEEDS_RESET);
        self.device_status |= status::NEEDS_RESET;
        clear
    }

    /// The features in force: none before `FEATURES_OK`.
    pub(crate) fn negotiated(&self) -> u64 {
        if self.has_status(status::FEATURES_OK) {
            self.driver_features
        } else {
            0
        }
    }

    /// How the driver has set up queue `index`, if it has enabled it.
    pub(crate) fn enabled_queue(&self, index: u16) -> Option<QueueSetup> {
        let queue = self.queues.get(usize::from(index))?;
        (queue.enabled && !queue.resetting).then_some(queue.setup)
    }

    /// Queues whose reset the driver has asked for.
    pub(crate) fn resetting_queues(&self) -> Vec<u16> {
        let queues = (0..).zip(&self.queues);
        let resetting = queues.filter(|(_, queue)| queue.resetting);
        resetting.map(|(index, _)| index).collect()
    }

    /// Whether the driver has enabled a queue.
    pub(crate) fn has_queues(&self) -> bool {
        self.queues.iter().any(|queue| queue.enabled)
    }

    /// Which queue the queue registers mean.
    pub(crate) fn queue_select(&self) -> u16 {
        self.queue_select
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The registers as bytes.
    fn block(&self, generation: u8, vectors: Vectors) -> [u8; SIZE] {
        let mut block = [0; SIZE];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        put(0x00, &self.device_feature_select.to_le_bytes());
        let offered = half(self.offered, self.device_feature_select);
        put(0x04, &offered.to_le_bytes());
        put(0x08, &self.driver_feature_select.to_le_bytes());
        let accepted = half(self.driver_features, self.driver_feature_select);
        put(0x0C, &accepted.to_le_bytes());
        put(0x10, &vectors.config.to_le_bytes());
        put(0x12, &self.queues().to_le_bytes());
        put(0x14, &[self.device_status(), generation]);
        put(0x16, &self.queue_select.to_le_bytes());
        put(0x1A, &NO_VECTOR.to_le_bytes());
        if let Some(queue) = self.selected() {
            put(0x18, &queue.setup.size.to_le_bytes());
            put(0x1A, &vectors.queue.to_le_bytes());
            put(0x1C, &u16::from(queue.enabled).to_le_bytes());
            // Each queue has a notification address of its own.
            put(0x1E, &self.queue_select.to_le_bytes());
            put(0x20, &queue.setup.descriptors.to_le_bytes());
            put(0x28, &queue.setup.avail.to_le_bytes());
            put(0x30, &queue.setup.used.to_le_bytes());
            put(0x3A, &u16::from(queue.resetting).to_le_bytes());
        }
        block
    }

    /// Reads; 0 behind the end.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8], generation: u8, vectors: Vectors) {
        copy_from(&self.block(generation, vectors), offset, data);
    }

    /// Writes one register. Returns what the caller has to carry out.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Option<Written> {
        let value = number(data)?;
        match (offset, data.len()) {
            (0x00, 4) => self.device_feature_select = value as u32,
            (0x08, 4) => self.driver_feature_select = value as u32,
            (0x0C, 4) => self.write_driver_feature(value),
            (0x10, 2) => return Some(Written::ConfigVector(value as u16)),
            (0x14, 1) => return self.write_device_status(value as u8),
            (0x16, 2) => self.queue_select = value as u16,
            (0x18, 2) => self.write_queue_size(value as u16),
            (0x1A, 2) => return self.write_queue_vector(value as u16),
            (0x1C, 2) => return self.write_queue_enable(value),
            (0x20..=0x37, 4 | 8) => self.write_queue_address(offset, data.len(), value),
            (0x3A, 2) => return self.write_queue_reset(value),
            _ => {}
        }
        None
    }

    fn write_driver_feature(&mut self, value: u64) {
        // Settled features do not change (virtio 1.2 §3.1.1).
        if self.has_status(status::FEATURES_OK) {
            return;
        }
        let (shift, mask) = match self.driver_feature_select {
            0 => (0, 0xFFFF_FFFF),
            1 => (32, 0xFFFF_FFFF << 32),
            _ => return,
        };
        self.driver_features = self.driver_features & !mask | value << shift;
    }

    /// Whether the driver's features are ones that the device can run with.
    fn features_are_acceptable(&self) -> bool {
        let required = feature::VERSION_1 | self.offered & feature::BIG_ENDIAN;
        self.driver_features & !self.offered == 0 && self.driver_features & required == required
    }

    fn write_device_status(&mut self, value: u8) -> Option<Written> {
        if self.reset_pending {
            return None;
        }
        if value == 0 {
            self.reset_pending = true;
            return Some(Written::Reset);
        }
        // A driver only ever sets bits, and NEEDS_RESET is not its to set:
        // that one, too, stays until the reset.
        let mut set = value & !self.device_status & !status::NEEDS_RESET;
        let refused = set & status::FEATURES_OK != 0 && !self.features_are_acceptable();
        if refused {
            set &= !status::FEATURES_OK;
        }
        if (self.device_status | set) & status::FEATURES_OK == 0 {
            set &= !status::DRIVER_OK;
        }
        self.device_status |= set;
        let old = self.driver_features & feature::VERSION_1 == 0;
        if refused && old && !self.has_status(status::NEEDS_RESET) {
            // vhost-guest specification, device configuration layout.
            return Some(Written::Fault(RegisterFault::Version1));
        }
        let runs = set & status::DRIVER_OK != 0 && !self.has_status(status::NEEDS_RESET);
        runs.then_some(Written::DriverOk)
    }

    /// The selected queue's registers, unless it is in use.
    fn disabled_queue(&mut self) -> Option<&mut QueueRegisters> {
        let queue = self.queues.get_mut(usize::from(self.queue_select))?;
        (!queue.enabled).then_some(queue)
    }

    fn write_queue_size(&mut self, size: u16) {
        let valid = size.is_power_of_two() && size <= self.max_queue_size;
        if let Some(queue) = self.disabled_queue().filter(|_| valid) {
            queue.setup.size = size;
        }
    }

    fn write_queue_vector(&self, vector: u16) -> Option<Written> {
        let written = Written::QueueVector(self.queue_select, vector);
        self.selected().map(|_| written)
    }

    fn write_queue_enable(&mut self, value: u64) -> Option<Written> {
        let index = self.queue_select;
        let queue = self.disabled_queue()?;
        if value != 1 {
            return None;
        }
        if !queue.setup.is_valid() {
            return Some(Written::Fault(RegisterFault::QueueAddress(index)));
        }
        queue.enabled = true;
        Some(Written::QueueEnabled)
    }

    fn write_queue_address(&mut self, offset: u64, length: usize, value: u64) {
        let Some(queue) = self.disabled_queue() else {
            return;
        };
        let register = match offset & !7 {
            0x20 => &mut queue.setup.descriptors,
            0x28 => &mut queue.setup.avail,
            _ => &mut queue.setup.used,
        };
        match (offset % 8, length) {
            (0, 8) => *register = value,
            (0, 4) => *register = *register >> 32 << 32 | value,
            (4, 4) => *register = *register & 0xFFFF_FFFF | value << 32,
            _ => {}
        }
    }

    fn write_queue_reset(&mut self, value: u64) -> Option<Written> {
        let allowed = self.negotiated() & feature::RING_RESET != 0;
        let queue = self.queues.get_mut(usize::from(self.queue_select))?;
        if value != 1 || !allowed || !queue.enabled || queue.resetting {
            return None;
        }
        queue.resetting = true;
        Some(Written::QueueReset)
    }

    /// The device does not use queue `index` any more: ends the reset of the
    /// queue that the driver asked for (virtio 1.2 §2.6.1). Tells whether it did:
    /// then the queue has no vector from here on.
    pub(crate) fn queue_reset_done(&mut self, index: u16) -> bool {
        let queue = self.queues.get_mut(usize::from(index));
        let Some(queue) = queue.filter(|queue| queue.resetting) else {
            return false;
        };
        *queue = QueueRegisters {
            setup: QueueSetup::after_reset(self.max_queue_size),
            enabled: false,
            resetting: false,
        };
        true
    }

    /// Device reset: everything as at the beginning. `device_status` reads 0
    /// from here on, which tells the driver that the reset is done.
    pub(crate) fn reset(&mut self) {
        *self = CommonConfig::new(self.offered, self.queues(), self.max_queue_size);
    }
}

/// In a snapshot.
impl CommonConfig {
    pub(crate) fn save(&self) -> CommonRecord {
        CommonRecord {
            device_feature_select: self.device_feature_select.into(),
            driver_feature_select: self.driver_feature_select.into(),
            driver_features: self.driver_features.into(),
            queue_select: self.queue_select.into(),
            device_status: self.device_status,
            reset_pending: self.reset_pending.into(),
        }
    }

    /// The queues; `position` tells how far the device is in their rings.
    pub(crate) fn save_queues(&self, position: impl Fn(u16) -> (u16, u16)) -> Vec<QueueRecord> {
        let queues = (0..).zip(&self.queues);
        let record = |(index, queue): (u16, &QueueRegisters)| {
            let (next_avail, next_used) = position(index);
            QueueRecord {
                descriptors: queue.setup.descriptors.into(),
                avail: queue.setup.avail.into(),
                used: queue.setup.used.into(),
                size: queue.setup.size.into(),
                enabled: u16::from(queue.enabled).into(),
                next_avail: next_avail.into(),
                next_used: next_used.into(),
            }
        };
        queues.map(record).collect()
    }

    /// Such registers with the contents of a snapshot, and how far the device
    /// was in the rings of each queue.
    pub(crate) fn restored(
        &self,
        record: &CommonRecord,
        queues: &[QueueRecord],
    ) -> Result<(Self, Vec<(u16, u16)>), Damage> {
        let mut restored = Self::new(self.offered, self.queues(), self.max_queue_size);
        ensure(queues.len() == self.queues.len(), Damage::Queues)?;
        let mut positions = Vec::with_capacity(queues.len());
        for (queue, record) in restored.queues.iter_mut().zip(queues) {
            *queue = QueueRegisters::parse(record, self.max_queue_size)?;
            let position = (record.next_avail.get(), record.next_used.get());
            ensure(queue.enabled || position == (0, 0), Damage::QueuePosition)?;
            positions.push(position);
        }
        restored.device_feature_select = record.device_feature_select.get();
        restored.driver_feature_select = record.driver_feature_select.get();
        restored.driver_features = record.driver_features.get();
        restored.queue_select = record.queue_select.get();
        restored.device_status = record.device_status;
        restored.reset_pending = flag(record.reset_pending, Damage::ResetPending)?;
        let settled = restored.has_status(status::FEATURES_OK);
        let acceptable = restored.features_are_acceptable();
        ensure(!settled || acceptable, Damage::DriverFeatures)?;
        let running = restored.has_status(status::DRIVER_OK);
        ensure(!running || settled, Damage::DeviceStatus)?;
        Ok((restored, positions))
    }
}

impl QueueRegisters {
    fn parse(record: &QueueRecord, max_size: u16) -> Result<Self, Damage> {
        let setup = QueueSetup {
            size: record.size.get(),
            descriptors: record.descriptors.get(),
            avail: record.avail.get(),
            used: record.used.get(),
        };
        let possible = setup.size.is_power_of_two() && setup.size <= max_size;
        ensure(possible, Damage::QueueSize)?;
        ensure(record.enabled.get() <= 1, Damage::QueueState)?;
        let enabled = record.enabled.get() == 1;
        ensure(!enabled || setup.is_valid(), Damage::QueueRings)?;
        Ok(Self {
            setup,
            enabled,
            resetting: false,
        })
    }
}

#[cfg(test)]
mod tests;
