// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory of the frontend: SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG.
//!
//! | layout | offset | width | field |
//! |---|---|---|---|
//! | REGION | 0 | u64 | guest address |
//! | | 8 | u64 | size |
//! | | 16 | u64 | user address |
//! | | 24 | u64 | mmap offset |
//! | MEMTAB | 0 | u32 | number of regions |
//! | | 4 | u32 | padding |
//! | | 8 | 32 each | REGIONs |
//! | MEMREG | 0 | u64 | padding |
//! | | 8 | 32 | REGION |
//!
//! Padding has no meaning: it is not looked at, and is zero when written.

use alloc::vec::Vec;

use zerocopy::byteorder::{ByteOrder, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{check_not_zero, check_range, exactly, Body, Rules};
use crate::error::{Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::{Fds, Layout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WireRegion<O: ByteOrder> {
    guest_address: U64<O>,
    size: U64<O>,
    user_address: U64<O>,
    mmap_offset: U64<O>,
}

const _: () = assert!(size_of::<WireRegion<zerocopy::BigEndian>>() == 32);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WireTable<O: ByteOrder> {
    num_regions: U32<O>,
    padding: [u8; 4],
}

const _: () = assert!(size_of::<WireTable<zerocopy::BigEndian>>() == 8);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WireMemReg<O: ByteOrder> {
    padding: [u8; 8],
    region: WireRegion<O>,
}

const _: () = assert!(size_of::<WireMemReg<zerocopy::BigEndian>>() == 40);

/// A piece of guest memory: not empty, and with an end in each of the three
/// address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    guest_address: u64,
    size: u64,
    user_address: u64,
    mmap_offset: u64,
}

impl Region {
    /// A region of `size` bytes.
    ///
    /// # Errors
    ///
    /// It is empty, or its end cannot be expressed.
    pub fn new(
        guest_address: u64,
        size: u64,
        user_address: u64,
        mmap_offset: u64,
    ) -> Result<Self, Invalid> {
        check_not_zero("size", size)?;
        check_range("guest address", guest_address, size)?;
        check_range("user address", user_address, size)?;
        check_range("mmap offset", mmap_offset, size)?;
        Ok(Self {
            guest_address,
            size,
            user_address,
            mmap_offset,
        })
    }

    /// Where the frontend's guest sees it.
    #[must_use]
    pub fn guest_address(&self) -> u64 {
        self.guest_address
    }

    /// Bytes in it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the sender's ring addresses refer to it: in the frontend's
    /// process, or in the window.
    #[must_use]
    pub fn user_address(&self) -> u64 {
        self.user_address
    }

    /// Where it starts in its file.
    #[must_use]
    pub fn mmap_offset(&self) -> u64 {
        self.mmap_offset
    }

    /// How far into the region `len` bytes at a user address are, if they lie
    /// in it.
    ///
    /// ```
    /// use vhost_guest_msg::Region;
    ///
    /// let region = Region::new(0, 0x1000, 0x7000, 0)?;
    /// assert_eq!(region.find_user(0x7ff0, 16), Some(0xff0));
    /// assert_eq!(region.find_user(0x7ff0, 17), None);
    /// # Ok::<(), vhost_guest_msg::Invalid>(())
    /// ```
    #[must_use]
    pub fn find_user(&self, address: u64, len: u64) -> Option<u64> {
        let offset = address.checked_sub(self.user_address)?;
        (offset.checked_add(len)? <= self.size).then_some(offset)
    }

    /// Checks that the two share neither user nor guest addresses.
    ///
    /// # Errors
    ///
    /// The field in which they overlap.
    pub fn check_apart(&self, other: &Self) -> Result<(), Invalid> {
        let overlap = |mine: u64, theirs: u64| {
            // `new` made sure that neither sum overflows.
            mine < theirs.saturating_add(other.size) && theirs < mine.saturating_add(self.size)
        };
        if overlap(self.guest_address, other.guest_address) {
            return Err(Invalid::new("guest address", Problem::Overlap));
        }
        if overlap(self.user_address, other.user_address) {
            return Err(Invalid::new("user address", Problem::Overlap));
        }
        Ok(())
    }

    /// The same region at another user address.
    ///
    /// # Errors
    ///
    /// Its end cannot be expressed.
    pub fn with_user_address(self, user_address: u64) -> Result<Self, Invalid> {
        check_range("user address", user_address, self.size)?;
        Ok(Self {
            user_address,
            ..self
        })
    }

    fn parse<O: ByteOrder>(wire: &WireRegion<O>) -> Result<Self, Invalid> {
        Self::new(
            wire.guest_address.get(),
            wire.size.get(),
            wire.user_address.get(),
            wire.mmap_offset.get(),
        )
    }

    fn emit<O: ByteOrder>(&self) -> WireRegion<O> {
        WireRegion {
            guest_address: self.guest_address.into(),
            size: self.size.into(),
            user_address: self.user_address.into(),
            mmap_offset: self.mmap_offset.into(),
        }
    }
}

/// SET_MEM_TABLE: all of the frontend's memory, at least one region.
///
/// Whether regions may overlap is for their receiver to say: two that show the
/// same bytes can (aliases of RAM), and it finds the others with
/// [`Region::check_apart`].
///
/// ```
/// use vhost_guest_msg::{MemTable, Region};
///
/// let low = Region::new(0, 0x8000_0000, 0x7f00_0000_0000, 0)?;
/// let high = Region::new(1 << 32, 0x4000_0000, 0x7f10_0000_0000, 0x8000_0000)?;
/// let table = MemTable::new(vec![(low, "low.fd"), (high, "high.fd")])?;
///
/// let window = table.relocate(|_, region| region.mmap_offset())?;
/// assert_eq!(window.regions().nth(1).unwrap().user_address(), 0x8000_0000);
/// # Ok::<(), vhost_guest_msg::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemTable<F> {
    entries: Vec<(Region, F)>,
}

impl<F> MemTable<F> {
    /// A table of regions, each with the descriptor that it is mapped from.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn new(entries: Vec<(Region, F)>) -> Result<Self, Invalid> {
        check_not_zero("number of regions", entries.len() as u64)?;
        Ok(Self { entries })
    }

    /// The regions, in the message's order.
    pub fn regions(&self) -> impl ExactSizeIterator<Item = &Region> + Clone {
        self.entries.iter().map(|(region, _)| region)
    }

    /// The regions with their descriptors, borrowed.
    #[must_use]
    pub fn entries(&self) -> &[(Region, F)] {
        &self.entries
    }

    /// The regions with their descriptors, in the message's order.
    #[must_use]
    pub fn into_entries(self) -> Vec<(Region, F)> {
        self.entries
    }

    /// Gives every region the user address that `place` finds for it (and its
    /// position).
    ///
    /// # Errors
    ///
    /// One has no end there.
    pub fn relocate(
        mut self,
        mut place: impl FnMut(usize, &Region) -> u64,
    ) -> Result<Self, Invalid> {
        for (position, (region, _)) in self.entries.iter_mut().enumerate() {
            *region = region.with_user_address(place(position, region))?;
        }
        Ok(self)
    }

    /// The table without its descriptors, and these.
    #[must_use]
    pub fn detach(self) -> (MemTable<()>, Fds<F>) {
        let mut fds = Vec::with_capacity(self.entries.len());
        let mut entries = Vec::with_capacity(self.entries.len());
        for (region, fd) in self.entries {
            entries.push((region, ()));
            fds.push(fd);
        }
        (MemTable { entries }, fds.into_iter().collect())
    }
}

