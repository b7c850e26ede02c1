// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that somebody else writes at the same time.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::sync::Arc;
use core::alloc::Layout;
use core::any::Any;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{fence, AtomicU8, Ordering};

use thiserror::Error;

/// An access outside a [`Window`], or a misaligned one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("access of {len} bytes at offset {offset:#x} of a window of {window:#x} bytes")]
pub struct WindowError {
    /// Where the access begins.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
    /// Length of the window.
    pub window: u64,
}

mod sealed {
    pub trait Sealed {}
}

/// An unsigned integer that the processor loads and stores at once.
pub trait Word: Copy + sealed::Sealed {
    /// What a load finds where there is no memory.
    const ONES: Self;
    /// From the little-endian value in memory.
    fn from_le(raw: Self) -> Self;
    /// To the little-endian value in memory.
    fn to_le(self) -> Self;
}

macro_rules! words {
    ($($word:ty),*) => {$(
        impl sealed::Sealed for $word {}
        impl Word for $word {
            const ONES: Self = <$word>::MAX;
            fn from_le(raw: Self) -> Self {
                <$word>::from_le(raw)
            }
            fn to_le(self) -> Self {
                <$word>::to_le(self)
            }
        }
    )*};
}

words!(u8, u16, u32, u64);

/// A bounds-checked view of memory that a peer writes at the same time: the
/// shared memory of the device, or the driver's own memory that the device
/// can access.
///
/// All accesses are volatile loads and stores of 1, 2, 4 or 8 naturally
/// aligned bytes: where the frontend's memory has a hole, an access leaves
/// the virtual machine, and wider or atomic instructions would fault
/// (vhost-guest specification, shared memory). The one exception is
/// [`set_bits`](Self::set_bits). Nothing hands out a reference to the memory.
///
/// Values are little-endian, as virtio 1.2 has them. Accesses are not
/// ordered against each other; use [`core::sync::atomic::fence`].
///
/// Clones and [slices](Self::slice) see the same memory and keep it alive.
///
/// ```
/// use vhost_guest_driver::Window;
///
/// let memory = Window::allocate(4096).unwrap();
/// memory.write(6, b"virtio")?;
/// assert_eq!(memory.load_le::<u16>(8)?, u16::from_le_bytes(*b"rt"));
/// assert!(memory.load_le::<u64>(4096 - 4).is_err());
/// # Ok::<(), vhost_guest_driver::WindowError>(())
/// ```
#[derive(Clone)]
pub struct Window {
    memory: Memory,
    len: u64,
}

/// Where the memory of a window is.
#[derive(Clone)]
enum Memory {
    /// In one piece, which is there as long as its owner is.
    Fixed {
        base: NonNull<u8>,
        owner: Option<Arc<dyn Any + Send + Sync>>,
    },
    /// In pieces that come and go.
    Pieces { pieces: Arc<dyn Pieces>, start: u64 },
}

// SAFETY: a window is a pointer to memory that by contract of `from_raw` may
// be accessed from any thread, with the owner (Send + Sync) that keeps it
// alive, or pieces that are Send + Sync themselves. No reference into the
// memory is ever made.
unsafe impl Send for Window {}
// SAFETY: as above; all methods take `&self` and only make volatile accesses
// to memory that is shared with others by its nature.
unsafe impl Sync for Window {}

/// Memory that comes and goes in pieces, with holes between them: what a program
/// has that plays the processor of a virtual machine itself.
///
/// # Safety
///
/// An implementer may be called from any thread, at any time. Until the function
/// returns that it passed an address to, the bytes there must be mapped for loads
/// and stores. Nothing in the program may make Rust references to them. An
/// address is as far from a multiple of 8 as its offset is.
pub unsafe trait Pieces: Send + Sync {
    /// Calls `access`, once, with the memory at `offset`: its address, `None` where
    /// there is a hole, and for how many bytes this is so, at least 1.
    fn look(&self, offset: u64, access: &mut dyn FnMut(Option<NonNull<u8>>, u64));
}

