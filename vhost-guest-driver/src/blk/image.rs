// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The image file, whose length may change at any time.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use rustix::fs::{fstat, FileType};

use super::{holes, SECTOR_SIZE};

/// A file as an array of sectors.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    /// Bytes of a block, a power of two that is a multiple of a sector.
    block_size: u32,
    sectors: u64,
}

impl Image {
    pub fn new(file: File, block_size: u32) -> io::Result<Self> {
        let mut this = Self {
            file,
            block_size,
            sectors: 0,
        };
        this.measure()?;
        Ok(this)
    }

    /// The same file in blocks of another size, of which the disk has whole
    /// ones only.
    pub fn with_block_size(self, block_size: u32) -> io::Result<Self> {
        Self::new(self.file, block_size)
    }

    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Sectors of the disk when the file was last looked at.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Looks at the length of the file.
    pub fn measure(&mut self) -> io::Result<()> {
        let found = fstat(&self.file)?;
        let len = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => found.st_size as u64,
            // The length of a block device is not in its metadata.
            _ => self.file.seek(SeekFrom::End(0))?,
        };
        let block_size = u64::from(self.block_size);
        self.sectors = len / block_size * (block_size / SECTOR_SIZE);
        Ok(())
    }

    /// Where `len` bytes at `sector` are in the file; `None` if they are no
    /// sectors of the disk.
    pub fn position(&self, sector: u64, len: u64) -> Option<u64> {
        let end = sector.checked_add(len / SECTOR_SIZE)?;
        let inside = len.is_multiple_of(SECTOR_SIZE) && end <= self.sectors;
        // Sectors of the disk are bytes of a file, which are fewer than 2^63.
        inside.then(|| sector * SECTOR_SIZE)
    }

    /// Reads at `position`.
    pub fn read(&mut self, data: &mut [u8], position: u64) -> io::Result<()> {
        let outcome = self.file.read_exact_at(data, position);
        if outcome.is_err() {
            // It may have become shorter. What it is now, the next one asks.
            let _ = self.measure();
        }
        outcome
    }

    /// Writes at `position`.
    pub fn write(&mut self, data: &[u8], position: u64) -> io::Result<()> {
        self.expect(position, data.len() as u64)?;
        self.file.write_all_at(data, position)
    }

    /// Puts on stable storage what was written.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes `len` bytes at `position` a hole, or zeroes that keep their
    /// space. `false` if the file system cannot do that.
    pub fn clear(&mut self, position: u64, len: u64, keep: bool) -> io::Result<bool> {
        self.expect(position, len)?;
        holes::clear(&self.file, position, len, keep)
    }

    /// Looks whether the file still reaches so far. To write behind its end
    /// would make it longer again, unlike its owner has wanted it to be.
    fn expect(&mut self, position: u64, len: u64) -> io::Result<()> {
        self.measure()?;
        let end = position.checked_add(len);
        match end.is_some_and(|end| end <= self.sectors * SECTOR_SIZE) {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
