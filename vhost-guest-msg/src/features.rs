// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Feature bits of the two negotiations.

use bitflags::bitflags;

use crate::catalog;

bitflags! {
    /// Virtio feature bits as GET_FEATURES and SET_FEATURES carry them.
    ///
    /// Only bits that the protocol itself gives a meaning to are named; all
    /// others (the device type's) are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VirtioFeatures: u64 {
        /// `VHOST_F_LOG_ALL`: log every write to guest memory.
        const LOG_ALL = 1 << 26;
        /// `VIRTIO_RING_F_INDIRECT_DESC`.
        const RING_INDIRECT_DESC = 1 << 28;
        /// `VIRTIO_RING_F_EVENT_IDX`.
        const RING_EVENT_IDX = 1 << 29;
        /// `VHOST_USER_F_PROTOCOL_FEATURES`: protocol features can be
        /// negotiated, and rings start disabled.
        const PROTOCOL_FEATURES = 1 << 30;
        /// `VIRTIO_F_VERSION_1`.
        const VERSION_1 = 1 << 32;
        /// `VIRTIO_F_ACCESS_PLATFORM`: ring addresses are I/O virtual ones.
        const ACCESS_PLATFORM = 1 << 33;
        /// `VIRTIO_F_RING_PACKED`.
        const RING_PACKED = 1 << 34;
        const _ = !0;
    }
}

bitflags! {
    /// Protocol feature bits (`VHOST_USER_PROTOCOL_F_*`), all that are
    /// assigned. Unassigned ones are kept.
    ///
    /// ```
    /// use vhost_guest_msg::ProtocolFeatures;
    ///
    /// let offered = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::XEN_MMAP;
    /// assert_eq!(offered & ProtocolFeatures::forwardable(), ProtocolFeatures::REPLY_ACK);
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ProtocolFeatures: u64 {
        /// Several queues; GET_QUEUE_NUM.
        const MQ = 1 << 0;
        /// SET_LOG_BASE carries the log as a descriptor, and is answered.
        const LOG_SHMFD = 1 << 1;
        /// SEND_RARP.
        const RARP = 1 << 2;
        /// Acknowledgements on request (NEED_REPLY).
        const REPLY_ACK = 1 << 3;
        /// NET_SET_MTU.
        const MTU = 1 << 4;
        /// SET_BACKEND_REQ_FD, and with it the backend channel.
        const BACKEND_REQ = 1 << 5;
        /// SET_VRING_ENDIAN.
        const CROSS_ENDIAN = 1 << 6;
        /// CREATE_CRYPTO_SESSION, CLOSE_CRYPTO_SESSION.
        const CRYPTO_SESSION = 1 << 7;
        /// Postcopy migration.
        const PAGEFAULT = 1 << 8;
        /// GET_CONFIG, SET_CONFIG, CONFIG_CHANGE_MSG.
        const CONFIG = 1 << 9;
        /// Descriptors in requests of the backend.
        const BACKEND_SEND_FD = 1 << 10;
        /// VRING_HOST_NOTIFIER_MSG.
        const HOST_NOTIFIER = 1 << 11;
        /// GET_INFLIGHT_FD, SET_INFLIGHT_FD.
        const INFLIGHT_SHMFD = 1 << 12;
        /// RESET_DEVICE.
        const RESET_DEVICE = 1 << 13;
        /// Notifications as messages: VRING_KICK, VRING_CALL, VRING_ERR.
        const INBAND_NOTIFICATIONS = 1 << 14;
        /// GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// SET_STATUS, GET_STATUS.
        const STATUS = 1 << 16;
        /// Regions carry Xen grant information (40 bytes each).
        const XEN_MMAP = 1 << 17;
        /// Objects shared between backends.
        const SHARED_OBJECT = 1 << 18;
        /// SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE.
        const DEVICE_STATE = 1 << 19;
        /// GET_VRING_BASE suspends in-flight requests.
        const GET_VRING_BASE_INFLIGHT = 1 << 20;
        /// User address fields hold guest addresses.
        const GPA_ADDRESSES = 1 << 21;
        /// Shared memory regions of the backend.
        const SHMEM = 1 << 22;
        /// GET_VRING_BASE_SKIP_DRAIN.
        const GET_VRING_BASE_SKIP_DRAIN = 1 << 23;
        const _ = !0;
    }
}

impl ProtocolFeatures {
    /// Features that change how messages work without a message of their own,
    /// and that this crate's messages carry. The absent ones of this kind are
    /// `BACKEND_SEND_FD` (a guest has no descriptors to send), `XEN_MMAP` and
    /// `GPA_ADDRESSES` (other region contents).
    const CARRIED: Self = Self::LOG_SHMFD
        .union(Self::REPLY_ACK)
        .union(Self::GET_VRING_BASE_INFLIGHT);

    /// The features that a device can let through: those that no refused
    /// message of the catalog depends on, and that it has messages for.
    #[must_use]
    pub const fn forwardable() -> Self {
        let (forwarded, refused) = catalog::gates();
        forwarded.union(Self::CARRIED).difference(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_what_the_reference_passes() {
        let bits = [0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 15, 16, 19, 20, 23];
        let expected = bits.iter().fold(0, |mask, bit| mask | 1 << bit);
        assert_eq!(ProtocolFeatures::forwardable().bits(), expected);
    }

    #[test]
    fn keeps_unknown_bits() {
        assert_eq!(VirtioFeatures::from_bits_retain(!0).bits(), !0);
        assert_eq!(
            ProtocolFeatures::from_bits_truncate(1 << 63).bits(),
            1 << 63
        );
    }

    #[test]
    fn masks_unassigned_bits() {
        let all = ProtocolFeatures::from_bits_retain(!0);
        assert_eq!((all & ProtocolFeatures::forwardable()).bits() >> 24, 0);
    }
}
