// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The registers in a snapshot (see [`crate::guest::snapshot`]).

use std::io;

use super::Registers;
use crate::guest::interrupts::SavedInterrupts;
use crate::guest::pci::config_space::ConfigSpace;
use crate::guest::pci::BarMove;
use crate::guest::snapshot::{
    ensure, Counts, Damage, FunctionRecord, Owned, Read, ShapeRecord, SnapshotError,
};
use crate::guest::virtio::common_config::CommonConfig;
use crate::guest::virtio::device_config::{DeviceConfig, BACKEND_UP, FRONTEND_UP};
use crate::guest::virtio::status;

/// Registers that were read from a snapshot: a state that is possible.
pub(crate) struct Saved {
    config: ConfigSpace,
    common: CommonConfig,
    device: DeviceConfig,
    interrupts: SavedInterrupts,
    kick_select: u16,
    /// How far the device was in the rings of each virtqueue.
    pub(crate) positions: Vec<(u16, u16)>,
}

impl Registers {
    fn shape(&self) -> ShapeRecord {
        let setup = &self.setup;
        let properties = &setup.properties;
        ShapeRecord {
            features: setup.features.into(),
            window_size: setup.window_size.into(),
            max_message_size: properties.max_message_size.into(),
            max_migration_message_size: properties.max_migration_message_size.into(),
            max_vhost_queues: properties.max_vhost_queues.into(),
            virtqueues: setup.virtqueues.into(),
            max_queue_size: setup.max_queue_size.into(),
            max_chained_rx_descriptors: properties.max_chained_rx_descriptors.into(),
            max_chained_tx_descriptors: properties.max_chained_tx_descriptors.into(),
            device_type: properties.device_type.into(),
            uuid: properties.uuid,
        }
    }

    fn counts(&self) -> Counts {
        let virtqueues = usize::from(self.setup.virtqueues);
        Counts {
            queues: virtqueues,
            events: 1 + virtqueues + usize::from(self.setup.properties.max_vhost_queues),
            vectors: usize::from(self.interrupts.vectors()),
        }
    }

    /// The registers as they are. `position` tells how far the device is in the
    /// rings of a virtqueue. Interrupts have to be held back.
    pub(crate) fn save(&self, position: impl Fn(u16) -> (u16, u16)) -> Vec<u8> {
        let (config, probed) = self.config.save();
        let (events, table) = self.interrupts.save();
        let function = FunctionRecord {
            probed,
            isr: self.interrupts.isr(),
            kick_select: self.kick_select.into(),
        };
        let snapshot = Owned {
            shape: self.shape(),
            config,
            function,
            common: self.common.save(),
            device: self.device.save(),
            queues: self.common.save_queues(position),
            events,
            table,
        };
        snapshot.to_bytes()
    }

    /// Reads and checks a snapshot. Changes nothing.
    ///
    /// # Errors
    ///
    /// It is none, or not of such a device.
    pub(crate) fn parse(&self, bytes: &[u8]) -> Result<Saved, SnapshotError> {
        let read = Read::parse(bytes, &self.shape(), self.counts())?;
        let config = self.config.restored(&read.config, read.function.probed)?;
        let (common, positions) = self.common.restored(&read.common, read.queues)?;
        let device = self.device.restored(&read.device)?;
        let function = &read.function;
        let interrupts = self
            .interrupts
            .parse(read.events, read.table, function.isr)?;
        // As `set_needs_reset` and the device's core keep it.
        let up = device.status();
        let broken = common.has_status(status::NEEDS_RESET);
        ensure(!broken || up == 0, Damage::BrokenStatus)?;
        let serving = common.has_status(status::DRIVER_OK) && up & BACKEND_UP != 0;
        ensure(
            up & FRONTEND_UP == 0 || serving,
            Damage::FrontendWithoutBackend,
        )?;
        Ok(Saved {
            config,
            common,
            device,
            interrupts,
            kick_select: function.kick_select.get(),
            positions,
        })
    }

    /// Takes over what a snapshot says. Before this everything was reset, and
    /// interrupts are held back. Returns the BARs that are not where they were
    /// in `before`.
    ///
    /// # Errors
    ///
    /// The VMM has not enough interrupt sources.
    pub(crate) fn restore(
        &mut self,
        saved: Saved,
        before: [Option<u64>; 3],
    ) -> io::Result<Vec<BarMove>> {
        let control = saved.config.msix_control();
        let bus_master = saved.config.bus_master();
        self.interrupts
            .restore(saved.interrupts, control, bus_master)?;
        self.config = saved.config;
        self.common = saved.common;
        self.device = saved.device;
        self.kick_select = saved.kick_select;
        Ok(self.config.moves_since(before))
    }

    /// Where the BARs are decoded.
    pub(crate) fn bar_addresses(&self) -> [Option<u64>; 3] {
        self.config.bar_addresses()
    }

    /// Whether the driver is shown a frontend.
    pub(crate) fn frontend_up(&self) -> bool {
        self.device.status() & FRONTEND_UP != 0
    }
}
