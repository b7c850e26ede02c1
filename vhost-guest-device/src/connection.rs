// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One frontend: messages between the frontend's sockets and the guest's queues.
//!
//! ```text
//!             frontend                                     guest
//!      main socket ──── requests ───▶ requests.rs ───▶ queue 0
//!                  ◀─── replies ──── replies.rs ◀──── queue 1
//!  backend channel ──── replies ───▶ channel.rs ───▶ queue 2
//!                  ◀─── requests ─── channel.rs ◀──── queue 3
//!    state channel ◀─── saved bytes ── state.rs ◀───── queue 4
//!                  ──── loaded bytes ─ state.rs ─────▶ queue 5
//! ```
//!
//! Each arrow is one step, which moves one message, whole or not at all. At
//! most one message is held in each direction: nothing is read from a socket
//! before a guest buffer is reserved for it, and nothing is taken from a queue
//! before the socket has taken the message before. So a peer that does not
//! read stops the other one, and costs the VMM nothing.
//!
//! What a request asks of the device is in [`handlers`], one function each.

mod account;
pub(crate) mod channel;
pub(crate) mod handlers;
pub(crate) mod replies;
pub(crate) mod requests;
pub(crate) mod session;
pub(crate) mod socket;
mod state;

use std::os::fd::OwnedFd;

use vhost_guest_msg::{Channel as Direction, FrontendRequest, Message, ReplyTracker};

use crate::fd::{ForeignFd, Reaper, Stream};
use crate::memory::Ticket;
use crate::queue::Reserved;
use account::Account;
use handlers::Then;
use session::Session;
use socket::Socket;

/// The queue with requests of the frontend's, to the guest.
pub(crate) const REQUESTS: u16 = 0;
/// The queue with the guest's replies.
pub(crate) const REPLIES: u16 = 1;
/// The queue with the frontend's replies to backend requests.
pub(crate) const CHANNEL_REPLIES: u16 = 2;
/// The queue with the guest's backend requests.
pub(crate) const CHANNEL_REQUESTS: u16 = 3;

/// The queue with the state that the guest saves.
pub(crate) const MIGRATION_SAVE: u16 = 4;
/// The queue with the state that the guest loads.
pub(crate) const MIGRATION_LOAD: u16 = 5;

/// Replies that may be outstanding in each direction.
const OUTSTANDING: usize = 64;

/// Whether a step moved a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It did; there may be more.
    Moved,
    /// It has to wait for an event.
    Idle,
}

/// What the device does with a reply of the guest's, besides matching it.
#[derive(Debug)]
pub(crate) struct Duty {
    /// The frontend is waiting for the reply; else only the device is.
    pub pass: bool,
    /// What follows.
    pub then: Then,
}

/// The backend channel.
#[derive(Debug)]
pub(crate) enum Channel {
    /// `SET_BACKEND_REQ_FD` has not come.
    Absent,
    /// Open.
    Open(Socket),
    /// The frontend closed its end: requests fail, as far as they can.
    Closed,
}

impl Channel {
    /// The socket, if it is open.
    pub(crate) fn socket(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Open(socket) => Some(socket),
            Self::Absent | Self::Closed => None,
        }
    }
}

/// One frontend, from accept to loss.
#[derive(Debug)]
pub(crate) struct Connection {
    pub socket: Socket,
    pub channel: Channel,
    pub session: Session,
    /// The frontend's last request that went to the guest.
    pub last: Option<u32>,
    /// Replies that the guest owes to requests of the frontend's.
    pub replies: ReplyTracker<Duty>,
    /// Replies that the frontend owes to backend requests, by their number.
    pub channel_replies: ReplyTracker<u32>,
    /// A request that waits until an earlier memory change is settled.
    pub held: Option<Message<FrontendRequest<ForeignFd>>>,
    /// Memory to be settled after a barrier: a `GET_FEATURES` of the device's
    /// own, for frontends without `REPLY_ACK` (QEMU does the same).
    pub barrier: Option<Ticket>,
    /// A buffer of queue 0 for the next request.
    pub request_buffer: Option<Reserved>,
    /// A buffer of queue 2 for the next reply on the backend channel.
    pub reply_buffer: Option<Reserved>,
    /// The latest transfer of device state.
    pub stream: Option<Stream>,
}

impl Connection {
    /// A frontend that has just connected.
    pub(crate) fn new(socket: OwnedFd, reaper: &Reaper, session: Session) -> Self {
        let fd = ForeignFd::new(socket, reaper);
        Self {
            socket: Socket::new(fd, reaper, session.limits()),
            channel: Channel::Absent,
            session,
            last: None,
            replies: ReplyTracker::new(Direction::Main, OUTSTANDING),
            channel_replies: ReplyTracker::new(Direction::Backend, OUTSTANDING),
            held: None,
            barrier: None,
            request_buffer: None,
            reply_buffer: None,
            stream: None,
        }
    }

    /// Whether the next request of the frontend's can be read.
    pub(crate) fn wants_request(&self) -> bool {
        let ready = self.request_buffer.is_some() && !self.replies.is_full();
        ready && self.held.is_none() && self.barrier.is_none()
    }

    /// Where it is, for the log.
    pub(crate) fn account(&self) -> Account {
        Account {
            last: self.last,
            owed: self.replies.owed(),
            channel_owed: self.channel_replies.owed(),
        }
    }

    /// Whether the frontend waits for something that is the guest's to do.
    pub(crate) fn waits_for_guest(&self) -> bool {
        self.replies.owed().is_some() || self.held.is_some()
    }

    /// Whether the frontend could do more itself: read what is there for it.
    pub(crate) fn is_behind(&self) -> bool {
        self.socket.is_sending()
    }

    /// Whether the next reply on the backend channel can be read.
    pub(crate) fn wants_channel_reply(&self) -> bool {
        self.reply_buffer.is_some()
    }
}
