// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Messages about one vring, without descriptors.
//!
//! | layout | offset | width | field |
//! |---|---|---|---|
//! | VSTATE | 0 | u32 | index |
//! | | 4 | u32 | num: a size, an index, a switch, or nothing |
//! | VADDR | 0 | u32 | index |
//! | | 4 | u32 | flags: bit 0 log writes to the used ring, others zero |
//! | | 8 | u64 | descriptor table |
//! | | 16 | u64 | used ring |
//! | | 24 | u64 | available ring |
//! | | 32 | u64 | log: guest address that the used ring is logged at |

use zerocopy::byteorder::{ByteOrder, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{exactly, vring_index, Plain, Rules};
use crate::error::{Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::{Endian, Layout};

/// Entries in a ring at most (virtio 1.2 §2.7).
pub(crate) const MAX_RING_SIZE: u16 = 32768;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct State<O: ByteOrder> {
    index: U32<O>,
    num: U32<O>,
}

const _: () = assert!(size_of::<State<zerocopy::BigEndian>>() == 8);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Addr<O: ByteOrder> {
    index: U32<O>,
    flags: U32<O>,
    descriptor: U64<O>,
    used: U64<O>,
    available: U64<O>,
    log: U64<O>,
}

const _: () = assert!(size_of::<Addr<zerocopy::BigEndian>>() == 40);

const FLAG_LOG: u32 = 1;

/// SET_VRING_NUM: how many entries a vring has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringNum {
    index: u8,
    num: u16,
}

impl VringNum {
    /// A vring of `num` entries.
    ///
    /// # Errors
    ///
    /// A ring cannot have that size.
    pub fn new(index: u8, num: u16) -> Result<Self, Invalid> {
        super::check_not_zero("num", num.into())?;
        if num > MAX_RING_SIZE {
            return Err(Invalid::new("num", Problem::Above(MAX_RING_SIZE.into())));
        }
        Ok(Self { index, num })
    }

    /// The vring.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Its entries, 1 to 32768.
    #[must_use]
    pub fn num(&self) -> u16 {
        self.num
    }
}

/// SET_VRING_BASE, and the reply to GET_VRING_BASE: where a vring stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringBase {
    /// The vring.
    pub index: u8,
    /// Split ring: the next available index. Packed ring: bits 0-14 available
    /// index, 15 its wrap counter, 16-30 used index, 31 its wrap counter.
    pub base: u32,
}

/// GET_VRING_BASE, GET_VRING_BASE_SKIP_DRAIN, and the in-band notifications:
/// just a vring. The second number is reserved; DPDK's virtio-user sends what
/// was on its stack there, so it is not looked at, and is zero when written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringSelect {
    /// The vring.
    pub index: u8,
}

/// SET_VRING_ENABLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringEnable {
    /// The vring.
    pub index: u8,
    /// On or off.
    pub enable: bool,
}

/// SET_VRING_ENDIAN: byte order of a legacy device's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringEndian {
    /// The vring.
    pub index: u8,
    /// Its byte order.
    pub endian: Endian,
}

/// SET_VRING_ADDR: where the parts of a vring are.
///
/// The addresses are user addresses, unless `ACCESS_PLATFORM` was acked: then
/// they are I/O virtual ones. Their alignment is the ring's affair, which
/// whoever runs the ring checks.
///
/// ```
/// use vhost_guest_msg::{RingLayout, VringAddr};
///
/// let addr = VringAddr {
///     index: 0,
///     log_used: false,
///     descriptor: 0x7f00_0001_0000,
///     available: 0x7f00_0001_1000,
///     used: 0x7f00_0001_2000,
///     log: 0,
/// };
/// // The frontend's memory at 0x7f00_0000_0000 is at 0x20_0000 in the window.
/// let moved = addr.translate(RingLayout::Split { num: 256 }, |address, len| {
///     let offset = address.checked_sub(0x7f00_0000_0000)?;
///     (offset + len <= 0x1000_0000).then_some(0x20_0000 + offset)
/// })?;
/// assert_eq!(moved.used, 0x21_2000);
/// # Ok::<(), vhost_guest_msg::Invalid>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringAddr {
    /// The vring.
    pub index: u8,
    /// Log writes to the used ring.
    pub log_used: bool,
    /// The descriptor table; of a packed ring, the ring.
    pub descriptor: u64,
    /// The used ring; of a packed ring, the device event area.
    pub used: u64,
    /// The available ring; of a packed ring, the driver event area.
    pub available: u64,
    /// Guest address that writes to the used ring are logged at.
    pub log: u64,
}

/// What is known about a ring, for the length of its parts. A `num` of 0 is
/// not known yet: each part is a byte at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingLayout {
    /// Descriptor table, available ring, used ring (virtio 1.2 §2.7).
    Split {
        /// Entries.
        num: u16,
    },
    /// Descriptor ring, two event areas (virtio 1.2 §2.8).
    Packed {
        /// Entries.
        num: u16,
    },
}

impl RingLayout {
    /// Bytes in the descriptor, used and available part; without the event
    /// index fields, which are there only if negotiated.
    fn lengths(self) -> [u64; 3] {
        match self {
            Self::Split { num: 0 } | Self::Packed { num: 0 } => [1; 3],
            Self::Split { num } => {
                let num = u64::from(num);
                [16 * num, 4 + 8 * num, 4 + 2 * num]
            }
            Self::Packed { num } => [16 * u64::from(num), 4, 4],
        }
    }
}

