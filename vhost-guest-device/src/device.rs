// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device behind its lock: state, turns, and the life cycle.
//!
//! ```text
//!   reset ──DRIVER_OK──▶ idle ──BACKEND_UP──▶ listening ──accept──▶ connected
//!     ▲                                                                │
//!     │                                        frontend lost, or the   │
//!     └──── driver writes 0 ──── needs reset ◀─guest broke a rule ─────┘
//! ```
//!
//! A loss is not a revocation: kicks are disarmed, doorbells gone and sockets
//! closed at once, but memory stays mapped until the driver has reset the
//! device, because the guest may be in the middle of using it. A reset, or the
//! VMM's [`revoke`](Device::revoke), takes everything.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::event::{eventfd, EventfdFlags};
use vhost_guest_msg::Limits;
use vhost_guest_vmm_traits::{DeviceNotifier, SharedMemoryMapper};
use vm_memory::GuestAddressSpace;

use crate::builder::{Options, Services, MEMORY_SLOTS};
use crate::error::Fault;
use crate::fd::{FdKinds, Reaper, Signaller};
use crate::inflight::InflightMemory;
use crate::journal::Journal;
use crate::listener::Listener;
use crate::memory::{Memory, MemoryLimits};
use crate::pci::bars::WINDOW_BAR;
use crate::pci::BarMove;
use crate::poller::{Interest, Poller, Ready, Token};
use crate::queue::{MessageQueue, Queues, MAX_CHAIN, QUEUES};
use crate::registers::{Effect, Registers, Setup};
use crate::relay::{Connection, Step, CHANNEL_REPLIES, REQUESTS};
use crate::statistics::Statistics;
use crate::virtio::device_config::Properties;
use crate::virtio::feature;

/// Messages moved in one turn, so that neither a chatty frontend nor a chatty
/// guest keeps the lock from a vCPU.
const TURN: usize = 64;

/// Largest size of one of the device's own virtqueues.
const MAX_QUEUE_SIZE: u16 = 128;

/// All state of a device.
pub(crate) struct Device<M> {
    pub registers: Registers,
    pub memory: Memory,
    pub guest: M,
    pub queues: Queues,
    pub connection: Option<Connection>,
    pub journal: Journal,
    pub statistics: Statistics,
    pub poller: Poller,
    pub reaper: Reaper,
    pub kinds: FdKinds,
    pub inflight: InflightMemory,
    pub limits: Limits,
    window: Arc<dyn SharedMemoryMapper>,
    listener: Listener,
    wake: OwnedFd,
    notifier: Option<Arc<dyn DeviceNotifier>>,
    condition: Condition,
}

/// Whether the device works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Alive,
    /// The environment failed: no frontend is accepted any more.
    Dead,
    /// The VMM has dropped the device.
    Stopped,
}

impl<M: GuestAddressSpace> Device<M> {
    /// A device after power-up.
    ///
    /// # Errors
    ///
    /// The environment's: no descriptors, no threads.
    pub(crate) fn new(
        listener: UnixListener,
        options: &Options,
        services: Services<M>,
    ) -> io::Result<Self> {
        let hook = services.thread_hook.as_ref();
        let reaper = Reaper::spawn(hook)?;
        let signaller = Arc::new(Signaller::spawn(hook)?);
        let limits = Limits {
            max_queues: options.queues,
            ..Limits::default()
        };
        let registers = Registers::new(
            &setup(options, &limits),
            services.interrupts,
            services.doorbells,
            signaller,
        )?;
        let bounds = MemoryLimits {
            window_size: options.window_size,
            max_regions: MEMORY_SLOTS,
            policy: options.memory_policy,
        };
        let memory = Memory::new(Arc::clone(&services.window), bounds);
        let mut device = Self {
            registers,
            memory,
            guest: services.memory,
            queues: Queues::default(),
            connection: None,
            journal: Journal::new(),
            statistics: Statistics::default(),
            poller: Poller::new()?,
            reaper,
            kinds: FdKinds::new()?,
            inflight: InflightMemory::new(options.inflight_limit),
            limits,
            window: services.window,
            listener: Listener::new(listener)?,
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            notifier: services.notifier,
            condition: Condition::Alive,
        };
        device
            .poller
            .watch(Token::Wake, device.wake.as_fd(), Interest::READ)?;
        device
            .poller
            .watch(Token::Timer, device.listener.timer(), Interest::READ)?;
        for (queue, eventfd) in (0..).zip(device.registers.queue_eventfds()) {
            device
                .poller
                .watch(Token::Queue(queue), eventfd.as_fd(), Interest::READ)?;
        }
        Ok(device)
    }

