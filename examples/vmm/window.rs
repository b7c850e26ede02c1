// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The window as an arena that is remapped in place.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{madvise, mmap, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};
use vhost_guest_vmm_traits::SharedMemoryMapper;

/// Alignment of the arena: the largest page that frontends use.
const ALIGNMENT: usize = 1 << 30;

/// An address range of the VMM's, in which frontend memory appears.
///
/// The emulated guest touches it directly, where a guest on KVM has memory
/// slots. Two differences remain:
///
/// - A hole holds zeros of the guest's own, where on KVM an access leaves the
///   guest. The kernel bounds them by the size of the arena.
/// - A frontend that truncates its memory file kills this process with
///   SIGBUS when the guest touches what is gone. On KVM, the VMM gets an error
///   that it can recover from.
pub struct Arena {
    /// The whole reservation, with room for the alignment.
    reservation: NonNull<u8>,
    reserved: usize,
    base: NonNull<u8>,
    size: usize,
    /// Length of each mapping, by window offset.
    mappings: Mutex<BTreeMap<u64, u64>>,
    /// The files of mappings, if they are kept, and where they begin there.
    files: Mutex<BTreeMap<u64, (OwnedFd, u64)>>,
    keeps_files: AtomicBool,
    loses_dirty_log: AtomicBool,
}

