// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VMM that is a vfio-user client, and the guest in it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{ftruncate, memfd_create, MemfdFlags, SealFlags};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_user::{Client, Server};
use vhost_guest_driver::emulated::{Bus, Emulated, Interrupts, Platform};
use vhost_guest_driver::{
    Backend, Device, MsiMessage, Ring, Server as BackendServer, Stop, VectorSet, Window,
};
use vhost_guest_msg::VirtioFeatures;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::tempdir::TempDir;

use crate::vfio_user::function::Function;

pub const QUEUES: u16 = 2;
/// The configuration change, six queues, the kicks.
pub const VECTORS: u16 = 7 + QUEUES;
/// Where the driver maps the kick of vring 0.
pub const KICK_VECTOR: u16 = 5;
pub const WINDOW_SIZE: u64 = 16 << 20;
pub const MIB: u64 = 1 << 20;
const RAM: u64 = 1 << 20;
const RAM_SIZE: u64 = 1 << 20;
const EVENTFDS: u32 = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;

/// A file of memory, sealed if it is to be.
pub fn memory_file(size: u64, seals: SealFlags) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("test", flags).unwrap();
    ftruncate(&file, size).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    File::from(file)
}

/// The program's part: a device behind two sockets in a directory.
pub struct Program {
    directory: TempDir,
    server: JoinHandle<Function>,
}

impl Program {
    /// Serves one client.
    pub fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let listen = |name| UnixListener::bind(directory.as_path().join(name)).unwrap();
        let (frontends, clients) = (listen("vhost-user"), listen("vfio-user"));
        let mut function = Function::new(frontends, QUEUES, WINDOW_SIZE).unwrap();
        let (irqs, regions) = (function.irqs(), function.regions());
        let server = Server::from_owned_fd(OwnedFd::from(clients), true, irqs, regions);
        let serve = move || {
            server.run(&mut function).unwrap();
            function.unplugged();
            function
        };
        let server = thread::spawn(serve);
        Self { directory, server }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.directory.as_path().join("vfio-user")).unwrap()
    }

    pub fn frontend_socket(&self) -> PathBuf {
        self.directory.as_path().join("vhost-user")
    }

    /// Waits until the client's end has been noticed.
    pub fn join(self) -> Function {
        self.server.join().unwrap()
    }
}

/// The VMM's part: accesses of the guest's, and its interrupts.
pub struct Vmm {
    client: Mutex<Client>,
    /// One for each vector, registered at `epoll` with its number.
    triggers: Vec<EventFd>,
    wake: EventFd,
    epoll: Epoll,
    raised: Mutex<Vec<u16>>,
}

impl Vmm {
    /// Plugs the device of `client` in, with an eventfd for each vector.
    pub fn new(mut client: Client) -> Arc<Self> {
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        let triggers: Vec<_> = (0..VECTORS).map(|_| eventfd()).collect();
        let (wake, epoll) = (eventfd(), Epoll::new().unwrap());
        for (i, eventfd) in (0..).zip(triggers.iter().chain([&wake])) {
            let event = EpollEvent::new(EventSet::IN, i);
            let add = ControlOperation::Add;
            epoll.ctl(add, eventfd.as_raw_fd(), event).unwrap();
        }
        let fds: Vec<_> = triggers.iter().map(|fd| fd.as_raw_fd()).collect();
        let count = VECTORS.into();
        client
            .set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, EVENTFDS, 0, count, &fds)
            .unwrap();
        Arc::new(Self {
            client: Mutex::new(client),
            triggers,
            wake,
            epoll,
            raised: Mutex::default(),
        })
    }

    pub fn client(&self) -> std::sync::MutexGuard<'_, Client> {
        self.client.lock().unwrap()
    }

    /// Gives the eventfd of a vector to the device, or takes it back.
    pub fn connect(&self, vector: u16, connected: bool) {
        let fd = self.triggers[usize::from(vector)].as_raw_fd();
        let fds = [fd];
        let fds = if connected { &fds[..] } else { &[] };
        let index = VFIO_PCI_MSIX_IRQ_INDEX;
        let mut client = self.client();
        client
            .set_irqs(index, EVENTFDS, vector.into(), 1, fds)
            .unwrap();
    }

    /// How often `vector` was raised.
    pub fn raised(&self, vector: u16) -> usize {
        let raised = self.raised.lock().unwrap();
        raised.iter().filter(|found| **found == vector).count()
    }

    /// Waits until `vector` has been raised so often.
    pub fn expect_raised(&self, vector: u16, count: usize) {
        while self.raised(vector) < count {
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn read<const N: usize>(&self, region: u32, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        let mut client = self.client();
        client.region_read(region, offset, &mut data).unwrap();
        data
    }

    fn bus_read(&self, region: u32, offset: u64, data: &mut [u8]) {
        if self.client().region_read(region, offset, data).is_err() {
            data.fill(0xFF);
        }
    }

    pub fn write(&self, region: u32, offset: u64, data: &[u8]) {
        self.client().region_write(region, offset, data).unwrap();
    }
}

/// When the server is gone it is as if nothing were plugged in.
impl Bus for Vmm {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.bus_read(VFIO_PCI_CONFIG_REGION_INDEX, offset.into(), data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let (region, offset) = (VFIO_PCI_CONFIG_REGION_INDEX, offset.into());
        let _ = self.client().region_write(region, offset, data);
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.bus_read(bar.into(), offset, data);
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        let _ = self.client().region_write(bar.into(), offset, data);
    }
}

impl Interrupts for Vmm {
    /// As a guest chooses them. The device never sees it.
    fn message(&self, vector: u16) -> MsiMessage {
        let (address, data) = (0xFEE1_2000, 0x40 + u32::from(vector));
        MsiMessage { address, data }
    }

    fn wait(&self, timeout: Option<Duration>) -> VectorSet {
        let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as i32);
        let mut events = [EpollEvent::default(); 32];
        let count = self.epoll.wait(timeout, &mut events).unwrap_or(0);
        let mut vectors = VectorSet::new();
        for event in &events[..count] {
            match self.triggers.get(event.data() as usize) {
                Some(trigger) => {
                    trigger.read().unwrap();
                    self.raised.lock().unwrap().push(event.data() as u16);
                    vectors.insert(event.data() as u16);
                }
                None => drop(self.wake.read()),
            }
        }
        vectors
    }

    fn wake(&self) {
        self.wake.write(1).unwrap();
    }
}

