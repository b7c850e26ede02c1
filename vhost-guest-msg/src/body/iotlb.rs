// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! IOTLB_MSG, on both channels.
//!
//! | offset | width | field |
//! |---|---|---|
//! | 0 | u64 | I/O virtual address |
//! | 8 | u64 | size |
//! | 16 | u64 | user address |
//! | 24 | u8 | permission: 0 none, 1 read, 2 write, 3 both |
//! | 25 | u8 | type: 1 miss, 2 update, 3 invalidate, 4 access failed |
//! | 26 | 6 | tail padding of the C struct: on the wire, without meaning |

use zerocopy::byteorder::{ByteOrder, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{check_not_zero, exactly, Plain, Rules};
use crate::error::{Channel, Invalid, Problem, Reason};
use crate::writer::Writer;
use crate::Layout;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire<O: ByteOrder> {
    iova: U64<O>,
    size: U64<O>,
    user_address: U64<O>,
    permission: u8,
    kind: u8,
    padding: [u8; 6],
}

const _: () = assert!(size_of::<Wire<zerocopy::BigEndian>>() == 32);

/// What an I/O virtual address may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Nothing.
    None = 0,
    /// Reads.
    Read = 1,
    /// Writes.
    Write = 2,
    /// Both.
    ReadWrite = 3,
}

/// What an [`Iotlb`] message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IotlbKind {
    /// Backend: which memory is this address?
    Miss = 1,
    /// Frontend: this address is this memory.
    Update = 2,
    /// Frontend: forget these addresses.
    Invalidate = 3,
    /// Backend: this access was not allowed.
    AccessFail = 4,
}

/// An entry of the I/O translation buffer.
///
/// An update is a range that is not empty and has an end in both address
/// spaces. In the other kinds the user address has no meaning, and a size may
/// stand for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iotlb {
    iova: u64,
    size: u64,
    user_address: u64,
    permission: Permission,
    kind: IotlbKind,
}

impl Iotlb {
    /// A message about `size` bytes at `iova`.
    ///
    /// # Errors
    ///
    /// An update of nothing, or of a range without an end.
    pub fn new(
        kind: IotlbKind,
        iova: u64,
        size: u64,
        user_address: u64,
        permission: Permission,
    ) -> Result<Self, Invalid> {
        if kind == IotlbKind::Update {
            check_not_zero("size", size)?;
            check_last("iova", iova, size)?;
            check_last("user address", user_address, size)?;
        }
        Ok(Self {
            iova,
            size,
            user_address,
            permission,
            kind,
        })
    }

    /// The I/O virtual address.
    #[must_use]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Bytes in the range.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The memory, in the address space of the regions.
    #[must_use]
    pub fn user_address(&self) -> u64 {
        self.user_address
    }

    /// What the range may be used for.
    #[must_use]
    pub fn permission(&self) -> Permission {
        self.permission
    }

    /// What the message says about the range.
    #[must_use]
    pub fn kind(&self) -> IotlbKind {
        self.kind
    }

    /// Replaces the user address of an update by what `place` makes of the
    /// address and the length behind it. Other kinds have none.
    ///
    /// # Errors
    ///
    /// `place` does not know the address.
    pub fn translate(self, place: impl FnOnce(u64, u64) -> Option<u64>) -> Result<Self, Invalid> {
        if self.kind != IotlbKind::Update {
            return Ok(self);
        }
        let user_address = place(self.user_address, self.size)
            .ok_or(Invalid::new("user address", Problem::Unmapped))?;
        check_last("user address", user_address, self.size)?;
        Ok(Self {
            user_address,
            ..self
        })
    }
}

/// The last byte has to be an address; the one behind it need not.
fn check_last(field: &'static str, start: u64, size: u64) -> Result<(), Invalid> {
    super::check_range(field, start, size.saturating_sub(1))
}

impl Plain for Iotlb {
    const LAYOUT: Layout = Layout::Iotlb;

    fn parse<O: ByteOrder>(bytes: &[u8], rules: &Rules<'_>) -> Result<Self, Reason> {
        let wire: Wire<O> = exactly(bytes)?;
        let kind = match (wire.kind, rules.channel) {
            (1, Channel::Backend) => IotlbKind::Miss,
            (2, Channel::Main) => IotlbKind::Update,
            (3, Channel::Main) => IotlbKind::Invalidate,
            (4, Channel::Backend) => IotlbKind::AccessFail,
            _ => return Err(Invalid::new("type", Problem::Unassigned).into()),
        };
        let permission = match wire.permission {
            0 => Permission::None,
            1 => Permission::Read,
            2 => Permission::Write,
            3 => Permission::ReadWrite,
            _ => return Err(Invalid::new("perm", Problem::Unassigned).into()),
        };
        let [iova, size, user_address] = [wire.iova, wire.size, wire.user_address].map(U64::get);
        Ok(Self::new(kind, iova, size, user_address, permission)?)
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        writer.put(&Wire::<O> {
            iova: self.iova.into(),
            size: self.size.into(),
            user_address: self.user_address.into(),
            permission: self.permission as u8,
            kind: self.kind as u8,
            padding: [0; 6],
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: IotlbKind) -> Iotlb {
        Iotlb::new(kind, 0x1000, 0x2000, 0x7000, Permission::Read).unwrap()
    }

    #[test]
    fn translates_the_whole_range_of_an_update() {
        let place = |address, len| (address == 0x7000 && len == 0x2000).then_some(0x20_0000);
        let moved = message(IotlbKind::Update).translate(place).unwrap();
        assert_eq!((moved.user_address(), moved.iova()), (0x20_0000, 0x1000));
    }

    #[test]
    fn rejects_an_update_of_unknown_memory_or_without_an_end() {
        let update = message(IotlbKind::Update);
        let error = update.translate(|_, _| None).unwrap_err();
        assert_eq!(error.problem, Problem::Unmapped);
        assert!(update.translate(|_, _| Some(u64::MAX)).is_err());
    }

    #[test]
    fn leaves_other_kinds_alone() {
        for kind in [
            IotlbKind::Miss,
            IotlbKind::Invalidate,
            IotlbKind::AccessFail,
        ] {
            let message = message(kind);
            assert_eq!(message.translate(|_, _| None), Ok(message));
            // Their size may stand for everything.
            assert!(Iotlb::new(kind, 1, u64::MAX, 1, Permission::None).is_ok());
        }
    }
}
