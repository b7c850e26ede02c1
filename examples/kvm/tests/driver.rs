// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The driver: what the guest's kernel does to set the device up, done by the
//! test through the VMM's bus, and the device's queues in guest memory.

use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;

use vhost_guest_examples::kvm::bus::Bus;
use vhost_guest_examples::kvm::Memory;
use vm_memory::{Bytes, GuestAddress};

/// Slot of the device.
const SLOT: usize = 1;
const COMMAND: u16 = 0x04;
const MEMORY_SPACE: u16 = 2;
const BUS_MASTER: u16 = 4;
const MSIX_CONTROL: u16 = 0xD6;
const MSIX_ENABLE: u16 = 0x8000;
const FUNCTION_MASK: u16 = 0x4000;

const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_NOTIFY: u64 = 0x3000;
const DEVICE_STATUS: u64 = 0x2000 + 34;
const KICK_VECTORS: u64 = 0x4000;
const MSIX_TABLE: u64 = 0x8000;
/// Offset of the MSI-X pending bits.
pub const MSIX_PENDING: u64 = 0xC000;

const QUEUES: u16 = 4;
const QUEUE_SIZE: u16 = 16;
const BUFFER: u64 = 4096;
/// The first MSI-X vector that is a kick's.
pub const FIRST_KICK: u16 = 7;

struct Place {
    descriptors: u64,
    avail: u64,
    used: u64,
    buffers: u64,
}

fn place(queue: u16) -> Place {
    let base = 0x20_0000 + 0x10_0000 * u64::from(queue);
    Place {
        descriptors: base,
        avail: base + 0x1000,
        used: base + 0x2000,
        buffers: base + 0x3000,
    }
}

/// The interrupt vector of a kick.
pub fn kick_vector(vring: u16) -> u8 {
    0x30 + (vring % 0xC0) as u8
}

/// The driver. It does not look at the device's own interrupts.
pub struct Driver {
    bus: Arc<Bus>,
    memory: Memory,
    vrings: u16,
    /// `avail_idx`, and the last used index seen, by queue.
    indices: [(u16, u16); QUEUES as usize],
}

impl Driver {
    /// A driver that has not done anything yet.
    pub fn new(bus: Arc<Bus>, memory: Memory, vrings: u16) -> Self {
        Self {
            bus,
            memory,
            vrings,
            indices: Default::default(),
        }
    }

    /// Writes configuration space.
    pub fn config_write(&self, register: u16, data: &[u8]) {
        self.bus.pci().config_write(SLOT, register, data);
    }

