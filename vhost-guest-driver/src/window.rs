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
    /// From the little-endian value in memory.
    fn from_le(raw: Self) -> Self;
    /// To the little-endian value in memory.
    fn to_le(self) -> Self;
}

macro_rules! words {
    ($($word:ty),*) => {$(
        impl sealed::Sealed for $word {}
        impl Word for $word {
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
    base: NonNull<u8>,
    len: u64,
    owner: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: a window is a pointer to memory that by contract of `from_raw` may
// be accessed from any thread, with the owner (Send + Sync) that keeps it
// alive. No reference into the memory is ever made.
unsafe impl Send for Window {}
// SAFETY: as above; all methods take `&self` and only make volatile accesses
// to memory that is shared with others by its nature.
unsafe impl Sync for Window {}

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
        base.addr()
            .get()
            .is_multiple_of(8)
            .then_some(Self { base, len, owner })
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

    /// Where the memory begins: for who tells the kernel of it.
    #[cfg(all(feature = "vfio", target_os = "linux"))]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The part of `len` bytes at `offset`, a multiple of 8.
    pub fn slice(&self, offset: u64, len: u64) -> Result<Self, WindowError> {
        let base = self.pointer(offset, len, 8)?;
        Ok(Self {
            base,
            len,
            owner: self.owner.clone(),
        })
    }

    /// Loads the naturally aligned little-endian value at `offset`.
    #[inline]
    pub fn load_le<W: Word>(&self, offset: u64) -> Result<W, WindowError> {
        let pointer = self.pointer(offset, size_of::<W>() as u64, size_of::<W>() as u64)?;
        // SAFETY: `pointer` says that the bytes are inside the memory, which
        // is mapped as long as `self` exists, and that they are aligned. Any
        // bytes are a valid unsigned integer.
        Ok(W::from_le(unsafe {
            pointer.cast::<W>().as_ptr().read_volatile()
        }))
    }

    /// Stores `value` as the naturally aligned little-endian value at
    /// `offset`.
    #[inline]
    pub fn store_le<W: Word>(&self, offset: u64, value: W) -> Result<(), WindowError> {
        let pointer = self.pointer(offset, size_of::<W>() as u64, size_of::<W>() as u64)?;
        #[cfg(test)]
        crate::crash::step();
        // SAFETY: as in `load_le`; there are no references to the memory.
        unsafe { pointer.cast::<W>().as_ptr().write_volatile(value.to_le()) };
        Ok(())
    }

    /// Copies the bytes at `offset` to `data`.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), WindowError> {
        self.pointer(offset, data.len() as u64, 1)?;
        let (head, middle, tail) = split(offset, data.len());
        let (first, rest) = data.split_at_mut(head);
        let (words, last) = rest.split_at_mut(middle);
        let mut at = offset;
        for byte in first {
            *byte = self.load_le(at)?;
            at += 1;
        }
        for word in words.chunks_exact_mut(8) {
            word.copy_from_slice(&self.load_le::<u64>(at)?.to_le_bytes());
            at += 8;
        }
        debug_assert_eq!(last.len(), tail);
        for byte in last {
            *byte = self.load_le(at)?;
            at += 1;
        }
        Ok(())
    }

    /// Copies `data` to `offset`.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), WindowError> {
        self.pointer(offset, data.len() as u64, 1)?;
        let (head, middle, _) = split(offset, data.len());
        let (first, rest) = data.split_at(head);
        let (words, last) = rest.split_at(middle);
        let mut at = offset;
        for byte in first {
            self.store_le(at, *byte)?;
            at += 1;
        }
        for word in words.chunks_exact(8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            self.store_le(at, u64::from_le_bytes(bytes))?;
            at += 8;
        }
        for byte in last {
            self.store_le(at, *byte)?;
            at += 1;
        }
        Ok(())
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
        let pointer = self.pointer(offset, 1, 1)?;
        // The look must not overtake the stores.
        fence(Ordering::SeqCst);
        if self.load_le::<u8>(offset)? & bits == bits {
            return Ok(());
        }
        #[cfg(test)]
        crate::crash::step();
        // SAFETY: `pointer` says that the byte is inside the memory, which is
        // mapped as long as `self` exists; a byte is always aligned. The
        // reference is to an atomic, lives no longer than this statement, and
        // all other accesses of this program are volatile or atomic too.
        let byte = unsafe { AtomicU8::from_ptr(pointer.as_ptr()) };
        byte.fetch_or(bits, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the bits of the byte at `offset` away, as one who migrates a
    /// guest does.
    #[cfg(test)]
    pub fn take_bits(&self, offset: u64) -> u8 {
        let pointer = self.pointer(offset, 1, 1).unwrap();
        // SAFETY: as in `set_bits`.
        let byte = unsafe { AtomicU8::from_ptr(pointer.as_ptr()) };
        byte.swap(0, Ordering::SeqCst)
    }

    /// Checks that `len` bytes at `offset` lie inside.
    pub fn check(&self, offset: u64, len: u64) -> Result<(), WindowError> {
        self.pointer(offset, len, 1).map(|_| ())
    }

    /// The address of `len` bytes at `offset`, if they lie inside and
    /// `offset` is a multiple of `align`, which divides 8.
    #[inline]
    fn pointer(&self, offset: u64, len: u64, align: u64) -> Result<NonNull<u8>, WindowError> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.len) || !offset.is_multiple_of(align) {
            return Err(WindowError {
                offset,
                len,
                window: self.len,
            });
        }
        // SAFETY: offset ≤ self.len, which fits an `isize` and does not wrap
        // around from `base` (`from_raw`), so the sum stays inside the memory
        // or one past its end.
        Ok(unsafe { self.base.add(offset as usize) })
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

/// Splits `len` bytes at `offset` into unaligned bytes, bytes in whole
/// aligned words, and the rest. The base is aligned to 8.
fn split(offset: u64, len: usize) -> (usize, usize, usize) {
    let head = (offset.wrapping_neg() % 8) as usize;
    let head = head.min(len);
    let middle = (len - head) / 8 * 8;
    (head, middle, len - head - middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_every_access_beyond_the_end() {
        let window = Window::allocate(24).unwrap();
        assert!(window.load_le::<u64>(16).is_ok());
        assert!(window.load_le::<u64>(24).is_err());
        assert!(window.load_le::<u8>(24).is_err());
        assert!(window.store_le(24, 0u8).is_err());
        assert!(window.load_le::<u32>(u64::MAX - 3).is_err());
        assert!(window.read(20, &mut [0; 5]).is_err());
        assert!(window.write(u64::MAX, &[0; 2]).is_err());
        assert!(window.check(0, 25).is_err());
        assert!(window.check(u64::MAX, u64::MAX).is_err());
        assert!(window.read(24, &mut []).is_ok());
    }

    #[test]
    fn rejects_misaligned_words() {
        let window = Window::allocate(16).unwrap();
        assert!(window.load_le::<u16>(1).is_err());
        assert!(window.store_le(4, 0u64).is_err());
    }

    #[test]
    fn copies_at_any_offset_and_length() {
        let window = Window::allocate(64).unwrap();
        for offset in 0..16 {
            for len in 0..32 {
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + offset + 1) as u8).collect();
                window.write(0, &[0xee; 64]).unwrap();
                window.write(offset as u64, &data).unwrap();
                let mut all = [0; 64];
                window.read(0, &mut all).unwrap();
                assert!(all[..offset].iter().all(|b| *b == 0xee));
                assert_eq!(all[offset..offset + len], data[..]);
                assert!(all[offset + len..].iter().all(|b| *b == 0xee));
                let mut back = vec![0; len];
                window.read(offset as u64, &mut back).unwrap();
                assert_eq!(back, data);
            }
        }
    }

    #[test]
    fn slices_see_the_same_memory_and_their_own_bounds() {
        let window = Window::allocate(64).unwrap();
        let slice = window.slice(16, 8).unwrap();
        slice.store_le(0, 0x1122_3344_5566_7788u64).unwrap();
        assert_eq!(window.load_le::<u64>(16).unwrap(), 0x1122_3344_5566_7788);
        assert!(slice.load_le::<u8>(8).is_err());
        assert!(window.slice(60, 8).is_err());
        assert!(window.slice(4, 8).is_err());
        drop(window);
        assert_eq!(slice.load_le::<u8>(0).unwrap(), 0x88);
    }

    #[test]
    fn sets_bits_and_leaves_the_others() {
        let window = Window::allocate(8).unwrap();
        window.store_le(3, 0x12u8).unwrap();
        window.set_bits(3, 0x0a).unwrap();
        assert_eq!(window.load_le::<u64>(0), Ok(0x1a00_0000));
        assert!(window.set_bits(8, 1).is_err());
        assert_eq!((window.take_bits(3), window.take_bits(3)), (0x1a, 0));
    }

    #[test]
    fn loses_no_bit_that_others_set_in_the_same_byte() {
        let window = Window::allocate(0x1_0000).unwrap();
        std::thread::scope(|scope| {
            for bits in [0x55, 0x80, 0x2a] {
                let window = &window;
                scope.spawn(move || {
                    for byte in 0..window.len() {
                        window.set_bits(byte, bits).unwrap();
                    }
                });
            }
        });
        let mut all = vec![0; 0x1_0000];
        window.read(0, &mut all).unwrap();
        assert!(all.iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn leaves_alone_what_reads_as_all_ones() {
        // A page that cannot be written: an atomic instruction would fault.
        static ONES: [u64; 2] = [u64::MAX; 2];
        let base = NonNull::from(&ONES).cast();
        // SAFETY: the array lives for ever; the test shows that nothing is
        // stored, which is what its being a shared reference asks for.
        let window = unsafe { Window::from_raw(base, 16, None) }.unwrap();
        window.set_bits(5, 0x81).unwrap();
    }

    #[test]
    fn rejects_a_misaligned_base_and_an_endless_length() {
        let memory = Window::allocate(16).unwrap();
        // SAFETY: nothing is accessed through windows that are refused.
        unsafe {
            let base = memory.base.add(4);
            assert!(Window::from_raw(base, 8, None).is_none());
            assert!(Window::from_raw(memory.base, u64::MAX, None).is_none());
        }
        assert!(Window::allocate(0).is_none());
    }
}
