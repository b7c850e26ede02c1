// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that move device state between a frontend's channel and the device.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use vhost_guest_msg::Transfer;
use vmm_sys_util::signal::block_signal;

use super::crew::{Crew, Share, Stuck};
use super::kind::StateFd;
use super::launcher::Launcher;
use super::{signal, ForeignFd};
use crate::host;
use crate::vmm::threads::PUMP;

/// Threads that move state. One transfer takes one of them; a frontend can
/// keep it, with a pipe whose other end it has jammed. When none is left,
/// transfers are refused.
const THREADS: usize = PUMP.count;

/// How often a channel may be ready and have nothing, before it is given up.
const FALSE_ALARMS: u32 = 1000;

/// `SIGPIPE`, which has the same number on all architectures.
const SIGPIPE: i32 = 13;

/// Moves device state: bytes that a backend saves or loads.
///
/// A pipe can block whoever reads or writes it, whatever `poll` said and
/// whatever flags it was opened with, because its other end is in the hands of
/// a frontend. So the device never touches the channel: a thread does, and
/// hands over one chunk at a time through a [`Stream`]. Nobody waits for
/// these threads.
pub(crate) struct Pump {
    crew: Crew,
    share: Share,
    /// Signalled when a stream has something new for the device.
    wake: Arc<OwnedFd>,
    chunk: usize,
    streams: u64,
}

/// Why no stream was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PumpError {
    /// Earlier transfers are stuck in their channels.
    #[error("too many transfers of device state are stuck")]
    Stuck,
    /// The environment's fault.
    #[error("cannot start a transfer of device state: {0}")]
    Environment(#[from] io::Error),
}

impl Pump {
    /// Without threads. Streams move at most `chunk` bytes at a time, and
    /// signal `wake`.
    pub(crate) fn new(chunk: usize, wake: &Arc<OwnedFd>) -> Self {
        let crew = Crew::new(PUMP, THREADS);
        Self {
            share: crew.share(),
            crew,
            wake: Arc::clone(wake),
            chunk,
            streams: 0,
        }
    }

    /// Has threads made when there is state to move.
    pub(crate) fn start_threads(&self, launcher: &Launcher) {
        self.crew.start(launcher);
    }

    /// With its threads.
    #[cfg(test)]
    pub(crate) fn spawn(chunk: usize, wake: &Arc<OwnedFd>) -> Self {
        let pump = Self::new(chunk, wake);
        pump.start_threads(&Launcher::start(None).unwrap());
        pump
    }

    /// Starts to move state through `fd`.
    pub(crate) fn start(&mut self, direction: Transfer, fd: StateFd) -> Result<Stream, PumpError> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: host::ask(|| eventfd(0, flags)).map_err(io::Error::from)?,
            wake: Arc::clone(&self.wake),
        });
        let work = Work {
            direction,
            fd,
            chunk: self.chunk,
            shared: Arc::clone(&shared),
        };
        self.share.begin(move || work.run())?;
        self.streams += 1;
        Ok(Stream {
            number: self.streams,
            direction,
            rest: Vec::new(),
            shared,
        })
    }

    /// The most bytes in one buffer of the guest's.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Threads that are moving something, or are stuck.
    #[cfg(test)]
    pub(crate) fn busy(&self) -> usize {
        self.crew.backlog()
    }
}

impl From<Stuck> for PumpError {
    fn from(_: Stuck) -> Self {
        Self::Stuck
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}

/// The one chunk that is under way.
#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Full(Vec<u8>),
    /// Its consumer is not done with it.
    Taken,
}

#[derive(Debug, Default)]
struct State {
    slot: Slot,
    /// The source has said that nothing follows.
    ended: bool,
    /// The sink has been told.
    done: bool,
    /// The device has lost interest.
    abandoned: bool,
}

/// What the device and a thread share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells the thread of changes.
    changed: OwnedFd,
    /// Tells the device.
    wake: Arc<OwnedFd>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_abandoned(&self) -> bool {
        self.state().abandoned
    }
}

