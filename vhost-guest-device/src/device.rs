// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device behind its lock: its state, its turns (`turn.rs`), and its life
//! cycle (`life_cycle.rs`).
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

mod life_cycle;
mod limits;
pub(crate) mod options;
mod pause;
mod reset;
mod restore;
mod turn;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::event::{eventfd, EventfdFlags};
use vhost_guest_msg::Limits;
use vhost_guest_vmm_traits::DeviceNotifier;
use vm_memory::GuestAddressSpace;

use crate::connection::{Connection, DriverQueues, InflightMemory, Resources};
use crate::device::options::Options;
use crate::event_loop::alarm::Alarm;
use crate::event_loop::poller::{self, Interest, Poller, Token};
use crate::fd::listener::Listener;
use crate::fd::{FdKinds, Pump, Reaper, Signaller};
use crate::guest::driver_memory::{DriverMemory, View};
use crate::guest::queue::{Queues, MAX_CHAIN};
use crate::guest::registers::{Registers, Setup};
use crate::guest::virtio::device_config::Properties;
use crate::guest::virtio::feature;
use crate::host;
use crate::memory::window::detach_before;
use crate::memory::{Memory, MemoryError, MemoryLimits, Window};
use crate::sync::{Epochs, Ordered};
use crate::vmm::journal::Journal;
use crate::vmm::services::Services;
use crate::vmm::statistics::Statistics;

/// Largest size of one of the device's own virtqueues.
const MAX_QUEUE_SIZE: u16 = 128;

/// All state of a device.
pub(crate) struct Device<M> {
    pub registers: Registers,
    pub memory: Memory,
    pub guest: DriverMemory<M>,
    pub queues: Queues,
    pub connection: Option<Connection>,
    pub journal: Journal,
    pub statistics: Statistics,
    pub poller: Poller,
    pub reaper: Reaper,
    signaller: Arc<Signaller>,
    pub kinds: FdKinds,
    pub inflight: InflightMemory,
    pub limits: Limits,
    /// Moves device state, if the VMM wants that.
    pub pump: Option<Pump>,
    pub window: Arc<Ordered<Window>>,
    epochs: Arc<Epochs>,
    listener: Listener,
    wake: Arc<OwnedFd>,
    pub reply_limit: Alarm,
    pub memory_limit: Alarm,
    notifier: Option<Arc<dyn DeviceNotifier>>,
    condition: Condition,
    paused: bool,
    /// The VMM wants resets to be done by the worker.
    resets_in_pieces: bool,
    /// Queues of a snapshot that are to be opened when the pause is over, and
    /// how far they are.
    unopened: BTreeMap<u16, (u16, u16)>,
    /// The window is not where the guest has put it, until a reset is done.
    window_waits: bool,
}

/// A connection, and what it works on.
type Connected<'a, M> = (
    &'a mut Connection,
    Resources<'a>,
    DriverQueues<'a, View<<M as GuestAddressSpace>::T>>,
);

/// Whether the device works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// Not started: no thread exists, and no frontend is accepted.
    Prepared,
    Alive,
    /// The environment failed: no frontend is accepted any more.
    Dead,
    /// The VMM has dropped the device.
    Stopped,
}

