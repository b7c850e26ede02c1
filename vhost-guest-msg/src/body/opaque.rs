// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Payloads that are carried and not looked into.

use alloc::vec::Vec;

use zerocopy::byteorder::ByteOrder;

use super::{Body, Rules};
use crate::error::Reason;
use crate::writer::Writer;
use crate::{Fds, Layout};

/// The payload of a message that a device refuses or does not know. It keeps
/// whatever came, so that such a message survives decoding and encoding.
#[derive(Debug, PartialEq, Eq)]
pub struct Opaque<F = ()> {
    /// The payload.
    pub bytes: Vec<u8>,
    /// The descriptors, any number.
    pub fds: Fds<F>,
}

impl<F> Body<F> for Opaque<F> {
    type Detached = Opaque<()>;

    const LAYOUT: Layout = Layout::Opaque;

    fn parse<O: ByteOrder>(bytes: &[u8], fds: &mut Fds<F>, _: &Rules<'_>) -> Result<Self, Reason> {
        Ok(Self {
            bytes: bytes.to_vec(),
            fds: core::mem::take(fds),
        })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(self.bytes.as_slice());
    }

    fn detach(self) -> (Opaque<()>, Fds<F>) {
        let detached = Opaque {
            bytes: self.bytes,
            fds: Fds::new(),
        };
        (detached, self.fds)
    }
}