impl Window {
    /// A window on the `len` bytes at `base`; `owner` is dropped when the
    /// window and all its clones and slices are.
    ///
    /// `None` if `base` is not aligned to 8 bytes or `len` exceeds what an
    /// object can have.
    ///
    /// # Safety
    ///
    /// Until `owner` is dropped (for ever, if there is none), the `len` bytes
    /// at `base` must be mapped for loads and stores from any thread, and
    /// nothing in this program may make Rust references to them.
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        len: u64,
        owner: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Option<Self> {
        let bytes = isize::try_from(len).ok()?.unsigned_abs();
        base.addr().get().checked_add(bytes)?;
        let memory = Memory::Fixed { base, owner };
        base.addr()
            .get()
            .is_multiple_of(8)
            .then_some(Self { memory, len })
    }

    /// A window on `len` bytes that come and go in pieces. Loads from a hole are
    /// all ones, and stores to it are lost, as the device has it.
    pub fn from_pieces(pieces: Arc<dyn Pieces>, len: u64) -> Self {
        let memory = Memory::Pieces { pieces, start: 0 };
        Self { memory, len }
    }

    /// Page-aligned zeroed memory of this program's own, as backing for
    /// emulated devices and tests. `None` for a length of 0 or too much.
    pub fn allocate(len: usize) -> Option<Self> {
        struct Allocation(NonNull<u8>, Layout);

        // SAFETY: it only owns the memory; nothing is accessed through it.
        unsafe impl Send for Allocation {}
        // SAFETY: as above, there is nothing to do with a shared reference.
        unsafe impl Sync for Allocation {}

        impl Drop for Allocation {
            fn drop(&mut self) {
                // SAFETY: allocated below with this very layout, once.
                unsafe { dealloc(self.0.as_ptr(), self.1) }
            }
        }

        let layout = Layout::from_size_align(len, 4096).ok()?;
        if len == 0 {
            return None;
        }
        // SAFETY: the layout's size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let owner = Arc::new(Allocation(base, layout));
        // SAFETY: the allocation has `len` bytes, lives as long as `owner`,
        // and only the window knows its address.
        unsafe { Self::from_raw(base, len as u64, Some(owner)) }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to access.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the memory begins, if it is in one piece: for who tells the kernel
    /// of it.
    #[cfg(all(feature = "vfio", target_os = "linux"))]
    pub(crate) fn base(&self) -> Option<NonNull<u8>> {
        match &self.memory {
            Memory::Fixed { base, .. } => Some(*base),
            Memory::Pieces { .. } => None,
        }
    }

    /// The part of `len` bytes at `offset`, a multiple of 8.
    pub fn slice(&self, offset: u64, len: u64) -> Result<Self, WindowError> {
        self.bounds(offset, len, 8)?;
        let memory = match &self.memory {
            Memory::Fixed { base, owner } => Memory::Fixed {
                // SAFETY: `bounds` says that the sum is inside, as in `access`.
                base: unsafe { base.add(offset as usize) },
                owner: owner.clone(),
            },
            Memory::Pieces { pieces, start } => Memory::Pieces {
                pieces: Arc::clone(pieces),
                start: start + offset,
            },
        };
        Ok(Self { memory, len })
    }

    /// Loads the naturally aligned little-endian value at `offset`.
    #[inline]
    pub fn load_le<W: Word>(&self, offset: u64) -> Result<W, WindowError> {
        let size = size_of::<W>() as u64;
        // SAFETY: `access` says that the bytes are there and aligned. Any bytes
        // are a valid unsigned integer.
        let load = |pointer: NonNull<u8>| unsafe { pointer.cast::<W>().as_ptr().read_volatile() };
        let loaded = self.access(offset, size, size, load)?;
        Ok(loaded.map_or(W::ONES, W::from_le))
    }

    /// Stores `value` as the naturally aligned little-endian value at
    /// `offset`.
    #[inline]
    pub fn store_le<W: Word>(&self, offset: u64, value: W) -> Result<(), WindowError> {
        let size = size_of::<W>() as u64;
        self.access(offset, size, size, |pointer| {
            #[cfg(test)]
            crate::crash::step();
            // SAFETY: as in `load_le`; there are no references to the memory.
            unsafe { pointer.cast::<W>().as_ptr().write_volatile(value.to_le()) };
        })?;
        Ok(())
    }

    /// Copies the bytes at `offset` to `data`.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), WindowError> {
        let len = data.len() as u64;
        self.each_piece(offset, len, |pointer, from, len| {
            let data = data.get_mut(from..from + len).unwrap_or_default();
            match pointer {
                // SAFETY: `each_piece` says that `len` bytes are there.
                Some(pointer) => unsafe { load(pointer, data) },
                None => data.fill(0xff),
            }
        })
    }

