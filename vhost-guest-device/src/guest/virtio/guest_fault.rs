// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Rules of virtio's that registers show to be broken.

use thiserror::Error;

/// A rule that the guest broke.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum GuestFault {
    /// A ring is misaligned, or runs over the end of the address space.
    #[error("queue {0} enabled with an invalid ring address")]
    QueueAddress(u16),
    /// The driver does not accept `VIRTIO_F_VERSION_1`.
    #[error("features chosen without VIRTIO_F_VERSION_1")]
    Version1,
}
