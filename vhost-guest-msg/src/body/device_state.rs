// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! SET_DEVICE_STATE_FD.
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | u32 | direction: 0 save (backend to frontend), 1 load |
//! | 4 | u32 | phase: 0 stopped |

use zerocopy::byteorder::{ByteOrder, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{exactly, Body, Rules};
use crate::error::{Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::{Fds, Layout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire<O: ByteOrder> {
    direction: U32<O>,
    phase: U32<O>,
}

const _: () = assert!(size_of::<Wire<zerocopy::BigEndian>>() == 8);

/// Which way device state moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The backend writes its state.
    Save = 0,
    /// The backend reads its state.
    Load = 1,
}

/// A channel for the state of the stopped device. *Stopped* is the only phase
/// there is, so it has no field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceState<F> {
    /// Which way the state moves.
    pub direction: Transfer,
    /// The backend's end of the channel.
    pub fd: F,
}

impl<F> Body<F> for DeviceState<F> {
    type Detached = DeviceState<()>;

    const LAYOUT: Layout = Layout::DeviceState;

    fn parse<O: ByteOrder>(bytes: &[u8], fds: &mut Fds<F>, _: &Rules<'_>) -> Result<Self, Reason> {
        let wire: Wire<O> = exactly(bytes)?;
        let direction = match wire.direction.get() {
            0 => Transfer::Save,
            1 => Transfer::Load,
            _ => return Err(Invalid::new("direction", Problem::Unassigned).into()),
        };
        if wire.phase != 0 {
            return Err(Invalid::new("phase", Problem::Unassigned).into());
        }
        let fd = fds.expect_one()?;
        Ok(Self { direction, fd })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&Wire::<O> {
            direction: (self.direction as u32).into(),
            phase: 0.into(),
        });
    }

    fn detach(self) -> (DeviceState<()>, Fds<F>) {
        let direction = self.direction;
        (DeviceState { direction, fd: () }, Fds::one(self.fd))
    }
}