    /// Copies `data` to `offset`.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), WindowError> {
        let len = data.len() as u64;
        self.each_piece(offset, len, |pointer, from, len| {
            let data = data.get(from..from + len).unwrap_or_default();
            if let Some(pointer) = pointer {
                // SAFETY: as in `read`.
                unsafe { store(pointer, data) };
            }
        })
    }

    /// Sets `bits` in the byte at `offset`, and changes no other bit, even if
    /// others set or clear bits of that byte at the same time. All stores
    /// before this come before it.
    ///
    /// This is for dirty logs, which several writers and one who clears them
    /// share. With plain loads and stores, the bits that another writer sets
    /// between the two would be lost, and with them pages of a migrated
    /// guest. Storing a whole byte of ones would lose none, but declare pages
    /// dirty that need not even exist. So this is an atomic OR; and because
    /// that would fault where the memory has a hole, a plain load looks
    /// first. A hole reads as all ones: there is nothing to set. A log that
    /// is taken away in the very moment between the two can still fault,
    /// which ends the driver and not more.
    ///
    /// The memory should be mapped cacheable, as RAM is: elsewhere an atomic
    /// OR locks the whole bus (x86), or need not work at all (Arm).
    ///
    /// Looking first loses nothing either. Whoever clears the bit after it
    /// was seen to be set does so after the stores before this call, and
    /// sees what they wrote.
    pub fn set_bits(&self, offset: u64, bits: u8) -> Result<(), WindowError> {
        self.bounds(offset, 1, 1)?;
        // The look must not overtake the stores.
        fence(Ordering::SeqCst);
        if self.load_le::<u8>(offset)? & bits == bits {
            return Ok(());
        }
        self.access(offset, 1, 1, |pointer| {
            #[cfg(test)]
            crate::crash::step();
            // SAFETY: `access` says that the byte is there; a byte is always
            // aligned. The reference is to an atomic, lives no longer than this
            // function, and all other accesses of this program are volatile or
            // atomic too.
            let byte = unsafe { AtomicU8::from_ptr(pointer.as_ptr()) };
            byte.fetch_or(bits, Ordering::SeqCst);
        })?;
        Ok(())
    }

    /// Takes the bits of the byte at `offset` away, as one who migrates a
    /// guest does.
    #[cfg(test)]
    pub fn take_bits(&self, offset: u64) -> u8 {
        let take = |pointer: NonNull<u8>| {
            // SAFETY: as in `set_bits`.
            let byte = unsafe { AtomicU8::from_ptr(pointer.as_ptr()) };
            byte.swap(0, Ordering::SeqCst)
        };
        self.access(offset, 1, 1, take).unwrap().unwrap()
    }

    /// Checks that `len` bytes at `offset` lie inside.
    pub fn check(&self, offset: u64, len: u64) -> Result<(), WindowError> {
        self.bounds(offset, len, 1)
    }

    /// Checks that `len` bytes at `offset` lie inside, and that `offset` is a
    /// multiple of `align`, which divides 8.
    #[inline]
    fn bounds(&self, offset: u64, len: u64, align: u64) -> Result<(), WindowError> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.len) || !offset.is_multiple_of(align) {
            return Err(WindowError {
                offset,
                len,
                window: self.len,
            });
        }
        Ok(())
    }

    /// Calls `access` with the address of `len` bytes at `offset`, a multiple of
    /// `align`, which divides 8: they are mapped until it returns. `None` if
    /// there is a hole.
    #[inline]
    fn access<R>(
        &self,
        offset: u64,
        len: u64,
        align: u64,
        access: impl FnOnce(NonNull<u8>) -> R,
    ) -> Result<Option<R>, WindowError> {
        self.bounds(offset, len, align)?;
        match &self.memory {
            // SAFETY: offset ≤ self.len, which fits an `isize` and does not wrap
            // around from `base` (`from_raw`), so the sum stays inside the memory
            // or one past its end.
            Memory::Fixed { base, .. } => Ok(Some(access(unsafe { base.add(offset as usize) }))),
            Memory::Pieces { pieces, start } => {
                let (mut access, mut result) = (Some(access), None);
                pieces.look(start + offset, &mut |pointer, bytes| {
                    // Pieces are made of pages, and no word lies in two.
                    let pointer = pointer.filter(|_| bytes >= len);
                    if let (Some(pointer), Some(access)) = (pointer, access.take()) {
                        result = Some(access(pointer));
                    }
                });
                Ok(result)
            }
        }
    }

    /// Calls `access` for each piece of `len` bytes at `offset`, in their order:
    /// with its address, if it is not a hole, how many bytes came before, and how
    /// many it has, which are mapped until it returns.
    fn each_piece(
        &self,
        offset: u64,
        len: u64,
        mut access: impl FnMut(Option<NonNull<u8>>, usize, usize),
    ) -> Result<(), WindowError> {
        self.bounds(offset, len, 1)?;
        let (pieces, start) = match &self.memory {
            Memory::Fixed { base, .. } => {
                // SAFETY: as in `access`.
                access(Some(unsafe { base.add(offset as usize) }), 0, len as usize);
                return Ok(());
            }
            Memory::Pieces { pieces, start } => (pieces, start + offset),
        };
        let mut done = 0;
        while done < len {
            pieces.look(start + done, &mut |pointer, bytes| {
                let bytes = bytes.clamp(1, len - done);
                access(pointer, done as usize, bytes as usize);
                done += bytes;
            });
        }
        Ok(())
    }
}

