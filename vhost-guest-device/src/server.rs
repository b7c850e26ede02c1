// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Serves one frontend after the other: the room of the connection.
//!
//! ```text
//!   reset ──DRIVER_OK──▶ idle ──BACKEND_UP──▶ listening ──accept──▶ connected
//!     ▲                                                                │
//!     │                                        frontend lost, or the   │
//!     └──── driver writes 0 ──── needs reset ◀─guest broke a rule ─────┘
//! ```
//!
//! Whoever takes its turns (the device's thread, or the VMM's event loop) enters,
//! and the VMM when it pauses, saves or restores the device. No vCPU does. What
//! vCPUs have changed meanwhile, each turn finds in the registers
//! ([`look`](Server::look)), and nothing else is handed over: there is no queue of
//! wishes that a guest could fill.
//!
//! A loss is not a revocation: kicks are disarmed, doorbells gone and sockets
//! closed, but memory stays attached until the driver has reset the device,
//! because the guest may be in the middle of using it.

mod limits;
mod look;
mod loss;
mod pause;
mod reset;
mod turn;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use vhost_guest_msg::Limits;
use vm_memory::GuestAddressSpace;

use crate::connection::{Connection, DriverQueues, InflightMemory, Resources};
use crate::event_loop::alarm::Alarm;
use crate::event_loop::poller::{Interest, Poller, Token};
use crate::fd::listener::Listener;
use crate::fd::{Channels, FdKinds, Launcher, Pump, Reaper};
use crate::guest::driver_memory::{DriverMemory, View};
use crate::guest::queue::Queues;
use crate::memory::Memory;
use crate::shared::Shared;

/// What the VMM decides about a server.
pub(crate) struct Setup<M> {
    pub(crate) listener: UnixListener,
    pub(crate) limits: Limits,
    pub(crate) reaper: Reaper,
    pub(crate) channels: Channels,
    pub(crate) memory: Memory,
    pub(crate) guest: DriverMemory<M>,
    pub(crate) pump: Option<Pump>,
    pub(crate) inflight: InflightMemory,
    pub(crate) reply_limit: Alarm,
    pub(crate) memory_limit: Alarm,
}

/// The state of whoever serves frontends.
pub(crate) struct Server<M> {
    pub connection: Option<Connection>,
    pub memory: Memory,
    pub guest: DriverMemory<M>,
    pub queues: Queues,
    pub poller: Poller,
    pub reaper: Reaper,
    channels: Channels,
    /// Present from the start on.
    launcher: Option<Launcher>,
    pub kinds: FdKinds,
    pub inflight: InflightMemory,
    limits: Limits,
    /// Moves device state, if the VMM wants that.
    pub pump: Option<Pump>,
    listener: Listener,
    pub reply_limit: Alarm,
    pub memory_limit: Alarm,
    paused: bool,
    /// How far queues of a snapshot are that are not open yet.
    unopened: BTreeMap<u16, (u16, u16)>,
}

/// A connection, and what it works on.
type Connected<'a, M> = (
    &'a mut Connection,
    Resources<'a>,
    DriverQueues<'a, View<<M as GuestAddressSpace>::T>>,
);

impl<M: GuestAddressSpace> Server<M> {
    /// One that waits for its first turn.
    ///
    /// # Errors
    ///
    /// The environment's: no descriptors.
    pub(crate) fn new(setup: Setup<M>, shared: &Shared) -> io::Result<Self> {
        let mut server = Self {
            connection: None,
            memory: setup.memory,
            guest: setup.guest,
            queues: Queues::default(),
            poller: Poller::new()?,
            channels: setup.channels,
            launcher: None,
            kinds: FdKinds::new()?,
            inflight: setup.inflight,
            limits: setup.limits,
            pump: setup.pump,
            listener: Listener::new(setup.listener, &setup.reaper)?,
            reaper: setup.reaper,
            reply_limit: setup.reply_limit,
            memory_limit: setup.memory_limit,
            paused: false,
            unopened: BTreeMap::new(),
        };
        server
            .poller
            .watch(Token::Wake, shared.wakes(), Interest::READ)?;
        server.watch_own(shared)?;
        Ok(server)
    }

    /// Waits for what is there for life.
    fn watch_own(&mut self, shared: &Shared) -> io::Result<()> {
        let poller = &mut self.poller;
        poller.watch(Token::Timer, self.listener.timer(), Interest::READ)?;
        for (queue, eventfd) in (0..).zip(shared.registers.lock().queue_eventfds()) {
            poller.watch(Token::Queue(queue), eventfd.as_fd(), Interest::READ)?;
        }
        self.watch_limits()
    }

    /// A duplicate of the descriptor that becomes readable when the device
    /// wants a [`turn`](Self::turn).
    pub(crate) fn poller_fd(&self) -> io::Result<OwnedFd> {
        self.poller.try_clone_fd()
    }

    /// Descriptors that it has of its own.
    pub(crate) fn own_fds(&self) -> Vec<RawFd> {
        let own = [
            self.poller.as_fd(),
            self.listener.as_fd(),
            self.listener.timer(),
            self.kinds.as_fd(),
        ];
        let limits = [&self.reply_limit, &self.memory_limit];
        let timers = limits.into_iter().filter_map(Alarm::fd);
        let own = own.into_iter().chain(timers);
        own.map(|fd| fd.as_raw_fd()).collect()
    }

    /// The connection, if there is one, with what it works on.
    pub(crate) fn connected<'a>(&'a mut self, shared: &'a Shared) -> Option<Connected<'a, M>> {
        let connection = self.connection.as_mut()?;
        let memory = self.guest.view(shared.registers.lock().features());
        let queues = DriverQueues::new(&mut self.queues, memory);
        let resources = Resources {
            shared,
            epoch: connection.epoch(),
            memory: &mut self.memory,
            inflight: &mut self.inflight,
            pump: self.pump.as_mut(),
            kinds: &self.kinds,
            poller: &mut self.poller,
        };
        Some((connection, resources, queues))
    }

    /// Has threads made for what a peer can delay, when there is such work.
    pub(crate) fn start_threads(&mut self, launcher: &Launcher) {
        self.reaper.start(launcher);
        self.channels.start(launcher);
        self.memory.start_threads(launcher);
        if let Some(pump) = &self.pump {
            pump.start_threads(launcher);
        }
        self.launcher = Some(launcher.clone());
    }
}
