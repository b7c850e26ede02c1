// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that speak over backend channels.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
#[cfg(test)]
use std::sync::Weak;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{recvmsg, send, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags};
use thiserror::Error;
use vhost_guest_msg::{Endian, Fds, FrameReason, Framer, Header, Limits, Progress};

use super::crew::{Crew, Share, Stuck};
use super::kind::ChannelSocket;
use super::launcher::Launcher;
use super::pump::tolerate;
use super::{signal, ForeignFd};
use crate::host;
use crate::vmm::threads::CHANNEL;

/// Channels of one frontend that may be stuck, or in the middle of being given up,
/// before it gets no other.
const PATIENCE: usize = 4;

/// Opens channels for one frontend.
///
/// The peer has another descriptor of the socket that it gave for a channel. With it,
/// it can keep everybody waiting who reads the socket, `MSG_DONTWAIT` or not: the
/// kernel holds a lock of the socket's while another reader's memory is not there. Its
/// options are the peer's to set, and what comes in it may be dropped, and closed,
/// within the call. So the device never touches the socket: a thread does, which
/// nobody waits for, and hands over one message at a time.
#[derive(Clone)]
pub(crate) struct Channels {
    crew: Arc<Crew>,
    share: Share,
    /// Signalled when a channel has something new for the device.
    wake: Arc<OwnedFd>,
}

/// Why a channel could not be opened.
#[derive(Debug, Error)]
pub(crate) enum NoChannel {
    /// Earlier ones are stuck.
    #[error("too many backend channels are stuck")]
    Stuck,
    /// The environment's fault.
    #[error("cannot open a backend channel: {0}")]
    Environment(#[source] io::Error),
}

/// Why a channel is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ChannelEnd {
    /// The frontend hung up.
    #[error("the frontend hung up")]
    HungUp,
    /// Its bytes are no message.
    #[error(transparent)]
    Frame(#[from] FrameReason),
    /// Control data, where no descriptor may come.
    #[error("descriptors or other control data come along")]
    ControlData,
    /// Out-of-band data, of which no message has any.
    #[error("out-of-band data comes along")]
    OutOfBand,
    /// The socket cannot be read.
    #[error("recvmsg: {0}")]
    Receive(#[source] Errno),
    /// The socket cannot be written.
    #[error("sendmsg: {0}")]
    Send(#[source] Errno),
}

/// A message that has arrived.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
}

/// The device's side of an open channel. Dropping it abandons the thread.
pub(crate) struct Channel {
    shared: Arc<Shared>,
    #[cfg(test)]
    socket: Weak<ChannelSocket>,
}

/// What the device and a thread share.
struct Shared {
    state: Mutex<State>,
    /// Tells the thread of changes.
    changed: OwnedFd,
    /// Tells the device.
    wake: Arc<OwnedFd>,
}

#[derive(Default)]
struct State {
    /// At most one message that the device has not taken yet.
    inbox: Option<Received>,
    /// At most one that the thread has not sent yet.
    outbox: Option<Vec<u8>>,
    /// The thread is sending one.
    sending: bool,
    /// Nothing comes any more.
    end: Option<ChannelEnd>,
    /// The device has lost interest.
    abandoned: bool,
    /// What the thread waits for, while it does.
    #[cfg(test)]
    waits: Option<PollFlags>,
}

impl Channels {
    /// Signals `wake` when there is something new.
    pub(crate) fn new(wake: &Arc<OwnedFd>) -> Self {
        let crew = Crew::new(CHANNEL, PATIENCE);
        Self {
            share: crew.share(),
            crew: Arc::new(crew),
            wake: Arc::clone(wake),
        }
    }

    /// Has threads made when there are channels.
    pub(crate) fn start(&self, launcher: &Launcher) {
        self.crew.start(launcher);
    }

    /// For another frontend, which has as many as the ones before.
    pub(crate) fn for_frontend(&self) -> Self {
        Self {
            share: self.crew.share(),
            ..self.clone()
        }
    }

    /// Speaks over `socket` from now on.
    ///
    /// # Errors
    ///
    /// The frontend, or those before it, have too many threads stuck; or there is no
    /// descriptor left.
    pub(crate) fn open(
        &self,
        socket: ChannelSocket,
        limits: &Limits,
    ) -> Result<Channel, NoChannel> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let changed = host::ask(|| eventfd(0, flags));
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: changed.map_err(|error| NoChannel::Environment(error.into()))?,
            wake: Arc::clone(&self.wake),
        });
        let socket = Arc::new(socket);
        let channel = Channel {
            shared: Arc::clone(&shared),
            #[cfg(test)]
            socket: Arc::downgrade(&socket),
        };
        let work = Work {
            socket,
            framer: Framer::new(Endian::NATIVE, limits),
            rest: Vec::new(),
            shared,
        };
        let begun = self.share.begin(move || work.run());
        begun.map_err(|Stuck| NoChannel::Stuck)?;
        Ok(channel)
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}

impl Channel {
    /// Whether a message waits for the peer to read.
    pub(crate) fn is_sending(&self) -> bool {
        let state = self.shared.state();
        state.outbox.is_some() || state.sending
    }

    /// Sends a message. To be called only while nothing
    /// [`is_sending`](Self::is_sending), so that at most one message is held.
    pub(crate) fn send(&self, message: Vec<u8>) {
        self.shared.change(|state| state.outbox = Some(message));
    }

    /// The next message, if one has arrived.
    pub(crate) fn receive(&self) -> Option<Received> {
        self.shared.change(|state| state.inbox.take())
    }

    /// Why the channel is over, if it is, and everything that came was taken.
    pub(crate) fn end(&self) -> Option<ChannelEnd> {
        let state = self.shared.state();
        state.end.filter(|_| state.inbox.is_none())
    }

