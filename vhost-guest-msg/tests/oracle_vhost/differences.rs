// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where `vhost` 0.18 and this crate do not agree, and why.

use vhost_guest_msg::frontend::*;

use super::Case;

/// Which of the two accepts a message that the other refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    Ours,
    Theirs,
}

use Accepts::{Ours, Theirs};

/// One line of the table.
pub struct Difference {
    pub accepts: Accepts,
    pub when: fn(&Case) -> bool,
    pub reason: &'static str,
}

const fn line(accepts: Accepts, when: fn(&Case) -> bool, reason: &'static str) -> Difference {
    Difference {
        accepts,
        when,
        reason,
    }
}

/// The first line that fits explains a difference.
pub const DIFFERENCES: &[Difference] = &[
    // What we accept: a relay carries more than one device implements.
    line(
        Ours,
        |case| {
            matches!(
                case.code(),
                SET_LOG_FD
                    | SEND_RARP
                    | NET_SET_MTU
                    | IOTLB_MSG
                    | SET_VRING_ENDIAN
                    | VRING_KICK
                    | SET_STATUS
                    | GET_STATUS
                    | GET_VRING_BASE_SKIP_DRAIN
            )
        },
        "it has no handler for the message",
    ),
    line(
        Ours,
        |case| {
            matches!(
                case.code(),
                CREATE_CRYPTO_SESSION
                    | CLOSE_CRYPTO_SESSION
                    | POSTCOPY_ADVISE
                    | POSTCOPY_LISTEN
                    | POSTCOPY_END
                    | GPU_SET_SOCKET
                    | GET_SHARED_OBJECT
                    | GET_SHMEM_CONFIG
            )
        },
        "we decode what the device refuses as opaque, whatever is in it",
    ),
    line(
        Ours,
        |case| case.code() > GET_VRING_BASE_SKIP_DRAIN,
        "we keep messages with unknown numbers, and the device refuses them",
    ),
    line(
        Ours,
        |case| case.code() == SET_MEM_TABLE && case.u32(4) != 0,
        "padding has no meaning: we do not look at it, and clear it",
    ),
    line(
        Ours,
        |case| {
            let [descriptor, used, available] = [8, 16, 24].map(|offset| case.u64(offset));
            case.code() == SET_VRING_ADDR
                && (descriptor % 16 != 0 || used % 4 != 0 || available % 2 != 0)
        },
        "whether addresses are aligned matters to who runs the ring",
    ),
    line(
        Ours,
        |case| matches!(case.code(), GET_CONFIG | SET_CONFIG) && case.u32(8) > 3,
        "frontends fill the flags differently: we do not interpret them",
    ),
    line(
        Ours,
        |case| matches!(case.code(), GET_CONFIG | SET_CONFIG) && case.u32(4) == 0,
        "an empty piece of configuration space does no harm",
    ),
    line(
        Ours,
        |case| {
            matches!(case.code(), GET_INFLIGHT_FD | SET_INFLIGHT_FD)
                && (case.u32(16) & 0xffff == 0 || case.u32(16) >> 16 == 0)
        },
        "a record for no rings does no harm",
    ),
    // What we refuse: values that a relay could not act on, or a reader would
    // have to check again.
    line(
        Theirs,
        |case| case.flags() & 4 != 0,
        "it does not look at the REPLY flag of a request without a payload",
    ),
    line(
        Theirs,
        |case| case.bytes.len() > 4096,
        "our limit of 4096 bytes has the header in it, theirs has not",
    ),
    line(
        Theirs,
        |case| {
            matches!(case.code(), CHECK_DEVICE_STATE | SET_BACKEND_REQ_FD)
                && !case.body().is_empty()
        },
        "it does not look at the length of a message without a payload",
    ),
    line(
        Theirs,
        |case| {
            let ring = matches!(
                case.code(),
                SET_VRING_NUM..=GET_VRING_BASE | SET_VRING_ENABLE
            );
            ring && case.u32(0) > 255
        },
        "no ring has an index above 255: SET_VRING_KICK has 8 bits for it",
    ),
    line(
        Theirs,
        |case| case.code() == SET_VRING_NUM && !(1..=32768).contains(&case.u32(4)),
        "no ring has no entries, or more than 32768 (virtio 1.2 §2.7)",
    ),
    line(
        Theirs,
        |case| {
            let kick = matches!(case.code(), SET_VRING_KICK..=SET_VRING_ERR);
            kick && case.u64(0) > 0x1ff
        },
        "it ignores reserved bits",
    ),
    line(
        Theirs,
        |case| {
            let kick = matches!(case.code(), SET_VRING_KICK..=SET_VRING_ERR);
            kick && case.u64(0) & 0x100 != 0 && case.fds > 1
        },
        "it takes several descriptors for none",
    ),
    line(
        Theirs,
        |case| case.code() == REM_MEM_REG && case.fds > 1,
        "it ignores any number of descriptors; old versions of QEMU send one",
    ),
    line(
        Theirs,
        |case| {
            let [guest, size, user, offset] = [8, 16, 24, 32].map(|offset| case.u64(offset));
            let endless = |start: u64| start.checked_add(size).is_none();
            let wrong = size == 0 || [guest, user, offset].into_iter().any(endless);
            matches!(case.code(), ADD_MEM_REG | REM_MEM_REG) && wrong
        },
        "it does not check a single region at all",
    ),
    line(
        Theirs,
        |case| {
            let [size, offset] = [0, 8].map(|offset| case.u64(offset));
            let wrong = offset.checked_add(size).is_none();
            match case.code() {
                GET_INFLIGHT_FD => wrong,
                SET_INFLIGHT_FD => wrong || size == 0,
                _ => false,
            }
        },
        "it does not check the range of the record",
    ),
    line(
        Theirs,
        |case| {
            let rings = case.u32(16) & 0xffff;
            let inflight = matches!(case.code(), GET_INFLIGHT_FD | SET_INFLIGHT_FD);
            inflight && (rings > 256 || case.u32(16) >> 16 > 32768)
        },
        "it does not check that the rings of the record can exist",
    ),
];