impl<F> Body<F> for MemTable<F> {
    type Detached = MemTable<()>;

    const LAYOUT: Layout = Layout::MemTable;

    fn parse<O: ByteOrder>(
        bytes: &[u8],
        fds: &mut Fds<F>,
        rules: &Rules<'_>,
    ) -> Result<Self, Reason> {
        let actual = bytes.len();
        let size = |expected| Reason::Size { expected, actual };
        let head = size_of::<WireTable<O>>();
        let (table, tail) = WireTable::<O>::read_from_prefix(bytes).map_err(|_| size(head))?;
        let count = table.num_regions.get() as usize;
        let max = rules.limits.max_regions;
        if count > max {
            let problem = Problem::Above(max as u64);
            return Err(Invalid::new("number of regions", problem).into());
        }
        let expected = head.saturating_add(count.saturating_mul(size_of::<WireRegion<O>>()));
        let regions = match <[WireRegion<O>]>::ref_from_bytes(tail) {
            Ok(regions) if regions.len() == count => regions,
            _ => return Err(size(expected)),
        };
        let regions = regions
            .iter()
            .map(Region::parse)
            .collect::<Result<Vec<_>, _>>()?;
        check_not_zero("number of regions", count as u64)?;
        let fds = fds.expect_exactly(count)?;
        let entries = regions.into_iter().zip(fds).collect();
        Ok(Self { entries })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&WireTable::<O> {
            // A message has no room for 2^32 regions.
            num_regions: (self.entries.len() as u32).into(),
            padding: [0; 4],
        });
        for region in self.regions() {
            writer.put(&region.emit::<O>());
        }
    }

    fn detach(self) -> (MemTable<()>, Fds<F>) {
        self.detach()
    }
}