    /// Whether nothing happens any more until the peer or the device does something.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.shared.state();
        let (Some(socket), None) = (self.socket.upgrade(), state.end) else {
            return state.end.is_some();
        };
        let Some(flags) = state.waits else {
            return false;
        };
        let mut fds = [PollFd::new(&*socket, flags)];
        flags.is_empty() || poll(&mut fds, Some(&rustix::event::Timespec::default())) == Ok(0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shared.change(|state| state.abandoned = true);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something of interest for the thread.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        #[cfg(test)]
        {
            state.waits = None;
        }
        let outcome = change(&mut state);
        drop(state);
        signal(&self.changed);
        outcome
    }
}

/// A thread's side of a channel.
struct Work {
    socket: Arc<ChannelSocket>,
    framer: Framer<ForeignFd>,
    /// What is left of the message that is being sent.
    rest: Vec<u8>,
    shared: Arc<Shared>,
}

impl Work {
    fn run(mut self) {
        let mut false_alarms = 0;
        while let Some(wanted) = self.wanted() {
            let outcome = self.wait_for(wanted).and_then(|ready| {
                self.send(ready)?;
                self.receive(ready)
            });
            let outcome = match outcome {
                Ok(()) => {
                    false_alarms = 0;
                    Ok(())
                }
                Err(ChannelEnd::Receive(error) | ChannelEnd::Send(error)) if is_false(error) => {
                    tolerate(error, &mut false_alarms).map_err(ChannelEnd::Receive)
                }
                Err(end) => Err(end),
            };
            if let Err(end) = outcome {
                self.shared.state().end = Some(end);
                signal(&self.shared.wake);
                break;
            }
        }
        // A test may be looking at it.
        if let Some(socket) = Arc::into_inner(self.socket) {
            ForeignFd::from(socket).close();
        }
    }

    /// What to wait for. `None`: the device has lost interest.
    fn wanted(&mut self) -> Option<PollFlags> {
        let mut state = self.shared.state();
        if state.abandoned {
            return None;
        }
        if let Some(message) = state.outbox.take() {
            self.rest = message;
            state.sending = true;
        }
        let mut wanted = PollFlags::empty();
        if state.inbox.is_none() {
            wanted |= PollFlags::IN | PollFlags::PRI;
        }
        if state.sending {
            wanted |= PollFlags::OUT;
        }
        #[cfg(test)]
        {
            state.waits = Some(wanted);
        }
        Some(wanted)
    }

    /// Waits until the socket is ready, or something has changed.
    fn wait_for(&self, wanted: PollFlags) -> Result<PollFlags, ChannelEnd> {
        let changed = PollFd::new(&self.shared.changed, PollFlags::IN);
        // A hang-up is always reported: only to somebody who can do something.
        let socket = (!wanted.is_empty()).then(|| PollFd::new(&*self.socket, wanted));
        let mut fds: Vec<_> = std::iter::once(changed).chain(socket).collect();
        let waited = poll(&mut fds, None);
        let ready: Vec<_> = fds.iter().map(PollFd::revents).collect();
        #[cfg(test)]
        {
            self.shared.state().waits = None;
        }
        match waited {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(ChannelEnd::Receive(error)),
        }
        if ready.first().is_some_and(|changed| !changed.is_empty()) {
            let _ = rustix::io::read(&self.shared.changed, &mut [0u8; 8]);
        }
        let ready = ready.get(1).copied().unwrap_or(PollFlags::empty());
        if ready.contains(PollFlags::PRI) {
            return Err(ChannelEnd::OutOfBand);
        }
        let lost = ready.intersects(PollFlags::HUP | PollFlags::ERR);
        Ok(if lost { wanted } else { ready & wanted })
    }

    /// Sends as much as the peer takes.
    fn send(&mut self, ready: PollFlags) -> Result<(), ChannelEnd> {
        if !ready.contains(PollFlags::OUT) {
            return Ok(());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match send(&*self.socket, &self.rest, flags) {
            Ok(sent) => sent,
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelEnd::HungUp),
            Err(error) => return Err(ChannelEnd::Send(error)),
        };
        drop(self.rest.drain(..sent.min(self.rest.len())));
        if self.rest.is_empty() {
            self.shared.state().sending = false;
            signal(&self.shared.wake);
        }
        Ok(())
    }

    /// Reads what is there of one message.
    fn receive(&mut self, ready: PollFlags) -> Result<(), ChannelEnd> {
        if !ready.contains(PollFlags::IN) {
            return Ok(());
        }
        // Without room for control data none is made (with `SO_PASSPIDFD`, which is
        // the peer's to set, each read would come with a new descriptor). What
        // comes along is closed here.
        let mut nothing = RecvAncillaryBuffer::default();
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut space = [IoSliceMut::new(self.framer.space())];
        let received = match recvmsg(&*self.socket, &mut space, &mut nothing, flags) {
            Ok(received) if received.bytes == 0 => return Err(ChannelEnd::HungUp),
            Ok(received) => received,
            Err(Errno::CONNRESET) => return Err(ChannelEnd::HungUp),
            Err(error) => return Err(ChannelEnd::Receive(error)),
        };
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ChannelEnd::ControlData);
        }
        match self.framer.advance(received.bytes, Fds::new()) {
            Ok(Progress::More) => {}
            Ok(Progress::Frame(frame)) => {
                let (header, body) = (frame.header, frame.body.to_vec());
                self.shared.state().inbox = Some(Received { header, body });
                signal(&self.shared.wake);
            }
            Err(error) => return Err(error.reason().into()),
        }
        Ok(())
    }
}

/// Somebody else with the same socket may have been faster.
fn is_false(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR)
}

#[cfg(test)]
mod tests;
