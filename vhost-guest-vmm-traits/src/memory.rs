// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! File memory that appears in a BAR.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// Maps ranges of files into the *window*, the device's shared memory BAR.
///
/// One object serves one window. Whether each range becomes a memory slot of
/// its own or part of one arena that is remapped in place is the
/// implementer's choice, under these rules:
///
/// - A range that is not mapped never shows anything of the VMM's: it is a
///   hole (an MMIO exit, answered by the device), or inaccessible. In an
///   arena, unmapping *replaces* a range (`MAP_FIXED`, `PROT_NONE`); it never
///   leaves a gap in the address space for another `mmap` to fill.
/// - Mappings are shared, readable and writable, made with `MAP_NORESERVE`,
///   and kept out of core dumps and forks (`MADV_DONTDUMP`, `MADV_DONTFORK`).
///   A VMM must not use `mlockall(MCL_FUTURE)`: it would fill a frontend's
///   sparse file with pages charged to this VMM.
/// - Host address, guest address and file offset are congruent modulo the
///   page size hoped for. The device chooses window offsets that are congruent
///   to file offsets modulo at least 2 MiB; an implementer does its part by
///   aligning the window.
/// - Whether other devices of the VM (a passthrough NIC) may DMA into the
///   window is the VMM's choice. If they may, [`unmap`](Self::unmap) removes
///   the range from their IOMMU mappings too.
pub trait SharedMemoryMapper: Send + Sync {
    /// Maps `length` bytes of the file `fd`, from `fd_offset` on, at
    /// `window_offset`.
    ///
    /// `window_offset`, `fd_offset` and `length` are multiples of the host's
    /// page size (of the file's page size for hugetlbfs); the range lies within
    /// the window, and nothing is mapped in it. The file may end within the last
    /// page of it, and did not end before when it was looked at.
    ///
    /// Cost: a system call or two, more in a VMM whose devices are jailed.
    ///
    /// # Errors
    ///
    /// On an error the range is unmapped as before. `PermissionDenied` if the
    /// file cannot be mapped writable, `OutOfMemory` or any other error if
    /// the environment has no room.
    fn map(
        &self,
        window_offset: u64,
        fd: BorrowedFd<'_>,
        fd_offset: u64,
        length: u64,
    ) -> io::Result<()>;

    /// Unmaps a range, exactly as one earlier [`map`](Self::map) made it.
    ///
    /// Returns only when the guest, and any device of its, can no longer touch
    /// the memory, whatever the guest does.
    ///
    /// # Errors
    ///
    /// Any error means that the guest may still have the memory. The device
    /// then reports itself dead.
    fn unmap(&self, window_offset: u64, length: u64) -> io::Result<()>;

    /// Places the window at a guest physical address, or takes it out of the
    /// guest's address space (`None`) when the function decodes no memory.
    ///
    /// Mapped ranges stay mapped and move with it. On `Ok` the guest, and any
    /// device of its, can reach them at the new place and nowhere else. Called
    /// rarely: when firmware or the guest's kernel assigns BARs.
    ///
    /// # Errors
    ///
    /// `Some`: the window could not be placed. Where it was, or half-way, does
    /// not matter: the device places it nowhere before it goes on, and works
    /// without it until the guest moves it again.
    ///
    /// `None`: the guest may still reach what is mapped. The device then
    /// reports itself dead. All that can be taken from the guest is.
    fn place(&self, guest_address: Option<u64>) -> io::Result<()>;

    /// Descriptors of this object that a process jail must not close.
    fn fds_to_keep(&self) -> Vec<RawFd> {
        Vec::new()
    }
}
