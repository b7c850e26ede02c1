// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A whole device between a scripted guest and a scripted frontend, without a
//! thread: the test says when the device takes its turns, so that nothing
//! depends on time.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use vhost_guest_msg::{Endian, FrontendRequest, ProtocolFeatures, VirtioFeatures};
use vhost_guest_vmm_traits::test_utils::TestVmm;
use vhost_guest_vmm_traits::AddressTranslator;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) use super::peer::{event, memory_file, Frontend};
use crate::connection::Connection;
use crate::device::Device;
use crate::event_loop::poller;
use crate::fd::Launcher;
use crate::function::Builder;
use crate::guest::pci::bars::{COMMON, DEVICE, MSIX_TABLE, NOTIFY, NOTIFY_MULTIPLIER};
use crate::guest::pci::BarMove;
use crate::guest::snapshot::SnapshotError;
use crate::guest::virtio::feature;
use crate::vmm::services::Services;

/// Vrings of the device.
pub(crate) const VRINGS: u16 = 4;
/// Size of the window.
pub(crate) const WINDOW: u64 = 64 << 20;
/// Entries in each of the device's queues.
pub(crate) const QUEUE_SIZE: u16 = 16;
/// Where the BARs are: configuration, doorbells, window.
pub(crate) const BARS: [(u8, u64); 3] = [(0, 0xE000_0000), (2, 0xE001_0000), (4, 1 << 40)];
/// Address of the first doorbell.
pub(crate) const DOORBELLS: u64 = BARS[1].1;
/// The vector of kick 0, behind those of the configuration and of six queues.
pub(crate) const FIRST_KICK: u16 = 1 + 6;
/// Bytes in each buffer of the guest.
const BUFFER: u64 = 4096;

pub(crate) const STATUS: u64 = COMMON + 0x14;
pub(crate) const QUEUE_SELECT: u64 = COMMON + 0x16;
/// `device_status` bits.
pub(crate) const NEEDS_RESET: u8 = 0x40;

/// Where a queue's parts and buffers are in guest memory.
pub(crate) struct Place {
    pub(crate) descriptors: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    pub(crate) buffers: u64,
}

pub(crate) fn place(queue: u16) -> Place {
    let base = 0x10_0000 * (u64::from(queue) + 1);
    Place {
        descriptors: base,
        avail: base + 0x1000,
        used: base + 0x2000,
        buffers: base + 0x3000,
    }
}

