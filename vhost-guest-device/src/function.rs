// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The PCI function, as a VMM plugs it into its bus.

mod builder;
mod pause;
mod start;

pub use builder::Builder;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};

use vhost_guest_vmm_traits::{
    InterruptManager, IoEventFdRegistrar, MsiMessage, SharedMemoryMapper, ThreadHook,
};
use vm_memory::GuestAddressSpace;

use crate::device::options::Options;
use crate::device::worker::Worker;
use crate::device::Device;
use crate::error::BuildError;
use crate::event_loop::poller;
use crate::guest::pci::{BarMove, BarSpec};
use crate::vmm::services::Services;
use crate::vmm::statistics::Statistics;

/// A vhost-guest device: a PCI function that serves vhost-user to frontends
/// from inside a guest.
///
/// The VMM routes configuration and BAR accesses of the guest's here, moves
/// BARs, and reports memory faults. Everything else happens in the device's
/// own thread, in the kernel, or in the guest. A VMM with an event loop may
/// take the thread's place: [`Builder::build_without_thread`](crate::Builder::build_without_thread).
///
/// All methods may be called from any thread. None of them waits for the
/// frontend or the guest. [`pause`](Self::pause), [`restore`](Self::restore),
/// [`reset`](Self::reset) and [`memory_changed`](Self::memory_changed) wait for
/// what the device's thread is just doing, which is short; they are not for a vCPU.
///
/// # Example
///
/// ```no_run
/// use std::os::unix::net::UnixListener;
/// use std::sync::Arc;
///
/// use vhost_guest_device::{Builder, Services, VhostGuest};
/// # use vhost_guest_vmm_traits::{InterruptManager, IoEventFdRegistrar, SharedMemoryMapper};
/// # use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
///
/// # fn plug(
/// #     interrupts: Arc<dyn InterruptManager>,
/// #     doorbells: Arc<dyn IoEventFdRegistrar>,
/// #     window: Arc<dyn SharedMemoryMapper>,
/// #     memory: GuestMemoryAtomic<GuestMemoryMmap>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let listener = UnixListener::bind("/run/disk.sock")?;
/// let services = Services {
///     interrupts,
///     doorbells: Some(doorbells),
///     window,
///     memory,
///     translator: None,
///     notifier: None,
///     thread_hook: None,
/// };
/// let function: VhostGuest<_> = Builder::new(listener)
///     .queues(4)
///     .window_size(8 << 30)
///     .device_type(2)
///     .build(services)?;
///
/// // A configuration cycle of the guest's, from the VMM's PCI bus:
/// for bar_move in function.config_write(0x04, &[0x06, 0x00]) {
///     // … re-route the BAR on the memory bus, then:
///     function.bar_moved(bar_move.bar, bar_move.address)?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct VhostGuest<M: GuestAddressSpace> {
    device: Arc<Device<M>>,
    /// Absent before the start, and if the VMM's event loop does its work.
    worker: Mutex<Option<Worker>>,
    hook: Option<Arc<dyn ThreadHook>>,
    events: OwnedFd,
    bars: [BarSpec; 3],
    interrupts: Arc<dyn InterruptManager>,
    doorbells: Option<Arc<dyn IoEventFdRegistrar>>,
    window: Arc<dyn SharedMemoryMapper>,
}