impl<M: GuestAddressSpace> Device<M> {
    /// A device after power-up, which has to be started.
    ///
    /// # Errors
    ///
    /// The environment's: no descriptors.
    pub(crate) fn new(
        listener: UnixListener,
        options: &Options,
        services: Services<M>,
    ) -> io::Result<Self> {
        let signaller = Arc::new(Signaller::new());
        let wake = Arc::new(host::ask(|| {
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
        })?);
        let pump = options.migration;
        let pump = pump.map(|most| Pump::new(most as usize, &wake));
        let limits = Limits {
            max_queues: options.queues,
            max_message_size: options.max_message_size as usize,
            ..Limits::default()
        };
        let registers = Registers::new(
            &setup(options, &limits, services.translator.is_some()),
            services.interrupts,
            services.doorbells,
            Arc::clone(&signaller),
        )?;
        let bounds = MemoryLimits {
            window_size: options.window_size,
            max_regions: options.memory_slots.into(),
            policy: options.memory_policy,
        };
        let (epochs, reaper) = (Arc::new(Epochs::default()), Reaper::new());
        let mapper = services.window;
        let window = Window::new(Arc::clone(&mapper), Arc::clone(&epochs));
        let window = Arc::new(Ordered::new(window));
        let memory = Memory::new(
            mapper,
            Arc::clone(&window),
            reaper.clone(),
            epochs.current(),
            bounds,
        );
        let mut device = Self {
            registers,
            memory,
            guest: DriverMemory::new(services.memory, services.translator),
            queues: Queues::default(),
            connection: None,
            journal: Journal::new(),
            statistics: Statistics::default(),
            poller: Poller::new()?,
            reaper,
            signaller,
            kinds: FdKinds::new()?,
            inflight: InflightMemory::new(options.inflight_limit),
            limits,
            pump,
            window,
            epochs,
            listener: Listener::new(listener)?,
            wake,
            reply_limit: Alarm::new(options.reply_timeout)?,
            memory_limit: Alarm::new(options.orphan_timeout)?,
            notifier: services.notifier,
            condition: Condition::Prepared,
            paused: false,
            resets_in_pieces: options.asynchronous_reset,
            unopened: BTreeMap::new(),
            window_waits: false,
        };
        device
            .poller
            .watch(Token::Wake, device.wake.as_fd(), Interest::READ)?;
        device.watch_own()?;
        Ok(device)
    }

    /// Waits for what is there for life.
    fn watch_own(&mut self) -> io::Result<()> {
        let poller = &mut self.poller;
        poller.watch(Token::Timer, self.listener.timer(), Interest::READ)?;
        for (queue, eventfd) in (0..).zip(self.registers.queue_eventfds()) {
            poller.watch(Token::Queue(queue), eventfd.as_fd(), Interest::READ)?;
        }
        self.watch_limits()
    }

    /// Takes all of the frontend's memory from the guest.
    ///
    /// # Errors
    ///
    /// Something could not be detached: fatal.
    fn revoke_memory(&mut self) -> Result<(), MemoryError> {
        let epoch = self.epochs.raise();
        let detached = detach_before(&self.window, epoch);
        if let Some(changes) = self.memory.changes() {
            self.poller.unwatch(Token::Memory, changes);
        }
        self.memory.renew(epoch);
        detached
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
            self.kinds.as_fd(),
        ];
        let queues = self
            .registers
            .queue_eventfds()
            .iter()
            .map(|fd| fd.as_raw_fd());
        let limits = [&self.reply_limit, &self.memory_limit];
        let timers = limits.into_iter().filter_map(Alarm::fd);
        let timers = timers.map(|fd| fd.as_raw_fd());
        let own = own.iter().map(|fd| fd.as_raw_fd());
        let interrupts = self.registers.interrupt_eventfds();
        own.chain(queues).chain(timers).chain(interrupts).collect()
    }

    /// Asks for a turn.
    pub(crate) fn wake(&self) {
        poller::wake(&self.wake);
    }

    /// The connection, if there is one, with what it works on.
    pub(crate) fn connected(&mut self) -> Option<Connected<'_, M>> {
        let connection = self.connection.as_mut()?;
        let memory = self.guest.view(self.registers.features());
        let queues = DriverQueues::new(&mut self.queues, memory);
        let resources = Resources {
            registers: &mut self.registers,
            memory: &mut self.memory,
            inflight: &mut self.inflight,
            pump: self.pump.as_mut(),
            kinds: &self.kinds,
            reaper: &self.reaper,
            poller: &mut self.poller,
            journal: &mut self.journal,
            statistics: &mut self.statistics,
            wake: &self.wake,
        };
        Some((connection, resources, queues))
    }
}

/// What the registers show.
fn setup(options: &Options, limits: &Limits, translated: bool) -> Setup {
    Setup {
        properties: Properties {
            max_vhost_queues: options.queues,
            max_message_size: u32::try_from(limits.max_message_size).unwrap_or(u32::MAX),
            max_migration_message_size: options.migration.unwrap_or(0),
            max_chained_rx_descriptors: MAX_CHAIN,
            max_chained_tx_descriptors: MAX_CHAIN,
            uuid: options.uuid,
            device_type: options.device_type,
        },
        virtqueues: options.virtqueues(),
        max_queue_size: MAX_QUEUE_SIZE,
        window_size: options.window_size,
        features: feature::offered(translated),
    }
}
