// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The table of all messages, which everything else is made from.
//!
//! Adding a message is adding a row (and, if none fits, a type for its
//! payload). From a row come the number's constant, the variant with its
//! parser and encoder, the rule for its reply, the feature mask, the table in
//! the README, and the strategies of the property tests.

mod macros;
mod row;

pub use row::{FdRule, Gate, Layout, ReplyRule, Row, Verdict};

use macros::catalog;
use row::Gate::{Always, Offered, Protocol, Virtio};
use row::Verdict::{Forward, Handle, Refuse};

use crate::body::{
    Config, DeviceState, Inflight, Iotlb, LogBase, MemRegion, MemTable, OnlyFd, Opaque, Rarp,
    RemMemReg, SetInflight, VringAddr, VringBase, VringEnable, VringEndian, VringFd, VringNum,
    VringSelect,
};
use crate::{Channel, ProtocolFeatures as P, VirtioFeatures as V};

const CRYPTO: &str = "the payload is a structure of the host's ABI";
const POSTCOPY: &str = "a guest cannot serve a userfaultfd";
const GPU: &str = "no feature bit gates it";
const INBAND: &str = "it would put the device on the data path";
const OBJECT: &str = "a guest has no dma-buf to share";
const SHMEM: &str = "a guest has no file to share";
const NOTIFIER: &str = "a guest has no device memory to share";

catalog! {
    /// What a frontend asks of a backend, on the main socket.
    FrontendRequest, frontend, FRONTEND_ROWS, Channel::Main;
    // code name, variant(payload), descriptors, gate, reply, verdict
     1 GET_FEATURES GetFeatures, None, Always, Features, Forward;
     2 SET_FEATURES SetFeatures(V), None, Always, Ack, Handle;
     3 SET_OWNER SetOwner, None, Always, Ack, Forward;
     4 RESET_OWNER ResetOwner, None, Always, Ack, Forward;
     5 SET_MEM_TABLE SetMemTable(MemTable<F>), OnePerRegion, Always, Ack, Handle;
     6 SET_LOG_BASE SetLogBase(LogBase<F>), OneIfShared, Always, Log, Handle;
     7 SET_LOG_FD SetLogFd(OnlyFd<F>), One, Always, Ack, Handle;
     8 SET_VRING_NUM SetVringNum(VringNum), None, Always, Ack, Handle;
     9 SET_VRING_ADDR SetVringAddr(VringAddr), None, Always, Ack, Handle;
    10 SET_VRING_BASE SetVringBase(VringBase), None, Always, Ack, Forward;
    11 GET_VRING_BASE GetVringBase(VringSelect), None, Always, VringBase, Handle;
    12 SET_VRING_KICK SetVringKick(VringFd<F>), OneUnlessNoFd, Always, Ack, Handle;
    13 SET_VRING_CALL SetVringCall(VringFd<F>), OneUnlessNoFd, Always, Ack, Handle;
    14 SET_VRING_ERR SetVringErr(VringFd<F>), OneUnlessNoFd, Always, Ack, Handle;
    15 GET_PROTOCOL_FEATURES GetProtocolFeatures, None, Always, ProtocolFeatures, Handle;
    16 SET_PROTOCOL_FEATURES SetProtocolFeatures(P), None, Always, Ack, Handle;
    17 GET_QUEUE_NUM GetQueueNum, None, Protocol(P::MQ), U64, Handle;
    18 SET_VRING_ENABLE SetVringEnable(VringEnable), None, Offered(V::PROTOCOL_FEATURES), Ack, Forward;
    19 SEND_RARP SendRarp(Rarp), None, Protocol(P::RARP), Ack, Forward;
    20 NET_SET_MTU NetSetMtu(u64), None, Protocol(P::MTU), Ack, Forward;
    21 SET_BACKEND_REQ_FD SetBackendReqFd(OnlyFd<F>), One, Protocol(P::BACKEND_REQ), Ack, Handle;
    22 IOTLB_MSG IotlbMsg(Iotlb), None, Virtio(V::ACCESS_PLATFORM), Iotlb, Handle;
    23 SET_VRING_ENDIAN SetVringEndian(VringEndian), None, Protocol(P::CROSS_ENDIAN), Ack, Forward;
    24 GET_CONFIG GetConfig(Config), None, Protocol(P::CONFIG), Config, Forward;
    25 SET_CONFIG SetConfig(Config), None, Protocol(P::CONFIG), Ack, Forward;
    26 CREATE_CRYPTO_SESSION CreateCryptoSession(Opaque<F>), Any, Protocol(P::CRYPTO_SESSION), Opaque, Refuse(CRYPTO);
    27 CLOSE_CRYPTO_SESSION CloseCryptoSession(Opaque<F>), Any, Protocol(P::CRYPTO_SESSION), Ack, Refuse(CRYPTO);
    28 POSTCOPY_ADVISE PostcopyAdvise(Opaque<F>), Any, Protocol(P::PAGEFAULT), Opaque, Refuse(POSTCOPY);
    29 POSTCOPY_LISTEN PostcopyListen(Opaque<F>), Any, Protocol(P::PAGEFAULT), Ack, Refuse(POSTCOPY);
    30 POSTCOPY_END PostcopyEnd(Opaque<F>), Any, Protocol(P::PAGEFAULT), U64, Refuse(POSTCOPY);
    31 GET_INFLIGHT_FD GetInflightFd(Inflight), None, Protocol(P::INFLIGHT_SHMFD), Inflight, Handle;
    32 SET_INFLIGHT_FD SetInflightFd(SetInflight<F>), One, Protocol(P::INFLIGHT_SHMFD), Ack, Handle;
    33 GPU_SET_SOCKET GpuSetSocket(Opaque<F>), Any, Always, Ack, Refuse(GPU);
    34 RESET_DEVICE ResetDevice, None, Protocol(P::RESET_DEVICE), Ack, Handle;
    35 VRING_KICK VringKick(VringSelect), None, Protocol(P::INBAND_NOTIFICATIONS), Ack, Refuse(INBAND);
    36 GET_MAX_MEM_SLOTS GetMaxMemSlots, None, Protocol(P::CONFIGURE_MEM_SLOTS), U64, Handle;
    37 ADD_MEM_REG AddMemReg(MemRegion<F>), One, Protocol(P::CONFIGURE_MEM_SLOTS), Ack, Handle;
    38 REM_MEM_REG RemMemReg(RemMemReg), AtMostOneIgnored, Protocol(P::CONFIGURE_MEM_SLOTS), Ack, Handle;
    39 SET_STATUS SetStatus(u64), None, Protocol(P::STATUS), Ack, Handle;
    40 GET_STATUS GetStatus, None, Protocol(P::STATUS), U64, Forward;
    41 GET_SHARED_OBJECT GetSharedObject(Opaque<F>), Any, Protocol(P::SHARED_OBJECT), Opaque, Refuse(OBJECT);
    42 SET_DEVICE_STATE_FD SetDeviceStateFd(DeviceState<F>), One, Protocol(P::DEVICE_STATE), DeviceState, Handle;
    43 CHECK_DEVICE_STATE CheckDeviceState, None, Protocol(P::DEVICE_STATE), U64, Handle;
    44 GET_SHMEM_CONFIG GetShmemConfig(Opaque<F>), Any, Protocol(P::SHMEM), Opaque, Refuse(SHMEM);
    45 GET_VRING_BASE_SKIP_DRAIN GetVringBaseSkipDrain(VringSelect), None, Protocol(P::GET_VRING_BASE_SKIP_DRAIN), VringBase, Handle;
}

