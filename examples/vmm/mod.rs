// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A small userspace VMM: one PCI bus with a vhost-guest device, guest memory,
//! and an emulated guest with one vCPU, played by a thread.
//!
//! There is no KVM. What KVM does in the kernel for a real guest, the thread
//! that plays the vCPU does itself: it waits for the eventfds of interrupts
//! while it has nothing to do, and it signals the eventfd of a doorbell
//! when it stores there. So the VMM's own threads have as little to do as they
//! have on KVM.
//!
//! | of KVM's | here |
//! |---|---|
//! | `KVM_IRQFD` | [`InterruptController`], or [`Forwarder`] for the lack of it |
//! | `KVM_IOEVENTFD` | [`Doorbells`] |
//! | `KVM_SET_USER_MEMORY_REGION` | [`Slots`] |
//! | exits to userspace | [`PciBus`] |

mod bus;
mod doorbells;
mod eventfd;
mod forwarder;
mod interrupts;
mod sources;
mod window;

use std::io;
use std::os::unix::net::UnixListener;
use std::ptr::NonNull;
use std::sync::Arc;

use vhost_guest_device::{BuildError, Builder, Services};
use vhost_guest_driver::emulated::Platform;
use vhost_guest_driver::Window;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

pub use bus::{Device, PciBus, Ram};
pub use doorbells::Doorbells;
pub use forwarder::Forwarder;
pub use interrupts::InterruptController;
pub use window::Slots;

/// The guest's memory, which the driver uses for its queues.
const RAM: GuestAddress = GuestAddress(1 << 20);
const RAM_SIZE: usize = 2 << 20;
/// Where the guest places BARs: above 4 GiB, as firmware does with large ones.
const MMIO: u64 = 1 << 40;

/// What a VMM's command line would say.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Vrings that a frontend may use.
    pub queues: u16,
    /// Size of the window: the most that a frontend can share.
    pub window_size: usize,
    /// The virtio type of the device that the guest implements.
    pub device_type: u16,
    /// Interrupts reach the guest without a thread of the VMM.
    pub irqfd: bool,
    /// Doorbell stores signal without the device.
    pub ioeventfd: bool,
    /// Device state can be saved and loaded, in pieces of so many bytes.
    pub state_piece: Option<u32>,
}

/// A virtual machine with a vhost-guest device.
pub struct Machine {
    bus: Arc<PciBus>,
    interrupts: Arc<InterruptController>,
    /// Without irqfds, what raises interrupts in their place.
    forwarder: Option<Arc<Forwarder>>,
    doorbells: Arc<Doorbells>,
    slots: Arc<Slots>,
    ram: Ram,
}

impl Machine {
    /// Makes a machine whose device serves the frontends of `listener`.
    pub fn new(listener: UnixListener, config: &Config) -> io::Result<Self> {
        Self::with(listener, config, |builder, services| {
            builder.build(services)
        })
    }

    /// The same, where `make` makes the device of what it is given: it may
    /// choose more, and have the machine lend something else.
    pub fn with(
        listener: UnixListener,
        config: &Config,
        make: impl FnOnce(Builder, Services<Ram>) -> Result<Device, BuildError>,
    ) -> io::Result<Self> {
        let interrupts = Arc::new(InterruptController::new()?);
        let forwarder = match config.irqfd {
            true => None,
            false => {
                let interrupts = Arc::clone(&interrupts);
                let raise = move |message| interrupts.raise(message);
                Some(Arc::new(Forwarder::start(raise)?))
            }
        };
        let doorbells = Arc::new(Doorbells::new()?);
        let slots = Arc::new(Slots::new(config.window_size as u64));
        let ram = GuestMemoryMmap::from_ranges(&[(RAM, RAM_SIZE)]).map_err(io::Error::other)?;
        let ram = Arc::new(ram);
        let services = Services {
            interrupts: match &forwarder {
                Some(forwarder) => forwarder.clone(),
                None => interrupts.clone(),
            },
            doorbells: config.ioeventfd.then(|| doorbells.clone() as _),
            window: slots.clone(),
            memory: ram.clone(),
            translator: None,
            notifier: None,
            thread_hook: None,
        };
        let mut builder = Builder::new(listener)
            .queues(config.queues)
            .window_size(config.window_size as u64)
            .device_type(config.device_type);
        if let Some(piece) = config.state_piece {
            builder = builder.migration(piece);
        }
        let device = make(builder, services).map_err(io::Error::other)?;
        Ok(Self {
            bus: Arc::new(PciBus::new(device, doorbells.clone())),
            interrupts,
            forwarder,
            doorbells,
            slots,
            ram,
        })
    }

    /// The bus that the device is on.
    pub fn bus(&self) -> &Arc<PciBus> {
        &self.bus
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.bus.device()
    }

    /// Unplugs the device, whatever the guest is doing with it.
    pub fn unplug(&self) {
        self.bus.unplug();
    }

    /// The interrupt controller.
    pub fn interrupts(&self) -> &InterruptController {
        &self.interrupts
    }

    /// Interrupts that a thread of the VMM's raised, for want of irqfds.
    pub fn forwarded(&self) -> u64 {
        let forwarder = self.forwarder.as_deref();
        forwarder.map_or(0, Forwarder::forwarded)
    }

    /// The doorbells.
    pub fn doorbells(&self) -> &Doorbells {
        &self.doorbells
    }

    /// What is in the window.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// What the guest sees of the machine.
    pub fn platform(&self) -> io::Result<Platform> {
        let ram = self.ram.get_host_address(RAM).map_err(io::Error::other)?;
        let ram = NonNull::new(ram).ok_or(io::ErrorKind::Other)?;
        // SAFETY: the memory is RAM_SIZE bytes long and mapped as long as the
        // owner exists. The device accesses it through vm-memory, with
        // volatile loads and stores; nobody makes references to it.
        let ram = unsafe { Window::from_raw(ram, RAM_SIZE as u64, Some(self.ram.clone())) };
        Ok(Platform {
            bus: self.bus.clone(),
            interrupts: self.interrupts.clone(),
            ram: ram.ok_or(io::ErrorKind::Other)?,
            ram_address: RAM.0,
            shared_memory: Window::from_pieces(self.slots.clone(), self.slots.size()),
            mmio_address: MMIO,
        })
    }
}
