// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM chooses, what it lends, and how a device is made of it.

use std::ops::RangeInclusive;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{getrlimit, Resource};
use vhost_guest_vmm_traits::{
    AddressTranslator, DeviceNotifier, InterruptManager, IoEventFdRegistrar, SharedMemoryMapper,
    ThreadHook,
};
use vm_memory::GuestAddressSpace;

use crate::error::BuildError;
use crate::fd::MemoryPolicy;
use crate::function::VhostGuest;
use crate::queue::{QUEUES, QUEUES_WITH_MIGRATION};

/// Largest number of vrings: their index is 8 bits wide in some messages.
const MAX_VHOST_QUEUES: u16 = 256;
/// Smallest window: 2 MiB stay unused at its start, and something must fit.
const MIN_WINDOW: u64 = 4 << 20;
/// Memory slots that the device carries, as many as other backends do.
pub(crate) const MEMORY_SLOTS: usize = 509;
/// Sizes of a buffer of device state. What is larger would only make turns
/// longer.
const MIGRATION_MESSAGE_SIZES: RangeInclusive<u32> = 4096..=1 << 20;
/// Descriptors besides those of vrings and memory.
const FIXED_DESCRIPTORS: u64 = 32;
/// Those for device state: two queues, and four transfers with two each.
const MIGRATION_DESCRIPTORS: u64 = 10;

/// What a VMM lends to a device: the traits of `vhost-guest-vmm-traits`, and
/// the memory of the guest that the device is plugged into.
pub struct Services<M> {
    /// Turns eventfds into interrupts.
    pub interrupts: Arc<dyn InterruptManager>,
    /// Turns guest stores into signals, if the VMM's kernel can do that.
    /// Without it each doorbell store and each notification of a queue arrives
    /// by [`VhostGuest::bar_write`], and a thread of the device's signals.
    pub doorbells: Option<Arc<dyn IoEventFdRegistrar>>,
    /// Maps frontend memory into this device's window.
    pub window: Arc<dyn SharedMemoryMapper>,
    /// The guest's memory, in which the device's own queues are.
    pub memory: M,
    /// Translates the addresses in the device's own queues, if a virtual IOMMU
    /// is in front of the device: it then offers `VIRTIO_F_ACCESS_PLATFORM`.
    pub translator: Option<Arc<dyn AddressTranslator>>,
    /// Hears of faults, if the VMM wants to.
    pub notifier: Option<Arc<dyn DeviceNotifier>>,
    /// Runs first in each thread of the device.
    pub thread_hook: Option<Arc<dyn ThreadHook>>,
}

/// Everything about a device that its VMM chooses.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub queues: u16,
    pub window_size: u64,
    pub device_type: u16,
    pub uuid: [u8; 16],
    pub memory_policy: MemoryPolicy,
    pub inflight_limit: u64,
    /// The most bytes of device state in one buffer.
    pub migration: Option<u32>,
    /// How long a guest may keep its frontend waiting.
    pub reply_timeout: Option<Duration>,
    /// How long memory may stay after its frontend is gone.
    pub orphan_timeout: Option<Duration>,
    /// Resets are done by the worker.
    pub asynchronous_reset: bool,
}

/// Makes a [`VhostGuest`] from what a VMM chooses and what it lends.
///
/// See [`VhostGuest`] for an example.
#[derive(Debug)]
pub struct Builder {
    listener: UnixListener,
    options: Options,
}

impl Builder {
    /// Starts to make a device whose frontends connect to `listener`.
    pub fn new(listener: UnixListener) -> Self {
        let options = Options {
            queues: 16,
            window_size: 1 << 32,
            device_type: 0,
            uuid: [0; 16],
            memory_policy: MemoryPolicy::default(),
            inflight_limit: 8 << 20,
            migration: None,
            reply_timeout: None,
            orphan_timeout: None,
            asynchronous_reset: false,
        };
        Self { listener, options }
    }

