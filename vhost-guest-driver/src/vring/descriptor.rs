// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors (virtio 1.2 §2.7.5, §2.8.5).
//!
//! | offset | type | split ring | packed ring |
//! |---|---|---|---|
//! | 0 | le64 | addr | addr |
//! | 8 | le32 | len | len |
//! | 12 | le16 | flags | id |
//! | 14 | le16 | next | flags |
//!
//! Flags: 1 next, 2 device-writable, 4 indirect; in a packed ring also 1 << 7
//! available, 1 << 15 used.

use alloc::vec::Vec;

pub(super) const DESCRIPTOR_LEN: u64 = 16;
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// A descriptor of either kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    /// In a split ring, the index of the next one; in a packed ring, the
    /// buffer ID.
    pub tag: u16,
}

impl Descriptor {
    pub(super) fn split(bytes: [u8; DESCRIPTOR_LEN as usize]) -> Self {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            tag: u16::from_le_bytes([n0, n1]),
        }
    }

    pub(super) fn packed(bytes: [u8; DESCRIPTOR_LEN as usize]) -> Self {
        let split = Self::split(bytes);
        Self {
            flags: split.tag,
            tag: split.flags,
            ..split
        }
    }
}

/// A request as its ring has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// In a split ring, the index of the first descriptor; in a packed ring,
    /// the buffer ID.
    pub id: u16,
    /// In a packed ring, its descriptors there.
    pub descriptors: Vec<Descriptor>,
    /// In the record of a packed ring, its first entry.
    pub entry: u16,
}

impl Request {
    /// In a packed ring, how many descriptors it has there: no more than the
    /// ring, 16 bits.
    pub fn count(&self) -> u16 {
        self.descriptors.len() as u16
    }
}
