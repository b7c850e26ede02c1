// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Rules that a frontend can break: which one, with which message, in which
//! field.

use std::io;

use rustix::io::Errno;
use thiserror::Error;
use vhost_guest_msg::{
    BufferTooSmall, FrameReason, Invalid, MessageError, ReplyError, RequestName,
};

use crate::event_loop::poller::Unwaitable;
use crate::fd::{ChannelEnd, FdError, NoChannel, PumpError};
use crate::memory::MemoryError;
use crate::vmm::services::ServiceError;

/// What costs a frontend its connection.
#[derive(Debug, Error)]
pub(crate) enum FrontendFault {
    /// Its bytes are no message.
    #[error(transparent)]
    Frame(#[from] FrameReason),
    /// A message has not the form of its request.
    #[error(transparent)]
    Malformed(#[from] MessageError),
    /// A reply on the backend channel is not due, or has not its form.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A request number without a row.
    #[error("unknown request {0}")]
    Unknown(u32),
    /// A request that no device carries.
    #[error("{request} is not carried: {reason}")]
    NotCarried {
        request: RequestName,
        reason: &'static str,
    },
    /// A request that this device carries only if its VMM wants it to.
    #[error("{0} is not carried: there is no queue for it")]
    NoQueue(RequestName),
    /// What the request needs was not negotiated.
    #[error("{0} without its feature")]
    WithoutFeature(RequestName),
    /// `SET_PROTOCOL_FEATURES` with bits that the device does not carry.
    #[error("SET_PROTOCOL_FEATURES: bits {bits:#x} are not carried")]
    ProtocolFeatures { bits: u64 },
    /// A request that is refused, and its sender reads no answer.
    #[error("{request}: {rule}")]
    Refused {
        request: RequestName,
        #[source]
        rule: Unfulfillable,
    },
    /// More replies are due than a frontend has any use for.
    #[error("{0} while too many replies are outstanding")]
    TooManyReplies(RequestName),
    /// A reply on the backend channel that is longer than any there is.
    #[error(transparent)]
    LongReply(BufferTooSmall),
    /// What ends the backend channel, and is no hang-up.
    #[error("backend channel: {0}")]
    Channel(#[source] ChannelEnd),
    /// Its socket cannot be read.
    #[error("recvmsg: {0}")]
    Receive(#[source] Errno),
    /// Its socket cannot be written.
    #[error("sendmsg: {0}")]
    Send(#[source] Errno),
    /// Nobody can wait for its socket.
    #[error(transparent)]
    Unwaitable(Unwaitable),
    /// What the guest has agreed to cannot be done with its memory.
    #[error(transparent)]
    Memory(MemoryError),
    /// Its memory files do not let anybody look at them in time.
    #[error("memory files that it sent keep the device waiting for too long")]
    Late,
    /// A vCPU cannot access memory that it shared.
    #[error("memory that it shared cannot be accessed")]
    Inaccessible,
    /// The VMM cannot arm what it sent for a kick.
    #[error("the kick of vring {vring} is no eventfd, or one in use already: {error}")]
    Kick {
        vring: u16,
        #[source]
        error: io::Error,
    },
}

/// Why a well-formed request cannot be complied with: it is refused, and
/// nothing has changed.
#[derive(Debug, Error)]
pub(crate) enum Unfulfillable {
    /// A field has a value that the message cannot have here.
    #[error(transparent)]
    Field(#[from] Invalid),
    /// The memory that it speaks of.
    #[error(transparent)]
    Memory(MemoryError),
    /// The descriptor that it brings.
    #[error(transparent)]
    Descriptor(FdError),
    /// The eventfd that it brings, to which nothing can be connected.
    #[error(transparent)]
    Eventfd(ServiceError),
    /// The transfer of device state.
    #[error(transparent)]
    Transfer(PumpError),
    /// The backend channel.
    #[error(transparent)]
    Channel(NoChannel),
    /// A log in the frontend's own memory, which is of no use to a guest.
    #[error("a log that is not shared (LOG_SHMFD)")]
    LogNotShared,
}