/// The device's side of a transfer. Dropping it abandons the transfer.
#[derive(Debug)]
pub(crate) struct Stream {
    number: u64,
    direction: Transfer,
    /// What is left of the chunk that the guest is loading.
    rest: Vec<u8>,
    shared: Arc<Shared>,
}

/// What the guest loads next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// These bytes, or some of them.
    Bytes(&'a [u8]),
    /// Nothing follows.
    End,
    /// It has not come yet.
    Nothing,
}

impl Stream {
    /// Tells streams apart.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Which way it goes.
    pub(crate) fn direction(&self) -> Transfer {
        self.direction
    }

    /// Whether everything has been moved, and both sides know.
    pub(crate) fn is_done(&self) -> bool {
        self.shared.state().done
    }

    /// Save: whether the next chunk can be taken from the guest.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.shared.state();
        matches!(state.slot, Slot::Empty) && !state.ended
    }

    /// Save: the guest's next chunk. An empty one is the last.
    pub(crate) fn save(&self, chunk: Vec<u8>) {
        let mut state = self.shared.state();
        if chunk.is_empty() {
            state.ended = true;
        } else {
            state.slot = Slot::Full(chunk);
        }
        drop(state);
        signal(&self.shared.changed);
    }

    /// Load: what the guest gets next.
    pub(crate) fn next(&mut self) -> Next<'_> {
        if self.rest.is_empty() {
            let mut state = self.shared.state();
            match std::mem::take(&mut state.slot) {
                Slot::Full(chunk) => {
                    state.slot = Slot::Taken;
                    drop(state);
                    self.rest = chunk;
                }
                slot => {
                    state.slot = slot;
                    let end = state.ended && !state.done;
                    return if end { Next::End } else { Next::Nothing };
                }
            }
        }
        Next::Bytes(&self.rest)
    }

    /// Load: the guest has got so many bytes, or been told of the end.
    pub(crate) fn loaded(&mut self, bytes: usize) {
        let mut state = self.shared.state();
        if self.rest.is_empty() {
            state.done = true;
            return;
        }
        drop(self.rest.drain(..bytes.min(self.rest.len())));
        if self.rest.is_empty() {
            state.slot = Slot::Empty;
            drop(state);
            signal(&self.shared.changed);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.state().abandoned = true;
        signal(&self.shared.changed);
    }
}

/// A thread's side of a transfer.
struct Work {
    direction: Transfer,
    fd: StateFd,
    chunk: usize,
    shared: Arc<Shared>,
}

impl Work {
    fn run(self) {
        survive_broken_pipes();
        match self.direction {
            Transfer::Save => self.save(),
            Transfer::Load => self.load(),
        }
    }

    fn save(self) {
        let mut broken = false;
        while let Some(chunk) = self.chunk_to_save() {
            // A frontend that reads no more does not stop the guest: what
            // follows is dropped.
            broken = broken || self.write(&chunk).is_err();
            self.shared.state().slot = Slot::Empty;
            signal(&self.shared.wake);
        }
        let Self { fd, shared, .. } = self;
        fd.close();
        shared.state().done = true;
        signal(&shared.wake);
    }

    /// Waits for the guest's next chunk. `None`: nothing follows.
    fn chunk_to_save(&self) -> Option<Vec<u8>> {
        loop {
            let mut state = self.shared.state();
            if state.abandoned {
                return None;
            }
            match std::mem::take(&mut state.slot) {
                Slot::Full(chunk) => {
                    state.slot = Slot::Taken;
                    return Some(chunk);
                }
                slot => state.slot = slot,
            }
            if state.ended {
                return None;
            }
            drop(state);
            self.wait_for_change();
        }
    }

    fn write(&self, mut rest: &[u8]) -> Result<(), Errno> {
        let mut false_alarms = 0;
        while !rest.is_empty() {
            self.wait_for(PollFlags::OUT)?;
            match self.fd.write(rest) {
                Ok(written) => {
                    false_alarms = 0;
                    rest = rest.get(written..).unwrap_or_default();
                }
                Err(error) => tolerate(error, &mut false_alarms)?,
            }
        }
        Ok(())
    }

