// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! MSI-X: the table, the control word, the pending bits (PCI 3.0 §6.8.2).
//!
//! This is the state only. What it means for eventfds is the business of
//! [`crate::guest::interrupts`].
//!
//! Table entry, 16 bytes for each vector:
//!
//! | offset | bits | field |
//! |---|---|---|
//! | 0 | 31:2 | message address |
//! | 4 | 31:0 | upper half of the message address |
//! | 8 | 31:0 | message data |
//! | 12 | 0 | mask; set after reset |

use vhost_guest_vmm_traits::MsiMessage;

use crate::guest::snapshot::{ensure, Damage};

/// Bytes of a table entry.
pub(crate) const ENTRY_SIZE: u64 = 16;
/// Message control: MSI-X is enabled.
pub(crate) const ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub(crate) const FUNCTION_MASK: u16 = 1 << 14;

#[derive(Clone, Copy, Debug)]
struct Entry {
    message: MsiMessage,
    masked: bool,
}

const RESET_ENTRY: Entry = Entry {
    message: MsiMessage {
        address: 0,
        data: 0,
    },
    masked: true,
};

/// A table that was read from a snapshot.
pub(crate) struct Table(Vec<Entry>);

/// The MSI-X table and control word of a function.
#[derive(Debug)]
pub(crate) struct Msix {
    entries: Vec<Entry>,
    control: u16,
    /// The VMM writes the entries, and nobody else.
    kept_by_vmm: bool,
}

impl Msix {
    /// A table of `vectors` masked entries, not enabled.
    pub(crate) fn new(vectors: u16) -> Self {
        Msix {
            entries: vec![RESET_ENTRY; usize::from(vectors)],
            control: 0,
            kept_by_vmm: false,
        }
    }

    /// Back to the state after power-up, but for entries that the VMM keeps.
    pub(crate) fn reset(&mut self) {
        if !self.kept_by_vmm {
            self.entries.fill(RESET_ENTRY);
        }
        self.control = 0;
    }

    /// The VMM, which keeps the guest's table itself, sets an entry: what it
    /// raises, or that it is masked. All others are masked at first.
    pub(crate) fn set_entry(&mut self, vector: u16, message: Option<MsiMessage>) {
        if !self.kept_by_vmm {
            self.entries.fill(RESET_ENTRY);
            self.kept_by_vmm = true;
        }
        if let Some(entry) = self.entries.get_mut(usize::from(vector)) {
            entry.masked = message.is_none();
            entry.message = message.unwrap_or(entry.message);
        }
    }

    /// The table in a snapshot. One that the VMM keeps is not part of it.
    pub(crate) fn save(&self) -> Vec<u8> {
        let entries = self.entries.iter().map(|entry| match self.kept_by_vmm {
            true => Self::entry_bytes(&RESET_ENTRY),
            false => Self::entry_bytes(entry),
        });
        entries.flatten().collect()
    }

    /// Checks the table in a snapshot.
    pub(crate) fn parse(&self, bytes: &[u8]) -> Result<Table, Damage> {
        let (entries, rest) = bytes.as_chunks::<{ ENTRY_SIZE as usize }>();
        let right = rest.is_empty() && entries.len() == self.entries.len();
        ensure(right, Damage::VectorTableSize)?;
        let mut table = Vec::with_capacity(entries.len());
        for bytes in entries {
            let bits = u128::from_le_bytes(*bytes);
            let entry = Entry {
                message: MsiMessage {
                    address: bits as u64 & !3,
                    data: (bits >> 64) as u32,
                },
                masked: bits >> 96 & 1 != 0,
            };
            // Bits that cannot be written read 0.
            ensure(Self::entry_bytes(&entry) == *bytes, Damage::VectorTable)?;
            table.push(entry);
        }
        Ok(Table(table))
    }

    /// Takes over the table of a snapshot, but for one that the VMM keeps.
    pub(crate) fn restore(&mut self, table: Table) {
        if !self.kept_by_vmm {
            self.entries = table.0;
        }
    }

