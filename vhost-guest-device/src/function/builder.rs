// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM chooses, and how a device is made of it.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use vm_memory::GuestAddressSpace;

use crate::device::options::Options;
use crate::error::BuildError;
use crate::fd::bind_socket;
use crate::fd::MemoryPolicy;
use crate::function::VhostGuest;
use crate::vmm::services::Services;

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
        let options = Options::default();
        Self { listener, options }
    }

    /// Starts to make a device whose frontends connect to a socket at `path`,
    /// which is made here. Its mode says who may be a frontend, as the
    /// process's umask has it.
    ///
    /// A socket that an earlier process left behind at `path` is replaced, as
    /// [`bind_socket`](crate::bind_socket) does it. The file stays when the
    /// device is dropped, as that of any listener does.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if something is there that stays, and what `bind` says.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        bind_socket(path).map(Self::new)
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
    /// with everything else, see [`guest_address_bits`](Self::guest_address_bits).
    #[must_use]
    pub fn window_size(mut self, bytes: u64) -> Self {
        self.options.window_size = bytes;
        self
    }

    /// How many bits a guest physical address has, as the VMM tells its guest
    /// (`CPUID` leaf 0x8000_0008 on x86). A window that such a guest can place
    /// nowhere is refused: one of 64 GiB with 36 bits, for example, because
    /// BARs are at multiples of their size, and not at 0. Not checked by
    /// default.
    ///
    /// Guests have been seen to panic over such a BAR.
    #[must_use]
    pub fn guest_address_bits(mut self, bits: u8) -> Self {
        self.options.guest_address_bits = Some(bits);
        self
    }

    /// The most regions of memory that a frontend may share at a time, 1 to
    /// 509, which is the default. A guest cannot know it and may
    /// announce more: the frontend is told no more (`GET_MAX_MEM_SLOTS`).
    ///
    /// It decides how many descriptors the device needs. The window has to
    /// take 2 more (a dirty log, a record of requests under way), and while one
    /// table replaces another, twice as many mappings.
    #[must_use]
    pub fn memory_slots(mut self, slots: u16) -> Self {
        self.options.memory_slots = slots;
        self
    }

    /// The most bytes of a message, its header included: 512 to 4096, which is
    /// the default. A guest has to have buffers of that size, and a frontend
    /// that sends more is disconnected. A table of 32 regions takes 1044.
    #[must_use]
    pub fn max_message_size(mut self, bytes: u32) -> Self {
        self.options.max_message_size = bytes;
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
    /// [`InterruptManager`](vhost_guest_vmm_traits::InterruptManager) for at a time: one for configuration changes, one
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
