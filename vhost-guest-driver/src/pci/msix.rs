// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The MSI-X table (PCI Local Bus 3.0 §6.8.2).
//!
//! | entry offset | field |
//! |---|---|
//! | 0 | message address, lower half |
//! | 4 | message address, upper half |
//! | 8 | message data |
//! | 12 | vector control; bit 0 masks |

use super::{config_read16, config_read32, Location};
use crate::error::Error;
use crate::transport::{MsiMessage, Transport};

const NAME: &str = "MSI-X table";
const ENTRY: u64 = 16;

const CONTROL_SIZE: u16 = 0x7ff;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const CONTROL_ENABLE: u16 = 1 << 15;

/// MSI-X capability of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Msix {
    /// Message Control register in configuration space.
    control: u16,
    table: Location,
}

impl Msix {
    pub(super) fn parse(transport: &impl Transport, at: u16) -> Result<Self, Error> {
        if at > 256 - 12 {
            return Err(Error::BadCapability(NAME));
        }
        let control = at + 2;
        let vectors = (config_read16(transport, control) & CONTROL_SIZE) + 1;
        let table = config_read32(transport, at + 4);
        let table = Location {
            bar: (table & 7) as u8,
            offset: (table & !7).into(),
            len: u64::from(vectors) * ENTRY,
        };
        Ok(Self {
            control,
            table: Location::checked(transport, table, ENTRY, NAME)?,
        })
    }

    /// Number of entries of the table.
    pub fn vectors(&self) -> u16 {
        (self.table.len / ENTRY) as u16
    }

    /// Writes the first entries of the table and enables MSI-X.
    ///
    /// The function is masked until all entries are written, so that no half
    /// message goes out.
    pub fn enable(&self, transport: &impl Transport, messages: impl Iterator<Item = MsiMessage>) {
        let masked = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;
        transport.config_write(self.control, &masked.to_le_bytes());
        for (i, message) in (0..).zip(messages) {
            let entry = i * ENTRY;
            let [low, high] = [message.address as u32, (message.address >> 32) as u32];
            for (field, value) in [low, high, message.data, 0].into_iter().enumerate() {
                let offset = entry + 4 * field as u64;
                self.table.write(transport, offset, value.to_le_bytes());
            }
        }
        transport.config_write(self.control, &CONTROL_ENABLE.to_le_bytes());
    }
}
