// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One frontend and one backend: the loop that passes messages on.
//!
//! Each direction holds at most one message, and takes the next one when that
//! was taken. What is waited for follows from what is held, so that nothing is
//! waited for that would not be acted upon.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use vhost_guest_driver::module::Notification;
use vhost_guest_driver::Carried;
use vhost_guest_msg::{
    decode_whole, Channel as Number, Context, Endian, FrontendRequest, Limits, Message,
    ProtocolFeatures, ReplyExpectation, ReplyShape,
};

use crate::account::{Account, Name};
use crate::channel::Channel;
use crate::device::Device;
use crate::error::End;
use crate::eventfds::Eventfds;
use crate::replies::{Effect, Replies, State};
use crate::requests::{equip, Opened};
use crate::socket::{Socket, MAX_FDS};
use crate::transfer::Transfers;

/// How long a backend may take to let a frontend go.
const LEAVE: Duration = Duration::from_secs(5);
/// A backend that takes longer for a reply is named in the log.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// What a session does with its files while it goes on.
pub struct Session<'a, D> {
    device: &'a D,
    log: &'a dyn Fn(&str),
    backend: Socket,
    limits: Limits,
    context: Context,
    /// What kicks the backend, and what it calls.
    eventfds: Eventfds,
    /// What the backend owes.
    replies: Replies,
    /// A reply that the device has no room for.
    reply: Option<Vec<u8>>,
    /// CHECK_DEVICE_STATE, until the state has passed.
    held: Option<Message<FrontendRequest<()>>>,
    channel: Channel,
    transfers: Transfers,
    /// The device's file for requests of the backend.
    requests: File,
    /// The device's file for device state.
    state: Option<File>,
    /// The last message passed on.
    last: Option<u32>,
    /// The log says that the backend does not answer.
    impatient: bool,
}

impl<'a, D: Device> Session<'a, D> {
    /// A session over a connection with a backend.
    pub fn new(device: &'a D, backend: UnixStream, log: &'a dyn Fn(&str)) -> Result<Self, End> {
        let limits = Limits {
            max_message_size: device.max_message_size(),
            max_queues: device.max_queues(),
            max_regions: MAX_FDS,
        };
        let carried = Carried::new(device.max_queues(), device.state_piece());
        Ok(Self {
            device,
            log,
            backend: Socket::new(backend, &limits),
            context: Context::default(),
            eventfds: Eventfds::default(),
            replies: Replies::new(carried),
            reply: None,
            held: None,
            channel: Channel::default(),
            transfers: Transfers::default(),
            requests: device.open_backend().map_err(End::device("opening"))?,
            state: device.open_state().map_err(End::device("opening"))?,
            last: None,
            impatient: false,
            limits,
        })
    }

    /// What was passed on, and what is owed.
    pub fn account(&self) -> Account {
        Account {
            last: self.last,
            partly: self.backend.is_sending(),
            owed: self.replies.owed(),
            reply_kept: self.reply.is_some(),
            backend_owed: self.channel.owed(),
            state: self.transfers.current().is_some(),
        }
    }

