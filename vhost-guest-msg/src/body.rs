// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Payloads: what the bytes behind the header mean.
//!
//! One file per family of layouts, each with the same parts in the same
//! order: the layout as a table, the wire struct with an assertion of its
//! size, the meaning type (which cannot hold a wrong value), parse and emit,
//! the rewrites that a relay needs, tests.

mod config;
mod device_state;
mod inflight;
mod iotlb;
mod log;
mod memory;
mod opaque;
mod scalar;
mod vring;
mod vring_fd;

pub use config::Config;
pub use device_state::{DeviceState, Transfer};
pub use inflight::{Inflight, SetInflight};
pub use iotlb::{Iotlb, IotlbKind, Permission};
pub use log::{LogArea, LogBase};
pub use memory::{MemRegion, MemTable, Region, RemMemReg};
pub use opaque::Opaque;
pub use scalar::{OnlyFd, Rarp};
pub use vring::{
    RingLayout, VringAddr, VringBase, VringEnable, VringEndian, VringNum, VringSelect,
};
pub use vring_fd::VringFd;

use zerocopy::byteorder::ByteOrder;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::error::{Channel, Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::{Context, Fds, Layout, Limits};

/// What a payload is held to besides its layout.
pub(crate) struct Rules<'a> {
    pub(crate) channel: Channel,
    pub(crate) limits: &'a Limits,
    pub(crate) context: &'a Context,
}

/// A payload that may carry descriptors of type `F`.
pub(crate) trait Body<F>: Sized {
    /// The same without descriptors.
    type Detached;

    const LAYOUT: Layout;

    /// Reads the payload. Descriptors are taken last, when nothing can fail
    /// any more, so that after an error `fds` still has all of them.
    fn parse<O: ByteOrder>(
        bytes: &[u8],
        fds: &mut Fds<F>,
        rules: &Rules<'_>,
    ) -> Result<Self, Reason>;

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>);

    fn detach(self) -> (Self::Detached, Fds<F>);
}

/// A payload that never carries descriptors.
pub(crate) trait Plain: Sized {
    const LAYOUT: Layout;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason>;

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>);
}

impl<F, T: Plain> Body<F> for T {
    type Detached = T;

    const LAYOUT: Layout = T::LAYOUT;

    fn parse<O: ByteOrder>(
        bytes: &[u8],
        fds: &mut Fds<F>,
        rules: &Rules<'_>,
    ) -> Result<Self, Reason> {
        let body = T::parse::<O>(bytes, rules)?;
        fds.expect_none()?;
        Ok(body)
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        T::emit::<O>(self, writer);
    }

    fn detach(self) -> (T, Fds<F>) {
        (self, Fds::new())
    }
}

/// A payload of exactly the size of `W`.
pub(crate) fn exactly<W: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Result<W, Reason> {
    W::read_from_bytes(bytes).map_err(|_| Reason::Size {
        expected: size_of::<W>(),
        actual: bytes.len(),
    })
}

/// A vring index, which has to be one of the device's rings. SET_VRING_KICK
/// has 8 bits for it, and so no message can name a 257th ring.
pub(crate) fn vring_index(index: u32, limits: &Limits) -> Result<u8, Invalid> {
    let last = u64::from(limits.max_queues.min(256)).saturating_sub(1);
    match u8::try_from(index) {
        Ok(small) if u16::from(small) < limits.max_queues => Ok(small),
        _ => Err(Invalid::new("index", Problem::Above(last))),
    }
}

/// A range that is not empty and does not wrap around.
pub(crate) fn check_range(field: &'static str, start: u64, size: u64) -> Result<(), Invalid> {
    match start.checked_add(size) {
        Some(_) => Ok(()),
        None => Err(Invalid::new(field, Problem::Overflow)),
    }
}

pub(crate) fn check_not_zero(field: &'static str, value: u64) -> Result<(), Invalid> {
    match value {
        0 => Err(Invalid::new(field, Problem::Zero)),
        _ => Ok(()),
    }
}
