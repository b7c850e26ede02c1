// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that this process has mapped, as windows.

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(feature = "vfio")]
use rustix::mm::mmap_anonymous;
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};

use crate::window::Window;

pub const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A mapping, unmapped when it is dropped.
struct Mapping {
    base: NonNull<c_void>,
    len: usize,
}

// SAFETY: it owns address space and nothing else; all access to the memory is
// through windows, which may be shared between threads.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference gives access to nothing.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped for this object alone, and whoever has
        // a pointer into it keeps this object alive.
        let _ = unsafe { munmap(self.base.as_ptr(), self.len) };
    }
}

/// The window on a mapping, which is unmapped with the last of its users.
///
/// # Safety
///
/// The `len` bytes at `base` must be mapped for loads and stores, and nobody
/// else may know them.
pub unsafe fn window(base: NonNull<c_void>, len: usize) -> Option<Window> {
    let mapping = Mapping { base, len };
    // SAFETY: the range stays mapped for loads and stores until the owner is
    // dropped, and its address is known to the window only.
    unsafe { Window::from_raw(base.cast(), len as u64, Some(Arc::new(mapping))) }
}

/// The `len` bytes of a file from `offset` on, shared with all who map them.
pub fn map_shared(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<Window> {
    let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
    let len = usize::try_from(len).map_err(|_| too_large())?;
    // SAFETY: a mapping at an address of the kernel's choice replaces nothing.
    let base = unsafe {
        mmap(
            std::ptr::null_mut(),
            len,
            READ_WRITE,
            MapFlags::SHARED,
            file,
            offset,
        )
    }?;
    let base = NonNull::new(base).ok_or_else(too_large)?;
    // SAFETY: the range was just mapped, and nobody else knows it.
    unsafe { window(base, len) }.ok_or_else(too_large)
}

/// Zeroed memory of this program's own, shared with those that it forks.
#[cfg(feature = "vfio")]
pub fn anonymous(len: u64) -> io::Result<Window> {
    let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
    let len = usize::try_from(len).map_err(|_| too_large())?;
    // SAFETY: as in `map_shared`.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, READ_WRITE, MapFlags::SHARED) }?;
    let base = NonNull::new(base).ok_or_else(too_large)?;
    // SAFETY: the range was just mapped, and nobody else knows it.
    unsafe { window(base, len) }.ok_or_else(too_large)
}
