// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! All registers of the function, and what an access to them does.
//!
//! ```text
//!   config_read/write ──▶ ConfigSpace ──┐ command, MSI-X control
//!                            │ PCI_CFG  ├──▶ Interrupts ──▶ InterruptManager
//!   bar_read/write ──────────┴─▶ BAR 0 ─┘
//!                                  ├─ CommonConfig, DeviceConfig
//!                                  └─ QueueNotify ──┬──▶ IoEventFdRegistrar
//!                                BAR 2: Doorbells ──┘
//!                                BAR 4: a hole
//! ```
//!
//! What an access means beyond the registers comes back as [`Effect`]s, in
//! order, for the device to carry out without the registers' lock. No access
//! blocks, fails or panics, whatever its place and width.

mod effect;
mod saved;
mod state;
#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vhost_guest_vmm_traits::{InterruptManager, IoEventFdRegistrar, MsiMessage};

use crate::error::Fault;
use crate::event_loop::deadline::Deadline;
use crate::fd::Signaller;
use crate::guest::doorbells::{Doorbells, QueueNotify};
use crate::guest::interrupts::{ArmFailure, Event, Interrupts};
use crate::guest::pci::bars::{
    self, COMMON, COMMON_LENGTH, CONFIGURATION_BAR, DEVICE, DEVICE_LENGTH, DOORBELL_BAR,
    DRIVER_AUX, DRIVER_AUX_LENGTH, ISR, ISR_LENGTH, MSIX_PENDING, MSIX_TABLE, NOTIFY,
    NOTIFY_MULTIPLIER,
};
use crate::guest::pci::capabilities::Shape;
use crate::guest::pci::config_space::{touches_cfg_data, ConfigSpace};
use crate::guest::pci::{msix, BarSpec};
use crate::guest::virtio::common_config::{CommonConfig, Vectors, Written};
use crate::guest::virtio::device_config::{DeviceConfig, Properties};
use crate::guest::virtio::{copy_from, number, status};
use crate::sync::Epoch;
use crate::vmm::services::ServiceError;

pub(crate) use effect::Effect;

/// What the VMM decides about a device's registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// The constant part of the device configuration.
    pub(crate) properties: Properties,
    /// Virtqueues: 4, or 6 with migration.
    pub(crate) virtqueues: u16,
    /// Largest size of a virtqueue, a power of two.
    pub(crate) max_queue_size: u16,
    /// Size of the window, a power of two of at least a page.
    pub(crate) window_size: u64,
    /// Virtio features offered.
    pub(crate) features: u64,
}

/// A structure in BAR 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Structure {
    Common,
    Isr,
    Device,
    Notify,
    DriverAux,
    Table,
    Pending,
}

/// The registers of one function.
pub(crate) struct Registers {
    setup: Setup,
    config: ConfigSpace,
    common: CommonConfig,
    device: DeviceConfig,
    interrupts: Interrupts,
    doorbells: Doorbells,
    notify: QueueNotify,
    /// Which kick `msix_vector` of the driver auxiliary notifications means.
    kick_select: u16,
    /// Whose kicks and doorbells are connected, or may be.
    frontend: Option<Epoch>,
    /// Why it has to go, or why the next one does not come.
    loss: Option<Fault>,
    structures: [(Range<u64>, Structure); 7],
}

impl Registers {
    /// The registers of a function after power-up.
    ///
    /// # Errors
    ///
    /// No descriptor is left for the device's own eventfds.
    pub(crate) fn new(
        setup: &Setup,
        interrupts: Arc<dyn InterruptManager>,
        registrar: Option<Arc<dyn IoEventFdRegistrar>>,
        signaller: Arc<Signaller>,
    ) -> io::Result<Self> {
        let vrings = setup.properties.max_vhost_queues;
        let virtqueues = setup.virtqueues;
        let shape = Shape {
            virtqueues,
            vrings,
            window_size: setup.window_size,
        };
        let vectors = u64::from(bars::vectors(vrings));
        let at = |start: u64, length: u64| start..start + length;
        let notify = u64::from(virtqueues) * u64::from(NOTIFY_MULTIPLIER);
        Ok(Registers {
            setup: *setup,
            config: ConfigSpace::new(&shape),
            common: CommonConfig::new(setup.features, virtqueues, setup.max_queue_size),
            device: DeviceConfig::new(setup.properties),
            interrupts: Interrupts::new(interrupts, Arc::clone(&signaller), virtqueues, vrings)?,
            doorbells: Doorbells::new(registrar.clone(), signaller, vrings),
            notify: QueueNotify::new(registrar, virtqueues)?,
            kick_select: 0,
            frontend: None,
            loss: None,
            structures: [
                (at(COMMON, COMMON_LENGTH), Structure::Common),
                (at(ISR, ISR_LENGTH), Structure::Isr),
                (at(DEVICE, DEVICE_LENGTH), Structure::Device),
                (at(NOTIFY, notify), Structure::Notify),
                (at(DRIVER_AUX, DRIVER_AUX_LENGTH), Structure::DriverAux),
                (at(MSIX_TABLE, vectors * msix::ENTRY_SIZE), Structure::Table),
                (
                    at(MSIX_PENDING, vectors.div_ceil(64) * 8),
                    Structure::Pending,
                ),
            ],
        })
    }

