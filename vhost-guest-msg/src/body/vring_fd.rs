// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR.
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | u64 | bits 0-7 index, bit 8 set: no descriptor attached, others zero |

use zerocopy::byteorder::{ByteOrder, U64};

use super::{exactly, vring_index, Body, Rules};
use crate::error::{Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::{Fds, Layout};

const INDEX_MASK: u64 = 0xff;
const NO_FD: u64 = 1 << 8;

/// A vring's eventfd, or that it has none (polling).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringFd<F> {
    /// The vring.
    pub index: u8,
    /// The eventfd.
    pub fd: Option<F>,
}

impl<F> Body<F> for VringFd<F> {
    type Detached = VringFd<()>;

    const LAYOUT: Layout = Layout::VringFd;

    fn parse<O: ByteOrder>(
        bytes: &[u8],
        fds: &mut Fds<F>,
        rules: &Rules<'_>,
    ) -> Result<Self, Reason> {
        let value = exactly::<U64<O>>(bytes)?.get();
        if value & !(INDEX_MASK | NO_FD) != 0 {
            return Err(Invalid::new("index", Problem::Reserved).into());
        }
        let index = vring_index((value & INDEX_MASK) as u32, rules.limits)?;
        let fd = if value & NO_FD == 0 {
            Some(fds.expect_one()?)
        } else {
            fds.expect_none()?;
            None
        };
        Ok(Self { index, fd })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        let no_fd = if self.fd.is_none() { NO_FD } else { 0 };
        writer.put(&U64::<O>::new(u64::from(self.index) | no_fd));
    }

    fn detach(self) -> (VringFd<()>, Fds<F>) {
        let detached = VringFd {
            index: self.index,
            fd: self.fd.as_ref().map(|_| ()),
        };
        (detached, self.fd.into_iter().collect())
    }
}
