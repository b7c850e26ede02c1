// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device: its three rooms, put together, and its life.
//!
//! | room | lock | who enters |
//! |---|---|---|
//! | registers ([`crate::guest`]) | [`Shared::registers`] | vCPUs, the VMM, the worker for an instant |
//! | window ([`crate::memory`]) | [`Shared::window`] | vCPUs, the VMM, the worker for an instant |
//! | connection ([`crate::server`]) | [`Device::server`] | the worker; the VMM for a pause, a restore, a bus reset |

mod life_cycle;
pub(crate) mod options;
pub(crate) mod worker;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::event::{eventfd, EventfdFlags};
use vhost_guest_msg::Limits;
use vm_memory::GuestAddressSpace;

use crate::connection::InflightMemory;
use crate::device::options::Options;
use crate::event_loop::alarm::Alarm;
use crate::event_loop::poller::Ready;
use crate::fd::{Channels, Pump, Reaper, Signaller};
use crate::guest::driver_memory::DriverMemory;
use crate::guest::queue::{MAX_CHAIN, MAX_QUEUE_SIZE};
use crate::guest::registers::{Registers, Setup};
use crate::guest::virtio::device_config::Properties;
use crate::guest::virtio::feature;
use crate::host;
use crate::memory::{Askers, Memory, MemoryLimits, Window};
use crate::server::{self, Server};
use crate::shared::Shared;
use crate::sync::{Epochs, Ordered, OrderedGuard, BOUND, BOUND_OF_THE_SERVER};
use crate::vmm::services::Services;

/// All of a device.
pub(crate) struct Device<M> {
    /// The rooms that everybody enters.
    pub shared: Shared,
    server: Ordered<Server<M>>,
    signaller: Arc<Signaller>,
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
        let channels = Channels::new(&wake);
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
        let epochs = Arc::new(Epochs::default());
        let mapper = services.window;
        let askers = Askers::new(Arc::clone(&wake));
        let window = Window::new(Arc::clone(&mapper), Arc::clone(&epochs), askers);
        let window = Arc::new(Ordered::new("window", BOUND, window));
        let reaper = Reaper::new(options.left_behind());
        let memory = Memory::new(mapper, Arc::clone(&window), reaper.clone(), bounds);
        let shared = Shared::new(registers, window, epochs, services.notifier, wake);
        let setup = server::Setup {
            listener,
            limits,
            reaper,
            channels,
            memory,
            guest: DriverMemory::new(services.memory, services.translator),
            pump,
            inflight: InflightMemory::new(options.inflight_limit),
            reply_limit: Alarm::new(options.reply_timeout)?,
            memory_limit: Alarm::new(options.orphan_timeout)?,
        };
        let server = Server::new(setup, &shared)?;
        let server = Ordered::new("connection", BOUND_OF_THE_SERVER, server);
        Ok(Self {
            shared,
            server,
            signaller,
        })
    }

    /// The room of the connection. To be entered by whoever takes turns, and by
    /// the VMM when it may wait for a turn; never by a vCPU.
    pub(crate) fn server(&self) -> OrderedGuard<'_, Server<M>> {
        self.server.lock()
    }

    /// Takes a turn (see [`Server::turn`]).
    pub(crate) fn turn(&self, ready: &[Ready]) {
        self.server().turn(&self.shared, ready);
    }

    /// A duplicate of the descriptor that becomes readable when the device
    /// wants a [`turn`](Self::turn).
    pub(crate) fn poller_fd(&self) -> io::Result<OwnedFd> {
        self.server().poller_fd()
    }

    /// Descriptors that the device has of its own.
    pub(crate) fn own_fds(&self) -> Vec<RawFd> {
        let mut fds = self.server().own_fds();
        fds.push(self.shared.wakes().as_raw_fd());
        let registers = self.shared.registers.lock();
        let queues = registers.queue_eventfds().iter();
        fds.extend(queues.map(|fd| fd.as_raw_fd()));
        fds.extend(registers.interrupt_eventfds());
        fds
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
