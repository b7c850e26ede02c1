// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the fuzz targets have in common: how they read their input, and what
//! is around a device.

#[path = "../../examples/kvm/adapter.rs"]
mod adapter;
mod coverage;
mod frontend;
mod guest;
mod lent;
mod machine;
mod threads;
mod watchdog;
mod window;

pub use frontend::Frontend;
pub use guest::Guest;
pub use lent::has_kvm;
pub use machine::{open_descriptors, Choice, Machine, Real, BARS, VRINGS};
pub use watchdog::Watchdog;

use std::rc::Rc;

use vhost_guest_msg::{
    Context, Endian, Fds, Header, HeaderFlags, ProtocolFeatures, VirtioFeatures,
};

/// An input, taken from its front. When it is used up, numbers are 0.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Reads from `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// The next two bytes as a number.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next eight bytes as a number.
    pub fn long(&mut self) -> u64 {
        (0..4).fold(0, |number, at| number | u64::from(self.half()) << (16 * at))
    }

    /// Up to `length` bytes.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// The first byte of an input that holds messages: how they are to be read.
///
/// | bits | meaning |
/// |---|---|
/// | 0 | the backend's channel instead of the frontend's |
/// | 1 | big-endian instead of little-endian |
/// | 2 | all features have been acknowledged |
/// | 3 | messages are bytes as they are; else they have a short header, see [`Mode::message`] |
/// | 4 | payloads have any length; else it is a multiple of 8 |
/// | 5 | the device carries less: no device state, and no IOMMU is before it |
#[derive(Clone, Copy)]
pub struct Mode(u8);

impl Mode {
    /// Takes the mode from the input.
    pub fn take(input: &mut Input<'_>) -> Self {
        Self(input.byte())
    }

    /// Whose requests they are.
    #[must_use]
    pub fn is_backend_channel(self) -> bool {
        self.0 & 1 != 0
    }

    /// The byte order.
    #[must_use]
    pub fn endian(self) -> Endian {
        match self.0 & 2 {
            0 => Endian::Little,
            _ => Endian::Big,
        }
    }

    /// A message as it is to be read. In most inputs its header is two bytes,
    /// number and flags, and the rest is made right: few mutations would get
    /// further than the header otherwise. For the same reason payloads are
    /// usually cut to a multiple of 8, as those of nearly all messages are.
    #[must_use]
    pub fn message(self, bytes: &[u8]) -> Vec<u8> {
        if self.0 & 8 != 0 {
            return bytes.to_vec();
        }
        let mut input = Input::new(bytes);
        let code = u32::from(input.byte());
        let flags = HeaderFlags::from_bits_truncate(input.byte().into());
        let mut body = input.rest();
        if self.0 & 16 == 0 {
            body = &body[..body.len() & !7];
        }
        let size = body.len() as u32;
        let header = Header { code, flags, size };
        [&header.emit(self.endian()), body].concat()
    }

    /// The next message of an input, with its length of two bytes before it.
    #[must_use]
    pub fn take_message(self, input: &mut Input<'_>) -> Vec<u8> {
        let length = usize::from(input.half() & 0xFFF);
        self.message(input.bytes(length))
    }

    /// Whether the device carries all that one can.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.0 & 32 == 0
    }

    /// What was negotiated.
    #[must_use]
    pub fn context(self) -> Context {
        match self.0 & 4 {
            0 => Context::default(),
            _ => Context {
                offered: None,
                features: VirtioFeatures::all(),
                protocol_features: ProtocolFeatures::all(),
            },
        }
    }
}

/// Stands for a descriptor: what is not given back or dropped is leaked.
pub struct Descriptor(#[allow(dead_code)] Rc<()>);

/// Descriptors that can be counted.
#[derive(Default)]
pub struct Descriptors(Rc<()>);

impl Descriptors {
    /// Makes `count` of them.
    #[must_use]
    pub fn make(&self, count: usize) -> Fds<Descriptor> {
        (0..count).map(|_| Descriptor(Rc::clone(&self.0))).collect()
    }

    /// How many there still are.
    #[must_use]
    pub fn alive(&self) -> usize {
        Rc::strong_count(&self.0) - 1
    }
}