    /// The BARs that the VMM has to find room for.
    pub(crate) fn bars(&self) -> [BarSpec; 3] {
        self.config.bars()
    }

    /// Reads configuration space.
    pub(crate) fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        if touches_cfg_data(usize::from(offset), data.len()) {
            let mut found = [0xFF; 4];
            if let Some(access) = self.config.cfg_access() {
                if let Some(found) = found.get_mut(..access.length) {
                    self.read_bar(access.bar, access.offset, found);
                }
            }
            self.config.set_cfg_data(&found);
        }
        self.config.read(offset, data);
    }

    /// Writes configuration space.
    #[must_use]
    pub(crate) fn config_write(&mut self, offset: u16, data: &[u8]) -> Vec<Effect> {
        let written = self.config.write(offset, data);
        if written.function_reset {
            return self.function_reset();
        }
        let mut effects = Vec::new();
        if !written.moves.is_empty() {
            effects.push(Effect::BarMoves(written.moves));
        }
        if let Some(on) = written.bus_master {
            self.interrupts.set_bus_master(on);
            effects.extend([Effect::Interrupts, Effect::Look]);
        }
        if let Some(control) = written.msix_control {
            self.interrupts.set_control(control);
            effects.push(Effect::Interrupts);
        }
        if let Some(store) = written.store {
            let data = store.data.get(..store.length).unwrap_or_default();
            effects.extend(self.write_bar(store.bar, store.offset, data));
        }
        effects
    }

    /// Resets the function: all that PCI defines is as after power-up.
    #[must_use]
    pub(crate) fn function_reset(&mut self) -> Vec<Effect> {
        let moves = self.config.reset();
        self.interrupts.function_reset();
        self.common.begin_reset();
        vec![Effect::BarMoves(moves), Effect::Interrupts, Effect::Reset]
    }

    /// The number of interrupt vectors.
    pub(crate) fn vectors(&self) -> u16 {
        self.interrupts.vectors()
    }

    /// An entry of the MSI-X table, from a VMM that keeps the table itself.
    #[must_use]
    pub(crate) fn set_vector(&mut self, vector: u16, message: Option<MsiMessage>) -> Effect {
        self.interrupts.set_entry(vector, message);
        Effect::Interrupts
    }

    /// Reads from a BAR; all ones while memory space is off.
    pub(crate) fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if self.config.memory_space() {
            self.read_bar(bar, offset, data);
        } else {
            data.fill(0xFF);
        }
    }

    /// Writes to a BAR; no effect while memory space is off.
    #[must_use]
    pub(crate) fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) -> Option<Effect> {
        let decoded = self.config.memory_space();
        decoded.then(|| self.write_bar(bar, offset, data)).flatten()
    }

    /// The structure at `offset` in BAR 0, and the offset in it.
    fn structure(&self, offset: u64) -> Option<(Structure, u64)> {
        let mut all = self.structures.iter();
        let (range, structure) = all.find(|(range, _)| range.contains(&offset))?;
        Some((*structure, offset - range.start))
    }

    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        match bar {
            CONFIGURATION_BAR => self.read_configuration(offset, data),
            DOORBELL_BAR => data.fill(0),
            // The device never touches frontend memory, and elsewhere is nothing.
            _ => data.fill(0xFF),
        }
    }

    fn read_configuration(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((structure, offset)) = self.structure(offset) else {
            return;
        };
        match structure {
            Structure::Common => {
                let generation = self.device.generation();
                let vectors = self.vectors_shown();
                self.common.read(offset, data, generation, vectors);
            }
            Structure::Isr => copy_from(&[self.interrupts.take_isr()], offset, data),
            Structure::Device => self.device.read(offset, data),
            Structure::Notify => {}
            Structure::DriverAux => self.read_driver_aux(offset, data),
            Structure::Table => self.interrupts.read_table(offset, data),
            Structure::Pending => self.interrupts.read_pending(offset, data),
        }
    }

    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) -> Option<Effect> {
        match bar {
            CONFIGURATION_BAR => self.write_configuration(offset, data),
            DOORBELL_BAR => {
                let rung = self.doorbells.store(offset, data.len());
                rung.then_some(Effect::DoorbellRung)
            }
            _ => None,
        }
    }

    fn write_configuration(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        let (structure, offset) = self.structure(offset)?;
        if structure == Structure::Table {
            let written = self.interrupts.write_table(offset, data);
            return written.then_some(Effect::Interrupts);
        }
        // What is written between a reset and its end is lost in it.
        if self.common.reset_pending() {
            return None;
        }
        match structure {
            Structure::Common => self.write_common(offset, data),
            Structure::Device => {
                let needs_reset = self.common.has_status(status::NEEDS_RESET);
                match self.device.write(offset, data, needs_reset)? {
                    true => Some(Effect::Look),
                    false => Some(self.backend_down()),
                }
            }
            Structure::Notify => {
                let stride = u64::from(NOTIFY_MULTIPLIER);
                let exact = offset.is_multiple_of(stride) && number(data).is_some();
                exact.then_some(Effect::QueueNotified((offset / stride) as u16))
            }
            Structure::DriverAux => self.write_driver_aux(offset, data),
            Structure::Isr | Structure::Table | Structure::Pending => None,
        }
    }

    /// Whether nobody but the registers has noticed the driver so far: then its
    /// reset, the first thing that each driver asks for, is done already.
    fn is_untouched(&self) -> bool {
        let used = self.common.has_status(status::DRIVER_OK) || self.common.has_queues();
        let lost = self.common.has_status(status::NEEDS_RESET) || self.frontend.is_some();
        !(used || lost || self.interrupts.has_vectors())
    }

    /// The vectors that the common configuration shows.
    fn vectors_shown(&self) -> Vectors {
        let queue = Event::Queue(self.common.queue_select());
        Vectors {
            config: self.interrupts.vector(Event::Config),
            queue: self.interrupts.vector(queue),
        }
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        let (event, vector) = match self.common.write(offset, data)? {
            Written::ConfigVector(vector) => (Event::Config, vector),
            Written::QueueVector(queue, vector) => (Event::Queue(queue), vector),
            Written::Reset if self.is_untouched() => {
                // Nothing is connected that could stay so.
                let _ = self.reset();
                return None;
            }
            Written::Reset => return Some(Effect::Reset),
            Written::DriverOk | Written::QueueEnabled | Written::QueueReset => {
                return Some(Effect::Look)
            }
            Written::Fault(fault) => return Some(Effect::GuestFault(fault)),
        };
        self.interrupts.set_vector(event, vector);
        None
    }

    /// Driver auxiliary notifications (vhost-guest specification, PCI layout):
    ///
    /// | offset | bytes | register | access |
    /// |---|---|---|---|
    /// | 0 | 2 | `select`: which kick | read, write |
    /// | 2 | 2 | `msix_vector` of that kick | read, write |
    ///
    /// One 4-byte write does both.
    fn read_driver_aux(&self, offset: u64, data: &mut [u8]) {
        let vector = self.interrupts.vector(Event::Kick(self.kick_select));
        let block = u32::from(self.kick_select) | u32::from(vector) << 16;
        copy_from(&block.to_le_bytes(), offset, data);
    }

    fn write_driver_aux(&mut self, offset: u64, data: &[u8]) -> Option<Effect> {
        let value = number(data).unwrap_or_default();
        match (offset, data.len()) {
            (0, 2) => {
                self.kick_select = value as u16;
                None
            }
            (2, 2) => self.set_kick_vector(value as u16),
            (0, 4) => {
                self.kick_select = value as u16;
                self.set_kick_vector((value >> 16) as u16)
            }
            _ => None,
        }
    }

    fn set_kick_vector(&mut self, vector: u16) -> Option<Effect> {
        let failure = self.interrupts.set_kick_vector(self.kick_select, vector);
        failure.map(Effect::NotArmed)
    }

    /// Makes a batch of interrupts what they should be. Tells which could not be
    /// armed, and whether there are more.
    #[must_use]
    pub(crate) fn sync_some_interrupts(&mut self) -> (Vec<ArmFailure>, bool) {
        self.interrupts.sync_some()
    }

    /// The VMM has placed a BAR, or taken it out of the guest's address space:
    /// what is in it is to move along
    /// ([`move_some_eventfds`](Self::move_some_eventfds)).
    ///
    /// Before memory space is on, this assigns an address, as firmware would.
    pub(crate) fn bar_moved(&mut self, bar: u8, address: Option<u64>) {
        if let Some(address) = address {
            self.config.set_bar_address(bar, address);
        }
        let decoded = address.and_then(|_| self.config.bar_address(bar));
        match bar {
            CONFIGURATION_BAR => self.notify.place(decoded.map(|base| base + NOTIFY)),
            DOORBELL_BAR => self.doorbells.place(decoded),
            _ => {}
        }
    }

    /// Moves eventfds to where their BARs are, until the time is over. Tells
    /// whether there are more.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Refused`]: the stores that should signal eventfds reach
    /// userspace instead. There may be more to do.
    pub(crate) fn move_some_eventfds(&mut self, until: Deadline) -> Result<bool, ServiceError> {
        Ok(self.notify.settle_some(until)? || self.doorbells.settle_some(until)?)
    }

    /// Where the guest has put a BAR: the address that it decodes now.
    pub(crate) fn bar_address(&self, bar: u8) -> Option<u64> {
        self.config.bar_address(bar)
    }

    /// Whether the function may access memory and raise interrupts.
    pub(crate) fn bus_master(&self) -> bool {
        self.config.bus_master()
    }

    /// Holds interrupts back, or lets them go
    /// ([`sync_some_interrupts`](Self::sync_some_interrupts)).
    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.interrupts.set_paused(paused);
    }
}

#[cfg(test)]
mod tests;