    /// Number of vectors.
    pub(crate) fn vectors(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Takes over the enable and function mask bits of the control word.
    pub(crate) fn set_control(&mut self, control: u16) {
        self.control = control & (ENABLE | FUNCTION_MASK);
    }

    /// Whether MSI-X is enabled.
    pub(crate) fn enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// Whether `vector` is masked: by its own bit *or* by the function mask.
    pub(crate) fn masked(&self, vector: u16) -> bool {
        let entry = self.entries.get(usize::from(vector));
        self.control & FUNCTION_MASK != 0 || entry.is_none_or(|entry| entry.masked)
    }

    /// The message that an event on `vector` raises; `None` if it must not
    /// raise any now.
    pub(crate) fn message(&self, vector: u16) -> Option<MsiMessage> {
        let entry = self.entries.get(usize::from(vector))?;
        (self.enabled() && !self.masked(vector)).then_some(entry.message)
    }

    fn entry_bytes(entry: &Entry) -> [u8; ENTRY_SIZE as usize] {
        let address = u128::from(entry.message.address);
        let data = u128::from(entry.message.data);
        let bits = address | data << 64 | u128::from(entry.masked) << 96;
        bits.to_le_bytes()
    }

    /// Reads from the table; 0 behind its end.
    pub(crate) fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (i, byte) in (0..).zip(data) {
            let at: u64 = offset.saturating_add(i);
            let index = usize::try_from(at / ENTRY_SIZE).ok();
            let entry = index.and_then(|index| self.entries.get(index));
            *byte = entry.map_or(0, |entry| {
                Self::entry_bytes(entry)[(at % ENTRY_SIZE) as usize]
            });
        }
    }