    /// The number of vrings that a frontend may use, 1 to 256. 16 by default.
    ///
    /// It decides how many doorbells, kick interrupts and descriptors the
    /// device needs.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.options.queues = queues;
        self
    }

    /// The size of the window in bytes: a power of two, 4 GiB by default.
    ///
    /// It bounds the frontend memory that can be mapped at a time, and the
    /// memory that a guest can make its VMM allocate by touching a frontend's
    /// sparse files. It has to fit the guest's physical address width along
    /// with everything else: a window of 64 GiB cannot be placed by a guest
    /// with 36 address bits.
    #[must_use]
    pub fn window_size(mut self, bytes: u64) -> Self {
        self.options.window_size = bytes;
        self
    }

    /// The virtio device type that the guest is to implement (2 is a disk).
    /// 0, the default, lets the driver choose.
    #[must_use]
    pub fn device_type(mut self, device_type: u16) -> Self {
        self.options.device_type = device_type;
        self
    }

    /// Tells the guest which of several devices this is. Nil by default.
    #[must_use]
    pub fn uuid(mut self, uuid: [u8; 16]) -> Self {
        self.options.uuid = uuid;
        self
    }

    /// Which files a frontend may share as memory.
    #[must_use]
    pub fn memory_policy(mut self, policy: MemoryPolicy) -> Self {
        self.options.memory_policy = policy;
        self
    }

    /// The most memory, in bytes, that the device makes for a record of
    /// requests under way (`GET_INFLIGHT_FD`). 8 MiB by default, which is
    /// enough for 256 split rings of 1024 entries, or packed ones of 512.
    #[must_use]
    pub fn inflight_limit(mut self, bytes: u64) -> Self {
        self.options.inflight_limit = bytes;
        self
    }

    /// Lets frontends save and load the state of the guest's backend
    /// (`SET_DEVICE_STATE_FD`), in buffers of at most `max_message_size` bytes:
    /// 4 KiB to 1 MiB. Off by default.
    ///
    /// It adds two virtqueues and four threads, which do nothing until state
    /// is moved, and holds at most one buffer's bytes.
    #[must_use]
    pub fn migration(mut self, max_message_size: u32) -> Self {
        self.options.migration = Some(max_message_size);
        self
    }

    /// How long a guest may keep its frontend waiting. Then the frontend is
    /// disconnected, and the guest has to reset the device. No limit by
    /// default.
    ///
    /// A frontend waits for a reply that is due, for the transfer of device
    /// state after which it asked, and for a buffer that takes its next
    /// message. Each answer of the guest's starts the time again. Time stands
    /// still while the device is paused ([`VhostGuest::pause`]).
    #[must_use]
    pub fn reply_timeout(mut self, limit: Duration) -> Self {
        self.options.reply_timeout = Some(limit);
        self
    }

    /// How long the memory of a frontend that is gone stays mapped if the
    /// guest does not reset the device. Then it is taken, as
    /// [`VhostGuest::revoke`] does. No limit by default: the guest may be in
    /// the middle of using it.
    ///
    /// Without a limit a guest that never resets keeps the memory of a VM that
    /// has ended from being freed.
    #[must_use]
    pub fn orphan_timeout(mut self, limit: Duration) -> Self {
        self.options.orphan_timeout = Some(limit);
        self
    }

    /// The most interrupt sources that the device asks its
    /// [`InterruptManager`] for at a time: one for configuration changes, one
    /// for each of its own virtqueues, one for each vring's kick. For VMMs that
    /// have to reserve them before they make the device.
    ///
    /// ```
    /// # use std::os::linux::net::SocketAddrExt;
    /// # use std::os::unix::net::{SocketAddr, UnixListener};
    /// use vhost_guest_device::Builder;
    ///
    /// # let address = SocketAddr::from_abstract_name("vhost-guest-max-sources")?;
    /// # let listener = UnixListener::bind_addr(&address)?;
    /// let builder = Builder::new(listener).queues(16);
    /// assert_eq!(builder.max_sources(), 1 + 4 + 16);
    /// // Device state has two virtqueues of its own.
    /// assert_eq!(builder.migration(4096).max_sources(), 1 + 6 + 16);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn max_sources(&self) -> u16 {
        let own = 1 + self.options.virtqueues();
        own.saturating_add(self.options.queues)
    }

    /// Whether a reset that the guest asks for is done by the device's thread
    /// (or the VMM's event loop), in short pieces, instead of by the vCPU that
    /// asks, at once. Off by default.
    ///
    /// It is for VMMs where taking away many doorbells and pieces of memory
    /// takes long: no vCPU waits for it then. Drivers see it as a
    /// `device_status` that does not read 0 before the reset is done, as virtio
    /// allows. After a function level reset the function answers at once, with
    /// all registers at their initial values. The window is out of the guest's
    /// address space until the reset is done, wherever the guest puts it.
    ///
    /// [`VhostGuest::revoke`], [`VhostGuest::reset`] and dropping the device are
    /// synchronous in any case. A VMM that runs its vCPU and its event loop in one thread must not
    /// choose this: the driver would wait for ever.
    #[must_use]
    pub fn asynchronous_reset(mut self, on: bool) -> Self {
        self.options.asynchronous_reset = on;
        self
    }

    #[cfg(test)]
    pub(crate) fn into_parts(self) -> (UnixListener, Options) {
        (self.listener, self.options)
    }

    /// Makes the device and starts its threads. The device is not connected to
    /// a bus yet: its BARs are unassigned.
    ///
    /// It is [`prepare`](Self::prepare), then [`VhostGuest::start`].
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build<M>(self, services: Services<M>) -> Result<VhostGuest<M>, BuildError>
    where
        M: GuestAddressSpace + Send + 'static,
    {
        let function = self.prepare(services)?;
        function.start()?;
        Ok(function)
    }

    /// Makes the device, and starts no thread: for a VMM that makes a device in
    /// one process and runs it in another, which it forks.
    ///
    /// Configuration space and BARs answer, so that the VMM can find out what
    /// room the device needs, assign addresses, and ask which descriptors the
    /// other process has to keep. No frontend is accepted before
    /// [`VhostGuest::start`].
    ///
    /// ```no_run
    /// # use vhost_guest_device::{BuildError, Builder, Services};
    /// # use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
    /// # type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
    /// # fn fork(_: Vec<std::os::fd::RawFd>) -> bool { true }
    /// # fn plug(builder: Builder, services: Services<Memory>) -> Result<(), BuildError> {
    /// let function = builder.prepare(services)?;
    /// let bars = function.bars();
    /// let is_child = fork(function.fds_to_keep());
    /// if is_child {
    ///     function.start()?;
    ///     // … serve the accesses that the parent passes on
    /// } else {
    ///     // The child's is not touched by this.
    ///     drop(function);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn prepare<M>(self, services: Services<M>) -> Result<VhostGuest<M>, BuildError>
    where
        M: GuestAddressSpace + Send + 'static,
    {
        self.options.check()?;
        VhostGuest::new(self.listener, &self.options, services)
    }

    /// Makes a device without a thread for its messages: an event loop of the
    /// VMM's waits for [`VhostGuest::event_fd`] and calls
    /// [`VhostGuest::process_events`]. Threads for what a peer can delay
    /// (closing its descriptors, signalling its eventfds) are there as ever.
    ///
    /// It is [`prepare`](Self::prepare), then
    /// [`VhostGuest::start_without_thread`].
    ///
    /// ```no_run
    /// # use vhost_guest_device::{BuildError, Builder, Services, VhostGuest};
    /// # use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
    /// # type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
    /// # fn plug(builder: Builder, services: Services<Memory>) -> Result<(), BuildError> {
    /// use std::os::fd::AsFd;
    ///
    /// let function: VhostGuest<Memory> = builder.build_without_thread(services)?;
    /// loop {
    ///     // … epoll, with other descriptors; then, if this one is readable:
    /// #   let _ = function.event_fd().as_fd();
    ///     function.process_events();
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn build_without_thread<M>(self, services: Services<M>) -> Result<VhostGuest<M>, BuildError>
    where
        M: GuestAddressSpace + Send + 'static,
    {
        let function = self.prepare(services)?;
        function.start_without_thread()?;
        Ok(function)
    }
}

