// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Payloads of nothing or one number.
//!
//! | layout | size | fields |
//! |---|---|---|
//! | nothing | 0 | |
//! | U64 | 8 | 0: u64 |
//! | RARP | 8 | 0: MAC address (6 bytes, not swapped), 6: zero |

use zerocopy::byteorder::{ByteOrder, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{exactly, Body, Plain, Rules};
use crate::error::{Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::{Fds, Layout, ProtocolFeatures, VirtioFeatures};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WireRarp {
    mac: [u8; 6],
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<WireRarp>() == 8);

/// SEND_RARP: announce this address after a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rarp {
    /// The address, in transmission order.
    pub mac: [u8; 6],
}

/// A payload of no bytes with one descriptor: SET_LOG_FD,
/// SET_BACKEND_REQ_FD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnlyFd<F> {
    /// The descriptor.
    pub fd: F,
}

impl Plain for () {
    const LAYOUT: Layout = Layout::Nothing;

    fn parse<O: ByteOrder>(bytes: &[u8], _: &Rules<'_>) -> Result<Self, Reason> {
        exactly(bytes)
    }

    fn emit<O: ByteOrder>(&self, _: &mut Writer<'_>) {}
}

impl Plain for u64 {
    const LAYOUT: Layout = Layout::U64;

    fn parse<O: ByteOrder>(bytes: &[u8], _: &Rules<'_>) -> Result<Self, Reason> {
        Ok(exactly::<U64<O>>(bytes)?.get())
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&U64::<O>::new(*self));
    }
}

impl Plain for VirtioFeatures {
    const LAYOUT: Layout = Layout::U64;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        <u64 as Plain>::parse::<O>(bytes, rules).map(Self::from_bits_retain)
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        Plain::emit::<O>(&self.bits(), writer);
    }
}

impl Plain for ProtocolFeatures {
    const LAYOUT: Layout = Layout::U64;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        <u64 as Plain>::parse::<O>(bytes, rules).map(Self::from_bits_retain)
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        Plain::emit::<O>(&self.bits(), writer);
    }
}

impl Plain for Rarp {
    const LAYOUT: Layout = Layout::Rarp;

    fn parse<O: ByteOrder>(bytes: &[u8], _: &Rules<'_>) -> Result<Self, Reason> {
        let WireRarp { mac, reserved } = exactly(bytes)?;
        match reserved {
            [0, 0] => Ok(Self { mac }),
            _ => Err(Invalid::new("mac", Problem::Reserved).into()),
        }
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&WireRarp {
            mac: self.mac,
            reserved: [0; 2],
        });
    }
}

impl<F> Body<F> for OnlyFd<F> {
    type Detached = OnlyFd<()>;

    const LAYOUT: Layout = Layout::Nothing;

    fn parse<O: ByteOrder>(bytes: &[u8], fds: &mut Fds<F>, _: &Rules<'_>) -> Result<Self, Reason> {
        exactly::<()>(bytes)?;
        let fd = fds.expect_one()?;
        Ok(Self { fd })
    }

    fn emit<O: ByteOrder>(&self, _: &mut Writer<'_>) {}

    fn detach(self) -> (OnlyFd<()>, Fds<F>) {
        (OnlyFd { fd: () }, Fds::one(self.fd))
    }
}
