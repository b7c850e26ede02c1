// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Byte order of messages.

/// Byte order of the integers in a message.
///
/// On a socket it is the machine's ([`Endian::NATIVE`]). On a virtqueue it is
/// little, unless the device offers `VIRTIO_VHOST_GUEST_F_BIG_ENDIAN`
/// (vhost-guest specification, feature bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl Endian {
    /// The byte order of this machine.
    pub const NATIVE: Self = if cfg!(target_endian = "big") {
        Self::Big
    } else {
        Self::Little
    };
}

/// Calls a function that is generic in the byte order with the order that is
/// only known at run time.
macro_rules! in_order {
    ($endian:expr, $($function:ident)::+ ($($argument:expr),*)) => {
        match $endian {
            $crate::Endian::Little => {
                $($function)::+::<zerocopy::byteorder::LittleEndian>($($argument),*)
            }
            $crate::Endian::Big => {
                $($function)::+::<zerocopy::byteorder::BigEndian>($($argument),*)
            }
        }
    };
}

pub(crate) use in_order;
