// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A virtio-blk device on an image file (virtio 1.2 §5.2).

mod holes;
mod request;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use vhost_guest_msg::VirtioFeatures;

use crate::backend::Backend;
use crate::vring::Ring;

/// Bytes of a sector, in which virtio-blk counts.
pub const SECTOR_SIZE: u64 = 512;

const DEVICE_TYPE: u16 = 2;
const ID_LEN: usize = 20;

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Segments of a request: what a vring of 128 has descriptors for, besides
/// header and status.
const SEG_MAX: u32 = 126;
/// Zeroes may have to be written like other data, so that one request must
/// not be long.
const MAX_WRITE_ZEROES_SECTORS: u32 = 8192;
/// 2 GiB, which a file system takes back at once.
const MAX_DISCARD_SECTORS: u32 = 4 << 20;
/// Pages, of which most file systems are made.
const DISCARD_ALIGNMENT: u32 = 8;

/// Length of `struct virtio_blk_config`.
const CONFIG_LEN: usize = 60;

/// A virtio-blk device on an image file or a block device.
///
/// A write is acknowledged when the file has it; it survives a crash of the
/// machine once a flush after it has been acknowledged. A driver without
/// flushes (VIRTIO_BLK_F_FLUSH not negotiated) gets each write
/// acknowledged only when it is on stable storage.
///
/// What the driver discards (VIRTIO_BLK_F_DISCARD) becomes a hole in the file,
/// where the file system has any.
///
/// ```no_run
/// use vhost_guest_driver::blk::Blk;
/// use vhost_guest_driver::{serve, Device, Error, Transport};
///
/// fn disk(transport: impl Transport) -> Result<(), Box<dyn std::error::Error>> {
///     let blk = Blk::open("disk.img", false)?.with_queues(4).with_id("disk0");
///     serve(Device::open(transport)?, blk)?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Blk {
    file: File,
    sectors: u64,
    read_only: bool,
    queues: u16,
    id: [u8; ID_LEN],
    /// The driver flushes when it wants to.
    flushes: bool,
    /// The guest may have an IOMMU in front of the disk.
    access_platform: bool,
    buffer: Vec<u8>,
}

impl Blk {
    /// Opens an image. What is behind its last whole sector is left alone.
    pub fn open(path: impl AsRef<Path>, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        Self::new(file, read_only)
    }

    /// A disk on an open file.
    pub fn new(mut file: File, read_only: bool) -> io::Result<Self> {
        // The length of a block device is not in its metadata.
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            sectors: len / SECTOR_SIZE,
            read_only,
            queues: 1,
            id: *b"vhost-guest\0\0\0\0\0\0\0\0\0",
            flushes: false,
            access_platform: false,
            buffer: Vec::new(),
        })
    }

    /// With so many queues, at least one.
    #[must_use]
    pub fn with_queues(mut self, queues: u16) -> Self {
        self.queues = queues.max(1);
        self
    }

    /// For guests that have an IOMMU in front of the disk: offers
    /// VIRTIO_F_ACCESS_PLATFORM.
    #[must_use]
    pub fn with_access_platform(mut self) -> Self {
        self.access_platform = true;
        self
    }

    /// With a name that the guest can ask for; its first 20 bytes count.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = [0; ID_LEN];
        for (to, from) in self.id.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        self
    }

    /// Size of the disk in [sectors](SECTOR_SIZE).
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The configuration (virtio 1.2 §5.2.4).
    ///
    /// | offset | type | field |
    /// |---|---|---|
    /// | 0 | le64 | capacity |
    /// | 12 | le32 | seg_max |
    /// | 20 | le32 | blk_size |
    /// | 34 | le16 | num_queues |
    /// | 36, 40 | le32 | max_discard_sectors, max_discard_seg |
    /// | 44 | le32 | discard_sector_alignment |
    /// | 48, 52 | le32 | max_write_zeroes_sectors, max_write_zeroes_seg |
    /// | 56 | u8 | write_zeroes_may_unmap |
    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            if let Some(field) = config.get_mut(offset..offset + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        put(0, &self.sectors.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR_SIZE as u32).to_le_bytes());
        put(34, &self.queues.to_le_bytes());
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &DISCARD_ALIGNMENT.to_le_bytes());
        put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl Backend for Blk {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn features(&self) -> VirtioFeatures {
        let access = match self.read_only {
            true => F_RO,
            false => F_DISCARD | F_WRITE_ZEROES,
        };
        let bits = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_MQ | access;
        let mut features = VirtioFeatures::from_bits_retain(bits);
        features.set(VirtioFeatures::ACCESS_PLATFORM, self.access_platform);
        features
    }

    fn set_features(&mut self, features: VirtioFeatures) {
        self.flushes = features.bits() & F_FLUSH != 0;
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) -> bool {
        let config = self.config();
        let rest = config.get(offset as usize..).unwrap_or(&[]);
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
        true
    }

    fn reset(&mut self) {
        self.flushes = false;
    }

    fn budget(&self) -> u16 {
        // A request may be a long one.
        16
    }

    fn process(&mut self, _queue: u16, ring: &mut Ring<'_>) {
        while let Some(mut chain) = ring.next_chain() {
            let written = self.handle(&mut chain);
            ring.complete(chain, written);
        }
    }
}

#[cfg(test)]
mod tests;