impl Options {
    /// The number of the device's own virtqueues.
    pub(crate) fn virtqueues(&self) -> u16 {
        match self.migration {
            Some(_) => QUEUES_WITH_MIGRATION,
            None => QUEUES,
        }
    }

    /// Whether a device can be like this.
    fn check(&self) -> Result<(), BuildError> {
        if !(1..=MAX_VHOST_QUEUES).contains(&self.queues) {
            return Err(BuildError::Queues(self.queues));
        }
        if !self.window_size.is_power_of_two() || self.window_size < MIN_WINDOW {
            return Err(BuildError::WindowSize(self.window_size));
        }
        if let Some(size) = self.migration {
            if !MIGRATION_MESSAGE_SIZES.contains(&size) {
                return Err(BuildError::MigrationMessageSize(size));
            }
        }
        self.check_descriptors(getrlimit(Resource::Nofile).current)
    }

    /// Refuses to make a device that its frontends could bring to the limit of
    /// open descriptors: kick, call and err for each vring, one for each memory
    /// slot (half of them at a time in practice), and a few.
    fn check_descriptors(&self, limit: Option<u64>) -> Result<(), BuildError> {
        let queues = self.queues;
        let migration = self.migration.map_or(0, |_| MIGRATION_DESCRIPTORS);
        let fixed = MEMORY_SLOTS as u64 + FIXED_DESCRIPTORS + migration;
        let needed = 3 * u64::from(queues) + fixed;
        match limit {
            Some(limit) if limit < needed => Err(BuildError::DescriptorLimit {
                queues,
                needed,
                limit,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    use super::*;

    fn options(name: &str) -> Options {
        let name = format!("vhost-guest-{}-{name}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let socket = UnixListener::bind_addr(&address).unwrap();
        Builder::new(socket).into_parts().1
    }

    #[test]
    fn refuses_more_vrings_than_descriptors_and_says_the_figure() {
        let mut options = options("descriptors");
        options.check_descriptors(Some(1024)).unwrap();
        options.queues = 256;
        options.check_descriptors(None).unwrap();
        let error = options.check_descriptors(Some(1024)).unwrap_err();
        assert!(error.to_string().contains("1309"), "{error}");
        options.migration = Some(4096);
        let error = options.check_descriptors(Some(1318)).unwrap_err();
        assert!(error.to_string().contains("1319"), "{error}");
    }

    #[test]
    fn refuses_sizes_of_migration_messages_that_help_nobody() {
        let mut options = options("migration");
        options.check().unwrap();
        for (size, right) in [
            (0, false),
            (4095, false),
            (4096, true),
            (1 << 20, true),
            (u32::MAX, false),
        ] {
            options.migration = Some(size);
            assert_eq!(options.check().is_ok(), right, "{size}");
        }
    }
}