/// The device and everything around it.
pub(crate) struct Rig {
    pub(crate) device: Device<Arc<GuestMemoryMmap>>,
    pub(crate) vmm: Arc<TestVmm>,
    pub(crate) memory: Arc<GuestMemoryMmap>,
    /// Virtio features that the guest accepts.
    pub(crate) features: u64,
    /// Buffers that the guest posts when it starts, by queue.
    pub(crate) posts: [u16; 4],
    /// What the guest calls its physical address 0.
    pub(crate) iova: u64,
    /// The VMM may fail to move a BAR.
    pub(crate) vmm_fails: bool,
    path: PathBuf,
    /// `avail_idx` and the last used index seen, by queue.
    indices: [(u16, u16); 6],
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.device.stop();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A rig whose guest has initialised the device and set `BACKEND_UP`.
pub(crate) fn serving() -> Rig {
    let mut rig = Rig::new();
    rig.initialise();
    rig.backend_up();
    rig
}

/// A serving rig and a frontend that is connected to it.
pub(crate) fn connected() -> (Rig, Frontend) {
    let mut rig = serving();
    let frontend = rig.connect();
    rig.run();
    (rig, frontend)
}

/// A connected rig that has negotiated `features`.
pub(crate) fn negotiated(features: ProtocolFeatures) -> (Rig, Frontend) {
    let (mut rig, mut frontend) = connected();
    rig.negotiate(&mut frontend, features);
    (rig, frontend)
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with(choose: impl FnOnce(Builder) -> Builder) -> Self {
        Self::lent(|_| {}, choose)
    }

    /// One with a virtual IOMMU in front of the device.
    pub(crate) fn translated(
        translator: Option<Arc<dyn AddressTranslator>>,
        choose: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        Self::lent(|services| services.translator = translator, choose)
    }

    /// One whose VMM lends something else.
    pub(crate) fn lent(
        lend: impl FnOnce(&mut Services<Arc<GuestMemoryMmap>>),
        choose: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vhost-guest-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        // A process that was killed may have left one behind.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let vmm = Arc::new(TestVmm::new());
        let ranges = [(GuestAddress(0), 8 << 20)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        let builder = Builder::new(listener)
            .queues(VRINGS)
            .window_size(WINDOW)
            .device_type(2);
        let (listener, options) = choose(builder).into_parts();
        let mut services = Services {
            interrupts: vmm.clone(),
            doorbells: Some(vmm.clone()),
            window: vmm.clone(),
            memory: memory.clone(),
            translator: None,
            notifier: Some(vmm.clone()),
            thread_hook: None,
        };
        lend(&mut services);
        let hook = services.thread_hook.clone();
        let device = Device::new(listener, &options, services).unwrap();
        device.start(&Launcher::start(hook.as_ref()).unwrap());
        Self {
            device,
            vmm,
            memory,
            features: feature::VERSION_1,
            posts: [QUEUE_SIZE / 2, 0, QUEUE_SIZE / 2, 0],
            iova: 0,
            vmm_fails: false,
            path,
            indices: [(0, 0); 6],
        }
    }

    /// Lets the device take turns until there is nothing to do.
    pub(crate) fn run(&mut self) {
        // Whoever looks at files says when it is done.
        self.run_while(|rig| rig.device.server().memory.waits_for_files());
    }

    /// The same, but does not wait for files.
    pub(crate) fn run_without_files(&mut self) {
        self.run_while(|_| false);
    }

    fn run_while(&mut self, waits: impl Fn(&Self) -> bool) {
        let epoll = self.device.poller_fd().unwrap();
        let mut turns = 0;
        loop {
            // What the channel's thread has done before is in the events.
            let settled = self.is_channel_settled() && !waits(self);
            let ready = poller::wait(epoll.as_fd(), false).unwrap();
            match (ready.is_empty(), settled) {
                (true, true) => return,
                (true, false) => std::thread::yield_now(),
                (false, _) => {
                    turns += 1;
                    assert!(turns < 1000, "the device never comes to rest");
                    self.device.turn(&ready);
                }
            }
        }
    }

    /// Whether the backend channel's thread, if there is one, waits for somebody.
    fn is_channel_settled(&self) -> bool {
        let server = self.device.server();
        let connection = server.connection.as_ref();
        connection.is_none_or(Connection::is_channel_settled)
    }

    /// A register write of the guest's.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.device.shared.bar_write(0, offset, data);
    }

    /// The VMM resets the function.
    pub(crate) fn function_reset(&mut self) {
        let moves = self.device.function_reset();
        self.move_bars(moves);
    }

    /// The VMM restores the device, and moves its BARs.
    pub(crate) fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        let moves = self.device.restore(snapshot)?;
        self.move_bars(moves);
        Ok(())
    }

    /// The guest is the one of another rig, with its memory.
    pub(crate) fn adopt_guest(&mut self, other: &Self) {
        let mut memory = vec![0; 8 << 20];
        other
            .memory
            .read_slice(&mut memory, GuestAddress(0))
            .unwrap();
        self.memory.write_slice(&memory, GuestAddress(0)).unwrap();
        self.indices = other.indices;
        self.features = other.features;
    }

    pub(crate) fn move_bars(&mut self, moves: Vec<BarMove>) {
        for moved in moves {
            let outcome = self.device.shared.bar_moved(moved.bar, moved.address);
            assert!(outcome.is_ok() || self.vmm_fails, "{outcome:?}");
        }
    }

    /// A configuration space write of the guest's.
    pub(crate) fn config_write(&mut self, offset: u16, data: &[u8]) {
        let moves = self.device.shared.config_write(offset, data);
        self.move_bars(moves);
    }

