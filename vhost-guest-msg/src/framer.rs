// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! From a stream of bytes to whole messages.

use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use crate::error::Invalid;
use crate::header::HEADER_SIZE;
use crate::{Endian, Fds, Header, Limits};

/// One whole message, not looked into yet.
#[derive(Debug)]
pub struct Frame<'a, F> {
    /// The header.
    pub header: Header,
    /// The payload, as long as the header says.
    pub body: &'a [u8],
    /// The descriptors that came with it.
    pub fds: Fds<F>,
}

/// What [`Framer::advance`] led to.
#[derive(Debug)]
pub enum Progress<'a, F> {
    /// More bytes are needed.
    More,
    /// A message is complete.
    Frame(Frame<'a, F>),
}

/// Why bytes do not make a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameReason {
    /// The header is wrong.
    #[error("header: {0}")]
    Header(Invalid),
    /// The message is larger than the limit.
    #[error("message {code} has {size} payload bytes, more than the limit allows")]
    TooLarge {
        /// The request number.
        code: u32,
        /// Payload bytes announced.
        size: u32,
    },
    /// Descriptors came with bytes other than the first of a message. The
    /// protocol ties them to the header (vhost-user, Communication).
    #[error("descriptors came with bytes in the middle of a message")]
    LateFds,
    /// A buffer holds less than the message that it begins with.
    #[error("buffer of {0} bytes is shorter than its message")]
    Truncated(usize),
    /// A buffer holds more than one message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// [`FrameReason`] together with all descriptors received for the message.
pub struct FrameError<F> {
    reason: FrameReason,
    fds: Fds<F>,
}

impl<F> FrameError<F> {
    /// What is wrong.
    #[must_use]
    pub fn reason(&self) -> FrameReason {
        self.reason
    }

    /// The descriptors that came with the message, every one of them.
    #[must_use]
    pub fn into_fds(self) -> Fds<F> {
        self.fds
    }
}

impl<F> fmt::Debug for FrameError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<F> fmt::Display for FrameError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reason, f)
    }
}

impl<F> core::error::Error for FrameError<F> {}

/// Cuts a stream of bytes into messages, without doing any I/O.
///
/// Ask for [`space`](Self::space), read into it, and report what arrived with
/// [`advance`](Self::advance). The space is exactly what the current message
/// still lacks (first its header, then its payload), so that a read cannot run
/// into the descriptors of the next message. After an error the stream is
/// beyond repair; close it.
///
/// ```
/// use vhost_guest_msg::{Endian, Fds, Framer, Limits, Progress};
///
/// let mut wire: &[u8] = &[16, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
/// let mut framer = Framer::<()>::new(Endian::Little, &Limits::default());
/// loop {
///     let read = std::io::Read::read(&mut wire, framer.space())?;
///     assert_ne!(read, 0, "end of stream");
///     if let Progress::Frame(frame) = framer.advance(read, Fds::new())? {
///         assert_eq!(
///             frame.header.code,
///             vhost_guest_msg::frontend::SET_PROTOCOL_FEATURES
///         );
///         assert_eq!(frame.body.len(), 8);
///         break;
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Framer<F> {
    endian: Endian,
    /// As long as the largest message; `filled` bytes of it are the current
    /// message's.
    buffer: Vec<u8>,
    filled: usize,
    /// Known as soon as `filled` reaches its size.
    header: Option<Header>,
    fds: Fds<F>,
}

impl<F> Framer<F> {
    /// A framer at the start of a stream. This is the only place where it
    /// takes memory: as much as the largest message has.
    #[must_use]
    pub fn new(endian: Endian, limits: &Limits) -> Self {
        Self {
            endian,
            buffer: alloc::vec![0; limits.max_message_size.max(HEADER_SIZE)],
            filled: 0,
            header: None,
            fds: Fds::new(),
        }
    }

    /// Where the next bytes go; never empty.
    #[must_use]
    pub fn space(&mut self) -> &mut [u8] {
        let end = self.end();
        self.buffer.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Whether a message has begun and is not complete: the stream must not
    /// end now.
    #[must_use]
    pub fn is_inside_message(&self) -> bool {
        self.filled != 0
    }

    /// Takes note of `count` bytes read into [`space`](Self::space) (more than
    /// its length counts as its length), and of the descriptors that the same
    /// read returned.
    ///
    /// # Errors
    ///
    /// The bytes are not a message, or the descriptors came at a wrong place.
    pub fn advance(&mut self, count: usize, fds: Fds<F>) -> Result<Progress<'_, F>, FrameError<F>> {
        let late = self.filled != 0 && !fds.is_empty();
        self.fds.append(fds);
        if late {
            return Err(self.fail(FrameReason::LateFds));
        }
        self.filled = self.end().min(self.filled.saturating_add(count));
        if self.header.is_none() && self.filled == HEADER_SIZE {
            match self.parse_header() {
                Ok(header) => self.header = Some(header),
                Err(reason) => return Err(self.fail(reason)),
            }
        }
        match self.header {
            Some(header) if self.filled == self.end() => {
                let (filled, fds) = self.restart();
                let body = self.buffer.get(HEADER_SIZE..filled).unwrap_or_default();
                Ok(Progress::Frame(Frame { header, body, fds }))
            }
            _ => Ok(Progress::More),
        }
    }

    /// Where the part of the message ends that is to be read now.
    fn end(&self) -> usize {
        match self.header {
            Some(header) => HEADER_SIZE + header.size as usize,
            None => HEADER_SIZE,
        }
    }

    fn parse_header(&self) -> Result<Header, FrameReason> {
        let bytes = self.buffer.first_chunk();
        let bytes = bytes.ok_or(FrameReason::Truncated(self.filled))?;
        let header = Header::parse(bytes, self.endian).map_err(FrameReason::Header)?;
        check_size(&header, self.buffer.len())?;
        Ok(header)
    }

    fn restart(&mut self) -> (usize, Fds<F>) {
        self.header = None;
        (
            core::mem::take(&mut self.filled),
            core::mem::take(&mut self.fds),
        )
    }

    fn fail(&mut self, reason: FrameReason) -> FrameError<F> {
        let (_, fds) = self.restart();
        FrameError { reason, fds }
    }
}

/// The message that fills a virtqueue buffer: one, whole, and nothing behind
/// it (vhost-guest specification, virtqueues). It has no descriptors.
///
/// # Errors
///
/// The buffer does not hold exactly one message.
pub fn decode_whole<'a>(
    buffer: &'a [u8],
    endian: Endian,
    limits: &Limits,
) -> Result<Frame<'a, ()>, FrameReason> {
    let truncated = FrameReason::Truncated(buffer.len());
    let (bytes, rest) = buffer.split_first_chunk().ok_or(truncated)?;
    let header = Header::parse(bytes, endian).map_err(FrameReason::Header)?;
    check_size(&header, limits.max_message_size)?;
    let size = header.size as usize;
    let body = rest.get(..size).ok_or(truncated)?;
    match rest.len() - size {
        0 => Ok(Frame {
            header,
            body,
            fds: Fds::detached(),
        }),
        trailing => Err(FrameReason::Trailing(trailing)),
    }
}

fn check_size(header: &Header, max_message_size: usize) -> Result<(), FrameReason> {
    let &Header { code, size, .. } = header;
    if size as usize > max_message_size.saturating_sub(HEADER_SIZE) {
        return Err(FrameReason::TooLarge { code, size });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
