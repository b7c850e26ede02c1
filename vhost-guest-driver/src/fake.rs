// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A scripted device for the tests: it does what it should, unless a knob
//! says otherwise.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::common::{DRIVER_OK, FEATURES_OK, NEEDS_RESET};
use crate::transport::{DmaMemory, InterruptMode, MsiMessage, Transport, Wake};
use crate::vectors::VectorSet;
use crate::window::Window;

pub(crate) const RAM_ADDRESS: u64 = 0x10_0000;
pub(crate) const WINDOW_LEN: usize = 0x40_0000;

pub(crate) const COMMON: u64 = 0;
pub(crate) const DEVICE: u64 = 0x100;
pub(crate) const NOTIFY: u64 = 0x200;
pub(crate) const KICKS: u64 = 0x300;
pub(crate) const MSIX: u64 = 0x1000;
const BAR_LENS: [u64; 6] = [0x4000, 0, 0x1_0000, 0, WINDOW_LEN as u64, 0];

/// One of the device's virtqueues.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeQueue {
    pub max_size: u16,
    pub size: u16,
    pub vector: u16,
    pub enabled: bool,
    pub addresses: [u64; 3],
    avail: u16,
    used: u16,
}

pub(crate) struct State {
    pub config_space: [u8; 256],
    pub offered: u64,
    pub accepted: u64,
    selects: [u32; 2],
    pub status: u8,
    queue_select: u16,
    pub queues: Vec<FakeQueue>,
    pub config_vector: u16,
    pub device: [u8; 36],
    kick_select: u16,
    pub kick_vectors: Vec<u16>,
    pub msix_table: Vec<u32>,
    pub raised: VectorSet,
    pub doorbells: Vec<u16>,
    pub resets: u32,
    pub dma_used: u64,
    // Knobs.
    pub refuse_features: bool,
    pub refuse_vectors: bool,
    pub reset_hangs: bool,
    pub backend_up_sticks: bool,
    pub mode: Option<InterruptMode>,
    pub behind_iommu: bool,
    pub waits: u32,
}

/// The device, and the transport to it.
pub(crate) struct Fake {
    state: Mutex<State>,
    pub ram: Window,
    pub window: Window,
}

/// Appends a virtio capability to a configuration space.
pub(crate) fn put_cap(space: &mut [u8; 256], at: usize, next: u8, words: &[u32]) {
    for (i, word) in words.iter().enumerate() {
        space[at + 4 * i..][..4].copy_from_slice(&word.to_le_bytes());
    }
    space[at + 1] = next;
}

fn config_space(queues: u16) -> [u8; 256] {
    let mut space = [0; 256];
    space[..4].copy_from_slice(&[0xf4, 0x1a, 0x75, 0x10]);
    space[6] = 0x10;
    space[0x34] = 0x40;
    let cap = |len: u32, kind: u32| 0x09 | len << 16 | kind << 24;
    put_cap(&mut space, 0x40, 0x50, &[cap(16, 1), 0, 0, 64]);
    put_cap(&mut space, 0x50, 0x60, &[cap(16, 3), 0, 0x80, 4]);
    put_cap(&mut space, 0x60, 0x70, &[cap(16, 4), 0, DEVICE as u32, 36]);
    put_cap(
        &mut space,
        0x70,
        0x84,
        &[cap(20, 2), 0, NOTIFY as u32, 24, 4],
    );
    put_cap(&mut space, 0x84, 0x94, &[cap(16, 7), 0, KICKS as u32, 4]);
    put_cap(&mut space, 0x94, 0xa8, &[cap(20, 6), 2, 0, 0x1_0000, 4]);
    put_cap(
        &mut space,
        0xa8,
        0xd4,
        &[cap(24, 8), 4, 0, WINDOW_LEN as u32, 0, 0],
    );
    let vectors = u32::from(queues) + 7;
    put_cap(
        &mut space,
        0xd4,
        0,
        &[0x11 | (vectors - 1) << 16, MSIX as u32, 0x3000],
    );
    space
}

impl Fake {
    pub fn new(max_vhost_queues: u16) -> Arc<Self> {
        Self::with_window(max_vhost_queues, Window::allocate(WINDOW_LEN).unwrap())
    }

    /// A device with queues for device state, in pieces of up to `piece`.
    pub fn with_state(max_vhost_queues: u16, piece: u32) -> Arc<Self> {
        let this = Self::new(max_vhost_queues);
        let mut state = this.state();
        let queue = state.queues[0].clone();
        state.queues.extend([queue.clone(), queue]);
        state.device[8..12].copy_from_slice(&piece.to_le_bytes());
        drop(state);
        this
    }