impl VringAddr {
    /// Replaces the three user addresses by what `place` makes of each
    /// address and the length behind it. The log address stays: it is a guest
    /// address.
    ///
    /// # Errors
    ///
    /// `place` does not know one of them.
    pub fn translate(
        self,
        layout: RingLayout,
        mut place: impl FnMut(u64, u64) -> Option<u64>,
    ) -> Result<Self, Invalid> {
        let [descriptor, used, available] = layout.lengths();
        let mut part =
            |field, address, len| place(address, len).ok_or(Invalid::new(field, Problem::Unmapped));
        Ok(Self {
            descriptor: part("descriptor", self.descriptor, descriptor)?,
            used: part("used", self.used, used)?,
            available: part("available", self.available, available)?,
            ..self
        })
    }
}

/// Reads a VSTATE: index, and the number that each message reads differently.
fn parse_state<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<(u8, u32), Reason> {
    let wire: State<O> = exactly(bytes)?;
    let index = vring_index(wire.index.get(), rules.limits)?;
    Ok((index, wire.num.get()))
}

fn emit_state<O: ByteOrder>(index: u8, num: u32, writer: &mut Writer<'_>) {
    writer.put(&State::<O> {
        index: u32::from(index).into(),
        num: num.into(),
    });
}

fn parse_switch(num: u32) -> Result<bool, Invalid> {
    match num {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Invalid::new("num", Problem::Above(1))),
    }
}

impl Plain for VringNum {
    const LAYOUT: Layout = Layout::VringState;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        let (index, num) = parse_state::<O>(bytes, rules)?;
        Ok(Self::new(index, u16::try_from(num).unwrap_or(u16::MAX))?)
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        emit_state::<O>(self.index, self.num.into(), writer);
    }
}

impl Plain for VringBase {
    const LAYOUT: Layout = Layout::VringState;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        let (index, base) = parse_state::<O>(bytes, rules)?;
        Ok(Self { index, base })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        emit_state::<O>(self.index, self.base, writer);
    }
}

impl Plain for VringSelect {
    const LAYOUT: Layout = Layout::VringState;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        let (index, _) = parse_state::<O>(bytes, rules)?;
        Ok(Self { index })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        emit_state::<O>(self.index, 0, writer);
    }
}

impl Plain for VringEnable {
    const LAYOUT: Layout = Layout::VringState;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        let (index, num) = parse_state::<O>(bytes, rules)?;
        let enable = parse_switch(num)?;
        Ok(Self { index, enable })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        emit_state::<O>(self.index, self.enable.into(), writer);
    }
}

impl Plain for VringEndian {
    const LAYOUT: Layout = Layout::VringState;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        let (index, num) = parse_state::<O>(bytes, rules)?;
        let endian = match parse_switch(num)? {
            false => Endian::Little,
            true => Endian::Big,
        };
        Ok(Self { index, endian })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        let big = self.endian == Endian::Big;
        emit_state::<O>(self.index, big.into(), writer);
    }
}

impl Plain for VringAddr {
    const LAYOUT: Layout = Layout::VringAddr;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        let wire: Addr<O> = exactly(bytes)?;
        if wire.flags.get() & !FLAG_LOG != 0 {
            return Err(Invalid::new("flags", Problem::Reserved).into());
        }
        Ok(Self {
            index: vring_index(wire.index.get(), rules.limits)?,
            log_used: wire.flags.get() & FLAG_LOG != 0,
            descriptor: wire.descriptor.get(),
            used: wire.used.get(),
            available: wire.available.get(),
            log: wire.log.get(),
        })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&Addr::<O> {
            index: u32::from(self.index).into(),
            flags: u32::from(self.log_used).into(),
            descriptor: self.descriptor.into(),
            used: self.used.into(),
            available: self.available.into(),
            log: self.log.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn addr() -> VringAddr {
        VringAddr {
            index: 1,
            log_used: true,
            descriptor: 0x1000,
            used: 0x2000,
            available: 0x3000,
            log: 0x4000,
        }
    }

    /// The ranges that are asked for.
    fn asked(layout: RingLayout) -> Vec<(u64, u64)> {
        let mut asked = Vec::new();
        let place = |address, len| {
            asked.push((address, len));
            Some(address)
        };
        assert_eq!(addr().translate(layout, place), Ok(addr()));
        asked
    }

    #[test]
    fn asks_for_the_length_of_each_part() {
        let split = asked(RingLayout::Split { num: 256 });
        assert_eq!(split, [(0x1000, 4096), (0x2000, 2052), (0x3000, 516)]);
        let packed = asked(RingLayout::Packed { num: 256 });
        assert_eq!(packed, [(0x1000, 4096), (0x2000, 4), (0x3000, 4)]);
        for unknown in [RingLayout::Split { num: 0 }, RingLayout::Packed { num: 0 }] {
            assert!(asked(unknown).into_iter().all(|(_, len)| len == 1));
        }
    }

    #[test]
    fn names_the_part_that_is_nowhere() {
        for (lost, field) in [
            (0x1000, "descriptor"),
            (0x2000, "used"),
            (0x3000, "available"),
        ] {
            let place = |address, _| (address != lost).then_some(address);
            let error = addr().translate(RingLayout::Split { num: 1 }, place);
            assert_eq!(error, Err(Invalid::new(field, Problem::Unmapped)));
        }
    }

    #[test]
    fn rejects_sizes_that_no_ring_has() {
        for (num, right) in [(0, false), (1, true), (32768, true), (32769, false)] {
            assert_eq!(VringNum::new(0, num).is_ok(), right);
        }
    }
}
