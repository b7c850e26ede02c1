// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which replies are outstanding on a channel.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use thiserror::Error;

use crate::error::{Channel, Reason, RequestName};
use crate::{Endian, Header, HeaderFlags, Limits, Reply, ReplyExpectation, ReplyShape};

/// Replies due on one channel, oldest first.
///
/// Replies come in the order of the requests and have no number of their own,
/// so whoever forwards requests has to keep this list. Each entry carries a
/// ticket: what to do when the reply is there.
///
/// A relay also answers requests itself (a negative acknowledgement). Such a
/// reply has to wait for its turn: [`expect_local`](Self::expect_local), and
/// [`pop_local`](Self::pop_local) when it has come.
///
/// ```
/// use vhost_guest_msg::{frontend, Endian, Header, HeaderFlags, Limits};
/// use vhost_guest_msg::{Channel, Reply, ReplyExpectation, ReplyShape, ReplyTracker};
///
/// let mut tracker = ReplyTracker::new(Channel::Main, 64);
/// let due = ReplyExpectation::Due(ReplyShape::Ack);
/// tracker.expect(frontend::SET_VRING_NUM, due, "the frontend waits")?;
///
/// let flags = HeaderFlags::REPLY;
/// let header = Header {
///     code: frontend::SET_VRING_NUM,
///     flags,
///     size: 8,
/// };
/// let accepted = tracker
///     .accept(&header, &[0; 8], Endian::Little, &Limits::default())
///     .unwrap();
/// assert_eq!(accepted.reply, Reply::Ack(0));
/// assert_eq!(accepted.ticket, "the frontend waits");
///
/// // Nothing is due any more.
/// assert!(tracker
///     .accept(&header, &[0; 8], Endian::Little, &Limits::default())
///     .is_err());
/// # Ok::<(), vhost_guest_msg::TrackerFull<&str>>(())
/// ```
#[derive(Debug)]
pub struct ReplyTracker<T> {
    channel: Channel,
    entries: VecDeque<Entry<T>>,
    capacity: usize,
}

#[derive(Debug)]
struct Entry<T> {
    code: u32,
    due: Due<T>,
}

#[derive(Debug)]
enum Due<T> {
    /// The peer answers; if `optional`, perhaps.
    Peer {
        shape: ReplyShape,
        optional: bool,
        ticket: T,
    },
    /// Known already, and waiting for its turn.
    Local(Reply),
}

impl<T> Entry<T> {
    fn into_ticket(self) -> Option<T> {
        match self.due {
            Due::Peer { ticket, .. } => Some(ticket),
            Due::Local(_) => None,
        }
    }
}

impl<T> Due<T> {
    fn is_optional(&self) -> bool {
        matches!(self, Self::Peer { optional: true, .. })
    }
}

/// A reply that was due.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted<T> {
    /// The reply.
    pub reply: Reply,
    /// The ticket of its request.
    pub ticket: T,
    /// Tickets of earlier requests that, as is shown now, were processed
    /// without a reply.
    pub skipped: Vec<T>,
}

/// No room for another outstanding reply: stop taking requests until one has
/// come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many replies outstanding")]
pub struct TrackerFull<T>(
    /// The ticket, handed back.
    pub T,
);

/// A reply that breaks the protocol. Its sender is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// The REPLY flag is not set.
    #[error("{} is not a reply", RequestName(*.channel, *.code))]
    NotReply {
        /// The channel of the request.
        channel: Channel,
        /// The number in the header.
        code: u32,
    },
    /// No reply with this number is due now.
    #[error("reply to {}, which is not due", RequestName(*.channel, *.code))]
    Unsolicited {
        /// The channel of the request.
        channel: Channel,
        /// The number in the header.
        code: u32,
    },
    /// The payload is not what answers this request.
    #[error("reply to {}: {reason}", RequestName(*.channel, *.code))]
    Malformed {
        /// The channel of the request.
        channel: Channel,
        /// The number in the header.
        code: u32,
        /// What is wrong.
        reason: Reason,
    },
}

impl<T> ReplyTracker<T> {
    /// How many replies may usually be outstanding. Frontends wait for most
    /// replies, so it is rarely more than one.
    pub const DEFAULT_CAPACITY: usize = 64;