    /// Passes messages on until the session ends; `stop`, readable, ends it.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> End {
        loop {
            if let Err(end) = self.step().and_then(|()| self.wait(stop)) {
                return end;
            }
        }
    }

    /// Tells the backend that there is no frontend any more, and lets it finish
    /// what it has under way. It may be about to write what it finds in the
    /// frontend's memory to a disk, and that is there until the device is reset.
    pub fn leave(&self) {
        // One that was told nothing has nothing under way.
        if self.last.is_some() {
            self.backend.finish(LEAVE);
        }
    }

    /// Passes on what can be passed on.
    fn step(&mut self) -> Result<(), End> {
        self.pass_requests()?;
        self.pass_replies()?;
        let (limits, context) = (&self.limits, &self.context);
        self.channel
            .step(&self.requests, limits, context, self.log)?;
        self.pass_state()
    }

    fn takes_requests(&self) -> bool {
        !self.backend.is_sending() && self.held.is_none() && !self.replies.is_full()
    }

    fn pass_requests(&mut self) -> Result<(), End> {
        self.backend.flush()?;
        while self.takes_requests() {
            let mut bytes = vec![0; self.limits.max_message_size];
            let read = match self.device.read(&mut bytes) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::device("reading a request")(error)),
            };
            let message = self.decode(bytes.get(..read).unwrap_or_default())?;
            match message.request {
                FrontendRequest::CheckDeviceState if self.transfers.current().is_some() => {
                    self.held = Some(message);
                }
                _ => self.pass_request(message)?,
            }
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Message<FrontendRequest<()>>, End> {
        let frame = decode_whole(bytes, Endian::NATIVE, &self.limits);
        let frame = frame.map_err(|reason| End::FrontendFault(reason.to_string()))?;
        FrontendRequest::decode(frame, Endian::NATIVE, &self.limits, &self.context)
            .map_err(|error| End::FrontendFault(error.to_string()))
    }

    fn pass_request(&mut self, message: Message<FrontendRequest<()>>) -> Result<(), End> {
        let Message {
            request,
            need_reply,
        } = message;
        if let Some(reply) = self.transfers.refuse(&request) {
            self.replies.answer(request.code(), reply);
            return Ok(());
        }
        let due = ReplyExpectation::of(&request, need_reply, &self.context);
        let outgoing = equip(self.device, &mut self.eventfds, request)?;
        self.last = Some(outgoing.request.code());
        self.impatient = false;
        self.context.observe(&outgoing.request);
        match outgoing.opened {
            Some(Opened::Channel(stream)) => self.channel.open(stream, &self.limits),
            Some(Opened::State(transfer)) => self.transfers.begin(transfer),
            None => {}
        }
        let request = outgoing.request;
        let effect = Effect::of(&request);
        // The relay has to know when a vring is enabled, even if the frontend need
        // not.
        let acks = self
            .context
            .protocol_features
            .contains(ProtocolFeatures::REPLY_ACK);
        let asks = matches!(effect, Effect::Enables(_)) && !need_reply && acks;
        let due = match asks {
            true => ReplyExpectation::Due(ReplyShape::Ack),
            false => due,
        };
        self.replies.expect(request.code(), due, !asks, effect);
        let bytes = request.to_vec(need_reply || asks, Endian::NATIVE);
        self.backend.send(&bytes, outgoing.fds)?;
        match due {
            ReplyExpectation::Due(_) => Ok(()),
            _ => self.take_effect(effect),
        }
    }

    fn take_effect(&mut self, effect: Effect) -> Result<(), End> {
        match effect {
            Effect::None => {}
            Effect::Enables(vring) => self.eventfds.kick(vring),
            Effect::Stops(vring) => {
                // The device forgets them, too; the frontend sends them anew.
                for what in [Notification::Kick, Notification::Call] {
                    self.eventfds.disconnect(self.device, what(vring.into()))?;
                }
            }
        }
        Ok(())
    }

    fn pass_replies(&mut self) -> Result<(), End> {
        loop {
            if self.reply.is_none() {
                self.reply = self.replies.next_of_ours();
            }
            if self.reply.is_none() {
                let (limits, replies) = (&self.limits, &mut self.replies);
                let Some(incoming) = self.backend.receive(|frame| replies.take(frame, limits))?
                else {
                    return Ok(());
                };
                self.impatient = false;
                self.take_effect(incoming.effect)?;
                self.settle_state(incoming.state)?;
                self.reply = incoming.bytes;
            }
            let Some(reply) = &self.reply else {
                continue;
            };
            match self.device.write(reply) {
                Ok(_) => self.reply = None,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::device("passing on a reply")(error)),
            }
        }
    }

    /// The backend has answered to SET_DEVICE_STATE_FD.
    fn settle_state(&mut self, state: State) -> Result<(), End> {
        match state {
            State::Untouched => {}
            State::Refused => self.transfers.end(),
            State::Replaced(pipe) => self
                .transfers
                .redirect(pipe)
                .map_err(End::system("using the backend's channel"))?,
        }
        Ok(())
    }

    fn pass_state(&mut self) -> Result<(), End> {
        if let Some(state) = &self.state {
            self.transfers
                .step(state, self.device.state_piece())
                .map_err(End::device("moving state"))?;
        }
        // What was held back until the state had passed.
        match self.held.take_if(|_| self.transfers.current().is_none()) {
            Some(message) => self.pass_request(message),
            None => Ok(()),
        }
    }

    /// Sleeps until something can be passed on, or the session ends.
    fn wait(&mut self, stop: BorrowedFd<'_>) -> Result<(), End> {
        let owed = self.replies.owed().filter(|_| !self.impatient);
        let patience = owed.is_some().then_some(&PATIENCE);
        let (news_fd, news) = self.device.news();
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(news_fd, news),
        ];
        let mut wait_for = |fd, events: PollFlags| {
            // A file that hung up would end each wait.
            if !events.is_empty() {
                fds.push(PollFd::from_borrowed_fd(fd, events));
            }
        };
        let messages = either(self.takes_requests(), self.reply.is_some());
        wait_for(self.device.messages(), messages);
        let sending = self.backend.is_sending();
        wait_for(self.backend.as_fd(), either(self.reply.is_none(), sending));
        let (channel, requests) = self.channel.interest();
        if let Some((fd, events)) = channel {
            wait_for(fd, events);
        }
        wait_for(as_fd(&self.requests), requests);
        if let (Some(transfer), Some(state)) = (self.transfers.current(), &self.state) {
            let [pipe, piece] = transfer.interest();
            if let Some(fd) = transfer.pipe() {
                wait_for(fd, pipe.unwrap_or(PollFlags::empty()));
            }
            wait_for(as_fd(state), piece.unwrap_or(PollFlags::empty()));
        }
        let count = match poll(&mut fds, patience) {
            Ok(count) => count,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(End::System("poll", error.into())),
        };
        let stopped = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        let has_news = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        match owed {
            Some(code) if count == 0 => self.complain(code),
            _ => {}
        }
        match stopped {
            true => Err(End::Stopped),
            false if has_news => self.check_status(),
            false => Ok(()),
        }
    }

    /// Backends serve one frontend at a time, but others can connect.
    fn complain(&mut self, code: u32) {
        self.impatient = true;
        let (name, seconds) = (Name(Number::Main, code), PATIENCE.tv_sec);
        (self.log)(&format!(
            "the backend has not answered {name} for {seconds} s; does it serve another frontend?"
        ));
    }

    fn check_status(&self) -> Result<(), End> {
        let status = self.device.status();
        match status.map_err(End::device("asking for the state"))? {
            status if status.needs_reset => Err(End::Frontend),
            _ => Ok(()),
        }
    }
}

fn as_fd(file: &File) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(file)
}

/// The events of a file that is read, or written, or both.
fn either(read: bool, write: bool) -> PollFlags {
    let mut events = PollFlags::empty();
    events.set(PollFlags::IN, read);
    events.set(PollFlags::OUT, write);
    events
}
