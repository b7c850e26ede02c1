// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The PCI capability walk (virtio 1.2 §4.1.4, vhost-guest specification, PCI
//! layout).
//!
//! | cfg_type | structure | beyond `virtio_pci_cap` |
//! |---|---|---|
//! | 1 | common configuration | |
//! | 2 | queue notifications | le32 multiplier |
//! | 4 | device configuration | |
//! | 6 | device auxiliary notifications (doorbells) | le32 multiplier |
//! | 7 | driver auxiliary notifications (kick vectors) | |
//! | 8 | shared memory | le32 offset and length, upper halves |

mod msix;

use crate::error::Error;
use crate::transport::Transport;

pub(crate) use msix::Msix;

const VENDOR_ID: u16 = 0x00;
const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
const CAPABILITIES: u16 = 0x34;

const VIRTIO_VENDOR: u16 = 0x1af4;
/// 0x1040 + the virtio device ID 53.
const VHOST_GUEST_DEVICE: u16 = 0x1075;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;

/// Capabilities have 4 bytes at least and begin behind the header: no list
/// without a loop is longer.
const MAX_CAPABILITIES: usize = (256 - 64) / 4;

pub(crate) fn config_read16(transport: &impl Transport, offset: u16) -> u16 {
    let mut data = [0; 2];
    transport.config_read(offset, &mut data);
    u16::from_le_bytes(data)
}

pub(crate) fn config_read32(transport: &impl Transport, offset: u16) -> u32 {
    let mut data = [0; 4];
    transport.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

/// A part of a BAR that lies inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub bar: u8,
    pub offset: u64,
    pub len: u64,
}

impl Location {
    fn checked(
        transport: &impl Transport,
        location: Self,
        min_len: u64,
        name: &'static str,
    ) -> Result<Self, Error> {
        let end = location.offset.checked_add(location.len);
        let inside = end.is_some_and(|end| end <= transport.bar_len(location.bar));
        if !inside || location.len < min_len || !location.offset.is_multiple_of(4) {
            return Err(Error::BadCapability(name));
        }
        Ok(location)
    }

    /// Reads at an offset of the structure, all ones outside of it.
    pub fn read<const N: usize>(&self, transport: &impl Transport, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        if self.contains(offset, N) {
            transport.bar_read(self.bar, self.offset + offset, &mut data);
        }
        data
    }

    /// Writes at an offset of the structure, nothing outside of it.
    pub fn write<const N: usize>(&self, transport: &impl Transport, offset: u64, data: [u8; N]) {
        if self.contains(offset, N) {
            transport.bar_write(self.bar, self.offset + offset, &data);
        }
    }

    pub fn contains(&self, offset: u64, len: usize) -> bool {
        offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len)
    }
}

/// Notification structure whose addresses are a multiple apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notifications {
    pub location: Location,
    pub multiplier: u32,
}

impl Notifications {
    /// Stores `value` at the address of notification `index`.
    pub fn notify(&self, transport: &impl Transport, index: u16, value: u16) {
        let offset = u64::from(index) * u64::from(self.multiplier);
        self.location.write(transport, offset, value.to_le_bytes());
    }

    /// Whether there is an address for notification `index`.
    pub fn has(&self, index: u16) -> bool {
        let offset = u64::from(index) * u64::from(self.multiplier);
        offset.is_multiple_of(2) && self.location.contains(offset, 2)
    }
}

/// Where the structures of the device are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub common: Location,
    pub notify: Notifications,
    pub device: Location,
    pub doorbells: Notifications,
    pub kicks: Location,
    pub shared_memory: Location,
    pub msix: Option<Msix>,
}

#[derive(Default)]
struct Found {
    common: Option<Location>,
    notify: Option<Notifications>,
    device: Option<Location>,
    doorbells: Option<Notifications>,
    kicks: Option<Location>,
    shared_memory: Option<Location>,
    msix: Option<Msix>,
}