    /// An empty list for the replies to requests of `channel`, with room for
    /// `capacity` of them.
    #[must_use]
    pub fn new(channel: Channel, capacity: usize) -> Self {
        Self {
            channel,
            entries: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    /// Replies outstanding, optional and local ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is outstanding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The oldest request whose reply the peer owes; those that are optional or
    /// local are not owed.
    #[must_use]
    pub fn owed(&self) -> Option<u32> {
        let owed = |entry: &&Entry<T>| {
            matches!(
                entry.due,
                Due::Peer {
                    optional: false,
                    ..
                }
            )
        };
        self.entries.iter().find(owed).map(|entry| entry.code)
    }

    /// Whether there is no room for another. Optional replies make room: they
    /// may never come.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity && !self.entries.iter().any(|e| e.due.is_optional())
    }

    /// Makes room for an entry: the oldest optional reply is not expected any
    /// more, if it has to be.
    fn make_room(&mut self) -> bool {
        if self.entries.len() >= self.capacity {
            let oldest = self.entries.iter().position(|e| e.due.is_optional());
            return oldest.and_then(|at| self.entries.remove(at)).is_some();
        }
        true
    }

    /// Takes note that request `code` was forwarded. Without an expectation
    /// there is nothing to note, and the ticket is dropped.
    ///
    /// # Errors
    ///
    /// The list is full.
    pub fn expect(
        &mut self,
        code: u32,
        expectation: ReplyExpectation,
        ticket: T,
    ) -> Result<(), TrackerFull<T>> {
        let (shape, optional) = match expectation {
            ReplyExpectation::None => return Ok(()),
            ReplyExpectation::Due(shape) => (shape, false),
            ReplyExpectation::Optional(shape) => (shape, true),
        };
        if !self.make_room() {
            return Err(TrackerFull(ticket));
        }
        let due = Due::Peer {
            shape,
            optional,
            ticket,
        };
        self.entries.push_back(Entry { code, due });
        Ok(())
    }

    /// Takes note of the reply to a request that was not forwarded.
    ///
    /// # Errors
    ///
    /// The list is full; it hands back the reply.
    pub fn expect_local(&mut self, code: u32, reply: Reply) -> Result<(), TrackerFull<Reply>> {
        if !self.make_room() {
            return Err(TrackerFull(reply));
        }
        let due = Due::Local(reply);
        self.entries.push_back(Entry { code, due });
        Ok(())
    }

    /// The next local reply whose turn has come. An earlier request whose
    /// reply is optional does not hold it up: nobody waits for that.
    pub fn pop_local(&mut self) -> Option<(u32, Reply)> {
        let next = self.entries.iter().position(|e| !e.due.is_optional())?;
        if !matches!(self.entries.get(next)?.due, Due::Local(_)) {
            return None;
        }
        match self.entries.remove(next)? {
            Entry {
                code,
                due: Due::Local(reply),
            } => Some((code, reply)),
            _ => None,
        }
    }

    /// Matches a reply from the peer with the oldest request that it can
    /// belong to. An optional one that does not fit is passed over; if it fits
    /// it is taken, even if a later request fits as well.
    ///
    /// # Errors
    ///
    /// The reply is not due, or not correct. The list is as before.
    pub fn accept(
        &mut self,
        header: &Header,
        payload: &[u8],
        endian: Endian,
        limits: &Limits,
    ) -> Result<Accepted<T>, ReplyError> {
        let channel = self.channel;
        let code = header.code;
        if !header.flags.contains(HeaderFlags::REPLY) {
            return Err(ReplyError::NotReply { channel, code });
        }
        let unsolicited = ReplyError::Unsolicited { channel, code };
        let (position, shape) = self.find(code).ok_or(unsolicited)?;
        let reply = Reply::decode(shape, payload, endian, limits).map_err(|reason| {
            ReplyError::Malformed {
                channel,
                code,
                reason,
            }
        })?;
        let skipped = self.skip_optional(position);
        let ticket = self.entries.remove(position - skipped.len());
        let ticket = ticket.and_then(Entry::into_ticket).ok_or(unsolicited)?;
        Ok(Accepted {
            reply,
            ticket,
            skipped,
        })
    }

    /// The first request `code` with nothing due from the peer before it.
    fn find(&self, code: u32) -> Option<(usize, ReplyShape)> {
        for (position, entry) in self.entries.iter().enumerate() {
            match entry.due {
                Due::Peer { shape, .. } if entry.code == code => return Some((position, shape)),
                Due::Peer { optional: true, .. } | Due::Local(_) => {}
                Due::Peer { .. } => return None,
            }
        }
        None
    }

    /// Removes the optional entries before `end`; local replies stay.
    fn skip_optional(&mut self, end: usize) -> Vec<T> {
        let mut skipped = Vec::new();
        let mut kept = 0;
        while kept + skipped.len() < end {
            match self.entries.get(kept) {
                Some(entry) if entry.due.is_optional() => {
                    let entry = self.entries.remove(kept);
                    skipped.extend(entry.and_then(Entry::into_ticket));
                }
                _ => kept += 1,
            }
        }
        skipped
    }

    /// Answers every request that is open with `reply`: the peer is gone, but
    /// not who waits for it. Nobody waits for optional replies. Returns the
    /// tickets, oldest first.
    pub fn answer_all(&mut self, reply: &Reply) -> Vec<T> {
        let mut tickets = Vec::new();
        for mut entry in core::mem::take(&mut self.entries) {
            let optional = entry.due.is_optional();
            if let Due::Peer { .. } = entry.due {
                let due = core::mem::replace(&mut entry.due, Due::Local(reply.clone()));
                let code = entry.code;
                tickets.extend(Entry { code, due }.into_ticket());
            }
            if !optional {
                self.entries.push_back(entry);
            }
        }
        tickets
    }

    /// Forgets everything (the connection is gone), and returns the tickets,
    /// oldest first.
    pub fn drain(&mut self) -> Vec<T> {
        let entries = self.entries.drain(..);
        entries.filter_map(Entry::into_ticket).collect()
    }
}

#[cfg(test)]
mod tests;