    fn load(self) {
        let mut buffer = vec![0; self.chunk];
        while self.wait_for_room() {
            // The end of the stream and a broken one are the same to a guest.
            let bytes = self.read(&mut buffer).unwrap_or(0);
            let mut state = self.shared.state();
            match buffer.get(..bytes) {
                Some(chunk) if !chunk.is_empty() => state.slot = Slot::Full(chunk.to_vec()),
                _ => state.ended = true,
            }
            drop(state);
            signal(&self.shared.wake);
        }
        self.fd.close();
    }

    /// Waits until the guest has got the chunk before. `false`: no more is
    /// wanted.
    fn wait_for_room(&self) -> bool {
        loop {
            let state = self.shared.state();
            if state.abandoned || state.ended {
                return false;
            }
            if matches!(state.slot, Slot::Empty) {
                return true;
            }
            drop(state);
            self.wait_for_change();
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut false_alarms = 0;
        loop {
            self.wait_for(PollFlags::IN)?;
            match self.fd.read(buffer) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => tolerate(error, &mut false_alarms)?,
            }
        }
    }

    /// Waits until the channel is ready.
    fn wait_for(&self, what: PollFlags) -> Result<(), Errno> {
        loop {
            if self.shared.is_abandoned() {
                return Err(Errno::CANCELED);
            }
            let mut fds = [
                PollFd::new(&self.fd, what),
                PollFd::new(&self.shared.changed, PollFlags::IN),
            ];
            let waited = poll(&mut fds, None);
            let [channel, changed] = fds.map(|fd| fd.revents());
            match waited {
                Ok(_) if !changed.is_empty() => self.drain_changes(),
                Ok(_) if !channel.is_empty() => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_for_change(&self) {
        let mut fds = [PollFd::new(&self.shared.changed, PollFlags::IN)];
        // The caller looks again, whatever ended the wait.
        let _ = poll(&mut fds, None);
        self.drain_changes();
    }

    fn drain_changes(&self) {
        let _ = rustix::io::read(&self.shared.changed, &mut [0u8; 8]);
    }
}

/// A write to a pipe that nobody reads raises `SIGPIPE`, and no flag prevents
/// that: its default action is the end of the VMM.
fn survive_broken_pipes() {
    // It can only fail for a number that is no signal's.
    let _ = block_signal(SIGPIPE);
}

/// Somebody else with the same channel may have been faster, but not always.
pub(super) fn tolerate(error: Errno, false_alarms: &mut u32) -> Result<(), Errno> {
    *false_alarms += 1;
    match error {
        Errno::AGAIN | Errno::INTR if *false_alarms < FALSE_ALARMS => Ok(()),
        error => Err(error),
    }
}

impl StateFd {
    /// Closes it here, on a thread that nobody waits for.
    fn close(self) {
        match self {
            Self::Pipe(fd) => fd.close(),
            Self::Socket(socket) => ForeignFd::from(socket).close(),
        }
    }

    /// Writes some of `bytes`. A pipe that `poll` has called writable takes a
    /// page without blocking, unless others write to it too.
    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        use rustix::net::{send, SendFlags};
        match self {
            Self::Pipe(fd) => {
                let page = bytes.get(..4096).unwrap_or(bytes);
                rustix::io::write(fd, page)
            }
            Self::Socket(fd) => send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        }
    }

    /// Reads what is there. 0 is the end.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        use rustix::net::{recv, RecvFlags};
        match self {
            Self::Pipe(fd) => rustix::io::read(fd, buffer),
            // Descriptors that come along are not received.
            Self::Socket(fd) => recv(fd, buffer, RecvFlags::DONTWAIT).map(|(bytes, _)| bytes),
        }
    }
}

#[cfg(test)]
mod tests;
