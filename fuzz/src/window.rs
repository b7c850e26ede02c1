// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frontends' memory, mapped in this process as a VMM does it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError, RwLock};

use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use vhost_guest_vmm_traits::{RangeId, SharedMemoryMapper};

/// A part of a file.
struct Mapping {
    address: usize,
    bytes: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<Self> {
        let bytes = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces
        // nothing, and nobody makes references into it.
        let address = unsafe { mmap(null_mut(), bytes, protection, flags, fd, offset) }?;
        Ok(Self {
            address: address as usize,
            bytes,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let address = std::ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: the range is this object's, and the guest's accesses to it
        // hold the lock of what is attached, in which it is not any more.
        let _ = unsafe { munmap(address, self.bytes) };
    }
}

/// A window whose guest is an emulated one: its accesses are looked up here.
#[derive(Default)]
pub struct Window {
    open: Mutex<BTreeMap<RangeId, Mapping>>,
    next: Mutex<u32>,
    /// Address and length of what the guest has, by window offset.
    attached: RwLock<BTreeMap<u64, (RangeId, usize, usize)>>,
}

impl Window {
    /// The guest accesses what is at `offset`: `false` if the host has no page for
    /// it. The kernel makes the access, which so fails instead of raising a signal,
    /// as it does for a vCPU on KVM.
    pub fn access(&self, offset: u64, store: Option<u8>) -> bool {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        let Some((at, (_, address, bytes))) = attached.range(..=offset).next_back() else {
            return true;
        };
        let within = offset - at;
        if within >= *bytes as u64 {
            return true;
        }
        let memory = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem");
        let memory = memory.expect("this process");
        let at = *address as u64 + within;
        match store {
            Some(byte) => memory.write_at(&[byte], at),
            None => memory.read_at(&mut [0], at),
        }
        .is_ok()
    }
}

impl SharedMemoryMapper for Window {
    fn open(&self, fd: BorrowedFd<'_>, fd_offset: u64, length: u64) -> io::Result<RangeId> {
        let mapping = Mapping::new(fd, fd_offset, length)?;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(RangeId(*next), mapping);
        Ok(RangeId(*next))
    }

    fn attach(&self, range: RangeId, window_offset: u64) -> io::Result<()> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mapping = open.get(&range).ok_or(io::ErrorKind::NotFound)?;
        let mut attached = self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        attached.insert(window_offset, (range, mapping.address, mapping.bytes));
        Ok(())
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        let mut attached = self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        attached.retain(|_, (other, ..)| *other != range);
        Ok(())
    }

    fn close(&self, range: RangeId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mapping = open.remove(&range);
        drop(open);
        drop(mapping);
    }

    fn place(&self, _: Option<u64>) -> io::Result<()> {
        Ok(())
    }
}