    pub fn with_window(max_vhost_queues: u16, window: Window) -> Arc<Self> {
        let mut device = [0; 36];
        device[..4].copy_from_slice(&u32::from(max_vhost_queues).to_le_bytes());
        device[4..8].copy_from_slice(&4096u32.to_le_bytes());
        device[16..32].copy_from_slice(&[7; 16]);
        let queue = FakeQueue {
            max_size: 64,
            vector: 0xffff,
            ..FakeQueue::default()
        };
        let state = State {
            config_space: config_space(max_vhost_queues),
            offered: 1 << 28 | 1 << 29 | 1 << 32 | 1 << 40,
            accepted: 0,
            selects: [0; 2],
            status: 0,
            queue_select: 0,
            queues: vec![queue; 4],
            config_vector: 0xffff,
            device,
            kick_select: 0xffff,
            kick_vectors: vec![0xffff; max_vhost_queues.into()],
            msix_table: vec![0; 4 * (usize::from(max_vhost_queues) + 7)],
            raised: VectorSet::new(),
            doorbells: Vec::new(),
            resets: 0,
            dma_used: 0,
            refuse_features: false,
            refuse_vectors: false,
            reset_hangs: false,
            backend_up_sticks: true,
            mode: None,
            behind_iommu: false,
            waits: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            ram: Window::allocate(0x10_0000).unwrap(),
            window,
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn ring(&self, queue: u16, part: usize) -> u64 {
        self.state().queues[usize::from(queue)].addresses[part] - RAM_ADDRESS
    }

    /// Takes the next available descriptor of `queue`: id, address in `ram`,
    /// length, flags.
    pub fn pop(&self, queue: u16) -> Option<(u16, u64, u32, u16)> {
        let q = self.state().queues[usize::from(queue)].clone();
        let [desc, avail] = [0, 1].map(|part| self.ring(queue, part));
        if !q.enabled || self.ram.load_le::<u16>(avail + 2).unwrap() == q.avail {
            return None;
        }
        let slot = u64::from(q.avail % q.size);
        let id: u16 = self.ram.load_le(avail + 4 + 2 * slot).unwrap();
        let at = desc + 16 * u64::from(id);
        self.state().queues[usize::from(queue)].avail = q.avail.wrapping_add(1);
        let address: u64 = self.ram.load_le(at).unwrap();
        let (len, flags) = (self.ram.load_le(at + 8), self.ram.load_le(at + 12));
        Some((id, address - RAM_ADDRESS, len.unwrap(), flags.unwrap()))
    }

    /// Writes a used entry and raises the queue's vector.
    pub fn push(&self, queue: u16, id: u32, len: u32) {
        let used = self.ring(queue, 2);
        let mut state = self.state();
        let q = &mut state.queues[usize::from(queue)];
        let at = used + 4 + 8 * u64::from(q.used % q.size);
        self.ram.store_le(at, id).unwrap();
        self.ram.store_le(at + 4, len).unwrap();
        q.used = q.used.wrapping_add(1);
        self.ram.store_le(used + 2, q.used).unwrap();
        let vector = q.vector;
        state.raised.insert(vector);
    }

    /// Gives the driver a message.
    pub fn give(&self, queue: u16, message: &[u8]) {
        let (id, at, len, flags) = self.pop(queue).expect("no buffer for a message");
        assert_eq!((len, flags), (4096, 2));
        self.ram.write(at, message).unwrap();
        self.push(queue, id.into(), message.len() as u32);
    }

    /// Takes a message of the driver's, and gives the buffer back.
    pub fn take(&self, queue: u16) -> Option<Vec<u8>> {
        let (id, at, len, flags) = self.pop(queue)?;
        assert_eq!(flags, 0);
        let mut message = vec![0; len as usize];
        self.ram.read(at, &mut message).unwrap();
        self.push(queue, id.into(), 0);
        Some(message)
    }

    pub fn kick(&self, vring: u16) {
        let mut state = self.state();
        let vector = state.kick_vectors[usize::from(vring)];
        state.raised.insert(vector);
    }

    /// A frontend connects.
    pub fn connect(&self) {
        let mut state = self.state();
        assert_eq!(state.device[34], 1, "a frontend without a backend");
        state.device[34] = 3;
        let vector = state.config_vector;
        state.raised.insert(vector);
    }

    /// The frontend goes away.
    pub fn disconnect(&self) {
        let mut state = self.state();
        state.lose();
        let vector = state.config_vector;
        state.raised.insert(vector);
    }
}

impl State {
    fn lose(&mut self) {
        self.device[34] = 0;
        if self.status & DRIVER_OK != 0 {
            self.status |= NEEDS_RESET;
        }
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.device[32..].fill(0);
        self.accepted = 0;
        self.kick_select = 0xffff;
        self.config_vector = 0xffff;
        self.kick_vectors.fill(0xffff);
        for queue in &mut self.queues {
            *queue = FakeQueue {
                max_size: queue.max_size,
                vector: 0xffff,
                ..FakeQueue::default()
            };
        }
        self.status = u8::from(self.reset_hangs);
    }

    fn common_read(&self, offset: u64) -> u32 {
        let queue = self.queues.get(usize::from(self.queue_select));
        match offset {
            4 => (self.offered >> (32 * self.selects[0])) as u32,
            16 => self.config_vector.into(),
            18 => self.queues.len() as u32,
            20 => self.status.into(),
            21 => 0,
            24 => queue.map_or(0, |q| q.max_size.into()),
            26 => queue.map_or(0xffff, |q| q.vector.into()),
            30 => self.queue_select.into(),
            _ => panic!("read of common configuration at {offset}"),
        }
    }

    fn common_write(&mut self, offset: u64, value: u32) {
        let vector = if self.refuse_vectors {
            0xffff
        } else {
            value as u16
        };
        let queue = self.queues.get_mut(usize::from(self.queue_select));
        match (offset, queue) {
            (0, _) => self.selects[0] = value,
            (8, _) => self.selects[1] = value,
            (12, _) => self.accepted |= u64::from(value) << (32 * self.selects[1]),
            (16, _) => self.config_vector = vector,
            (20, _) if value == 0 => self.reset(),
            (20, _) => {
                self.status = value as u8 | self.status & NEEDS_RESET;
                if self.refuse_features {
                    self.status &= !FEATURES_OK;
                }
            }
            (22, _) => self.queue_select = value as u16,
            (24, Some(queue)) => queue.size = value as u16,
            (26, Some(queue)) => queue.vector = vector,
            (28, Some(queue)) => queue.enabled = value == 1,
            (32..56, Some(queue)) => {
                let address = &mut queue.addresses[(offset as usize - 32) / 8];
                *address |= u64::from(value) << (8 * (offset % 8));
            }
            _ => panic!("write of common configuration at {offset}"),
        }
    }

    fn write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        bytes[..data.len()].copy_from_slice(data);
        let value = u32::from_le_bytes(bytes);
        match (bar, offset) {
            (0, COMMON..64) => self.common_write(offset, value),
            (0, 0x120) => self.device[32..34].copy_from_slice(data),
            (0, 0x122) if self.backend_up_sticks => match (value & 1, self.device[34]) {
                (0, 3) => self.lose(),
                (1, 3) => {}
                (up, _) => self.device[34] = up as u8,
            },
            (0, 0x122 | NOTIFY..KICKS) => {}
            (0, KICKS) => {
                self.kick_select = value as u16;
                let vector = if self.refuse_vectors {
                    0xffff
                } else {
                    (value >> 16) as u16
                };
                if let Some(slot) = self.kick_vectors.get_mut(usize::from(value as u16)) {
                    *slot = vector;
                }
            }
            (0, MSIX..) => self.msix_table[(offset - MSIX) as usize / 4] = value,
            (2, _) => self.doorbells.push((offset / 4) as u16),
            _ => panic!("write of BAR {bar} at {offset:#x}"),
        }
    }
}

/// What the driver under test is given.
#[derive(Clone)]
pub(crate) struct FakeTransport(pub Arc<Fake>);

struct FakeWake(Arc<Fake>);

impl Wake for FakeWake {
    fn wake(&self) {
        self.0.state().raised.insert(300);
    }
}

impl Transport for FakeTransport {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        data.copy_from_slice(&self.0.state().config_space[usize::from(offset)..][..data.len()]);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.0.state().config_space[usize::from(offset)..][..data.len()].copy_from_slice(data);
    }

