// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The server that a vhost-user backend runs on.

mod requests;
mod session;
mod state;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use crate::backend::Backend;
use crate::device::{Events, Inbound, Outbound};
use crate::error::Error;
use crate::port::Port;
use crate::transport::Wake;
use crate::vring::TURN_BYTES;

use session::Session;

pub use session::Disconnect;

/// Messages handled in one turn, before vrings have theirs.
const MESSAGES: usize = 16;
/// How often a device with events that do not interrupt is looked at, and a
/// vring without kicks.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Pause after a frontend that left without a word.
const BACKOFF: Duration = Duration::from_millis(10);

/// Serves vhost-user frontends, one after the other, for ever.
///
/// # Errors
///
/// If the device breaks the rules, is meant for another type of backend, or
/// does not take one. Frontends do no such harm: one that breaks the rules is
/// disconnected, and the next one served.
pub fn serve<P: Port, B: Backend>(device: P, backend: B) -> Result<(), Error> {
    Server::new(device, backend)?.run()
}

/// Ends a [`Server::run`] from another thread.
#[derive(Clone)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
}

impl Stop {
    /// Makes the server disconnect the frontend and return. Requests that
    /// it has taken are completed first.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frontends that sent a message.
    pub frontends: u64,
    /// Frontends that were disconnected because of what they sent.
    pub faults: u64,
    /// Messages received.
    pub messages: u64,
    /// Vrings that their guests broke.
    pub ring_faults: u64,
    /// Requests in vrings completed.
    pub requests: u64,
    /// Calls of the frontend's guest.
    pub calls: u64,
    /// Waits for an interrupt.
    pub waits: u64,
}

/// Whether a server had something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There may be more: look again before waiting.
    Busy,
    /// Nothing is left to do until an event comes.
    Idle,
}

/// A vhost-guest device with a backend.
///
/// ```no_run
/// # use vhost_guest_driver::{Backend, Device, Error, Server, Transport};
/// # fn example(transport: impl Transport, backend: impl Backend) -> Result<(), Error> {
/// let device = Device::open(transport)?;
/// let mut server = Server::new(device, backend)?;
/// let stop = server.stop_handle();
/// // … hand `stop` to another thread
/// server.run()
/// # }
/// ```
pub struct Server<P: Port, B> {
    device: P,
    backend: B,
    session: Session,
    /// Whose turn is the first.
    first_ring: u16,
    stop: Stop,
    message: Vec<u8>,
    statistics: Statistics,
    last_fault: Option<Disconnect>,
}

impl<P: Port, B: Backend> Server<P, B> {
    /// Puts `backend` behind `device`, which accepts frontends from now on.
    ///
    /// # Errors
    ///
    /// If the device does not take a backend of this type.
    pub fn new(device: P, mut backend: B) -> Result<Self, Error> {
        if device.max_queues() < backend.queues() {
            backend.limit_queues(device.max_queues());
        }
        let stop = Stop {
            flag: Arc::new(AtomicBool::new(false)),
            waker: device.waker(),
        };
        let session = Session::new(&device, &backend);
        let mut this = Self {
            device,
            backend,
            session,
            first_ring: 0,
            stop,
            message: Vec::new(),
            statistics: Statistics::default(),
            last_fault: None,
        };
        this.offer_backend()?;
        Ok(this)
    }

    /// What ends [`run`](Self::run).
    pub fn stop_handle(&self) -> Stop {
        self.stop.clone()
    }

    /// What ends the wait of a [`run_once`](Self::run_once), from another
    /// thread.
    pub fn waker(&self) -> Arc<dyn Wake> {
        self.stop.waker.clone()
    }