    /// Writes to the table: aligned accesses of 4 or 8 bytes; anything else is
    /// undefined in PCI, and ignored here, as are all accesses to a table that
    /// the VMM keeps. Tells whether something changed.
    pub(crate) fn write_table(&mut self, offset: u64, data: &[u8]) -> bool {
        if self.kept_by_vmm || !offset.is_multiple_of(data.len().max(1) as u64) {
            return false;
        }
        let mut changed = false;
        if matches!(data.len(), 4 | 8) {
            for (i, word) in (0..).zip(data.chunks_exact(4)) {
                let word = word.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b));
                changed |= self.write_word(offset.saturating_add(4 * i), word);
            }
        }
        changed
    }

    fn write_word(&mut self, offset: u64, word: u32) -> bool {
        let index = usize::try_from(offset / ENTRY_SIZE).ok();
        let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) else {
            return false;
        };
        let before = Self::entry_bytes(entry);
        let address = entry.message.address;
        match offset % ENTRY_SIZE {
            // The two lowest bits are hardwired to 0.
            0 => entry.message.address = address >> 32 << 32 | u64::from(word & !3),
            4 => entry.message.address = u64::from(word) << 32 | address & 0xFFFF_FFFF,
            8 => entry.message.data = word,
            _ => entry.masked = word & 1 != 0,
        }
        before != Self::entry_bytes(entry)
    }

    /// Reads pending bits. `pending` tells for vectors `first..first + 8`
    /// whether an event waits (bit 0 is `first`); it counts for masked ones.
    pub(crate) fn read_pending(&self, offset: u64, data: &mut [u8], pending: impl Fn(u16) -> bool) {
        for (i, byte) in (0..).zip(data) {
            // Bit k of byte n is vector 8n + k.
            let first: u64 = offset.saturating_add(i).saturating_mul(8);
            let bits = (0..8).filter(|bit| {
                let vector = u16::try_from(first.saturating_add(*bit)).ok();
                let vector = vector.filter(|vector| *vector < self.vectors());
                vector.is_some_and(|vector| self.masked(vector) && pending(vector))
            });
            *byte = bits.fold(0, |byte, bit| byte | 1 << bit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(msix: &Msix, offset: u64) -> u32 {
        let mut data = [0; 4];
        msix.read_table(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(msix: &mut Msix, offset: u64, word: u32) -> bool {
        msix.write_table(offset, &word.to_le_bytes())
    }

    #[test]
    fn starts_masked_and_disabled() {
        let msix = Msix::new(3);
        assert!(!msix.enabled());
        for vector in 0..3 {
            assert!(msix.masked(vector));
            assert_eq!(word(&msix, u64::from(vector) * 16 + 12), 1);
            assert_eq!(msix.message(vector), None);
        }
    }

    #[test]
    fn masks_by_either_bit() {
        let mut msix = Msix::new(2);
        msix.set_control(ENABLE);
        assert!(set(&mut msix, 12, 0));
        assert!(!msix.masked(0) && msix.masked(1));
        msix.set_control(ENABLE | FUNCTION_MASK);
        assert!(msix.masked(0) && msix.masked(1));
        set(&mut msix, 12, 1);
        msix.set_control(ENABLE);
        assert!(msix.masked(0));
    }

    #[test]
    fn raises_only_when_enabled_and_unmasked() {
        let mut msix = Msix::new(1);
        msix.write_table(0, &0x1_FEE0_1003_u64.to_le_bytes());
        msix.write_table(8, &77_u64.to_le_bytes());
        assert_eq!(msix.message(0), None);
        msix.set_control(ENABLE);
        let address = 0x1_FEE0_1000;
        assert_eq!(msix.message(0), Some(MsiMessage { address, data: 77 }));
        msix.set_control(ENABLE | FUNCTION_MASK);
        assert_eq!(msix.message(0), None);
        assert_eq!(msix.message(1), None);
    }

    #[test]
    fn keeps_a_table_that_is_larger_than_a_page() {
        let mut msix = Msix::new(263);
        let last = 262 * 16;
        assert!(last > 4096);
        assert!(set(&mut msix, last + 8, 0xABCD));
        assert_eq!(word(&msix, last + 8), 0xABCD);
        assert!(!set(&mut msix, last + 16, 1));
        assert_eq!(word(&msix, last + 16), 0);
    }

    #[test]
    fn ignores_odd_writes() {
        let mut msix = Msix::new(2);
        assert!(!msix.write_table(8, &[1]));
        assert!(!msix.write_table(8, &[1, 2]));
        assert!(!msix.write_table(6, &[1, 2, 3, 4]));
        assert!(!msix.write_table(4, &[1; 8]));
        assert!(!msix.write_table(0, &[1; 16]));
        assert!(!msix.write_table(0, &[]));
        assert!(!msix.write_table(u64::MAX - 3, &[1; 4]));
        assert_eq!(word(&msix, 8), 0);
    }

    #[test]
    fn tells_whether_a_write_changed_anything() {
        let mut msix = Msix::new(1);
        assert!(!set(&mut msix, 12, 1));
        assert!(set(&mut msix, 12, 0));
        assert!(!set(&mut msix, 12, 0));
        assert!(!set(&mut msix, 0, 3));
    }

    #[test]
    fn leaves_a_table_to_the_vmm_that_keeps_it() {
        let mut msix = Msix::new(2);
        msix.set_control(ENABLE);
        assert!(set(&mut msix, 16 + 12, 0));
        let message = MsiMessage {
            address: 0xFEE0_0000,
            data: 3,
        };
        msix.set_entry(0, Some(message));
        // What the guest wrote before is gone, what it writes now is lost.
        assert_eq!((msix.message(0), msix.message(1)), (Some(message), None));
        assert!(!set(&mut msix, 12, 1) && !set(&mut msix, 16 + 12, 0));
        assert_eq!((msix.message(0), msix.message(1)), (Some(message), None));
        msix.reset();
        assert_eq!(msix.message(0), None);
        msix.set_control(ENABLE);
        assert_eq!((msix.message(0), msix.message(1)), (Some(message), None));
        msix.set_entry(0, None);
        assert_eq!(msix.message(0), None);
        // There is no such vector.
        msix.set_entry(2, Some(message));
        assert_eq!(word(&msix, 32), 0);
    }

    /// The pending bit array is addressed by bytes, not by vectors.
    #[test]
    fn finds_the_pending_bit_of_each_vector() {
        let msix = Msix::new(263);
        for pending in [0, 1, 7, 8, 63, 64, 65, 255, 256, 262_u16] {
            let mut all = [0; 40];
            msix.read_pending(0, &mut all, |vector| vector == pending);
            let mut expected = [0; 40];
            expected[usize::from(pending / 8)] = 1 << (pending % 8);
            assert_eq!(all, expected);
            let mut word = [0; 8];
            msix.read_pending(u64::from(pending / 64 * 8), &mut word, |v| v == pending);
            assert_eq!(u64::from_le_bytes(word), 1 << (pending % 64));
        }
    }

    #[test]
    fn shows_pending_for_masked_vectors_only() {
        let mut msix = Msix::new(10);
        msix.set_control(ENABLE);
        set(&mut msix, 16 + 12, 0);
        let mut byte = [0];
        msix.read_pending(0, &mut byte, |_| true);
        assert_eq!(byte, [0b1111_1101]);
        msix.set_control(ENABLE | FUNCTION_MASK);
        msix.read_pending(0, &mut byte, |_| true);
        assert_eq!(byte, [0xFF]);
        msix.read_pending(1, &mut byte, |_| true);
        assert_eq!(byte, [0b11]);
        msix.read_pending(u64::MAX, &mut byte, |_| true);
        assert_eq!(byte, [0]);
    }
}