/// Copies the bytes at `pointer` to `data`.
///
/// # Safety
///
/// So many bytes are mapped there for loads, and there are no references to them.
unsafe fn load(pointer: NonNull<u8>, data: &mut [u8]) {
    let (head, middle, _) = split(pointer.addr().get() as u64, data.len());
    let (first, rest) = data.split_at_mut(head);
    let (words, last) = rest.split_at_mut(middle);
    let mut at = pointer.as_ptr();
    for byte in first {
        // SAFETY: there are as many bytes as in `data`, and any are valid.
        (*byte, at) = unsafe { (at.read_volatile(), at.add(1)) };
    }
    for word in words.chunks_exact_mut(8) {
        // SAFETY: as above; `split` says that the words are aligned.
        let (loaded, next) = unsafe { (at.cast::<u64>().read_volatile(), at.add(8)) };
        word.copy_from_slice(&loaded.to_ne_bytes());
        at = next;
    }
    for byte in last {
        // SAFETY: as above.
        (*byte, at) = unsafe { (at.read_volatile(), at.add(1)) };
    }
}

/// Copies `data` to `pointer`.
///
/// # Safety
///
/// So many bytes are mapped there for stores, and there are no references to them.
unsafe fn store(pointer: NonNull<u8>, data: &[u8]) {
    let (head, middle, _) = split(pointer.addr().get() as u64, data.len());
    let (first, rest) = data.split_at(head);
    let (words, last) = rest.split_at(middle);
    let mut at = pointer.as_ptr();
    let store_byte = |at: *mut u8, byte: u8| {
        #[cfg(test)]
        crate::crash::step();
        // SAFETY: there are as many bytes as in `data`.
        unsafe {
            at.write_volatile(byte);
            at.add(1)
        }
    };
    for byte in first {
        at = store_byte(at, *byte);
    }
    for word in words.chunks_exact(8) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        #[cfg(test)]
        crate::crash::step();
        // SAFETY: as above; `split` says that the words are aligned.
        at = unsafe {
            at.cast::<u64>().write_volatile(u64::from_ne_bytes(bytes));
            at.add(8)
        };
    }
    for byte in last {
        at = store_byte(at, *byte);
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address would tell more than a log should have.
        f.debug_struct("Window")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Splits `len` bytes at `address` into unaligned bytes, bytes in whole
/// aligned words, and the rest.
fn split(address: u64, len: usize) -> (usize, usize, usize) {
    let head = (address.wrapping_neg() % 8) as usize;
    let head = head.min(len);
    let middle = (len - head) / 8 * 8;
    (head, middle, len - head - middle)
}

#[cfg(test)]
mod tests;
