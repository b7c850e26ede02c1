// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can be wrong with a message, and whose fault that is.
//!
//! Every error here is the fault of the peer that sent the message: the
//! frontend on the socket side, the guest on the queue side. None of them
//! prints bytes that the peer chose; field names, limits and small numbers
//! are enough to find the cause.

use core::fmt;

use thiserror::Error;

use crate::Fds;

/// Which of the two independent channels a message belongs to. Each has its
/// own number space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// The main socket: requests of the frontend.
    Main,
    /// The backend channel (SET_BACKEND_REQ_FD): requests of the backend.
    Backend,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Main => "frontend request",
            Self::Backend => "backend request",
        })
    }
}

/// What is wrong with one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// Must not be zero.
    #[error("is zero")]
    Zero,
    /// Above what is allowed.
    #[error("is larger than {0}")]
    Above(u64),
    /// A range that starts here runs over the end of its address space.
    #[error("plus size overflows")]
    Overflow,
    /// Bits that have no meaning are set.
    #[error("has reserved bits set")]
    Reserved,
    /// Two ranges share an address.
    #[error("overlaps another region")]
    Overlap,
    /// The receiver of a rewritten message would not find the address.
    #[error("is in no known region")]
    Unmapped,
    /// A code without a meaning.
    #[error("has no meaning here")]
    Unassigned,
}

/// A value that a message cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{field} {problem}")]
pub struct Invalid {
    /// The field, by its name in the protocol.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

impl Invalid {
    pub(crate) const fn new(field: &'static str, problem: Problem) -> Self {
        Self { field, problem }
    }
}

/// Why a message cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Reason {
    /// The REPLY flag is set where a request is due.
    #[error("is a reply where a request is due")]
    NotRequest,
    /// The payload has the wrong length.
    #[error("payload has {actual} bytes, {expected} are due")]
    Size {
        /// Bytes that the message has by the protocol.
        expected: usize,
        /// Bytes that it has.
        actual: usize,
    },
    /// The number of descriptors is wrong.
    #[error("{actual} descriptors attached, {expected} are due")]
    FdCount {
        /// Descriptors that the message may have at most.
        expected: usize,
        /// Descriptors that came.
        actual: usize,
    },
    /// A field of the payload is wrong.
    #[error(transparent)]
    Field(#[from] Invalid),
}

/// A message that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{channel} {}: {reason}", RequestName(*.channel, *.code))]
pub struct MessageError {
    /// The channel, and with it whose request it is.
    pub channel: Channel,
    /// The request number.
    pub code: u32,
    /// What is wrong.
    pub reason: Reason,
}

/// A request by its number: told by its name, if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestName(
    /// Whose request it is.
    pub Channel,
    /// The request number.
    pub u32,
);

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match crate::catalog::row(self.0, self.1) {
            Some(row) => f.write_str(row.name),
            None => write!(f, "{}", self.1),
        }
    }
}

impl MessageError {
    /// Whether the message has the form of its request, and only a value in it
    /// is one that cannot be complied with.
    ///
    /// Such a message can be answered with a negative acknowledgement. What has
    /// another form (length, descriptors, direction) is no message, and whoever
    /// sent it cannot be relied on to read an answer.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        matches!(self.reason, Reason::Field(_))
    }
}

/// [`MessageError`] together with all the descriptors that came with the
/// message.
pub struct DecodeError<F> {
    pub(crate) error: MessageError,
    pub(crate) need_reply: bool,
    pub(crate) fds: Fds<F>,
}

impl<F> DecodeError<F> {
    /// What is wrong, without the descriptors.
    #[must_use]
    pub fn error(&self) -> MessageError {
        self.error
    }

    /// The NEED_REPLY flag of the message.
    #[must_use]
    pub fn need_reply(&self) -> bool {
        self.need_reply
    }

    /// The descriptors that came with the message, every one of them.
    #[must_use]
    pub fn into_fds(self) -> Fds<F> {
        self.fds
    }
}

impl<F> fmt::Debug for DecodeError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<F> fmt::Display for DecodeError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<F> core::error::Error for DecodeError<F> {}

/// A buffer that is too small to encode a message into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the message has {needed} bytes, the buffer {available}")]
pub struct BufferTooSmall {
    /// Bytes that the message has, header included.
    pub needed: usize,
    /// Bytes in the buffer.
    pub available: usize,
}
