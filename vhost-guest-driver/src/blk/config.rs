// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The configuration, and the limits that it announces (virtio 1.2 §5.2.4).

use super::SECTOR_SIZE;

/// Bytes of a segment, so that one request is bounded.
pub(super) const SIZE_MAX: u32 = 1 << 20;
/// Segments of a request: what a vring of 128 has descriptors for, besides
/// header and status.
pub(super) const SEG_MAX: u32 = 126;
/// Zeroes may have to be written like other data, so that one request must
/// not be long.
pub(super) const MAX_WRITE_ZEROES_SECTORS: u32 = 8192;
/// 64 MiB, which a file system takes back soon even if each of its blocks is
/// somewhere else.
pub(super) const MAX_DISCARD_SECTORS: u32 = 128 << 10;
/// Pages, of which most file systems are made.
const PAGE_SIZE: u32 = 4096;

/// Length of `struct virtio_blk_config` up to what belongs to features that
/// are not offered.
pub(super) const CONFIG_LEN: usize = 60;

/// The capacity comes first.
pub(super) const CAPACITY_LEN: u32 = 8;

/// What differs from disk to disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    /// Sectors of the disk.
    pub capacity: u64,
    /// Bytes of a block, a power of two.
    pub block_size: u32,
    /// Vrings.
    pub queues: u16,
}

impl Config {
    /// As the guest reads it.
    ///
    /// | offset | type | field |
    /// |---|---|---|
    /// | 0 | le64 | capacity |
    /// | 8, 12 | le32 | size_max, seg_max |
    /// | 20 | le32 | blk_size |
    /// | 24 | u8 | physical_block_exp |
    /// | 26, 28 | le16, le32 | min_io_size, opt_io_size |
    /// | 34 | le16 | num_queues |
    /// | 36, 40 | le32 | max_discard_sectors, max_discard_seg |
    /// | 44 | le32 | discard_sector_alignment |
    /// | 48, 52 | le32 | max_write_zeroes_sectors, max_write_zeroes_seg |
    /// | 56 | u8 | write_zeroes_may_unmap |
    pub fn to_bytes(self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            if let Some(field) = config.get_mut(offset..offset + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        let physical = self.block_size.max(PAGE_SIZE);
        // Both are powers of two.
        let exponent = physical.trailing_zeros() - self.block_size.trailing_zeros();
        put(0, &self.capacity.to_le_bytes());
        put(8, &SIZE_MAX.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &self.block_size.to_le_bytes());
        put(24, &[exponent as u8]);
        put(26, &(1u16 << exponent).to_le_bytes());
        put(34, &self.queues.to_le_bytes());
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &(physical / SECTOR_SIZE as u32).to_le_bytes());
        put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}