/// A backend that does nothing with its rings.
struct Idle;

impl Backend for Idle {
    fn device_type(&self) -> u16 {
        2
    }

    fn features(&self) -> VirtioFeatures {
        VirtioFeatures::empty()
    }

    fn queues(&self) -> u16 {
        QUEUES
    }

    fn process(&mut self, _: u16, _: &mut Ring<'_>) {}
}

/// A guest that answers every message of a frontend's.
pub struct Guest {
    stop: Stop,
    vcpu: JoinHandle<()>,
}

impl Guest {
    /// Boots a guest whose memory is shared with the device.
    ///
    /// The driver has no window: it would reach the real one by messages, as
    /// the tests do. What it sees instead is empty memory.
    pub fn boot(vmm: &Arc<Vmm>) -> Self {
        Self::start(vmm, RAM)
    }

    /// The same after a reset, with new memory at another address.
    pub fn boot_again(vmm: &Arc<Vmm>) -> Self {
        vmm.client().dma_unmap(RAM, RAM_SIZE).unwrap();
        Self::start(vmm, 4 * RAM)
    }

    fn start(vmm: &Arc<Vmm>, ram_address: u64) -> Self {
        let file = memory_file(RAM_SIZE, SealFlags::SHRINK);
        let fd = file.as_raw_fd();
        vmm.client().dma_map(0, ram_address, RAM_SIZE, fd).unwrap();
        let start = GuestAddress(ram_address);
        let range = (start, RAM_SIZE as usize, Some(FileOffset::new(file, 0)));
        let ram = <GuestMemoryMmap>::from_ranges_with_files([range]);
        let ram = Arc::new(ram.unwrap());
        let base = ram.get_host_address(start).unwrap();
        let base = NonNull::new(base).unwrap();
        // SAFETY: the memory is RAM_SIZE bytes long, and mapped for as long as
        // its owner exists; nobody makes references to it.
        let ram = unsafe { Window::from_raw(base, RAM_SIZE, Some(ram)) };
        let platform = Platform {
            bus: vmm.clone(),
            interrupts: vmm.clone(),
            ram: ram.unwrap(),
            ram_address,
            shared_memory: Window::allocate(WINDOW_SIZE as usize).unwrap(),
            mmio_address: 1 << 40,
        };
        let transport = Emulated::new(platform).unwrap();
        let device = Device::open(transport).unwrap();
        let mut server = BackendServer::new(device, Idle).unwrap();
        let stop = server.stop_handle();
        // What the device does to a guest is the tests' to look at.
        let run = move || {
            let _ = server.run();
        };
        let vcpu = thread::spawn(run);
        Self { stop, vcpu }
    }

    pub fn shut_down(self) {
        self.stop.stop();
        self.vcpu.join().unwrap();
    }
}
