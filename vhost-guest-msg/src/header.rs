// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The 12-byte header of every message.
//!
//! | offset | width | field | values |
//! |---|---|---|---|
//! | 0 | u32 | request | 1 and up; 0 is never legal |
//! | 4 | u32 | flags | bits 0-1 version (1), bit 2 REPLY, bit 3 NEED_REPLY, others zero |
//! | 8 | u32 | size | payload bytes that follow |

use bitflags::bitflags;
use zerocopy::byteorder::{ByteOrder, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::endian::in_order;
use crate::error::{Invalid, Problem};
use crate::Endian;

/// Size of a header in bytes.
pub const HEADER_SIZE: usize = 12;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire<O: ByteOrder> {
    code: U32<O>,
    flags: U32<O>,
    size: U32<O>,
}

const _: () = assert!(size_of::<Wire<zerocopy::BigEndian>>() == HEADER_SIZE);

bitflags! {
    /// The flags of a header, without the version.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct HeaderFlags: u32 {
        /// The message answers the request of the same number.
        const REPLY = 1 << 2;
        /// The sender asks for an acknowledgement.
        const NEED_REPLY = 1 << 3;
    }
}

/// A header that is right by itself: known version, no reserved bits, a
/// request number.
///
/// ```
/// use vhost_guest_msg::{Endian, Header, HeaderFlags};
///
/// let bytes = [18, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0];
/// let header = Header::parse(&bytes, Endian::Little)?;
/// assert_eq!(header.code, vhost_guest_msg::frontend::SET_VRING_ENABLE);
/// assert_eq!(header.flags, HeaderFlags::NEED_REPLY);
/// assert_eq!(header.emit(Endian::Little), bytes);
/// # Ok::<(), vhost_guest_msg::Invalid>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The request number.
    pub code: u32,
    /// Reply or request, acknowledgement wanted or not.
    pub flags: HeaderFlags,
    /// Payload bytes that follow.
    pub size: u32,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    ///
    /// The first field that is wrong.
    pub fn parse(bytes: &[u8; HEADER_SIZE], endian: Endian) -> Result<Self, Invalid> {
        in_order!(endian, Self::parse_in(bytes))
    }

    /// Writes the header.
    #[must_use]
    pub fn emit(&self, endian: Endian) -> [u8; HEADER_SIZE] {
        in_order!(endian, Self::emit_in(self))
    }

    fn parse_in<O: ByteOrder>(bytes: &[u8; HEADER_SIZE]) -> Result<Self, Invalid> {
        let wire: &Wire<O> = zerocopy::transmute_ref!(bytes);
        let flags = wire.flags.get();
        if wire.code == 0 {
            return Err(Invalid::new("request", Problem::Zero));
        }
        if flags & VERSION_MASK != VERSION {
            return Err(Invalid::new("version", Problem::Unassigned));
        }
        let flags = HeaderFlags::from_bits(flags & !VERSION_MASK)
            .ok_or(Invalid::new("flags", Problem::Reserved))?;
        Ok(Self {
            code: wire.code.get(),
            flags,
            size: wire.size.get(),
        })
    }

    fn emit_in<O: ByteOrder>(&self) -> [u8; HEADER_SIZE] {
        zerocopy::transmute!(Wire::<O> {
            code: self.code.into(),
            flags: (self.flags.bits() | VERSION).into(),
            size: self.size.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(code: u32, flags: u32) -> Result<Header, Invalid> {
        let mut bytes = [0; HEADER_SIZE];
        bytes[..4].copy_from_slice(&code.to_le_bytes());
        bytes[4..8].copy_from_slice(&flags.to_le_bytes());
        Header::parse(&bytes, Endian::Little)
    }

    #[test]
    fn survives_both_byte_orders() {
        let header = Header {
            code: 45,
            flags: HeaderFlags::REPLY,
            size: 0x1234,
        };
        for endian in [Endian::Little, Endian::Big] {
            assert_eq!(Header::parse(&header.emit(endian), endian), Ok(header));
        }
        let bytes = [0, 0, 0, 45, 0, 0, 0, 5, 0, 0, 0x12, 0x34];
        assert_eq!(header.emit(Endian::Big), bytes);
    }

    #[test]
    fn accepts_exactly_four_flag_words() {
        for flags in 0..64 {
            assert_eq!(parse(1, flags).is_ok(), [1, 5, 9, 13].contains(&flags));
        }
        for bit in 4..32 {
            assert!(parse(1, 1 | 1 << bit).is_err());
        }
    }

    #[test]
    fn rejects_request_zero_and_keeps_unknown_ones() {
        assert!(parse(0, 1).is_err());
        assert_eq!(parse(u32::MAX, 1).unwrap().code, u32::MAX);
    }
}
