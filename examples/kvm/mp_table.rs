// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The MultiProcessor table (Intel's specification, version 1.4): one
//! processor, the I/O APIC, and how the interrupt lines reach it.
//!
//! It is what a guest without ACPI has, and without it Linux would not use the
//! local APIC, hence no message-signalled interrupts.

use vm_memory::{Bytes, GuestAddress};

use super::{Error, Memory};

/// Where memory below 640 KiB ends, and the table begins: in its last KiB, where
/// the BIOS used to have its data.
pub const LOW_MEMORY_END: u64 = 0x9_FC00;

const LOCAL_APIC: u32 = 0xFEE0_0000;
const IO_APIC: u32 = 0xFEC0_0000;
/// Version of an APIC that is not in a chip of its own.
const APIC_VERSION: u8 = 0x14;
const PROCESSOR: u8 = 0;
const IO_APIC_ID: u8 = 1;
const ISA: u8 = 0;
const ENABLED: u8 = 1;
const BOOTSTRAP: u8 = 2;
/// Every local APIC.
const ALL: u8 = 0xFF;

/// Kinds of interrupts.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

fn entries() -> Vec<Vec<u8>> {
    let mut processor = vec![0, PROCESSOR, APIC_VERSION, ENABLED | BOOTSTRAP];
    // Signature and features: the guest asks the processor itself.
    processor.extend([0; 16]);
    let mut bus = vec![1, ISA];
    bus.extend(b"ISA   ");
    let mut io_apic = vec![2, IO_APIC_ID, APIC_VERSION, ENABLED];
    io_apic.extend(IO_APIC.to_le_bytes());
    let mut entries = vec![processor, bus, io_apic];
    // Each line of the ISA bus to the pin of its number.
    let pins = (0..16).map(|line| vec![3, INT, 0, 0, ISA, line, IO_APIC_ID, line]);
    entries.extend(pins);
    entries.push(vec![4, EXT_INT, 0, 0, ISA, 0, ALL, 0]);
    entries.push(vec![4, NMI, 0, 0, ISA, 0, ALL, 1]);
    entries
}

/// The byte that makes the sum of all of them 0.
fn checksum(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    sum.wrapping_neg()
}

fn pointer(table: u32) -> Vec<u8> {
    let mut pointer = b"_MP_".to_vec();
    pointer.extend(table.to_le_bytes());
    // Length in units of 16 bytes, version 1.4, checksum, no default setup.
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    pointer
}

fn table() -> Vec<u8> {
    let entries = entries();
    let mut body = Vec::new();
    body.extend(b"VHSTGSTS");
    body.extend(b"example VMM ");
    body.extend([0; 6]); // no table of the manufacturer's
    body.extend((entries.len() as u16).to_le_bytes());
    body.extend(LOCAL_APIC.to_le_bytes());
    body.extend([0; 4]); // no extended entries
    body.extend(entries.concat());
    let mut table = b"PCMP".to_vec();
    table.extend((body.len() as u16 + 8).to_le_bytes());
    table.extend([4, 0]); // version 1.4, checksum
    table.extend(body);
    table[7] = checksum(&table);
    table
}

/// Writes the table to where guests look for it.
pub fn write(memory: &Memory) -> Result<(), Error> {
    let table_address = LOW_MEMORY_END + 16;
    let writes = [
        (LOW_MEMORY_END, pointer(table_address as u32)),
        (table_address, table()),
    ];
    for (address, bytes) in writes {
        let outcome = memory.write_slice(&bytes, GuestAddress(address));
        outcome.map_err(Error::memory("MultiProcessor table"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_and_fits_its_kib() {
        for bytes in [pointer(0x9_FC10), table()] {
            assert_eq!(checksum(&bytes), 0);
        }
        let table = table();
        assert!(16 + table.len() <= 1024);
        let length = u16::from_le_bytes([table[4], table[5]]);
        assert_eq!(usize::from(length), table.len());
    }
}