    fn bar_len(&self, bar: u8) -> u64 {
        BAR_LENS.get(usize::from(bar)).copied().unwrap_or(0)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let state = self.0.state();
        assert!(data.len() <= 4 && offset.is_multiple_of(data.len() as u64));
        let value = match (bar, offset) {
            (0, COMMON..64) => state.common_read(offset),
            (0, DEVICE..0x124) => {
                data.copy_from_slice(&state.device[(offset - DEVICE) as usize..][..data.len()]);
                return;
            }
            (0, 0x302) => match state.kick_vectors.get(usize::from(state.kick_select)) {
                Some(vector) => (*vector).into(),
                None => 0xffff,
            },
            _ => panic!("read of BAR {bar} at {offset:#x}"),
        };
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        assert!(data.len() <= 4 && offset.is_multiple_of(data.len() as u64));
        self.0.state().write(bar, offset, data);
    }

    fn window(&self, bar: u8, offset: u64, len: u64) -> Option<Window> {
        assert_eq!(bar, 4);
        self.0.window.slice(offset, len).ok()
    }

    fn allocate_dma(&self, len: usize) -> Option<DmaMemory> {
        let mut state = self.0.state();
        let memory = self.0.ram.slice(state.dma_used, len as u64).ok()?;
        let address = RAM_ADDRESS + state.dma_used;
        state.dma_used += len as u64;
        Some(DmaMemory { memory, address })
    }

    fn is_behind_iommu(&self) -> bool {
        self.0.state().behind_iommu
    }

    fn interrupts(&self, wanted: u16) -> InterruptMode {
        let mode = self.0.state().mode;
        mode.unwrap_or(InterruptMode::Table { vectors: wanted })
    }

    fn msi_message(&self, vector: u16) -> MsiMessage {
        MsiMessage {
            address: 0xfee0_0000,
            data: 0x100 + u32::from(vector),
        }
    }

    fn wait(&self, _: Option<Duration>) -> VectorSet {
        let mut state = self.0.state();
        state.waits += 1;
        assert!(state.waits < 1_000_000, "the driver waits for ever");
        std::mem::take(&mut state.raised)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(FakeWake(self.0.clone()))
    }
}
