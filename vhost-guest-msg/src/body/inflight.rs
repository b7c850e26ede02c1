// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! GET_INFLIGHT_FD, SET_INFLIGHT_FD.
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | u64 | mmap size |
//! | 8 | u64 | mmap offset |
//! | 16 | u16 | number of queues |
//! | 18 | u16 | queue size |
//! | 20 | 4 | tail padding of the C struct: on the wire, without meaning |
//!
//! The document draws 20 bytes; every implementation known sends 24.

use zerocopy::byteorder::{ByteOrder, U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::vring::MAX_RING_SIZE;
use super::{check_not_zero, check_range, exactly, Body, Plain, Rules};
use crate::error::{Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::{Fds, Layout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire<O: ByteOrder> {
    mmap_size: U64<O>,
    mmap_offset: U64<O>,
    num_queues: U16<O>,
    queue_size: U16<O>,
    padding: [u8; 4],
}

const _: () = assert!(size_of::<Wire<zerocopy::BigEndian>>() == 24);

/// Where in-flight requests are recorded, and for which rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflight {
    mmap_size: u64,
    mmap_offset: u64,
    num_queues: u16,
    queue_size: u16,
}

impl Inflight {
    /// A description of the record. A request for a new one has zero for
    /// size and offset; a reply with size 0 says that there is none.
    ///
    /// # Errors
    ///
    /// The end of the record cannot be expressed, or the rings cannot exist.
    pub fn new(
        mmap_size: u64,
        mmap_offset: u64,
        num_queues: u16,
        queue_size: u16,
    ) -> Result<Self, Invalid> {
        check_range("mmap offset", mmap_offset, mmap_size)?;
        if queue_size > MAX_RING_SIZE {
            let problem = Problem::Above(MAX_RING_SIZE.into());
            return Err(Invalid::new("queue size", problem));
        }
        Ok(Self {
            mmap_size,
            mmap_offset,
            num_queues,
            queue_size,
        })
    }

    /// Bytes in the record.
    #[must_use]
    pub fn mmap_size(&self) -> u64 {
        self.mmap_size
    }

    /// Where it starts: in the descriptor, or in the window.
    #[must_use]
    pub fn mmap_offset(&self) -> u64 {
        self.mmap_offset
    }

    /// Number of rings.
    #[must_use]
    pub fn num_queues(&self) -> u16 {
        self.num_queues
    }

    /// Entries in each ring.
    #[must_use]
    pub fn queue_size(&self) -> u16 {
        self.queue_size
    }

    /// The same rings with the record elsewhere.
    ///
    /// # Errors
    ///
    /// The end of the record cannot be expressed.
    pub fn with_area(self, mmap_size: u64, mmap_offset: u64) -> Result<Self, Invalid> {
        Self::new(mmap_size, mmap_offset, self.num_queues, self.queue_size)
    }

    /// The same record at another offset.
    ///
    /// # Errors
    ///
    /// The end of the record cannot be expressed.
    pub fn with_offset(self, mmap_offset: u64) -> Result<Self, Invalid> {
        self.with_area(self.mmap_size, mmap_offset)
    }

    /// The same record at the beginning of a file.
    #[must_use]
    pub fn at_the_beginning(self) -> Self {
        Self {
            mmap_offset: 0,
            ..self
        }
    }
}

impl Plain for Inflight {
    const LAYOUT: Layout = Layout::Inflight;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        let wire: Wire<O> = exactly(bytes)?;
        let max_queues = rules.limits.max_queues;
        if wire.num_queues.get() > max_queues {
            let problem = Problem::Above(max_queues.into());
            return Err(Invalid::new("num queues", problem).into());
        }
        Ok(Self::new(
            wire.mmap_size.get(),
            wire.mmap_offset.get(),
            wire.num_queues.get(),
            wire.queue_size.get(),
        )?)
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&Wire::<O> {
            mmap_size: self.mmap_size.into(),
            mmap_offset: self.mmap_offset.into(),
            num_queues: self.num_queues.into(),
            queue_size: self.queue_size.into(),
            padding: [0; 4],
        });
    }
}

/// SET_INFLIGHT_FD: a record that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetInflight<F> {
    inflight: Inflight,
    fd: F,
}

impl<F> SetInflight<F> {
    /// A record in the memory behind `fd`.
    ///
    /// # Errors
    ///
    /// The record is empty.
    pub fn new(inflight: Inflight, fd: F) -> Result<Self, Invalid> {
        check_not_zero("mmap size", inflight.mmap_size)?;
        Ok(Self { inflight, fd })
    }

    /// Where the record is; its size is not zero.
    #[must_use]
    pub fn inflight(&self) -> &Inflight {
        &self.inflight
    }

    /// The record, and the memory that it is in.
    #[must_use]
    pub fn into_parts(self) -> (Inflight, F) {
        (self.inflight, self.fd)
    }

    /// The same record at another offset.
    ///
    /// # Errors
    ///
    /// The end of the record cannot be expressed.
    pub fn with_offset(self, mmap_offset: u64) -> Result<Self, Invalid> {
        let inflight = self.inflight.with_offset(mmap_offset)?;
        Ok(Self { inflight, ..self })
    }
}

impl<F> Body<F> for SetInflight<F> {
    type Detached = SetInflight<()>;

    const LAYOUT: Layout = Layout::Inflight;

    fn parse<O: ByteOrder>(
        bytes: &[u8],
        fds: &mut Fds<F>,
        rules: &Rules<'_>,
    ) -> Result<Self, Reason> {
        let inflight = <Inflight as Plain>::parse::<O>(bytes, rules)?;
        check_not_zero("mmap size", inflight.mmap_size)?;
        let fd = fds.expect_one()?;
        Ok(Self { inflight, fd })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        Plain::emit::<O>(&self.inflight, writer);
    }

    fn detach(self) -> (SetInflight<()>, Fds<F>) {
        let Self { inflight, fd } = self;
        (SetInflight { inflight, fd: () }, Fds::one(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_records_without_an_end() {
        assert!(Inflight::new(2, u64::MAX - 1, 1, 256).is_err());
        let record = Inflight::new(0x2080, 0, 2, 256).unwrap();
        assert!(record.with_offset(u64::MAX).is_err());
        assert!(record.with_area(u64::MAX, 1).is_err());
        assert_eq!(record.with_area(1, 2).unwrap().queue_size(), 256);
    }

    #[test]
    fn a_record_that_is_set_is_not_empty() {
        let none = Inflight::new(0, 0, 2, 256).unwrap();
        assert!(SetInflight::new(none, ()).is_err());
        let some = none.with_area(1, 0).unwrap();
        let set = SetInflight::new(some, 7).unwrap();
        assert!(set.with_offset(u64::MAX).is_err());
        assert_eq!(set.into_parts(), (some, 7));
    }
}
