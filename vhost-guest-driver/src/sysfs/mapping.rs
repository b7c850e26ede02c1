// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that this process maps: BARs, and pages for DMA.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;

use rustix::mm::{mmap_anonymous, MapFlags};

use super::SysfsError;
use crate::mapping::{self, READ_WRITE};
use crate::transport::DmaMemory;
use crate::window::Window;

/// The first `len` bytes of a file of sysfs, which is a BAR.
pub fn map_bar(path: &Path, len: u64) -> Result<Window, SysfsError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|error| SysfsError::io(path, error))?;
    mapping::map_shared(file.as_fd(), 0, len).map_err(|error| SysfsError::io(path, error))
}

/// One huge page of x86-64: contiguous, and the kernel does not move it.
pub const DMA_LEN: usize = 2 << 20;

/// Where a process learns physical addresses: 8 bytes for each of its pages.
const PAGEMAP: &str = "/proc/self/pagemap";
const PAGE: u64 = 4096;
const PRESENT: u64 = 1 << 63;
/// The page frame number, 0 for those who may not know it.
const FRAME: u64 = (1 << 55) - 1;

/// A huge page, with its physical address.
pub fn allocate_dma() -> Result<DmaMemory, SysfsError> {
    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::LOCKED | MapFlags::POPULATE;
    // SAFETY: as for `map_bar`.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), DMA_LEN, READ_WRITE, flags) };
    let base = base.map_err(|error| SysfsError::HugePage(error.into()))?;
    let base = NonNull::new(base).ok_or(SysfsError::TooLarge)?;
    let virtual_address = base.addr().get() as u64;
    // SAFETY: the range was just mapped, and nobody else knows it.
    let memory = unsafe { mapping::window(base, DMA_LEN) }.ok_or(SysfsError::TooLarge)?;
    let path = Path::new(PAGEMAP);
    let pagemap = File::open(path).map_err(|error| SysfsError::io(path, error))?;
    let mut entry = [0; 8];
    pagemap
        .read_exact_at(&mut entry, virtual_address / PAGE * 8)
        .map_err(|error| SysfsError::io(path, error))?;
    let address = physical_address(u64::from_ne_bytes(entry)).ok_or(SysfsError::Pagemap)?;
    Ok(DmaMemory { memory, address })
}

fn physical_address(entry: u64) -> Option<u64> {
    let frame = entry & FRAME;
    let known = entry & PRESENT != 0 && frame != 0;
    known.then(|| frame.checked_mul(PAGE))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_pagemap_entries_without_a_page() {
        assert_eq!(physical_address(PRESENT | 0x1234), Some(0x123_4000));
        // Present, but for somebody without CAP_SYS_ADMIN.
        assert_eq!(physical_address(PRESENT), None);
        // Swapped out: what looks like a frame is none.
        assert_eq!(physical_address(1 << 62 | 0x1234), None);
        assert_eq!(physical_address(u64::MAX), None);
    }

    #[test]
    fn says_how_a_huge_page_is_reserved() {
        // Machines have one or have none; either must be said well.
        if let Err(error) = allocate_dma() {
            let text = error.to_string();
            assert!(text.contains("nr_hugepages") || text.contains("pagemap"));
        }
    }
}
