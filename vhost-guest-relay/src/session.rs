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

use rustix::event::{poll, PollFd, PollFlags};
use rustix::io::Errno;
use vhost_guest_driver::Carried;
use vhost_guest_msg::{decode_whole, Context, Endian, FrontendRequest, Limits, Message};

use crate::channel::Channel;
use crate::device::Device;
use crate::error::End;
use crate::eventfds::Eventfds;
use crate::replies::{self, State};
use crate::requests::{equip, Opened};
use crate::socket::{Socket, MAX_FDS};
use crate::transfer::Transfer;

/// What a session does with its files while it goes on.
pub struct Session<'a, D> {
    device: &'a D,
    backend: Socket,
    limits: Limits,
    /// What the device carries of what the backend offers.
    carried: Carried,
    context: Context,
    /// What kicks the backend, and what it calls.
    eventfds: Eventfds,
    /// A reply that the device has no room for.
    reply: Option<Vec<u8>>,
    /// CHECK_DEVICE_STATE, until the state has passed.
    held: Option<Message<FrontendRequest<()>>>,
    channel: Option<Channel>,
    transfer: Option<Transfer>,
    /// The device's file for requests of the backend.
    requests: File,
    /// The device's file for device state.
    state: Option<File>,
    /// Messages passed on so far.
    messages: u64,
}

impl<'a, D: Device> Session<'a, D> {
    /// A session over a connection with a backend.
    pub fn new(device: &'a D, backend: UnixStream) -> Result<Self, End> {
        let limits = Limits {
            max_message_size: device.max_message_size(),
            max_queues: device.max_queues(),
            max_regions: MAX_FDS,
        };
        Ok(Self {
            device,
            backend: Socket::new(backend, &limits),
            carried: Carried::new(device.max_queues(), device.state_piece()),
            context: Context::default(),
            eventfds: Eventfds::default(),
            reply: None,
            held: None,
            channel: None,
            transfer: None,
            requests: device.open_backend().map_err(End::device("opening"))?,
            state: device.open_state().map_err(End::device("opening"))?,
            messages: 0,
            limits,
        })
    }

    /// How many messages the frontend has sent.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Passes messages on until the session ends; `stop`, readable, ends it.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> End {
        loop {
            if let Err(end) = self.step().and_then(|()| self.wait(stop)) {
                return end;
            }
        }
    }

    /// Passes on what can be passed on.
    fn step(&mut self) -> Result<(), End> {
        self.pass_requests()?;
        self.pass_replies()?;
        if let Some(channel) = &mut self.channel {
            match channel.step(&self.requests, &self.limits) {
                // The backend wants no channel any more.
                Err(End::Backend) => self.channel = None,
                other => other?,
            }
        }
        self.pass_state()
    }

    fn pass_requests(&mut self) -> Result<(), End> {
        self.backend.flush()?;
        while !self.backend.is_sending() && self.held.is_none() {
            let mut bytes = vec![0; self.limits.max_message_size];
            let read = match self.device.read(&mut bytes) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::device("reading a request")(error)),
            };
            self.messages += 1;
            let message = self.decode(bytes.get(..read).unwrap_or_default())?;
            match message.request {
                FrontendRequest::CheckDeviceState if self.transfer.is_some() => {
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
        let outgoing = equip(self.device, &mut self.eventfds, message.request)?;
        self.context.observe(&outgoing.request);
        match outgoing.opened {
            Some(Opened::Channel(stream)) => {
                self.channel = Some(Channel::new(stream, &self.limits));
            }
            Some(Opened::State(transfer)) => self.transfer = Some(transfer),
            None => {}
        }
        let bytes = outgoing.request.to_vec(message.need_reply, Endian::NATIVE);
        self.backend.send(&bytes, outgoing.fds)
    }

    fn pass_replies(&mut self) -> Result<(), End> {
        loop {
            if self.reply.is_none() {
                let (limits, carried) = (&self.limits, &self.carried);
                let incoming = self
                    .backend
                    .receive(|frame| replies::take(frame, limits, carried))?;
                let Some(incoming) = incoming else {
                    return Ok(());
                };
                self.settle_state(incoming.state)?;
                self.reply = Some(incoming.bytes);
            }
            let Some(reply) = &self.reply else {
                return Ok(());
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
        self.transfer = match (state, self.transfer.take()) {
            (State::Untouched, transfer) => transfer,
            (State::Refused, _) | (State::Replaced(_), None) => None,
            (State::Replaced(pipe), Some(transfer)) => {
                let transfer = transfer.with_pipe(pipe);
                Some(transfer.map_err(End::system("using the backend's channel"))?)
            }
        };
        Ok(())
    }

    fn pass_state(&mut self) -> Result<(), End> {
        let (Some(transfer), Some(state)) = (&mut self.transfer, &self.state) else {
            return self.pass_held();
        };
        transfer
            .step(state, self.device.state_piece())
            .map_err(End::device("moving state"))?;
        if transfer.is_over() {
            self.transfer = None;
            self.pass_held()?;
        }
        Ok(())
    }

    /// What was held back until the state had passed.
    fn pass_held(&mut self) -> Result<(), End> {
        match self.held.take() {
            Some(message) => self.pass_request(message),
            None => Ok(()),
        }
    }

    /// Sleeps until something can be passed on, or the session ends.
    fn wait(&self, stop: BorrowedFd<'_>) -> Result<(), End> {
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
        let sending = self.backend.is_sending();
        let takes_requests = !sending && self.held.is_none();
        let messages = either(takes_requests, self.reply.is_some());
        wait_for(self.device.messages(), messages);
        wait_for(self.backend.as_fd(), either(self.reply.is_none(), sending));
        if let Some(channel) = &self.channel {
            let (sending, full) = (channel.socket.is_sending(), channel.request.is_some());
            wait_for(channel.socket.as_fd(), either(!full, sending));
            wait_for(as_fd(&self.requests), either(!sending, full));
        }
        if let (Some(transfer), Some(state)) = (&self.transfer, &self.state) {
            let [pipe, piece] = transfer.interest();
            if let Some(fd) = transfer.pipe() {
                wait_for(fd, pipe.unwrap_or(PollFlags::empty()));
            }
            wait_for(as_fd(state), piece.unwrap_or(PollFlags::empty()));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(End::System("poll", error.into())),
        }
        let stopped = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        let has_news = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        match stopped {
            true => Err(End::Stopped),
            false if has_news => self.check_status(),
            false => Ok(()),
        }
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