    /// A duplicate of the descriptor that becomes readable when the device
    /// wants a [`turn`](Self::turn).
    pub(crate) fn poller_fd(&self) -> io::Result<OwnedFd> {
        self.poller.try_clone_fd()
    }

    /// Descriptors that the device has of its own.
    pub(crate) fn own_fds(&self) -> Vec<RawFd> {
        let own = [
            self.poller.as_fd(),
            self.wake.as_fd(),
            self.listener.as_fd(),
            self.listener.timer(),
        ];
        let queues = self
            .registers
            .queue_eventfds()
            .iter()
            .map(|fd| fd.as_raw_fd());
        own.iter().map(|fd| fd.as_raw_fd()).chain(queues).collect()
    }

    /// One turn: takes note of what is ready, moves what can be moved, and
    /// says what to wait for next. Nothing in it blocks.
    pub(crate) fn turn(&mut self, ready: &[Ready]) {
        self.statistics.turns += 1;
        if let Err(fault) = self.try_turn(ready) {
            self.fail(fault);
        }
        if let Err(error) = self.update_interest() {
            self.die(error);
        }
    }

    fn try_turn(&mut self, ready: &[Ready]) -> Result<(), Fault> {
        let (mut frontend_hung_up, mut channel_hung_up) = (false, false);
        for event in ready {
            match event.token {
                Token::Wake => drain(&self.wake),
                Token::Timer => self.listener.resume(),
                Token::Queue(queue) => {
                    if let Some(eventfd) = self.registers.queue_eventfds().get(usize::from(queue)) {
                        drain(eventfd);
                    }
                }
                Token::Listener => {}
                Token::Frontend => frontend_hung_up |= event.hung_up,
                Token::Channel => channel_hung_up |= event.hung_up,
            }
        }
        self.accept();
        if !self.may_use_queues() {
            return self.check_hang_up(frontend_hung_up, channel_hung_up);
        }
        for _ in 0..TURN {
            if !self.step()? {
                return self.check_hang_up(frontend_hung_up, channel_hung_up);
            }
        }
        self.wake();
        Ok(())
    }

    /// Queues are used while the driver is running and the function may
    /// access memory (PCI Local Bus 3.0 §6.2.2, Bus Master).
    fn may_use_queues(&self) -> bool {
        self.registers.is_running() && self.registers.bus_master()
    }

    /// Moves at most one message in each direction. `false` if none moved.
    fn step(&mut self) -> Result<bool, Fault> {
        let moved = [
            self.step_reply()?,
            self.step_request()?,
            self.step_channel_request()?,
            self.step_channel_reply()?,
        ];
        Ok(moved.contains(&Step::Moved))
    }

    /// A hang-up is noticed by reading up to the end of the stream. Where
    /// nothing is read, for lack of a guest buffer or because queues may not
    /// be used, it counts at once: it would be reported for ever.
    fn check_hang_up(&mut self, frontend: bool, channel: bool) -> Result<(), Fault> {
        let busy = self.may_use_queues();
        let reads = busy && !self.reaper.is_overloaded();
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        if frontend && !(reads && connection.wants_request()) {
            return Err(Fault::HungUp);
        }
        if channel && !(busy && connection.wants_channel_reply()) {
            self.close_channel();
        }
        Ok(())
    }

    /// Takes a frontend, if the driver wants one and one is there.
    fn accept(&mut self) {
        if !self.wants_frontend() || self.listener.is_resting() {
            return;
        }
        if self.reaper.is_overloaded() {
            // The frontends before left more descriptors than can be closed.
            self.journal
                .warn(format_args!("environment: too many descriptors to close"));
            return self.listener.rest();
        }
        match self.listener.accept() {
            Ok(Some(socket)) => {
                self.journal.info(format_args!("a frontend connected"));
                self.statistics.frontends += 1;
                self.connection = Some(Connection::new(socket, &self.reaper, self.limits));
                self.registers.set_frontend_up(true);
            }
            Ok(None) => {}
            Err(error) => self
                .journal
                .warn(format_args!("environment: accept: {error}")),
        }
    }

    /// Whether a frontend may connect now.
    fn wants_frontend(&self) -> bool {
        self.condition == Condition::Alive
            && self.connection.is_none()
            && self.registers.is_running()
            && self.registers.backend_up()
    }