impl Capabilities {
    /// Checks that the function is a vhost-guest device, walks its
    /// capabilities, and lets it decode memory accesses and use the bus.
    pub fn find(transport: &impl Transport) -> Result<Self, Error> {
        let [vendor, device] = [0, 2].map(|o| config_read16(transport, VENDOR_ID + o));
        if (vendor, device) != (VIRTIO_VENDOR, VHOST_GUEST_DEVICE) {
            return Err(Error::NotVhostGuest { vendor, device });
        }
        let found = Found::walk(transport)?;
        let this = Self {
            common: found.common.ok_or(missing("common configuration"))?,
            notify: found.notify.ok_or(missing("queue notifications"))?,
            device: found.device.ok_or(missing("device configuration"))?,
            doorbells: found.doorbells.ok_or(missing("doorbells"))?,
            kicks: found.kicks.ok_or(missing("kick vectors"))?,
            shared_memory: found.shared_memory.ok_or(missing("shared memory"))?,
            msix: found.msix,
        };
        let command = config_read16(transport, COMMAND)
            | COMMAND_MEMORY
            | COMMAND_BUS_MASTER
            | COMMAND_INTX_DISABLE;
        transport.config_write(COMMAND, &command.to_le_bytes());
        Ok(this)
    }
}

fn missing(name: &'static str) -> Error {
    Error::MissingCapability(name)
}

impl Found {
    fn walk(transport: &impl Transport) -> Result<Self, Error> {
        let mut found = Self::default();
        if config_read16(transport, STATUS) & STATUS_CAPABILITIES == 0 {
            return Ok(found);
        }
        let mut at = config_read16(transport, CAPABILITIES) & 0xfc;
        for _ in 0..MAX_CAPABILITIES {
            if at < 0x40 {
                return Ok(found);
            }
            let header = config_read32(transport, at).to_le_bytes();
            let [id, next, len, cfg_type] = header;
            match id {
                CAP_VENDOR => found.virtio(transport, at, len, cfg_type)?,
                CAP_MSIX if found.msix.is_none() => {
                    found.msix = Some(Msix::parse(transport, at)?);
                }
                _ => {}
            }
            at = u16::from(next & 0xfc);
        }
        Err(Error::CapabilityLoop)
    }

    /// Notes a virtio structure. The first of each kind counts (virtio 1.2
    /// §4.1.4).
    fn virtio(
        &mut self,
        transport: &impl Transport,
        at: u16,
        cap_len: u8,
        cfg_type: u8,
    ) -> Result<(), Error> {
        let (name, min_cap_len, min_len) = match cfg_type {
            1 if self.common.is_none() => ("common configuration", 16, 56),
            2 if self.notify.is_none() => ("queue notifications", 20, 2),
            4 if self.device.is_none() => ("device configuration", 16, 36),
            6 if self.doorbells.is_none() => ("doorbells", 20, 2),
            7 if self.kicks.is_none() => ("kick vectors", 16, 4),
            8 if self.shared_memory.is_none() => ("shared memory", 24, 1),
            _ => return Ok(()),
        };
        let inside = usize::from(at) + usize::from(cap_len) <= 256;
        if cap_len < min_cap_len || !inside {
            return Err(Error::BadCapability(name));
        }
        let [bar, id, ..] = config_read32(transport, at + 4).to_le_bytes();
        let mut location = Location {
            bar,
            offset: config_read32(transport, at + 8).into(),
            len: config_read32(transport, at + 12).into(),
        };
        if cfg_type == 8 {
            // Shared memory with another id is not for this driver.
            if id != 0 {
                return Ok(());
            }
            location.offset |= u64::from(config_read32(transport, at + 16)) << 32;
            location.len |= u64::from(config_read32(transport, at + 20)) << 32;
        }
        let location = Location::checked(transport, location, min_len, name)?;
        let notifications = |multiplier| Notifications {
            location,
            multiplier,
        };
        match cfg_type {
            1 => self.common = Some(location),
            2 => self.notify = Some(notifications(config_read32(transport, at + 16))),
            4 => self.device = Some(location),
            6 => self.doorbells = Some(notifications(config_read32(transport, at + 16))),
            7 => self.kicks = Some(location),
            _ => self.shared_memory = Some(location),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