/// ADD_MEM_REG: one more region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemRegion<F> {
    /// The region.
    pub region: Region,
    /// The descriptor that it is mapped from.
    pub fd: F,
}

impl<F> MemRegion<F> {
    /// Gives the region another user address.
    ///
    /// # Errors
    ///
    /// Its end cannot be expressed.
    pub fn relocate(self, user_address: u64) -> Result<Self, Invalid> {
        let region = self.region.with_user_address(user_address)?;
        Ok(Self { region, ..self })
    }
}

impl<F> Body<F> for MemRegion<F> {
    type Detached = MemRegion<()>;

    const LAYOUT: Layout = Layout::MemRegion;

    fn parse<O: ByteOrder>(bytes: &[u8], fds: &mut Fds<F>, _: &Rules<'_>) -> Result<Self, Reason> {
        let region = Region::parse(&exactly::<WireMemReg<O>>(bytes)?.region)?;
        let fd = fds.expect_one()?;
        Ok(Self { region, fd })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&WireMemReg::<O> {
            padding: [0; 8],
            region: self.region.emit(),
        });
    }

    fn detach(self) -> (MemRegion<()>, Fds<F>) {
        let Self { region, fd } = self;
        (MemRegion { region, fd: () }, Fds::one(fd))
    }
}

/// REM_MEM_REG: a region less, told by guest address, user address and size;
/// its mmap offset has no meaning.
///
/// Old versions of QEMU attach a descriptor that has no use. It is dropped
/// when the message is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemMemReg {
    /// The region.
    pub region: Region,
}

impl RemMemReg {
    /// Gives the region another user address: the one that it was added with.
    ///
    /// # Errors
    ///
    /// Its end cannot be expressed.
    pub fn relocate(self, user_address: u64) -> Result<Self, Invalid> {
        let region = self.region.with_user_address(user_address)?;
        Ok(Self { region })
    }
}

impl<F> Body<F> for RemMemReg {
    type Detached = Self;

    const LAYOUT: Layout = Layout::MemRegion;

    fn parse<O: ByteOrder>(bytes: &[u8], fds: &mut Fds<F>, _: &Rules<'_>) -> Result<Self, Reason> {
        let region = Region::parse(&exactly::<WireMemReg<O>>(bytes)?.region)?;
        drop(fds.expect_at_most_one()?);
        Ok(Self { region })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&WireMemReg::<O> {
            padding: [0; 8],
            region: self.region.emit(),
        });
    }

    fn detach(self) -> (Self, Fds<F>) {
        (self, Fds::new())
    }
}

#[cfg(test)]
mod tests;
