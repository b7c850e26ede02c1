// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One frontend: messages between its sockets and the guest's queues.
//!
//! ```text
//!             frontend                                                  guest
//!      main socket ──── requests ─────── requests.rs ─────────▶ queue 0
//!                  ◀─── replies ──────── replies.rs ────────── queue 1
//!  backend channel ──── replies ──────── backend_channel.rs ──▶ queue 2
//!                  ◀─── requests ─────── backend_channel.rs ─── queue 3
//!    state channel ◀─── saved bytes ──── device_state.rs ────── queue 4
//!                  ──── loaded bytes ─── device_state.rs ─────▶ queue 5
//! ```
//!
//! Each arrow is one step, which moves one message, whole or not at all. At
//! most one message is held in each direction: nothing is read from a socket
//! before a guest buffer is reserved for it, and nothing is taken from a queue
//! before the socket has taken the message before. So a peer that does not
//! read stops the other one, and costs the VMM nothing.
//!
//! What a message means to the device is told by its family, one file each:
//! [`features`], [`memory`], [`vring`], [`configuration`], [`inflight`],
//! [`log`], [`device_state`], [`backend_channel`]. Each has the same order:
//! requests, what has to wait, what the reply does, what refuses. [`switch`]
//! knows which request belongs where.

mod account;
mod backend_channel;
mod configuration;
mod device_state;
mod driver_queues;
mod features;
mod forward;
mod inflight;
mod log;
mod memory;
mod replies;
mod requests;
mod session;
mod socket;
mod switch;
mod vring;

pub(crate) use driver_queues::DriverQueues;
pub(crate) use features::{carried, carried_with_migration};
pub(crate) use inflight::InflightMemory;
pub(crate) use session::Session;
pub(crate) use socket::MAX_FDS;

use vhost_guest_msg::{Channel as Direction, FrontendRequest, Message, ReplyTracker};
use vm_memory::GuestMemory;

use crate::error::Fault;
use crate::event_loop::poller::Poller;
use crate::fd::{Channels, FdKinds, ForeignFd, Pump, Reaper, Stream};
use crate::guest::queue::Reserved;
use crate::guest::registers::Registers;
use crate::memory::{Memory, Ticket};
use crate::shared::Shared;
use crate::sync::{Epoch, OrderedGuard};
use account::Account;
use backend_channel::Channel;
use forward::Then;
use replies::Answer;
use requests::Begun;
use socket::Socket;
use vring::Vrings;

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
enum Step {
    /// It did; there may be more.
    Moved,
    /// It has to wait for an event.
    Idle,
}

/// What the device does with a reply of the guest's, besides matching it.
#[derive(Debug)]
pub(crate) struct Duty {
    /// The frontend is waiting for the reply; else only the device is.
    pass: bool,
    /// What follows.
    then: Then,
}

/// What is the device's, and a connection works on.
pub(crate) struct Resources<'a> {
    pub shared: &'a Shared,
    /// When the frontend came.
    pub epoch: Epoch,
    pub memory: &'a mut Memory,
    pub inflight: &'a mut InflightMemory,
    /// Moves device state, if the VMM wants that.
    pub pump: Option<&'a mut Pump>,
    pub kinds: &'a FdKinds,
    pub poller: &'a mut Poller,
}

impl Resources<'_> {
    /// The registers, to connect something of the frontend's.
    ///
    /// # Errors
    ///
    /// Its time is over: nothing of it may be connected any more.
    pub(crate) fn registers(&self) -> Result<OrderedGuard<'_, Registers>, Fault> {
        let registers = self.shared.registers.lock();
        match self.shared.epochs.current() == self.epoch {
            true => Ok(registers),
            false => Err(Fault::Over),
        }
    }
}

