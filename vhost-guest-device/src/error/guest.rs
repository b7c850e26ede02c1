// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Rules that a guest can break: which one, with which message, in which queue.

use thiserror::Error;
use vhost_guest_msg::{BufferTooSmall, FrameReason, MessageError, ReplyError, RequestName};
use vm_memory::GuestMemoryError;

/// What costs a guest its frontend, until it resets the device.
#[derive(Debug, Error)]
pub(crate) enum GuestFault {
    /// Registers.
    #[error(transparent)]
    Register(#[from] RegisterFault),
    /// One of the device's queues.
    #[error("queue {queue}: {rule}")]
    Queue {
        queue: u16,
        #[source]
        rule: QueueFault,
    },
    /// The bytes in a buffer are no message.
    #[error(transparent)]
    Frame(#[from] FrameReason),
    /// A backend request has not the form of its request.
    #[error(transparent)]
    Malformed(#[from] MessageError),
    /// A reply is not due, or has not its form.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A reply that is longer than any there is.
    #[error(transparent)]
    LongReply(BufferTooSmall),
    /// The reply to `GET_INFLIGHT_FD` asks for too much.
    #[error("wants {size} bytes for in-flight requests; the limit is {limit}")]
    InflightSize { size: u64, limit: u64 },
    /// The reply to `GET_QUEUE_NUM` promises too much.
    #[error("announces {vrings} vrings, the device carries {most}")]
    QueueNum { vrings: u64, most: u64 },
    /// A backend request that the frontend must not see, and whose sender asked
    /// for no answer.
    #[error("backend request {request}: {rule}")]
    BackendRequest {
        request: RequestName,
        #[source]
        rule: ChannelRule,
    },
    /// More replies are due to backend requests than there is room for.
    #[error("backend request {0} while too many replies are outstanding")]
    TooManyReplies(RequestName),
    /// It did not take a memory table.
    #[error("refused a memory table")]
    RefusedTable,
    /// A buffer of no bytes would mean the end of the state.
    #[error("a buffer for device state has no room")]
    StateBuffer,
    /// The VMM's limit for an answer is over.
    #[error("keeps the frontend waiting for too long")]
    Late,
}

/// A rule of virtio's that registers show to be broken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum RegisterFault {
    /// A ring is misaligned, or runs over the end of the address space.
    #[error("queue {0} enabled with an invalid ring address")]
    QueueAddress(u16),
    /// The driver does not accept `VIRTIO_F_VERSION_1`.
    #[error("features chosen without VIRTIO_F_VERSION_1")]
    Version1,
}

/// A rule that one of the device's queues, or a buffer in it, breaks.
#[derive(Debug, Error)]
pub(crate) enum QueueFault {
    /// It was reset while a message was on its way into one of its buffers. No
    /// turn lets that happen; what would be lost must not be lost in silence.
    #[error("reset under a message")]
    Gone,
    /// It has a size that it cannot have.
    #[error("bad size")]
    Size,
    /// A ring is where no ring can begin.
    #[error("a ring is not aligned")]
    Misaligned,
    /// A ring is not all in memory when the queue is enabled.
    #[error("a ring is not in memory")]
    RingOutside,
    /// The available ring was in memory when the queue was enabled.
    #[error("the available ring is not in memory")]
    AvailOutside,
    /// The available ring cannot be read, or its index jumps.
    #[error("available ring: {0}")]
    Avail(#[source] virtio_queue::Error),
    /// A ring cannot be read or written any more.
    #[error("ring: {0}")]
    Ring(#[source] virtio_queue::Error),
    /// More descriptors than the device announced.
    #[error("a chain is longer than announced")]
    ChainTooLong,
    /// A readable descriptor where the device writes, or the other way round.
    #[error("a descriptor has the wrong direction")]
    Direction,
    /// More bytes than the device announced.
    #[error("a message is larger than announced")]
    MessageTooLarge,
    /// A buffer is not all in memory.
    #[error("a buffer is not in memory")]
    BufferOutside,
    /// A buffer cannot be read or written any more.
    #[error("buffer: {0}")]
    Buffer(#[source] GuestMemoryError),
    /// A buffer for a message that has more bytes.
    #[error("a buffer is too small for {0} bytes")]
    BufferTooSmall(usize),
    /// A head, or a table, that there is not.
    #[error("a chain has no valid descriptor")]
    NoDescriptor,
    /// A next descriptor that there is not, or was there already.
    #[error("a chain has no end")]
    NoEnd,
}

/// Why a frontend does not get a backend request.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ChannelRule {
    /// A request number without a row.
    #[error("is unknown")]
    Unknown,
    /// A request that no device carries.
    #[error("is not carried: {0}")]
    NotCarried(&'static str),
    /// What the request needs was not negotiated.
    #[error("its feature was not negotiated")]
    WithoutFeature,
}
