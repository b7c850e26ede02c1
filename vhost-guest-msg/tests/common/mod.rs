// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the tests of this crate share: messages made from the rows of the
//! catalog, and descriptors that know when they are dropped.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::cell::Cell;
use std::rc::Rc;

use vhost_guest_msg::{
    frontend, Channel, Context, Endian, FdRule, Fds, Frame, Header, HeaderFlags, Layout,
    ProtocolFeatures, Row, VirtioFeatures, BACKEND_ROWS, FRONTEND_ROWS,
};

pub const ENDIANS: [Endian; 2] = [Endian::Little, Endian::Big];

/// Everything acked.
pub fn context() -> Context {
    Context {
        offered: None,
        features: VirtioFeatures::all(),
        protocol_features: ProtocolFeatures::all(),
    }
}

/// All messages of both channels.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    FRONTEND_ROWS.iter().chain(BACKEND_ROWS)
}

/// A piece of a payload, before it has a byte order.
#[derive(Clone, Debug)]
pub enum Field {
    U16(u16),
    U32(u32),
    U64(u64),
    Raw(Vec<u8>),
}

use Field::{Raw, U16, U32, U64};

/// The bytes of a payload.
pub fn emit(fields: &[Field], endian: Endian) -> Vec<u8> {
    let bytes = |field: &Field| match (field, endian) {
        (U16(n), Endian::Little) => n.to_le_bytes().to_vec(),
        (U16(n), Endian::Big) => n.to_be_bytes().to_vec(),
        (U32(n), Endian::Little) => n.to_le_bytes().to_vec(),
        (U32(n), Endian::Big) => n.to_be_bytes().to_vec(),
        (U64(n), Endian::Little) => n.to_le_bytes().to_vec(),
        (U64(n), Endian::Big) => n.to_be_bytes().to_vec(),
        (Raw(bytes), _) => bytes.clone(),
    };
    fields.iter().flat_map(bytes).collect()
}

/// A correct payload for a row, with a non-zero value wherever one is legal.
pub fn sample(row: &Row) -> Vec<Field> {
    let region = |guest: u64, user: u64| [guest, 0x20_0000, user, 0x1000].map(U64);
    match row.layout {
        Layout::Nothing => vec![],
        Layout::U64 => vec![U64(0x0102_0304_0506_0708)],
        Layout::Rarp => vec![Raw(vec![0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0])],
        Layout::VringState => vec![U32(3), U32(vring_num(row))],
        Layout::VringAddr => [U32(3), U32(1)]
            .into_iter()
            .chain([0x7f00_0001_0000, 0x7f00_0001_2000, 0x7f00_0001_1000, 0x5000].map(U64))
            .collect(),
        Layout::VringFd => vec![U64(3)],
        Layout::MemTable => [U32(2), U32(0)]
            .into_iter()
            .chain(region(0, 0x7f00_0000_0000))
            .chain(region(1 << 32, 0x7f10_0000_0000))
            .collect(),
        Layout::MemRegion => [U64(0)]
            .into_iter()
            .chain(region(1 << 32, 0x7f10_0000_0000))
            .collect(),
        Layout::Log => vec![U64(0x2_8000), U64(0x1000)],
        Layout::Iotlb => {
            let kind = if row.channel == Channel::Main { 2 } else { 1 };
            let tail = Raw(vec![3, kind, 0, 0, 0, 0, 0, 0]);
            vec![U64(0x1000), U64(0x1000), U64(0x7f00_0002_0000), tail]
        }
        Layout::Config => vec![U32(4), U32(4), U32(1), Raw(vec![1, 2, 3, 4])],
        Layout::Inflight => vec![U64(0x2080), U64(0x1000), U16(2), U16(256), U32(0)],
        Layout::DeviceState => vec![U32(1), U32(0)],
        Layout::Opaque => vec![Raw(vec![1, 2, 3, 4, 5])],
    }
}

/// The second number of a VSTATE that fits the row.
fn vring_num(row: &Row) -> u32 {
    match (row.channel, row.code) {
        (Channel::Main, frontend::SET_VRING_NUM) => 256,
        (Channel::Main, frontend::SET_VRING_BASE) => 0x8765_4321,
        (Channel::Main, frontend::SET_VRING_ENABLE | frontend::SET_VRING_ENDIAN) => 1,
        _ => 0,
    }
}

/// The numbers of descriptors that are right for the sample of a row, and of
/// 0 to `most`.
pub fn fd_counts(row: &Row, most: usize) -> Vec<usize> {
    match row.fds {
        FdRule::None => vec![0],
        FdRule::One | FdRule::OneUnlessNoFd | FdRule::OneIfShared => vec![1],
        FdRule::OnePerRegion => vec![2],
        FdRule::AtMostOneIgnored => vec![0, 1],
        FdRule::Any => (0..=most).collect(),
    }
}

pub fn header(code: u32, flags: HeaderFlags, body: &[u8]) -> Header {
    let size = body.len() as u32;
    Header { code, flags, size }
}

/// A request in a frame of its own.
pub fn frame<F>(code: u32, body: &[u8], fds: Fds<F>) -> Frame<'_, F> {
    let header = header(code, HeaderFlags::empty(), body);
    Frame { header, body, fds }
}

/// Header and payload as on the wire.
pub fn message(code: u32, flags: HeaderFlags, body: &[u8], endian: Endian) -> Vec<u8> {
    [&header(code, flags, body).emit(endian)[..], body].concat()
}

/// A descriptor of a [`Ledger`].
#[derive(Debug)]
pub struct Fd {
    pub number: usize,
    open: Rc<Cell<usize>>,
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

impl PartialEq for Fd {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

/// Counts the descriptors that exist.
#[derive(Default)]
pub struct Ledger {
    open: Rc<Cell<usize>>,
}

impl Ledger {
    pub fn fds(&self, count: usize) -> Fds<Fd> {
        let open = |number| {
            self.open.set(self.open.get() + 1);
            let open = self.open.clone();
            Fd { number, open }
        };
        (0..count).map(open).collect()
    }

    pub fn open(&self) -> usize {
        self.open.get()
    }
}
