// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The smallest ACPI tables (ACPI 6.3) with which Linux finds its interrupt
//! controllers, PCI and the console. Without them Debian's kernel would not use
//! the local APIC, hence no message-signalled interrupts.
//!
//! | table | what it says |
//! |---|---|
//! | RSDP, XSDT | where the others are |
//! | FADT | there is no other ACPI hardware; how to reset and to power off |
//! | DSDT | there are a PCI host bridge and a serial port |
//! | MADT | there are one processor and one I/O APIC |

use vm_memory::{Bytes, GuestAddress};

use super::bus::{KEYBOARD, POWER, PULL_RESET, SERIAL, SERIAL_LINE};
use super::machine::{IO_APIC, LOCAL_APIC, LOW_RAM_END};
use super::pci::CONFIG_ADDRESS;
use super::{Error, Memory};

/// Where guests look for the RSDP, and the other tables follow it.
const START: u64 = 0xE_0000;
/// Bytes kept for each table.
const ROOM: u64 = 0x400;

const IO_APIC_ID: u8 = 1;
const ENABLED: u32 = 1;

/// FADT: `RESET_REG_SUP` and `HW_REDUCED_ACPI`.
const FLAGS: u32 = 1 << 10 | 1 << 20;
/// FADT: no VGA, no CMOS clock; with no flag for it, no keyboard either.
const BOOT_FLAGS: u16 = 1 << 2 | 1 << 5;
/// The sleep type that means power off, here.
const S5: u8 = 5;

/// Memory attributes of a resource: read, write.
const READ_WRITE: u8 = 1;
/// The same, and prefetchable.
const PREFETCHABLE: u8 = READ_WRITE | 3 << 1;

/// The byte that makes the sum of all of them 0.
fn checksum(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    sum.wrapping_neg()
}

/// A table: the header that all have, and what is in this one.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(b"VHOSTGEXAMPLE ");
    table.extend(1_u32.to_le_bytes());
    table.extend(b"VHGT");
    table.extend(1_u32.to_le_bytes());
    table.extend(body);
    table[9] = checksum(&table);
    table
}

fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut rsdp = b"RSD PTR \0VHOSTG\x02".to_vec();
    rsdp.extend(0_u32.to_le_bytes()); // no RSDT
    rsdp[8] = checksum(&rsdp);
    rsdp.extend(36_u32.to_le_bytes());
    rsdp.extend(xsdt.to_le_bytes());
    rsdp.push(checksum(&rsdp));
    rsdp.extend([0; 3]);
    rsdp
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut body = vec![0; 240];
    // Offsets are those in the table, header included.
    let mut put = |offset: usize, bytes: &[u8]| {
        if let Some(to) = body.get_mut(offset - 36..offset - 36 + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    // An 8-bit register in I/O space.
    let register = |port: u16| {
        let [low, high] = port.to_le_bytes();
        [1, 8, 0, 1, low, high, 0, 0, 0, 0, 0, 0]
    };
    put(109, &BOOT_FLAGS.to_le_bytes());
    put(112, &FLAGS.to_le_bytes());
    put(116, &register(KEYBOARD));
    put(128, &[PULL_RESET]);
    put(131, &[3]); // minor version
    put(140, &dsdt.to_le_bytes());
    put(244, &register(POWER));
    put(256, &register(POWER + 1));
    table(b"FACP", 6, &body)
}

fn madt() -> Vec<u8> {
    let mut body = (LOCAL_APIC as u32).to_le_bytes().to_vec();
    body.extend(0_u32.to_le_bytes()); // no PICs
    body.extend([0, 8, 0, 0]); // processor 0, APIC 0
    body.extend(ENABLED.to_le_bytes());
    body.extend([1, 12, IO_APIC_ID, 0]);
    body.extend((IO_APIC as u32).to_le_bytes());
    body.extend(0_u32.to_le_bytes()); // its lines are 0 and up
    table(b"APIC", 5, &body)
}

/// AML: something with its length in front.
fn package(opcode: &[u8], content: &[u8]) -> Vec<u8> {
    // The two-byte form, good for 4 KiB. The length counts itself.
    let length = content.len() + 2;
    let length = [0x40 | (length & 0xF) as u8, (length >> 4) as u8];
    [opcode, &length, content].concat()
}

fn name(name: &[u8; 4], value: &[u8]) -> Vec<u8> {
    [&[0x08], &name[..], value].concat()
}

/// A device with its EISA identifier and its resources.
fn device(path: &[u8; 4], identifier: [u8; 4], resources: &[Vec<u8>]) -> Vec<u8> {
    let mut template = resources.concat();
    template.extend([0x79, 0]); // end tag
    let size = (template.len() as u16).to_le_bytes();
    let template = [&[0x0B][..], &size, &template].concat();
    let content = [
        path.to_vec(),
        name(b"_HID", &[&[0x0C][..], &identifier].concat()),
        name(b"_CRS", &package(&[0x11], &template)),
    ];
    package(&[0x5B, 0x82], &content.concat())
}

fn ports(first: u16) -> Vec<u8> {
    let first = first.to_le_bytes();
    [&[0x47, 1], &first[..], &first[..], &[1, 8]].concat()
}

fn interrupt(line: u32) -> Vec<u8> {
    // Consumed by the device, edge-triggered.
    [&[0x89, 6, 0, 0b11, 1], &line.to_le_bytes()[..]].concat()
}

fn bus_numbers(count: u16) -> Vec<u8> {
    let fields = [0, 0, count - 1, 0, count].map(u16::to_le_bytes);
    [&[0x88, 13, 0, 2, 0x0C, 0], fields.as_flattened()].concat()
}

fn addresses(start: u64, end: u64, attributes: u8) -> Vec<u8> {
    let fields = [0, start, end - 1, 0, end - start].map(u64::to_le_bytes);
    let head = [0x8A, 43, 0, 0, 0x0C, attributes];
    [&head, fields.as_flattened()].concat()
}

/// The DSDT, with the addresses where PCI devices may have their windows.
fn dsdt(windows: (u64, u64)) -> Vec<u8> {
    const PNP0A03: [u8; 4] = [0x41, 0xD0, 0x0A, 0x03];
    const PNP0501: [u8; 4] = [0x41, 0xD0, 0x05, 0x01];
    let pci = [
        bus_numbers(1),
        ports(CONFIG_ADDRESS),
        addresses(LOW_RAM_END, IO_APIC, READ_WRITE),
        addresses(windows.0, windows.1, PREFETCHABLE),
    ];
    let serial = [ports(SERIAL), interrupt(SERIAL_LINE)];
    let scope = [
        b"\\_SB_".to_vec(),
        device(b"PCI0", PNP0A03, &pci),
        device(b"COM1", PNP0501, &serial),
    ];
    let power_off = name(b"_S5_", &package(&[0x12], &[1, 0x0A, S5]));
    let body = [package(&[0x10], &scope.concat()), power_off];
    table(b"DSDT", 2, &body.concat())
}

/// Writes the tables. Returns where they start.
pub fn write(memory: &Memory, windows: (u64, u64)) -> Result<u64, Error> {
    let address = |index: u64| START + ROOM * index;
    let tables = [fadt(address(2)), madt()];
    let xsdt: Vec<u8> = [address(3), address(4)].map(u64::to_le_bytes).concat();
    let [fadt, madt] = tables;
    let all = [
        rsdp(address(1)),
        table(b"XSDT", 1, &xsdt),
        dsdt(windows),
        fadt,
        madt,
    ];
    for (index, bytes) in (0..).zip(all) {
        let outcome = memory.write_slice(&bytes, GuestAddress(address(index)));
        outcome.map_err(Error::memory("ACPI tables"))?;
    }
    Ok(START)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_tables_that_add_up_and_fit() {
        let windows = (1 << 32, 1 << 36);
        for table in [
            fadt(START),
            madt(),
            dsdt(windows),
            table(b"XSDT", 1, &[0; 16]),
        ] {
            assert_eq!(checksum(&table), 0);
            assert!((table.len() as u64) < ROOM);
            let length = u32::from_le_bytes([table[4], table[5], table[6], table[7]]);
            assert_eq!(length as usize, table.len());
        }
        let rsdp = rsdp(START);
        assert_eq!((rsdp.len(), checksum(&rsdp)), (36, 0));
        assert_eq!(checksum(&rsdp[..20]), 0);
        assert_eq!(fadt(START).len(), 276);
    }
}
