// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! SET_LOG_BASE.
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | u64 | mmap size |
//! | 8 | u64 | mmap offset |
//!
//! Without `LOG_SHMFD` it carries no descriptor, and QEMU sends these 16
//! bytes nevertheless, others a single u64.

use zerocopy::byteorder::{ByteOrder, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{check_not_zero, check_range, exactly, Body, Rules};
use crate::error::{Invalid, Reason};
use crate::writer::Writer;
use crate::{Fds, Layout, ProtocolFeatures};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire<O: ByteOrder> {
    mmap_size: U64<O>,
    mmap_offset: U64<O>,
}

const _: () = assert!(size_of::<Wire<zerocopy::BigEndian>>() == 16);

/// Where a dirty log is: in a descriptor, or in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogArea {
    size: u64,
    offset: u64,
}

impl LogArea {
    /// A log of `size` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// The log is empty, or its end cannot be expressed.
    pub fn new(size: u64, offset: u64) -> Result<Self, Invalid> {
        check_not_zero("mmap size", size)?;
        check_range("mmap offset", offset, size)?;
        Ok(Self { size, offset })
    }

    /// Bytes in the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where its first byte is.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// SET_LOG_BASE, whose form depends on what was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogBase<F> {
    /// With `LOG_SHMFD`: the log is memory behind a descriptor.
    Shared {
        /// Where it is there.
        area: LogArea,
        /// The memory.
        fd: F,
    },
    /// Without `LOG_SHMFD`: an address in the frontend's process, of no use
    /// to anybody else.
    Unshared {
        /// The first number.
        base: u64,
        /// The second, in the 16-byte form.
        offset: Option<u64>,
    },
}

impl<F> LogBase<F> {
    /// The same log at another offset.
    ///
    /// # Errors
    ///
    /// The end of the log cannot be expressed.
    pub fn with_offset(self, offset: u64) -> Result<Self, Invalid> {
        match self {
            Self::Shared { area, fd } => {
                let area = LogArea::new(area.size, offset)?;
                Ok(Self::Shared { area, fd })
            }
            unshared => Ok(unshared),
        }
    }
}

impl<F> Body<F> for LogBase<F> {
    type Detached = LogBase<()>;

    const LAYOUT: Layout = Layout::Log;

    fn parse<O: ByteOrder>(
        bytes: &[u8],
        fds: &mut Fds<F>,
        rules: &Rules<'_>,
    ) -> Result<Self, Reason> {
        let acked = rules.context.protocol_features;
        if acked.contains(ProtocolFeatures::LOG_SHMFD) {
            let wire: Wire<O> = exactly(bytes)?;
            let area = LogArea::new(wire.mmap_size.get(), wire.mmap_offset.get())?;
            let fd = fds.expect_one()?;
            return Ok(Self::Shared { area, fd });
        }
        let (base, offset) = match exactly::<U64<O>>(bytes) {
            Ok(base) => (base, None),
            Err(_) => {
                let wire: Wire<O> = exactly(bytes)?;
                (wire.mmap_size, Some(wire.mmap_offset.get()))
            }
        };
        fds.expect_none()?;
        let base = base.get();
        Ok(Self::Unshared { base, offset })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        let (first, second) = match self {
            Self::Shared { area, .. } => (area.size, Some(area.offset)),
            Self::Unshared { base, offset } => (*base, *offset),
        };
        writer.put(&U64::<O>::new(first));
        if let Some(second) = second {
            writer.put(&U64::<O>::new(second));
        }
    }

    fn detach(self) -> (LogBase<()>, Fds<F>) {
        match self {
            Self::Shared { area, fd } => (LogBase::Shared { area, fd: () }, Fds::one(fd)),
            Self::Unshared { base, offset } => (LogBase::Unshared { base, offset }, Fds::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_logs_that_are_empty_or_endless() {
        assert!(LogArea::new(0, 0).is_err());
        assert!(LogArea::new(2, u64::MAX - 1).is_err());
        assert!(LogArea::new(1, u64::MAX - 1).is_ok());
    }

    #[test]
    fn only_a_shared_log_has_an_offset_to_rewrite() {
        let area = LogArea::new(0x1000, 0x2000).unwrap();
        let shared = LogBase::Shared { area, fd: 7 };
        let LogBase::Shared { area, fd: 7 } = shared.with_offset(0x3000).unwrap() else {
            panic!("not shared");
        };
        assert_eq!((area.size(), area.offset()), (0x1000, 0x3000));
        assert!(shared.with_offset(u64::MAX).is_err());

        let offset = Some(2);
        let unshared = LogBase::<u8>::Unshared { base: 1, offset };
        assert_eq!(unshared.with_offset(0x3000), Ok(unshared));
    }
}