/// One frontend, from accept to loss.
#[derive(Debug)]
pub(crate) struct Connection {
    pub socket: Socket,
    /// Closes what the frontend sends.
    reaper: Reaper,
    /// Opens its backend channel.
    channels: Channels,
    channel: Channel,
    pub session: Session,
    vrings: Vrings,
    /// The frontend's last request that went to the guest.
    last: Option<u32>,
    /// Replies that the guest owes to requests of the frontend's.
    pub replies: ReplyTracker<Duty>,
    /// Replies that the frontend owes to backend requests, by their number.
    pub channel_replies: ReplyTracker<u32>,
    /// A request that has to wait.
    pub held: Option<Message<FrontendRequest<ForeignFd>>>,
    /// A request that was carried out in part.
    begun: Option<Begun>,
    /// A reply that has to wait until memory is gone.
    answer: Option<Answer>,
    /// Memory to be settled after a barrier: a `GET_FEATURES` of the device's
    /// own, for frontends without `REPLY_ACK` (QEMU does the same).
    barrier: Option<Ticket>,
    /// A buffer of queue 0 for the next request.
    request_buffer: Option<Reserved>,
    /// A buffer of queue 2 for the next reply on the backend channel.
    reply_buffer: Option<Reserved>,
    /// The latest transfer of device state.
    stream: Option<Stream>,
    /// When it came.
    epoch: Epoch,
}

impl Connection {
    /// A frontend that has just connected.
    pub(crate) fn new(
        socket: ForeignFd,
        reaper: Reaper,
        channels: Channels,
        session: Session,
        epoch: Epoch,
    ) -> Self {
        Self {
            socket: Socket::new(socket, &reaper, session.limits()),
            reaper,
            channels,
            channel: Channel::Absent,
            session,
            vrings: Vrings::default(),
            last: None,
            replies: ReplyTracker::new(Direction::Main, OUTSTANDING),
            channel_replies: ReplyTracker::new(Direction::Backend, OUTSTANDING),
            held: None,
            begun: None,
            answer: None,
            barrier: None,
            request_buffer: None,
            reply_buffer: None,
            stream: None,
            epoch,
        }
    }

    /// When it came.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Moves at most one message in each direction. `false` if none moved.
    ///
    /// # Errors
    ///
    /// A peer's fault, or the environment's, which ends the connection.
    pub(crate) fn step(
        &mut self,
        on: &mut Resources<'_>,
        queues: &mut DriverQueues<'_, impl GuestMemory>,
    ) -> Result<bool, Fault> {
        let moved = [
            self.step_reply(on, queues)?,
            self.step_request(on, queues)?,
            self.step_channel_request(on, queues)?,
            self.step_channel_reply(on, queues)?,
            self.step_device_state(on, queues)?,
        ];
        Ok(moved.contains(&Step::Moved))
    }

    /// The driver has reset a queue: a buffer of it is gone.
    pub(crate) fn forget_buffer(&mut self, queue: u16) {
        match queue {
            REQUESTS => self.request_buffer = None,
            CHANNEL_REPLIES => self.reply_buffer = None,
            _ => {}
        }
    }

    /// Where it is, for the log.
    pub(crate) fn account(&self) -> Account {
        Account {
            last: self.last,
            owed: self.replies.owed(),
            channel_owed: self.channel_replies.owed(),
        }
    }

    /// Whether the guest owes the frontend anything, or would if it asked; or its own
    /// files do.
    pub(crate) fn may_wait(&self) -> bool {
        let owes = self.waits_for_guest() || self.request_buffer.is_none();
        self.waits_for_files() || owes && !self.is_behind()
    }

    /// Whether the frontend waits for the guest now.
    pub(crate) fn is_kept_waiting(&self) -> bool {
        let asks = self.request_buffer.is_none() && self.socket.has_unread();
        (self.waits_for_guest() || asks) && !self.is_behind()
    }

    /// Whether the frontend waits for something that is the guest's to do.
    pub(crate) fn waits_for_guest(&self) -> bool {
        self.replies.owed().is_some() || self.held.is_some()
    }

    /// Whether the frontend waits for files of its own.
    pub(crate) fn waits_for_files(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether it has sent more descriptors than can be closed.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.reaper.is_overloaded()
    }

    /// Whether the frontend could do more itself: read what is there for it.
    pub(crate) fn is_behind(&self) -> bool {
        self.socket.is_sending()
    }
}