    fn config_read(&self, register: u16) -> u32 {
        let mut data = [0; 4];
        self.bus.pci().config_read(SLOT, register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Address of a BAR, decoded or not.
    pub fn bar(&self, bar: u8) -> u64 {
        let register = 0x10 + 4 * u16::from(bar);
        let low = self.config_read(register) & !0xF;
        u64::from(low) | u64::from(self.config_read(register + 4)) << 32
    }

    /// Moves a BAR while it is decoded.
    pub fn move_bar(&self, bar: u8, address: u64) {
        let register = 0x10 + 4 * u16::from(bar);
        self.config_write(register, &(address as u32).to_le_bytes());
        self.config_write(register + 4, &((address >> 32) as u32).to_le_bytes());
    }

    fn set_command(&self, bit: u16, on: bool) {
        let command = self.config_read(COMMAND) as u16;
        let command = if on { command | bit } else { command & !bit };
        self.config_write(COMMAND, &command.to_le_bytes());
    }

    /// Whether the function decodes accesses to its BARs.
    pub fn set_memory_space(&self, on: bool) {
        self.set_command(MEMORY_SPACE, on);
    }

    /// Whether the function raises interrupts.
    pub fn set_bus_master(&self, on: bool) {
        self.set_command(BUS_MASTER, on);
    }

    /// Whether all vectors are masked.
    pub fn set_function_mask(&self, on: bool) {
        let mask = if on { FUNCTION_MASK } else { 0 };
        self.config_write(MSIX_CONTROL, &(MSIX_ENABLE | mask).to_le_bytes());
    }

    /// Writes to BAR 0.
    pub fn write(&self, offset: u64, data: &[u8]) {
        self.bus.write(self.bar(0) + offset, data);
    }

    fn read(&self, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.bus.read(self.bar(0) + offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// `device_status`.
    pub fn status(&self) -> u8 {
        self.read(STATUS) as u8
    }

    /// `status` of the device configuration.
    pub fn up(&self) -> u16 {
        self.read(DEVICE_STATUS)
    }

    /// Masks or unmasks an MSI-X vector.
    pub fn set_mask(&self, vector: u16, masked: bool) {
        let entry = MSIX_TABLE + 16 * u64::from(vector);
        self.write(entry + 12, &u32::from(masked).to_le_bytes());
    }

    /// Has an MSI-X vector raise an interrupt vector of the processor.
    pub fn set_message(&self, vector: u16, interrupt: u8) {
        let entry = MSIX_TABLE + 16 * u64::from(vector);
        self.write(entry, &0xFEE0_0000_u32.to_le_bytes());
        self.write(entry + 8, &u32::from(interrupt).to_le_bytes());
    }

    /// Maps a kick to an MSI-X vector. Returns what the device reads back.
    pub fn map_kick(&self, vring: u16, vector: u16) -> u16 {
        let both = u32::from(vring) | u32::from(vector) << 16;
        self.write(KICK_VECTORS, &both.to_le_bytes());
        self.read(KICK_VECTORS + 2)
    }

    /// Resets the device, and waits until it is done.
    pub fn reset(&mut self) {
        self.write(STATUS, &[0]);
        while self.status() != 0 {
            std::thread::yield_now();
        }
    }

    /// Everything that a driver does: the function, interrupts, queues,
    /// `BACKEND_UP`. Each kick has an MSI-X vector, and it raises
    /// [`kick_vector`].
    pub fn initialise(&mut self) {
        self.set_command(MEMORY_SPACE | BUS_MASTER, true);
        self.set_function_mask(false);
        for vring in 0..self.vrings {
            self.set_message(FIRST_KICK + vring, kick_vector(vring));
            self.set_mask(FIRST_KICK + vring, false);
        }
        self.reset();
        self.write(STATUS, &[1]);
        self.write(STATUS, &[3]);
        self.write(0x08, &1_u32.to_le_bytes());
        self.write(0x0C, &1_u32.to_le_bytes());
        self.write(STATUS, &[11]);
        assert_eq!(self.status(), 11, "FEATURES_OK refused");
        for queue in 0..QUEUES {
            self.enable(queue);
        }
        self.write(STATUS, &[15]);
        for _ in 0..QUEUE_SIZE {
            self.post(0);
        }
        for vring in 0..self.vrings {
            let vector = FIRST_KICK + vring;
            assert_eq!(self.map_kick(vring, vector), vector);
        }
        // The type of the implemented device, and BACKEND_UP.
        self.write(DEVICE_STATUS - 2, &[2, 0, 1, 0]);
    }

    fn enable(&mut self, queue: u16) {
        let at = place(queue);
        let zeros = [0; 0x3000];
        self.memory
            .write_slice(&zeros, GuestAddress(at.descriptors))
            .unwrap();
        self.write(QUEUE_SELECT, &queue.to_le_bytes());
        self.write(0x18, &QUEUE_SIZE.to_le_bytes());
        for (register, address) in [(0x20, at.descriptors), (0x28, at.avail), (0x30, at.used)] {
            self.write(register, &address.to_le_bytes());
        }
        self.write(0x1C, &1_u16.to_le_bytes());
        self.indices[usize::from(queue)] = (0, 0);
    }

    fn publish(&mut self, queue: u16, length: u32, flags: u16) {
        let at = place(queue);
        let (avail_idx, _) = &mut self.indices[usize::from(queue)];
        let slot = *avail_idx % QUEUE_SIZE;
        let buffer = at.buffers + BUFFER * u64::from(slot);
        let entry = GuestAddress(at.descriptors + 16 * u64::from(slot));
        let length_flags_next = u64::from(length) | u64::from(flags) << 32;
        self.memory
            .write_obj([buffer, length_flags_next], entry)
            .unwrap();
        let element = GuestAddress(at.avail + 4 + 2 * u64::from(slot));
        self.memory.write_obj(slot, element).unwrap();
        fence(Ordering::SeqCst);
        *avail_idx = avail_idx.wrapping_add(1);
        let index = GuestAddress(at.avail + 2);
        self.memory
            .store(*avail_idx, index, Ordering::SeqCst)
            .unwrap();
        self.notify(queue);
    }

    /// Notifies the device of a queue.
    pub fn notify(&self, queue: u16) {
        let offset = QUEUE_NOTIFY + 4 * u64::from(queue);
        self.write(offset, &queue.to_le_bytes());
    }

    fn post(&mut self, queue: u16) {
        self.publish(queue, BUFFER as u32, 2);
    }

    /// Sends a message to the device.
    pub fn send(&mut self, queue: u16, message: &[u8]) {
        let slot = self.indices[usize::from(queue)].0 % QUEUE_SIZE;
        let buffer = GuestAddress(place(queue).buffers + BUFFER * u64::from(slot));
        self.memory.write_slice(message, buffer).unwrap();
        self.publish(queue, message.len() as u32, 0);
    }

    /// The next request of the frontend's, if there is one; its buffer is
    /// posted again.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let at = place(0);
        let index = GuestAddress(at.used + 2);
        let used_idx: u16 = self.memory.load(index, Ordering::SeqCst).unwrap();
        let (_, seen) = &mut self.indices[0];
        if *seen == used_idx {
            return None;
        }
        let element = at.used + 4 + 8 * u64::from(*seen % QUEUE_SIZE);
        *seen = seen.wrapping_add(1);
        let [id, length]: [u32; 2] = self.memory.read_obj(GuestAddress(element)).unwrap();
        let mut message = vec![0; length as usize];
        let buffer = GuestAddress(at.buffers + BUFFER * u64::from(id));
        self.memory.read_slice(&mut message, buffer).unwrap();
        self.post(0);
        Some(message)
    }
}