    /// Says what to wait for.
    fn update_interest(&mut self) -> io::Result<()> {
        let listener = self.listener.as_fd();
        if self.wants_frontend() && !self.listener.is_resting() {
            self.poller
                .watch(Token::Listener, listener, Interest::READ)?;
        } else {
            self.poller.unwatch(Token::Listener, listener);
        }
        let busy = self.may_use_queues();
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let overloaded = self.reaper.is_overloaded();
        if overloaded {
            // Nothing tells when it is over.
            self.listener.rest();
        }
        let interest = Interest {
            read: busy && !overloaded && connection.wants_request(),
            write: busy && connection.socket.is_sending(),
        };
        self.poller
            .watch(Token::Frontend, connection.socket.as_fd(), interest)?;
        let read = busy && connection.wants_channel_reply();
        if let Some(channel) = connection.channel.socket() {
            let interest = Interest {
                read,
                write: busy && channel.is_sending(),
            };
            self.poller
                .watch(Token::Channel, channel.as_fd(), interest)?;
        }
        Ok(())
    }

    /// Asks for a turn.
    pub(crate) fn wake(&self) {
        // The counter can only be full if a turn is due anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Carries out what follows from a register access. Returns the BARs that
    /// the VMM has to move.
    pub(crate) fn apply(&mut self, effects: impl IntoIterator<Item = Effect>) -> Vec<BarMove> {
        let mut moves = Vec::new();
        for effect in effects {
            match effect {
                Effect::Reset | Effect::FunctionReset => self.reset(),
                Effect::QueueEnabled(queue) => {
                    if let Err(fault) = self.open_queue(queue) {
                        self.fail(fault);
                    }
                }
                Effect::QueueReset(queue) => self.close_queue(queue),
                Effect::BackendUp(false) if self.connection.is_some() => self.lose_frontend(),
                Effect::BackendUp(_) | Effect::DriverOk | Effect::BusMaster(_) => {}
                Effect::QueueNotified(queue) => self.registers.notify_queue(queue),
                Effect::DoorbellRung => {
                    // The signaller has it; the worker has nothing to do.
                    self.statistics.userspace_doorbells += 1;
                    continue;
                }
                Effect::BarMoves(mut moved) => moves.append(&mut moved),
                Effect::GuestFault(fault) => self.fail(Fault::guest(fault)),
                Effect::InterruptsFailed(failures) => {
                    for failure in failures {
                        let (event, error) = (failure.event, failure.error);
                        self.journal
                            .warn(format_args!("environment: {event:?} not armed: {error}"));
                    }
                    continue;
                }
            }
            self.wake();
        }
        moves
    }

    /// The driver has enabled a queue.
    fn open_queue(&mut self, index: u16) -> Result<(), Fault> {
        if index >= QUEUES {
            return Ok(());
        }
        let Some(rings) = self.registers.queue(index) else {
            return Ok(());
        };
        let event_idx = self.registers.features() & feature::EVENT_IDX != 0;
        let memory = self.guest.memory();
        let queue = MessageQueue::open(index, MAX_QUEUE_SIZE, rings, event_idx, &*memory)?;
        self.queues.open(index, queue);
        Ok(())
    }

    /// The driver resets a queue: buffers of it are dropped, messages kept.
    fn close_queue(&mut self, index: u16) {
        self.queues.close(index);
        if let Some(connection) = &mut self.connection {
            match index {
                REQUESTS => connection.request_buffer = None,
                CHANNEL_REPLIES => connection.reply_buffer = None,
                _ => {}
            }
        }
        self.registers.queue_reset_done(index);
    }

    /// The VMM has placed a BAR: what is in it moves along.
    ///
    /// # Errors
    ///
    /// The environment's. The device is consistent, and slower (doorbells) or
    /// without its window.
    pub(crate) fn bar_moved(&mut self, bar: u8, address: Option<u64>) -> io::Result<()> {
        let moved = self.registers.bar_moved(bar, address).map_err(Fault::from);
        match moved {
            Ok(()) => {}
            Err(Fault::Environment(error)) => return Err(error),
            Err(fault) => {
                self.fail(fault);
                return Err(io::Error::other("a doorbell could not be disconnected"));
            }
        }
        if bar == WINDOW_BAR {
            self.window.place(self.registers.bar_address(bar))?;
        }
        Ok(())
    }

    /// A vCPU found memory missing. Returns whether it was a frontend's, which
    /// is revoked then: the access can be tried again, and hits a hole.
    pub(crate) fn memory_fault(&mut self, address: Option<u64>) -> bool {
        let base = self.registers.bar_address(WINDOW_BAR);
        let offset = match (address, base) {
            (Some(address), Some(base)) => match address.checked_sub(base) {
                Some(offset) => Some(offset),
                None => return false,
            },
            _ => None,
        };
        match self.memory.withdraw(offset) {
            Ok(false) => false,
            Ok(true) => {
                self.fail(Fault::frontend("memory that it shared was truncated"));
                self.wake();
                true
            }
            Err(error) => {
                self.fail(error.into());
                true
            }
        }
    }

    /// Answers a fault (see [`crate::error`]).
    fn fail(&mut self, fault: Fault) {
        match &fault {
            Fault::HungUp => self.journal.info(format_args!("{fault}")),
            _ => self.journal.warn(format_args!("{fault}")),
        }
        match fault {
            Fault::Dead(error) => self.die(error),
            _ => self.lose_frontend(),
        }
    }

    /// The frontend is gone, or has to go: its notifications end, the guest
    /// learns of it, its memory stays until the driver has reset the device.
    fn lose_frontend(&mut self) {
        let outcome = self.disconnect();
        if self.registers.set_needs_reset() {
            if let Some(notifier) = &self.notifier {
                notifier.needs_reset();
            }
        }
        if let Err(error) = outcome {
            self.die(error);
        }
    }

    /// Closes sockets, doorbells and kicks.
    fn disconnect(&mut self) -> io::Result<()> {
        self.close_channel();
        if let Some(connection) = self.connection.take() {
            self.poller
                .unwatch(Token::Frontend, connection.socket.as_fd());
        }
        self.registers.detach_frontend().map_err(io::Error::other)
    }

    /// Takes everything of the frontend's from the guest, whatever the guest
    /// thinks: memory, doorbells, interrupts. Idempotent.
    pub(crate) fn revoke(&mut self) {
        let was_connected = self.connection.is_some();
        let disconnected = self.disconnect();
        let unmapped = self.memory.revoke().map_err(io::Error::other);
        if was_connected {
            self.lose_frontend();
        }
        if let Err(error) = disconnected.and(unmapped) {
            self.die(error);
        }
    }

    /// The driver (or the PCI function) resets the device. Legal in every
    /// state; the listener survives.
    fn reset(&mut self) {
        let disconnected = self.disconnect();
        let unmapped = self.memory.revoke().map_err(io::Error::other);
        self.queues.clear();
        let registers = self.registers.reset().map_err(io::Error::other);
        if let Err(error) = disconnected.and(unmapped).and(registers) {
            self.die(error);
        }
    }

    /// The environment failed so that a promise cannot be kept: no frontend is
    /// accepted any more. What can be taken from the guest is taken.
    pub(crate) fn die(&mut self, error: io::Error) {
        if self.condition != Condition::Alive {
            return;
        }
        self.condition = Condition::Dead;
        self.journal.warn(format_args!("dead: {error}"));
        let _ = self.disconnect();
        let _ = self.memory.revoke();
        self.registers.set_needs_reset();
        if let Some(notifier) = &self.notifier {
            notifier.dead(&error);
        }
    }

    /// The VMM drops the device: everything is revoked, and the worker ends.
    pub(crate) fn stop(&mut self) {
        self.revoke();
        self.condition = Condition::Stopped;
        self.wake();
    }

    /// Whether the worker is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.condition == Condition::Stopped
    }
}

/// Takes the events that wait in an eventfd of the device's own.
fn drain(eventfd: &impl AsFd) {
    // It is non-blocking; nothing to read is nothing to do.
    let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
}

/// What the registers show.
fn setup(options: &Options, limits: &Limits) -> Setup {
    Setup {
        properties: Properties {
            max_vhost_queues: options.queues,
            max_message_size: u32::try_from(limits.max_message_size).unwrap_or(u32::MAX),
            max_migration_message_size: 0,
            max_chained_rx_descriptors: MAX_CHAIN,
            max_chained_tx_descriptors: MAX_CHAIN,
            uuid: options.uuid,
            device_type: options.device_type,
        },
        virtqueues: QUEUES,
        max_queue_size: MAX_QUEUE_SIZE,
        window_size: options.window_size,
        features: feature::offered(false),
    }
}