    pub(crate) fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.device
            .shared
            .registers
            .lock()
            .bar_read(0, offset, &mut data);
        data
    }

    /// `device_status`.
    pub(crate) fn status(&mut self) -> u8 {
        self.read::<1>(STATUS)[0]
    }

    /// `status` of the device configuration.
    pub(crate) fn up(&mut self) -> u16 {
        u16::from_le_bytes(self.read(DEVICE + 34))
    }

    /// Everything that a driver does before `BACKEND_UP`.
    pub(crate) fn initialise(&mut self) {
        for (bar, address) in BARS {
            let register = 0x10 + 4 * u16::from(bar);
            self.config_write(register, &(address as u32).to_le_bytes());
            self.config_write(register + 4, &((address >> 32) as u32).to_le_bytes());
        }
        self.config_write(0x04, &6u16.to_le_bytes());
        self.config_write(0xD6, &0x8000u16.to_le_bytes());
        for vector in 0..u64::from(FIRST_KICK + VRINGS) {
            let entry = MSIX_TABLE + 16 * vector;
            self.write(entry, &0xFEE0_0000u32.to_le_bytes());
            self.write(entry + 8, &(vector as u32).to_le_bytes());
            self.write(entry + 12, &0u32.to_le_bytes());
        }
        self.start();
    }

    /// Initialises the virtio device, as after a reset.
    ///
    /// A reset that is not done ends this.
    pub(crate) fn start(&mut self) {
        self.write(STATUS, &[0]);
        if self.status() != 0 {
            self.run();
        }
        if self.device.shared.registers.lock().reset_pending() {
            return;
        }
        self.write(STATUS, &[1]);
        self.write(STATUS, &[3]);
        for (half, features) in [self.features as u32, (self.features >> 32) as u32]
            .into_iter()
            .enumerate()
        {
            self.write(COMMON + 8, &(half as u32).to_le_bytes());
            self.write(COMMON + 12, &features.to_le_bytes());
        }
        self.write(STATUS, &[11]);
        let failing = if self.vmm_fails { NEEDS_RESET } else { 0 };
        assert_eq!(self.status() & !failing, 11, "FEATURES_OK refused");
        self.write(COMMON + 0x10, &0u16.to_le_bytes());
        self.indices = [(0, 0); 6];
        for queue in 0..self.queues() {
            self.enable(queue);
        }
        self.write(STATUS, &[15]);
        for queue in [0, 2] {
            for _ in 0..self.posts[usize::from(queue)] {
                self.post(queue);
            }
        }
    }

    /// Sets up a queue, with an interrupt vector of its own.
    pub(crate) fn enable(&mut self, queue: u16) {
        let at = place(queue);
        self.memory
            .write_slice(&[0; 0x3000], GuestAddress(at.descriptors))
            .unwrap();
        self.write(QUEUE_SELECT, &queue.to_le_bytes());
        self.write(COMMON + 0x18, &QUEUE_SIZE.to_le_bytes());
        self.write(COMMON + 0x1A, &(1 + queue).to_le_bytes());
        for (register, address) in [(0x20, at.descriptors), (0x28, at.avail), (0x30, at.used)] {
            let address = self.iova + address;
            self.write(COMMON + register, &(address as u32).to_le_bytes());
            self.write(
                COMMON + register + 4,
                &((address >> 32) as u32).to_le_bytes(),
            );
        }
        self.write(COMMON + 0x1C, &1u16.to_le_bytes());
        self.indices[usize::from(queue)] = (0, 0);
    }

    /// Sets `BACKEND_UP`.
    pub(crate) fn backend_up(&mut self) {
        self.write(DEVICE + 34, &[1]);
        self.run();
    }

    /// Makes a buffer available whose descriptor is as given, and notifies.
    pub(crate) fn publish(&mut self, queue: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = place(queue);
        let (avail_idx, _) = &mut self.indices[usize::from(queue)];
        let slot = *avail_idx % QUEUE_SIZE;
        let mut descriptor = Vec::new();
        descriptor.extend((self.iova.wrapping_add(address)).to_le_bytes());
        descriptor.extend(length.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend(next.to_le_bytes());
        let entry = at.descriptors + 16 * u64::from(slot);
        self.memory
            .write_slice(&descriptor, GuestAddress(entry))
            .unwrap();
        let element = at.avail + 4 + 2 * u64::from(slot);
        self.memory.write_obj(slot, GuestAddress(element)).unwrap();
        *avail_idx = avail_idx.wrapping_add(1);
        self.memory
            .write_obj(*avail_idx, GuestAddress(at.avail + 2))
            .unwrap();
        self.notify(queue);
    }

    /// Notifies the device of a queue, as the kernel would.
    pub(crate) fn notify(&mut self, queue: u16) {
        let offset = NOTIFY + u64::from(NOTIFY_MULTIPLIER) * u64::from(queue);
        self.write(offset, &queue.to_le_bytes());
    }

    fn buffer(&self, queue: u16, slot: u16) -> u64 {
        place(queue).buffers + BUFFER * u64::from(slot)
    }

    /// Posts a buffer for a message of the device's.
    pub(crate) fn post(&mut self, queue: u16) {
        self.post_sized(queue, BUFFER as u32);
    }

    /// Posts a buffer of any size up to the usual one.
    pub(crate) fn post_sized(&mut self, queue: u16, size: u32) {
        let slot = self.indices[usize::from(queue)].0 % QUEUE_SIZE;
        self.publish(queue, self.buffer(queue, slot), size, 2, 0);
    }

    /// `num_queues`.
    fn queues(&mut self) -> u16 {
        u16::from_le_bytes(self.read(COMMON + 0x12))
    }

    /// Sends a message to the device.
    pub(crate) fn send(&mut self, queue: u16, message: &[u8]) {
        let slot = self.indices[usize::from(queue)].0 % QUEUE_SIZE;
        let buffer = self.buffer(queue, slot);
        self.memory
            .write_slice(message, GuestAddress(buffer))
            .unwrap();
        self.publish(queue, buffer, message.len() as u32, 0, 0);
        self.run();
    }

    /// The next message that the device delivered in `queue`; its buffer is
    /// posted again.
    pub(crate) fn receive(&mut self, queue: u16) -> Option<Vec<u8>> {
        self.run();
        let at = place(queue);
        let used_idx: u16 = self.memory.read_obj(GuestAddress(at.used + 2)).unwrap();
        let (_, seen) = &mut self.indices[usize::from(queue)];
        if *seen == used_idx {
            return None;
        }
        let element = at.used + 4 + 8 * u64::from(*seen % QUEUE_SIZE);
        *seen = seen.wrapping_add(1);
        let [id, length]: [u32; 2] = self.memory.read_obj(GuestAddress(element)).unwrap();
        let mut message = vec![0; length as usize];
        let buffer = self.buffer(queue, id as u16);
        self.memory
            .read_slice(&mut message, GuestAddress(buffer))
            .unwrap();
        self.post(queue);
        Some(message)
    }

    /// Buffers of a queue that the device has used so far.
    pub(crate) fn used(&self, queue: u16) -> u16 {
        let used_idx = GuestAddress(place(queue).used + 2);
        self.memory.read_obj(used_idx).unwrap()
    }

    /// The next request, decoded.
    pub(crate) fn request(&mut self) -> Option<FrontendRequest<()>> {
        self.receive(0).map(|bytes| decode(&bytes))
    }

    /// The guest's reply to request `code`.
    pub(crate) fn reply(&mut self, code: u32, payload: &[u8]) {
        self.send(1, &message(code, 5, payload));
    }

    /// A frontend connects.
    pub(crate) fn connect(&mut self) -> Frontend {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_nonblocking(true).unwrap();
        Frontend { stream }
    }

    /// The usual beginning of a connection.
    pub(crate) fn negotiate(&mut self, frontend: &mut Frontend, features: ProtocolFeatures) {
        frontend.send(&message(15, 1, &[]), &[]);
        assert_eq!(self.request(), Some(FrontendRequest::GetProtocolFeatures));
        self.reply(15, &u64::MAX.to_le_bytes());
        frontend
            .receive()
            .expect("a reply to GET_PROTOCOL_FEATURES");
        frontend.send(&message(16, 1, &features.bits().to_le_bytes()), &[]);
        assert_eq!(
            self.request(),
            Some(FrontendRequest::SetProtocolFeatures(features))
        );
        let virtio = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::VERSION_1;
        frontend.send(&message(2, 1, &virtio.bits().to_le_bytes()), &[]);
        assert_eq!(self.request(), Some(FrontendRequest::SetFeatures(virtio)));
    }

    /// Whether the frontend was lost and the guest told so.
    pub(crate) fn needs_reset(&mut self) -> bool {
        self.run();
        self.was_told()
    }

    /// The same, as far as it has come.
    pub(crate) fn was_told(&mut self) -> bool {
        let told = self.status() & NEEDS_RESET != 0;
        assert_eq!(
            told,
            self.device.server().connection.is_none(),
            "half a loss"
        );
        assert_eq!(told, self.up() == 0, "half a loss");
        told
    }
}

/// A message: number, flags, payload.
pub(crate) fn message(code: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(code.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend((payload.len() as u32).to_ne_bytes());
    bytes.extend(payload);
    bytes
}

/// The payload made of numbers.
pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A request as the guest sees it.
pub(crate) fn decode(bytes: &[u8]) -> FrontendRequest<()> {
    let limits = vhost_guest_msg::Limits::default();
    let context = vhost_guest_msg::Context {
        protocol_features: ProtocolFeatures::LOG_SHMFD,
        ..Default::default()
    };
    let frame = vhost_guest_msg::decode_whole(bytes, Endian::NATIVE, &limits).unwrap();
    FrontendRequest::decode(frame, Endian::NATIVE, &limits, &context)
        .unwrap()
        .request
}