    /// How long the next [`run_once`](Self::run_once) may wait after an idle
    /// one: for ever, unless the frontend wants a vring to be polled.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.session.is_polled().then_some(POLL_INTERVAL)
    }

    /// What has been done so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Why the last frontend that broke the rules was disconnected.
    pub fn last_fault(&self) -> Option<&Disconnect> {
        self.last_fault.as_ref()
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Serves until [`Stop::stop`].
    ///
    /// # Errors
    ///
    /// As [`serve`].
    pub fn run(&mut self) -> Result<(), Error> {
        let mut turn = Turn::Busy;
        while !self.stop.is_set() {
            let timeout = match turn {
                Turn::Busy => Some(Duration::ZERO),
                Turn::Idle => self.idle_timeout(),
            };
            turn = self.run_once(timeout)?;
        }
        self.device.set_backend_up(false)?;
        Ok(())
    }

    /// Waits for events for up to `timeout` (`None`: for ever), then does
    /// one turn of what there is to do.
    ///
    /// # Errors
    ///
    /// As [`serve`].
    pub fn run_once(&mut self, timeout: Option<Duration>) -> Result<Turn, Error> {
        if timeout != Some(Duration::ZERO) {
            self.statistics.waits += 1;
        }
        let events = self.device.wait(timeout);
        if events.config && self.device.status()?.needs_reset {
            self.restart()?;
            return Ok(Turn::Busy);
        }
        // Vrings first: what was kicked before a message was sent is old.
        let left = self.session.resubmits();
        let busy_rings = self.process_rings(&events);
        let resubmitting = self.session.resubmits() < left;
        let busy_messages = match self.process_messages(resubmitting)? {
            Ok(busy) => busy,
            Err(disconnect) => {
                self.statistics.faults += 1;
                self.last_fault = Some(disconnect);
                self.restart()?;
                true
            }
        };
        self.ask_translations()?;
        let transfer = &mut self.session.transfer;
        let busy_state = transfer.step(&mut self.device, &mut self.backend)?;
        let busy = busy_rings || busy_messages || busy_state;
        Ok(if busy { Turn::Busy } else { Turn::Idle })
    }

    /// Leaves the frontend, if it is still there, and gets ready for the next.
    fn restart(&mut self) -> Result<(), Error> {
        if self.session.is_fresh() {
            // Whatever comes and goes so fast does not get all our time.
            self.device.wait(Some(BACKOFF));
        }
        // A reset disconnects, and takes the frontend's memory away.
        self.device.reset()?;
        self.session = Session::new(&self.device, &self.backend);
        self.backend.reset();
        self.offer_backend()
    }

    fn offer_backend(&mut self) -> Result<(), Error> {
        self.device.set_device_type(self.backend.device_type())?;
        self.device.expect_kicks(self.session.queues())?;
        // The device may have had to give up on the way.
        if !self.device.set_backend_up(true)? && !self.device.status()?.needs_reset {
            return Err(Error::BackendRefused);
        }
        Ok(())
    }

    /// Gives each vring that has requests a turn, as far as there is time; the
    /// rest are first the next time. Whether some have more.
    fn process_rings(&mut self, events: &Events) -> bool {
        let (mut busy, mut bytes) = (false, TURN_BYTES);
        let queues = self.session.queues();
        let first = self.first_ring.min(queues);
        for index in (first..queues).chain(0..first) {
            let kicked = self.device.kicked(events, index);
            if bytes == 0 {
                busy |= self.session.postpone(index, kicked);
                continue;
            }
            busy |= self.process_ring(index, kicked, &mut bytes);
            if bytes == 0 {
                self.first_ring = index + 1;
            }
        }
        busy
    }

    /// Gives the vring a turn of `bytes`, if it has requests; whether it has
    /// more.
    fn process_ring(&mut self, index: u16, kicked: bool, bytes: &mut u64) -> bool {
        let Some((vring, memory)) = self.session.take_turn(index, kicked) else {
            return false;
        };
        let spent = (&mut self.statistics, bytes);
        let mut more = vring.process(&mut self.backend, memory, index, spent);
        let logged = core::mem::take(&mut vring.logged);
        if vring.take_call() {
            self.device.call(index);
            self.statistics.calls += 1;
        }
        if let Some(fault) = vring.fault() {
            more = false;
            self.statistics.ring_faults += 1;
            self.last_fault = Some(Disconnect::Ring(fault));
            if vring.err {
                self.device.signal_error(index);
            }
        }
        self.session.set_pending(index, more);
        if logged && self.session.log_signal {
            self.device.signal_log();
        }
        more
    }

    /// Handles messages; whether there may be more.
    ///
    /// While requests that an earlier backend left are handled, turn by turn,
    /// messages wait: the next one may stop their vring, and where a vring
    /// stops counts them as done. If the backend does not take them, nothing
    /// waits for that.
    fn process_messages(
        &mut self,
        mut resubmitting: bool,
    ) -> Result<Result<bool, Disconnect>, Error> {
        let taken = self.device.receive(Inbound::Replies, &mut self.message)?;
        // The server never asks for a reply, so what this is is of no matter.
        let mut busy = taken;
        for _ in 0..MESSAGES {
            if !self.flush_reply()? {
                // An interrupt tells when there is room.
                return Ok(Ok(busy));
            }
            if resubmitting && self.session.resubmits() > 0 {
                return Ok(Ok(true));
            }
            if !self.device.receive(Inbound::Requests, &mut self.message)? {
                self.announce_config_change()?;
                return Ok(Ok(busy));
            }
            busy = true;
            let transfer = &mut self.session.transfer;
            transfer.catch_up(&mut self.device, &mut self.backend)?;
            self.statistics.messages += 1;
            self.statistics.frontends += u64::from(self.session.is_fresh());
            let endian = self.device.endian();
            if let Err(disconnect) = self
                .session
                .handle(&self.message, endian, &mut self.backend)
            {
                return Ok(Err(disconnect));
            }
            resubmitting = true;
        }
        Ok(Ok(true))
    }

    /// Sends the reply that is due; `false` if there is no room for it.
    fn flush_reply(&mut self) -> Result<bool, Error> {
        let Some(reply) = self.session.reply() else {
            return Ok(true);
        };
        let sent = self.device.send(Outbound::Replies, reply)?;
        if sent {
            self.session.reply_sent();
        }
        Ok(sent)
    }

    /// Asks for the translations that vrings wait for.
    fn ask_translations(&mut self) -> Result<(), Error> {
        while let Some((vring, message)) = self.session.question(self.device.endian()) {
            if !self.device.send(Outbound::Requests, &message)? {
                // An interrupt tells when there is room.
                return Ok(());
            }
            self.session.asked(vring);
        }
        Ok(())
    }

    fn announce_config_change(&mut self) -> Result<(), Error> {
        self.session.config_changed |= self.backend.take_config_change();
        if let Some(message) = self.session.config_change(self.device.endian()) {
            if self.device.send(Outbound::Requests, &message)? {
                self.session.config_changed = false;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