catalog! {
    /// What a backend asks of a frontend, on the backend channel. All of them
    /// need `BACKEND_REQ` besides their own gate.
    BackendRequest, backend, BACKEND_ROWS, Channel::Backend;
     1 IOTLB_MSG IotlbMsg(Iotlb), None, Virtio(V::ACCESS_PLATFORM), Ack, Forward;
     2 CONFIG_CHANGE_MSG ConfigChangeMsg, None, Protocol(P::CONFIG), Ack, Forward;
     3 VRING_HOST_NOTIFIER_MSG VringHostNotifierMsg(Opaque<F>), Any, Protocol(P::HOST_NOTIFIER), Ack, Refuse(NOTIFIER);
     4 VRING_CALL VringCall(VringSelect), None, Protocol(P::INBAND_NOTIFICATIONS), Ack, Refuse(INBAND);
     5 VRING_ERR VringErr(VringSelect), None, Protocol(P::INBAND_NOTIFICATIONS), Ack, Refuse(INBAND);
     6 SHARED_OBJECT_ADD SharedObjectAdd(Opaque<F>), Any, Protocol(P::SHARED_OBJECT), Ack, Refuse(OBJECT);
     7 SHARED_OBJECT_REMOVE SharedObjectRemove(Opaque<F>), Any, Protocol(P::SHARED_OBJECT), Ack, Refuse(OBJECT);
     8 SHARED_OBJECT_LOOKUP SharedObjectLookup(Opaque<F>), Any, Protocol(P::SHARED_OBJECT), U64, Refuse(OBJECT);
     9 SHMEM_MAP ShmemMap(Opaque<F>), Any, Protocol(P::SHMEM), Ack, Refuse(SHMEM);
    10 SHMEM_UNMAP ShmemUnmap(Opaque<F>), Any, Protocol(P::SHMEM), Ack, Refuse(SHMEM);
}

/// The row of a message, if it is a known one.
#[must_use]
pub fn row(channel: Channel, code: u32) -> Option<&'static Row> {
    let rows = match channel {
        Channel::Main => FRONTEND_ROWS,
        Channel::Backend => BACKEND_ROWS,
    };
    // Numbers are dense and start at 1.
    rows.get((code as usize).checked_sub(1)?)
}

/// The protocol features that gate forwarded messages, and those that gate
/// refused ones.
pub(crate) const fn gates() -> (P, P) {
    let main = row::gates(FRONTEND_ROWS);
    let backend = row::gates(BACKEND_ROWS);
    (main.0.union(backend.0), main.1.union(backend.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_numbers() {
        for (channel, rows) in [
            (Channel::Main, FRONTEND_ROWS),
            (Channel::Backend, BACKEND_ROWS),
        ] {
            for (position, row) in rows.iter().enumerate() {
                assert_eq!(row.code as usize, position + 1);
                assert_eq!(row.channel, channel);
                assert_eq!(super::row(channel, row.code), Some(row));
            }
        }
        assert_eq!((FRONTEND_ROWS.len(), BACKEND_ROWS.len()), (45, 10));
        for code in [0, 46, u32::MAX] {
            assert_eq!(row(Channel::Main, code), Option::None);
        }
        assert_eq!(row(Channel::Backend, 11), Option::None);
    }

    #[test]
    fn no_gate_is_forwarded_and_refused() {
        let (forwarded, refused) = gates();
        assert!(forwarded.intersection(refused).is_empty());
    }

    #[test]
    fn what_is_not_looked_into_is_refused() {
        for row in FRONTEND_ROWS.iter().chain(BACKEND_ROWS) {
            if row.layout == Layout::Opaque {
                assert!(matches!(row.verdict, Refuse(_)), "{}", row.name);
            }
        }
    }
}
