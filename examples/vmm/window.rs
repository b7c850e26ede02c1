// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The window as a table of what is in it, as KVM's memory slots are.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::mm::{madvise, mmap, munmap, Advice, MapFlags, ProtFlags};
use vhost_guest_driver::Pieces;
use vhost_guest_vmm_traits::{RangeId, SharedMemoryMapper};

/// The memory slots of a window.
///
/// The emulated guest looks up each of its accesses here, as KVM does when a
/// page is not in its tables: to attach and to detach a range changes the table,
/// and waits for accesses that are under way. One difference remains: a frontend
/// that truncates its memory file kills this process with SIGBUS when the guest
/// touches what is gone. On KVM, the VMM gets an error that it can recover from.
pub struct Slots {
    size: u64,
    ranges: Mutex<Ranges>,
    /// What the guest has, by window offset.
    attached: RwLock<BTreeMap<u64, Arc<Mapping>>>,
    keeps_files: AtomicBool,
    loses_dirty_log: AtomicBool,
}

/// Ranges that are open.
#[derive(Default)]
struct Ranges {
    next: u32,
    open: BTreeMap<RangeId, Range>,
}

struct Range {
    mapping: Arc<Mapping>,
    /// The file, if it is kept, and where the range begins in it.
    file: Option<(OwnedFd, u64)>,
    /// Where it is attached.
    at: Option<u64>,
}

/// A part of a file, mapped in this process.
struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the address does not belong to a thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, offset: u64, length: u64, sharing: MapFlags) -> io::Result<Self> {
        let bytes = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = sharing | MapFlags::NORESERVE;
        let nowhere = std::ptr::null_mut();
        // SAFETY: a new mapping at an address that the kernel chooses touches
        // nothing that exists. That the file may change at any time is what the
        // guest expects of this memory.
        let address = unsafe { mmap(nowhere, bytes, protection, flags, fd, offset)? };
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::Other)?;
        let mapping = Self { address, bytes };
        for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
            // SAFETY: the range is this mapping's; neither advice changes what
            // this process sees.
            unsafe { madvise(address.as_ptr().cast(), bytes, advice)? };
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this object's own, and who looks at it holds a
        // lock or a reference.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}

