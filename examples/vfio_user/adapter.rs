// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The traits of `vhost-guest-vmm-traits` on vfio-user: what this program can
//! lend although the guest is another program's.
//!
//! | of KVM's | here | what runs for it |
//! |---|---|---|
//! | `KVM_IRQFD` | [`Forwarder`] with [`Triggers`] | a thread, from the frontend's eventfd to the client's |
//! | `KVM_IOEVENTFD` | nothing | each store is a message, and the device signals what it is for |
//! | `KVM_SET_USER_MEMORY_REGION` | [`Window`] | each access is a message, answered from a mapping of ours |
//!
//! The protocol could do better with doorbells: descriptors that the client
//! registers as ioeventfds (`VFIO_USER_DEVICE_GET_REGION_IO_FDS`). But the
//! `vfio_user` crate does not have it, and clients ask for it once, when they
//! start.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{madvise, Advice};
use vhost_guest_vmm_traits::{MsiMessage, RangeId, SharedMemoryMapper};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::vmm::Forwarder;

/// Takes a lock. What it guards is consistent between calls, so a thread that
/// panicked with it did no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client's eventfds, one for each vector that it wants to hear of.
///
/// An irqfd would connect the frontend's eventfd with an interrupt. The client
/// keeps its irqfds to itself and lends eventfds that stand for them, and the
/// kernel does not connect an eventfd with another: a thread does.
#[derive(Clone, Default)]
pub struct Triggers(Arc<Mutex<BTreeMap<u16, File>>>);

impl Triggers {
    /// Starts the thread.
    pub fn forwarder(&self) -> io::Result<Forwarder> {
        let triggers = self.clone();
        Forwarder::start(move |message| triggers.raise(message))
    }

    /// What the device's MSI-X table has to say for `vector`. Only this object
    /// reads it: the message that the guest chose is the client's business.
    pub fn message(vector: u16) -> MsiMessage {
        let (address, data) = (0xFEE0_0000, vector.into());
        MsiMessage { address, data }
    }

    /// The client gives an eventfd for `vector`, or takes it back.
    pub fn set(&self, vector: u16, trigger: Option<File>) {
        let mut triggers = lock(&self.0);
        match trigger {
            Some(trigger) => triggers.insert(vector, trigger),
            None => triggers.remove(&vector),
        };
    }

    fn raise(&self, message: MsiMessage) {
        let triggers = lock(&self.0);
        if let Some(trigger) = triggers.get(&(message.data as u16)) {
            // The client reads it, or it is full and so readable anyway.
            let _ = rustix::io::write(trigger, &1_u64.to_ne_bytes());
        }
    }
}

/// The window of one device, as this program has it mapped.
///
/// Clients map what they may map of a BAR once, when they start, so that the
/// guest cannot have a frontend's memory as memory. It reaches it through
/// messages, and this program answers them. So it touches what the device
/// itself never does: a file that a frontend truncates would kill it
/// (SIGBUS), and it must accept only those with F_SEAL_SHRINK
/// (`MemoryPolicy::sealed_size`).
#[derive(Default)]
pub struct Window(Mutex<Contents>);

#[derive(Default)]
struct Contents {
    ranges: BTreeMap<RangeId, Range>,
    /// By window offset.
    attached: BTreeMap<u64, Arc<MmapRegion>>,
    next: u32,
}

struct Range {
    mapping: Arc<MmapRegion>,
    /// Where it is attached.
    at: Option<u64>,
}

impl Contents {
    /// What the guest has at `offset`.
    fn find(&self, offset: u64, length: usize) -> Option<VolatileSlice<'_>> {
        let (at, mapping) = self.attached.range(..=offset).next_back()?;
        let within = usize::try_from(offset - at).ok()?;
        mapping.get_slice(within, length).ok()
    }
}

impl Window {
    /// Reads what the guest has at `offset`. Tells whether it has memory there.
    ///
    /// Up to 8 naturally aligned bytes are read at once.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> bool {
        let contents = lock(&self.0);
        let found = contents.find(offset, data.len());
        found.is_some_and(|memory| memory.read_slice(data, 0).is_ok())
    }

    /// Writes in the same way.
    pub fn write(&self, offset: u64, data: &[u8]) -> bool {
        let contents = lock(&self.0);
        let found = contents.find(offset, data.len());
        found.is_some_and(|memory| memory.write_slice(data, 0).is_ok())
    }
}

impl SharedMemoryMapper for Window {
    fn open(&self, fd: BorrowedFd<'_>, fd_offset: u64, length: u64) -> io::Result<RangeId> {
        let file = FileOffset::new(File::from(fd.try_clone_to_owned()?), fd_offset);
        // Without the lock: this may take as long as the file's owner likes.
        let mapping = Arc::new(map(file, length, Access::ReadWrite)?);
        let mut contents = lock(&self.0);
        let id = RangeId(contents.next);
        contents.next = contents.next.wrapping_add(1);
        contents.ranges.insert(id, Range { mapping, at: None });
        Ok(id)
    }

    fn attach(&self, range: RangeId, window_offset: u64) -> io::Result<()> {
        let contents = &mut *lock(&self.0);
        let range = contents.ranges.get_mut(&range);
        let range = range.filter(|range| range.at.is_none());
        let range = range.ok_or(io::ErrorKind::NotFound)?;
        let end = window_offset.checked_add(range.mapping.size() as u64);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let before = contents.attached.range(..end).next_back();
        if before.is_some_and(|(at, mapping)| at + mapping.size() as u64 > window_offset) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mapping = Arc::clone(&range.mapping);
        contents.attached.insert(window_offset, mapping);
        range.at = Some(window_offset);
        Ok(())
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        let contents = &mut *lock(&self.0);
        let range = contents.ranges.get_mut(&range);
        let at = range.and_then(|range| range.at.take());
        // Accesses hold the lock. It stays mapped: the range has it, too.
        let removed = at.and_then(|at| contents.attached.remove(&at));
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn close(&self, range: RangeId) {
        let closed = lock(&self.0).ranges.remove(&range);
        drop(closed); // without the lock, for the same reason
    }

    /// Accesses come with an offset in the BAR, wherever the guest has put it.
    fn place(&self, _: Option<u64>) -> io::Result<()> {
        Ok(())
    }
}

/// What may be done with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// What is written stays here, in a copy.
    ReadOnly,
    /// What is written is written to the file.
    ReadWrite,
}

/// Maps a part of a file, kept out of core dumps and child processes.
pub fn map(file: FileOffset, length: u64, access: Access) -> io::Result<MmapRegion> {
    let bytes = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    let sharing = match access {
        Access::ReadOnly => libc::MAP_PRIVATE,
        Access::ReadWrite => libc::MAP_SHARED,
    };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = sharing | libc::MAP_NORESERVE;
    let mapping = MmapRegion::build(Some(file), bytes, protection, flags).map_err(into_io)?;
    for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
        // SAFETY: the range was mapped just now and is still `mapping`'s;
        // neither advice changes what this process sees.
        unsafe { madvise(mapping.as_ptr().cast(), bytes, advice)? };
    }
    Ok(mapping)
}

/// Keeps what the system said: the device tells a file that must not be
/// written from want of memory.
fn into_io(error: vm_memory::mmap::MmapRegionError) -> io::Error {
    match error {
        vm_memory::mmap::MmapRegionError::Mmap(error) => error,
        error => io::Error::other(error),
    }
}
