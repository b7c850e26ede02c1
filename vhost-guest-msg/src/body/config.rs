// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! GET_CONFIG, SET_CONFIG.
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | u32 | offset in the configuration space |
//! | 4 | u32 | size |
//! | 8 | u32 | flags, which implementations fill differently: not interpreted |
//! | 12 | size | contents |

use alloc::vec::Vec;

use zerocopy::byteorder::{ByteOrder, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Plain, Rules};
use crate::error::{Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::Layout;

/// End of the configuration space, which is a page at most.
const MAX_END: usize = 4096;
/// Room that contents have in a message of 4096 bytes.
const MAX_SIZE: usize = MAX_END - crate::HEADER_SIZE - size_of::<Wire<zerocopy::BigEndian>>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Wire<O: ByteOrder> {
    offset: U32<O>,
    size: U32<O>,
    flags: U32<O>,
}

const _: () = assert!(size_of::<Wire<zerocopy::BigEndian>>() == 12);

/// A piece of the device's configuration space.
///
/// GET_CONFIG has the contents too, without meaning: they are as long as what
/// it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    offset: u32,
    flags: u32,
    contents: Vec<u8>,
}

impl Config {
    /// `contents` at `offset`.
    ///
    /// # Errors
    ///
    /// The piece does not lie in a page, or does not fit a message.
    pub fn new(offset: u32, flags: u32, contents: Vec<u8>) -> Result<Self, Invalid> {
        if contents.len() > MAX_SIZE {
            return Err(Invalid::new("size", Problem::Above(MAX_SIZE as u64)));
        }
        if offset as usize > MAX_END - contents.len() {
            return Err(Invalid::new("offset", Problem::Overflow));
        }
        Ok(Self {
            offset,
            flags,
            contents,
        })
    }

    /// Where the piece starts.
    #[must_use]
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// The flags, as they came.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// The piece.
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.contents
    }
}

impl Plain for Config {
    const LAYOUT: Layout = Layout::Config;

    fn parse<O: ByteOrder>(bytes: &[u8], _: &Rules<'_>) -> Result<Self, Reason> {
        let too_short = Reason::Size {
            expected: size_of::<Wire<O>>(),
            actual: bytes.len(),
        };
        let (wire, contents) = Wire::<O>::read_from_prefix(bytes).map_err(|_| too_short)?;
        let size = wire.size.get() as usize;
        if size != contents.len() {
            return Err(Reason::Size {
                expected: size.saturating_add(size_of::<Wire<O>>()),
                actual: bytes.len(),
            });
        }
        Ok(Self::new(
            wire.offset.get(),
            wire.flags.get(),
            contents.to_vec(),
        )?)
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&Wire::<O> {
            offset: self.offset.into(),
            // `new` bounds it by a page.
            size: (self.contents.len() as u32).into(),
            flags: self.flags.into(),
        });
        writer.put(self.contents.as_slice());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_in_a_page_and_in_a_message() {
        let new = |offset, size| Config::new(offset, 0, alloc::vec![0; size]).is_ok();
        assert!(new(0, 0) && new(4096, 0) && new(24, 4072) && new(4095, 1));
        assert!(!new(4097, 0) && !new(25, 4072) && !new(0, 4073) && !new(u32::MAX, 1));
    }
}