impl<M: GuestAddressSpace + Send + 'static> VhostGuest<M> {
    /// Makes the device, without any thread.
    pub(crate) fn new(
        listener: UnixListener,
        options: &Options,
        services: Services<M>,
    ) -> Result<Self, BuildError> {
        let interrupts = Arc::clone(&services.interrupts);
        let doorbells = services.doorbells.clone();
        let window = Arc::clone(&services.window);
        let hook = services.thread_hook.clone();
        // The first to ask has the answer read from the process's auxiliary
        // vector; a thread with a filter could not.
        let _ = rustix::param::page_size();
        let device = Arc::new(Device::new(listener, options, services)?);
        let bars = device.shared.registers.lock().bars();
        let events = device.poller_fd()?;
        Ok(Self {
            device,
            worker: Mutex::default(),
            hook,
            events,
            bars,
            interrupts,
            doorbells,
            window,
        })
    }

    /// The BARs that the VMM has to find room for.
    pub fn bars(&self) -> [BarSpec; 3] {
        self.bars
    }

    /// The guest reads configuration space: 1, 2 or 4 bytes at `offset`.
    /// Other accesses are answered too, as far as they make sense.
    pub fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.device.shared.config_read(offset, data);
    }

    /// The guest writes configuration space.
    ///
    /// Returns the BARs that are somewhere else now. The VMM changes the
    /// routing on its bus and calls [`bar_moved`](Self::bar_moved) for each.
    #[must_use = "the VMM has to move the BARs, too"]
    pub fn config_write(&self, offset: u16, data: &[u8]) -> Vec<BarMove> {
        self.device.shared.config_write(offset, data)
    }

    /// The guest reads from a BAR, at an address where no memory is mapped.
    pub fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.device.shared.bar_read(bar, offset, data);
    }

    /// The guest writes to a BAR, at an address where neither memory nor an
    /// eventfd is.
    pub fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.device.shared.bar_write(bar, offset, data);
    }

    /// A BAR is routed to the device at `guest_address` from now on, or not
    /// at all: doorbells and mappings move along.
    ///
    /// # Errors
    ///
    /// One of the VMM's services failed. Doorbells that could not be
    /// registered reach [`bar_write`](Self::bar_write) instead; a window that
    /// could not be placed is nowhere.
    pub fn bar_moved(&self, bar: u8, guest_address: Option<u64>) -> io::Result<()> {
        self.device.shared.bar_moved(bar, guest_address)
    }

    /// The number of MSI-X vectors.
    pub fn vectors(&self) -> u16 {
        self.device.shared.registers.lock().vectors()
    }

    /// Sets an entry of the MSI-X table: `vector` raises `message` from now
    /// on, or is masked (`None`) and keeps what happens until it is set again.
    ///
    /// For a VMM that keeps the table itself, because it has one for devices of
    /// any kind (a vfio-user server, whose client keeps it). From the first
    /// call on the table is the VMM's: all other vectors are masked, what the
    /// guest writes to it is lost, and resets leave it alone. MSI-X Enable,
    /// Function Mask and Bus Master stay the guest's, in configuration space.
    pub fn set_vector(&self, vector: u16, message: Option<MsiMessage>) {
        self.device.shared.set_vector(vector, message);
    }

    /// The VMM has put another map into [`Services::memory`], or changed what
    /// [`Services::translator`] answers.
    ///
    /// When this returns, the device has let go of what was there before: it
    /// does not read or write it, and has no reference to it. So the VMM can
    /// unmap it, or give it to somebody else. All that follows uses the new
    /// map. It waits for a turn of the device's that is under way, no longer.
    ///
    /// Addresses in the driver's queues stay as they are. One that the new map
    /// does not have is a mistake of the guest's, when the device gets to it.
    pub fn memory_changed(&self) {
        // Maps are looked up in each turn, and a turn is made in this room.
        drop(self.device.server());
    }

    /// A vCPU could not access memory at `guest_address` (`None`: somewhere;
    /// KVM does not always say). `true`: let it try again.
    ///
    /// A frontend can truncate a file after it has shared it, or share one that
    /// no page is left for (on a full tmpfs, or hugetlbfs). So whatever cannot be
    /// accessed in the window is taken out of it, and the frontend is at fault. With
    /// an address that is what is there, whatever the file's size. Without one
    /// it is what files have lost, or, if none has lost anything, all memory
    /// of the frontend's.
    ///
    /// `false`: there was nothing to take, and it was not in the window. A VMM
    /// with several devices asks one after the other, until one says `true`; but
    /// first [`memory_truncated`](Self::memory_truncated), of all of them.
    #[must_use = "without an answer the vCPU does not know how to go on"]
    pub fn memory_fault(&self, guest_address: Option<u64>) -> bool {
        self.device.shared.memory_fault(guest_address)
    }

    /// Takes out of the window what files have lost since their frontend shared
    /// them, and tells whether there was anything.
    ///
    /// The device does so by itself, but not at once. A VMM that has several
    /// devices asks all of them before it asks any for the rest
    /// ([`memory_fault`](Self::memory_fault)): so a frontend that truncated
    /// its memory pays for that, and not another one, which a fault without an
    /// address could be anybody's.
    #[must_use = "the vCPU that could not access memory can try again"]
    pub fn memory_truncated(&self) -> bool {
        self.device.shared.memory_truncated()
    }

    /// Resets the function, as a bus does (RST#) when the VMM reboots its
    /// guest: the frontend is disconnected, everything of its is taken from
    /// the guest, and all registers are as after power-up, those of
    /// configuration space included. A function level reset, which guests ask
    /// for by themselves, does the same.
    ///
    /// Returns the BARs that were decoded and are not any more, as
    /// [`config_write`](Self::config_write) does. The next frontend is
    /// accepted when the next driver is ready for it.
    ///
    /// It waits for the turn of the device's thread that is under way, which is short:
    /// when it returns, the device does not touch the guest's memory any more.
    #[must_use = "the VMM has to move the BARs, too"]
    pub fn reset(&self) -> Vec<BarMove> {
        self.device.function_reset()
    }

    /// Takes everything of the frontend's from the guest, now, whatever the
    /// guest thinks: memory, doorbells, interrupts, connection. For unplugging.
    ///
    /// When it returns, the guest has no access any more; the sockets are closed in the
    /// next turn of the device's thread. Calling it again does nothing. The guest can
    /// reset the device and serve again.
    pub fn revoke(&self) {
        self.device.shared.revoke();
    }

    /// Readable when the device has work to do, for the event loop of a VMM
    /// that used [`Builder::build_without_thread`](crate::Builder::build_without_thread): register it for reading,
    /// level-triggered, and call [`process_events`](Self::process_events).
    ///
    /// It is an epoll descriptor, valid as long as the device.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Does the work that is there, as the device's thread would.
    ///
    /// It does a bounded piece and never blocks;
    /// [`event_fd`](Self::event_fd) stays readable if there is more. Without
    /// anything to do it returns at once.
    pub fn process_events(&self) {
        let waited = poller::wait(self.events.as_fd(), false);
        if matches!(&waited, Ok(ready) if ready.is_empty()) {
            return;
        }
        match waited {
            Ok(ready) => self.device.turn(&ready),
            Err(error) => self.device.shared.die(error),
        }
    }

    /// What the device has done so far.
    pub fn statistics(&self) -> Statistics {
        let shared = &self.device.shared;
        let ignored_writes = shared.registers.lock().ignored_writes();
        shared.counters.read(ignored_writes)
    }

    /// Descriptors that a jail must leave open, those of the VMM's services
    /// included.
    pub fn fds_to_keep(&self) -> Vec<RawFd> {
        let mut fds = self.device.own_fds();
        fds.push(self.events.as_raw_fd());
        fds.extend(self.interrupts.fds_to_keep());
        fds.extend(self.doorbells.iter().flat_map(|all| all.fds_to_keep()));
        fds.extend(self.window.fds_to_keep());
        fds
    }
}

impl<M: GuestAddressSpace> Drop for VhostGuest<M> {
    fn drop(&mut self) {
        self.device.stop();
        let worker = self.worker.get_mut();
        if let Some(worker) = worker.unwrap_or_else(PoisonError::into_inner) {
            worker.join();
        }
    }
}

impl<M: GuestAddressSpace> fmt::Debug for VhostGuest<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostGuest")
            .field("bars", &self.bars)
            .finish_non_exhaustive()
    }
}