// SAFETY: the addresses do not belong to a thread, and the rest is locked.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Reserves `size` bytes of address space.
    pub fn new(size: usize) -> io::Result<Self> {
        let reserved = size
            .checked_add(ALIGNMENT)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses touches
        // nothing that exists.
        let reservation =
            unsafe { mmap_anonymous(std::ptr::null_mut(), reserved, ProtFlags::empty(), flags)? };
        let reservation = NonNull::new(reservation.cast::<u8>()).ok_or(io::ErrorKind::Other)?;
        let padding = reservation.align_offset(ALIGNMENT);
        let mut arena = Self {
            reservation,
            reserved,
            base: reservation,
            size,
            mappings: Mutex::default(),
            files: Mutex::default(),
            keeps_files: AtomicBool::new(false),
            loses_dirty_log: AtomicBool::new(false),
        };
        if padding > ALIGNMENT {
            return Err(io::ErrorKind::Other.into());
        }
        // SAFETY: the reservation is longer than the arena by ALIGNMENT bytes,
        // and `padding` is not more.
        arena.base = unsafe { reservation.add(padding) };
        arena.clear(0, size)?;
        Ok(arena)
    }

    /// Maps a dirty log, if it is called as QEMU's is, privately from now on:
    /// what the guest marks there does not reach the frontend. It is a
    /// control for tests of migration.
    pub fn lose_dirty_log(&self) {
        self.loses_dirty_log.store(true, Ordering::Relaxed);
    }

    /// Keeps the files of what is mapped from now on, for [`file`](Self::file). A
    /// VMM does not: to close a file of a frontend's may take for ever.
    pub fn keep_files(&self) {
        self.keeps_files.store(true, Ordering::Relaxed);
    }

    /// A file that begins with the `size` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// Nothing is mapped there as a whole, or what is mapped there is not the
    /// beginning of its file.
    pub fn file(&self, offset: u64, size: u64) -> io::Result<OwnedFd> {
        let mappings = self.lock();
        let fits = mappings.get(&offset).is_some_and(|length| *length >= size);
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        match files.get(&offset) {
            Some((file, 0)) if fits => file.try_clone(),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The first byte. All of [`size`](Self::size) bytes can be read and
    /// written as long as the arena exists.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many ranges are mapped.
    pub fn mappings(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address and length of a range, if it lies within the arena.
    fn range(&self, offset: u64, length: u64) -> io::Result<(NonNull<u8>, usize)> {
        let start = usize::try_from(offset).ok();
        let bytes = usize::try_from(length).ok().filter(|bytes| *bytes > 0);
        let (Some(start), Some(bytes)) = (start, bytes) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        match start.checked_add(bytes) {
            // SAFETY: `start` is less than the arena is long.
            Some(end) if end <= self.size => Ok((unsafe { self.base.add(start) }, bytes)),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Replaces a range by a hole.
    fn clear(&self, offset: u64, length: usize) -> io::Result<()> {
        let (address, bytes) = self.range(offset, length as u64)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the range lies within the arena, whose memory is accessed
        // only by the emulated guest, with plain loads and stores of any
        // content. Nothing refers to it.
        unsafe { mmap_anonymous(address.as_ptr().cast(), bytes, protection, flags)? };
        Self::hide(address, bytes)
    }

    /// Keeps a range out of core dumps and child processes.
    fn hide(address: NonNull<u8>, bytes: usize) -> io::Result<()> {
        for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
            // SAFETY: neither advice changes what this process sees.
            unsafe { madvise(address.as_ptr().cast(), bytes, advice)? };
        }
        Ok(())
    }
}

/// Whether a file is called as QEMU calls its dirty logs.
fn is_dirty_log(fd: BorrowedFd<'_>) -> bool {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = std::fs::read_link(link).unwrap_or_default();
    name.to_string_lossy().starts_with("/memfd:vhost-log")
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the reservation is this object's own, and whoever was given
        // its address must not use it any more.
        let _ = unsafe { munmap(self.reservation.as_ptr().cast(), self.reserved) };
    }
}

impl SharedMemoryMapper for Arena {
    fn map(
        &self,
        window_offset: u64,
        fd: BorrowedFd<'_>,
        fd_offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let (address, bytes) = self.range(window_offset, length)?;
        let mut mappings = self.lock();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let lost = self.loses_dirty_log.load(Ordering::Relaxed) && is_dirty_log(fd);
        let sharing = if lost {
            MapFlags::PRIVATE
        } else {
            MapFlags::SHARED
        };
        let flags = sharing | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: as in `clear`; that the file may change at any time is what
        // the guest expects of this memory.
        let mapped = unsafe {
            mmap(
                address.as_ptr().cast(),
                bytes,
                protection,
                flags,
                fd,
                fd_offset,
            )
        };
        let outcome = mapped.map_err(io::Error::from);
        if let Err(error) = outcome.and_then(|_| Self::hide(address, bytes)) {
            // A mapping that fails may already have taken the old one away.
            self.clear(window_offset, bytes)?;
            return Err(error);
        }
        mappings.insert(window_offset, length);
        if self.keeps_files.load(Ordering::Relaxed) {
            let file = (fd.try_clone_to_owned()?, fd_offset);
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.insert(window_offset, file);
        }
        Ok(())
    }

    fn unmap(&self, window_offset: u64, length: u64) -> io::Result<()> {
        let mut mappings = self.lock();
        if mappings.get(&window_offset) != Some(&length) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.clear(window_offset, length as usize)?;
        mappings.remove(&window_offset);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.remove(&window_offset);
        Ok(())
    }

    /// The emulated guest accesses the arena itself, wherever the BAR is.
    fn place(&self, _: Option<u64>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{ftruncate, memfd_create, MemfdFlags};

    use super::*;

    const PAGE: u64 = 4096;

    fn memfd(pages: u64) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, pages * PAGE).unwrap();
        fd
    }

    fn store(arena: &Arena, offset: usize, value: u8) {
        assert!(offset < arena.size());
        // SAFETY: within the arena, which is all readable and writable.
        unsafe { arena.base().add(offset).write_volatile(value) }
    }

    fn load(arena: &Arena, offset: usize) -> u8 {
        assert!(offset < arena.size());
        // SAFETY: as above.
        unsafe { arena.base().add(offset).read_volatile() }
    }

    #[test]
    fn shows_a_file_and_then_a_hole() {
        let arena = Arena::new(1 << 21).unwrap();
        assert_eq!(arena.base().addr().get() % ALIGNMENT, 0);
        let fd = memfd(2);
        arena.map(PAGE, fd.as_fd(), PAGE, PAGE).unwrap();
        store(&arena, 4096, 7);
        let mut byte = [0];
        rustix::io::pread(&fd, &mut byte, PAGE).unwrap();
        assert_eq!(byte, [7]);
        arena.unmap(PAGE, PAGE).unwrap();
        assert_eq!(load(&arena, 4096), 0);
        assert_eq!(arena.mappings(), 0);
    }

    #[test]
    fn gives_the_file_of_a_whole_mapping() {
        let arena = Arena::new(1 << 21).unwrap();
        arena.map(0, memfd(1).as_fd(), 0, PAGE).unwrap();
        assert!(arena.file(0, PAGE).is_err(), "it was not to be kept");
        arena.keep_files();
        arena.map(0, memfd(2).as_fd(), PAGE, PAGE).unwrap();
        assert!(arena.file(0, PAGE).is_err(), "its file begins before");
        arena.map(0, memfd(2).as_fd(), 0, 2 * PAGE).unwrap();
        store(&arena, 5, 7);
        let mut byte = [0];
        rustix::io::pread(arena.file(0, PAGE).unwrap(), &mut byte, 5).unwrap();
        assert_eq!(byte, [7]);
        assert!(arena.file(0, 3 * PAGE).is_err() && arena.file(PAGE, PAGE).is_err());
        arena.unmap(0, 2 * PAGE).unwrap();
        assert!(arena.file(0, PAGE).is_err());
    }

    #[test]
    fn forgets_what_was_stored_in_a_hole() {
        let arena = Arena::new(1 << 21).unwrap();
        store(&arena, 0, 1);
        arena.map(0, memfd(1).as_fd(), 0, PAGE).unwrap();
        assert_eq!(load(&arena, 0), 0);
    }

    #[test]
    fn loses_a_dirty_log_and_nothing_else() {
        let arena = Arena::new(1 << 21).unwrap();
        arena.lose_dirty_log();
        let log = memfd_create("vhost-log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&log, PAGE).unwrap();
        for (fd, expected) in [(log, 0), (memfd(1), 7)] {
            arena.map(0, fd.as_fd(), 0, PAGE).unwrap();
            store(&arena, 0, 7);
            let mut byte = [0xff];
            rustix::io::pread(&fd, &mut byte, 0).unwrap();
            assert_eq!(byte, [expected]);
        }
    }

    #[test]
    fn refuses_ranges_outside() {
        let arena = Arena::new(1 << 21).unwrap();
        let fd = memfd(1);
        for (offset, length) in [
            (1 << 21, PAGE),
            (0, (1 << 21) + PAGE),
            (u64::MAX, PAGE),
            (0, 0),
        ] {
            assert!(arena.map(offset, fd.as_fd(), 0, length).is_err());
        }
        assert!(arena.unmap(0, PAGE).is_err());
    }

    #[test]
    fn leaves_a_hole_when_a_file_cannot_be_mapped() {
        let arena = Arena::new(1 << 21).unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(arena.map(0, file.as_fd(), 0, PAGE).is_err());
        assert_eq!(load(&arena, 0), 0);
        assert_eq!(arena.mappings(), 0);
    }
}