impl Slots {
    /// An empty window of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            ranges: Mutex::default(),
            attached: RwLock::default(),
            keeps_files: AtomicBool::new(false),
            loses_dirty_log: AtomicBool::new(false),
        }
    }

    /// Maps a dirty log, if it is called as QEMU's is, privately from now on, and
    /// keeps another file for it: what the guest marks there does not reach the
    /// frontend. It is a control for tests of migration.
    pub fn lose_dirty_log(&self) {
        self.loses_dirty_log.store(true, Ordering::Relaxed);
    }

    /// Keeps the files of what is opened from now on, for [`file`](Self::file). A
    /// VMM does not: to close a file of a frontend's may take for ever.
    pub fn keep_files(&self) {
        self.keeps_files.store(true, Ordering::Relaxed);
    }

    /// A file that begins with the `size` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// Nothing is attached there as a whole, or what is attached there is not the
    /// beginning of its file.
    pub fn file(&self, offset: u64, size: u64) -> io::Result<OwnedFd> {
        let ranges = self.lock();
        let range = ranges.open.values().find(|range| range.at == Some(offset));
        let range = range.filter(|range| range.mapping.bytes as u64 >= size);
        match range.and_then(|range| range.file.as_ref()) {
            Some((file, 0)) => file.try_clone(),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many ranges are attached.
    pub fn attached(&self) -> usize {
        self.write().len()
    }

    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, when no access is under way.
    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<u64, Arc<Mapping>>> {
        self.attached
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: `look` holds the table's lock while it passes an address on, so that
// what is there is not detached meanwhile, and ranges are closed when they have
// been detached. Nobody makes references to the memory. Ranges are made of whole
// pages, and attached at whole pages.
unsafe impl Pieces for Slots {
    fn look(&self, offset: u64, access: &mut dyn FnMut(Option<NonNull<u8>>, u64)) {
        let attached = self.attached.read();
        let attached = attached.unwrap_or_else(PoisonError::into_inner);
        if let Some((at, mapping)) = attached.range(..=offset).next_back() {
            let within = (offset - at) as usize;
            if within < mapping.bytes {
                // SAFETY: `within` is less than the mapping is long.
                let address = unsafe { mapping.address.add(within) };
                return access(Some(address), (mapping.bytes - within) as u64);
            }
        }
        let next = attached.range(offset..).next();
        let next = next.map_or(self.size, |(at, _)| *at);
        access(None, next.saturating_sub(offset).max(1));
    }
}

/// Whether a file is called as QEMU calls its dirty logs.
fn is_dirty_log(fd: BorrowedFd<'_>) -> bool {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = std::fs::read_link(link).unwrap_or_default();
    name.to_string_lossy().starts_with("/memfd:vhost-log")
}

/// A file of this length in place of the frontend's.
fn another(length: u64) -> io::Result<OwnedFd> {
    let file = memfd_create("lost-log", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, length)?;
    Ok(file)
}

impl SharedMemoryMapper for Slots {
    fn open(&self, fd: BorrowedFd<'_>, fd_offset: u64, length: u64) -> io::Result<RangeId> {
        let lost = self.loses_dirty_log.load(Ordering::Relaxed) && is_dirty_log(fd);
        let sharing = match lost {
            true => MapFlags::PRIVATE,
            false => MapFlags::SHARED,
        };
        let mapping = Arc::new(Mapping::new(fd, fd_offset, length, sharing)?);
        let file = match self.keeps_files.load(Ordering::Relaxed) {
            true if lost => Some((another(length)?, 0)),
            true => Some((fd.try_clone_to_owned()?, fd_offset)),
            false => None,
        };
        let mut ranges = self.lock();
        let id = RangeId(ranges.next);
        ranges.next = ranges.next.wrapping_add(1);
        let at = None;
        ranges.open.insert(id, Range { mapping, file, at });
        Ok(id)
    }

    fn attach(&self, range: RangeId, window_offset: u64) -> io::Result<()> {
        let mut ranges = self.lock();
        let range = ranges.open.get_mut(&range);
        let range = range.filter(|range| range.at.is_none());
        let range = range.ok_or(io::ErrorKind::NotFound)?;
        let end = window_offset.checked_add(range.mapping.bytes as u64);
        let end = end.filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let mut attached = self.write();
        let before = attached.range(..end).next_back();
        if before.is_some_and(|(at, mapping)| at + mapping.bytes as u64 > window_offset) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        attached.insert(window_offset, Arc::clone(&range.mapping));
        range.at = Some(window_offset);
        Ok(())
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        let mut ranges = self.lock();
        let range = ranges.open.get_mut(&range);
        let at = range.and_then(|range| range.at.take());
        let at = at.ok_or(io::ErrorKind::NotFound)?;
        // It is not unmapped here: the range has it, too.
        self.write().remove(&at);
        Ok(())
    }

    fn close(&self, range: RangeId) {
        let range = self.lock().open.remove(&range);
        // Unmapped without the lock.
        drop(range);
    }

    /// The emulated guest's accesses come with an offset, wherever the BAR is.
    fn place(&self, _: Option<u64>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use vhost_guest_driver::Window;

    use super::*;

    const PAGE: u64 = 4096;
    const SIZE: u64 = 1 << 21;

    fn memfd(pages: u64) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, pages * PAGE).unwrap();
        fd
    }

    /// Slots and what a guest has of them.
    fn machine() -> (Arc<Slots>, Window) {
        let slots = Arc::new(Slots::new(SIZE));
        let window = Window::from_pieces(slots.clone(), SIZE);
        (slots, window)
    }

    fn load(window: &Window, offset: u64) -> u8 {
        window.load_le(offset).unwrap()
    }

    fn byte_of(fd: impl AsFd, offset: u64) -> u8 {
        let mut byte = [0];
        rustix::io::pread(fd, &mut byte, offset).unwrap();
        byte[0]
    }

    #[test]
    fn shows_a_file_and_then_a_hole() {
        let (slots, window) = machine();
        let fd = memfd(2);
        let range = slots.open(fd.as_fd(), PAGE, PAGE).unwrap();
        assert_eq!(load(&window, PAGE), 0xff, "it is not attached yet");
        slots.attach(range, PAGE).unwrap();
        window.store_le(PAGE, 7_u8).unwrap();
        assert_eq!(byte_of(&fd, PAGE), 7);
        assert_eq!(
            (load(&window, PAGE - 1), load(&window, 2 * PAGE)),
            (0xff, 0xff)
        );
        slots.detach(range).unwrap();
        window.store_le(PAGE, 8_u8).unwrap();
        assert_eq!((load(&window, PAGE), byte_of(&fd, PAGE)), (0xff, 7));
        assert_eq!(slots.attached(), 0);
        slots.close(range);
        assert!(slots.attach(range, PAGE).is_err());
    }

    #[test]
    fn copies_from_what_is_there_and_what_is_not() {
        let (slots, window) = machine();
        for at in [PAGE, 3 * PAGE] {
            let range = slots.open(memfd(1).as_fd(), 0, PAGE).unwrap();
            slots.attach(range, at).unwrap();
        }
        let mut all = [7; 5 * PAGE as usize];
        window.read(0, &mut all).unwrap();
        let page = |n: usize| all[n * PAGE as usize..][..PAGE as usize].iter();
        assert!([0, 2, 4]
            .map(page)
            .into_iter()
            .flatten()
            .all(|byte| *byte == 0xff));
        assert!([1, 3]
            .map(page)
            .into_iter()
            .flatten()
            .all(|byte| *byte == 0));
        window.write(SIZE - PAGE, &all[..PAGE as usize]).unwrap();
    }

    #[test]
    fn gives_the_file_of_a_whole_range() {
        let (slots, window) = machine();
        let attach = |at, pages, offset| {
            let range = slots.open(memfd(2).as_fd(), offset, pages * PAGE).unwrap();
            slots.attach(range, at).unwrap();
            range
        };
        attach(8 * PAGE, 1, 0);
        assert!(slots.file(8 * PAGE, PAGE).is_err(), "it was not to be kept");
        slots.keep_files();
        attach(4 * PAGE, 1, PAGE);
        assert!(
            slots.file(4 * PAGE, PAGE).is_err(),
            "its file begins before"
        );
        let range = attach(0, 2, 0);
        window.store_le(5, 7_u8).unwrap();
        assert_eq!(byte_of(slots.file(0, PAGE).unwrap(), 5), 7);
        assert!(slots.file(0, 3 * PAGE).is_err() && slots.file(PAGE, PAGE).is_err());
        slots.detach(range).unwrap();
        assert!(slots.file(0, PAGE).is_err());
    }

    #[test]
    fn loses_a_dirty_log_and_nothing_else() {
        let (slots, window) = machine();
        slots.lose_dirty_log();
        slots.keep_files();
        let log = memfd_create("vhost-log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&log, PAGE).unwrap();
        for (at, fd, expected) in [(0, log, 0), (PAGE, memfd(1), 7)] {
            let range = slots.open(fd.as_fd(), 0, PAGE).unwrap();
            slots.attach(range, at).unwrap();
            window.store_le(at, 7_u8).unwrap();
            assert_eq!(byte_of(&fd, 0), expected);
            // Nor does what a backend stores that maps the file itself.
            let kept = slots.file(at, PAGE).unwrap();
            rustix::io::pwrite(kept, &[7], 1).unwrap();
            assert_eq!(byte_of(&fd, 1), expected);
        }
    }

    #[test]
    fn refuses_what_is_outside_or_over_another() {
        let (slots, _) = machine();
        let [range, other] = [(); 2].map(|()| slots.open(memfd(2).as_fd(), 0, 2 * PAGE).unwrap());
        for offset in [SIZE, SIZE - PAGE, !(PAGE - 1)] {
            assert!(slots.attach(range, offset).is_err());
        }
        assert!(slots.detach(range).is_err());
        slots.attach(range, 8 * PAGE).unwrap();
        assert!(slots.attach(range, 0).is_err(), "it is there already");
        for offset in [7, 8, 9] {
            assert!(slots.attach(other, offset * PAGE).is_err());
        }
        slots.attach(other, 10 * PAGE).unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(slots.open(file.as_fd(), 0, PAGE).is_err());
        assert_eq!(slots.attached(), 2);
    }
}
