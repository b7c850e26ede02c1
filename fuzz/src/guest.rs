// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest does with the device: the steps of a driver, and others.

use std::thread;
use std::time::{Duration, Instant};

use vhost_guest_msg::{
    decode_whole, Context, DeviceStateReply, Endian, FrontendRequest, HeaderFlags, Limits,
    ProtocolFeatures, Reply, ReplyExpectation, ReplyShape, VirtioFeatures,
};
use vm_memory::{Bytes, GuestAddress};

use crate::machine::{Machine, BARS, STATUS, VRINGS};

/// Entries in each queue.
const QUEUE_SIZE: u16 = 16;
/// Queues of a device; one without device state has the first four.
const QUEUES: u16 = 6;
/// Size of a buffer, and of all that belongs to one queue.
const BUFFER: u64 = 4096;
const QUEUE_SPACE: u64 = 0x2_0000;
/// Registers in BAR 0 (vhost-guest specification, PCI layout).
const DEVICE_STATUS: u64 = 0x2000 + 34;
const NOTIFY: u64 = 0x3000;
const KICK_VECTORS: u64 = 0x4000;
const MSIX_TABLE: u64 = 0x8000;
const F_WRITE: u16 = 2;
/// Bytes that a record of requests under way takes.
const RECORD: u64 = 0x2080;

/// The guest's side of the queues.
#[derive(Default)]
pub struct Guest {
    /// How long the driver waits for a reset, after which it goes on all the same.
    pub patience: Duration,
    /// `avail_idx` and the last used index seen, by queue.
    indices: [(u16, u16); QUEUES as usize],
}

/// Where the parts of a queue are: descriptors, available and used ring,
/// buffers.
fn place(queue: u16) -> [u64; 4] {
    let base = QUEUE_SPACE * (u64::from(queue) + 1);
    [base, base + 0x400, base + 0x800, base + 0x1000]
}

impl Guest {
    /// Everything that firmware and a driver do before `BACKEND_UP`.
    pub fn boot(&mut self, machine: &Machine) {
        for (bar, address) in BARS {
            let register = 0x10 + 4 * u16::from(bar);
            machine.config_write(register, &(address as u32).to_le_bytes());
            machine.config_write(register + 4, &((address >> 32) as u32).to_le_bytes());
        }
        // Memory space and bus master; MSI-X.
        machine.config_write(0x04, &6_u16.to_le_bytes());
        machine.config_write(0xD6, &0x8000_u16.to_le_bytes());
        for vector in 0..u64::from(1 + QUEUES + VRINGS) {
            let entry = MSIX_TABLE + 16 * vector;
            write(machine, entry, &0xFEE0_0000_u32.to_le_bytes());
            write(machine, entry + 8, &(vector as u32).to_le_bytes());
            write(machine, entry + 12, &0_u32.to_le_bytes());
        }
        self.start(machine);
    }

    /// Initialises the virtio device, and says that the backend is up.
    pub fn start(&mut self, machine: &Machine) {
        write(machine, STATUS, &[0]);
        self.wait_for_reset(machine);
        for status in [1, 3] {
            write(machine, STATUS, &[status]);
        }
        // The upper half of the features: VERSION_1, ACCESS_PLATFORM.
        let features = match &machine.iommu {
            Some(_) => 3_u32,
            None => 1,
        };
        write(machine, 0x08, &1_u32.to_le_bytes());
        write(machine, 0x0C, &features.to_le_bytes());
        write(machine, STATUS, &[11]);
        write(machine, 0x10, &0_u16.to_le_bytes());
        for queue in 0..QUEUES {
            self.enable(machine, queue);
        }
        for kick in 0..VRINGS {
            let vector = 1 + QUEUES + kick;
            let select = u32::from(kick) | u32::from(vector) << 16;
            write(machine, KICK_VECTORS, &select.to_le_bytes());
        }
        write(machine, STATUS, &[15]);
        for queue in [0, 2] {
            self.post(machine, queue, QUEUE_SIZE / 2);
        }
        write(machine, DEVICE_STATUS, &[1]);
    }

    /// A driver goes on when `device_status` reads 0. One that is paused keeps it
    /// waiting.
    fn wait_for_reset(&self, machine: &Machine) {
        machine.rest();
        let began = Instant::now();
        while machine.status() != 0 && began.elapsed() < self.patience {
            machine.rest();
            thread::yield_now();
        }
    }

    fn enable(&mut self, machine: &Machine, queue: u16) {
        let [descriptors, avail, used, _] = place(queue);
        store(machine, descriptors, &[0; 0xC00]);
        write(machine, 0x16, &queue.to_le_bytes());
        write(machine, 0x18, &QUEUE_SIZE.to_le_bytes());
        write(machine, 0x1A, &(1 + queue).to_le_bytes());
        for (register, address) in [(0x20, descriptors), (0x28, avail), (0x30, used)] {
            write(machine, register, &(address as u32).to_le_bytes());
            write(machine, register + 4, &0_u32.to_le_bytes());
        }
        write(machine, 0x1C, &1_u16.to_le_bytes());
        self.indices[usize::from(queue)] = (0, 0);
    }

    /// Makes a descriptor available, whatever is in it, and notifies.
    pub fn publish(
        &mut self,
        machine: &Machine,
        queue: u16,
        (address, length): (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let [descriptors, avail, ..] = place(queue);
        let (avail_idx, _) = &mut self.indices[usize::from(queue)];
        let slot = *avail_idx % QUEUE_SIZE;
        *avail_idx = avail_idx.wrapping_add(1);
        let mut descriptor = Vec::new();
        descriptor.extend(address.to_le_bytes());
        descriptor.extend(length.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend(next.to_le_bytes());
        store(machine, descriptors + 16 * u64::from(slot), &descriptor);
        store(
            machine,
            avail + 4 + 2 * u64::from(slot),
            &slot.to_le_bytes(),
        );
        store(machine, avail + 2, &avail_idx.to_le_bytes());
        notify(machine, queue);
    }

    /// Posts buffers for the device's messages.
    pub fn post(&mut self, machine: &Machine, queue: u16, count: u16) {
        for _ in 0..count {
            let buffer = self.next_buffer(queue);
            self.publish(machine, queue, (buffer, BUFFER as u32), F_WRITE, 0);
        }
    }

    /// Sends a message to the device.
    pub fn send(&mut self, machine: &Machine, queue: u16, message: &[u8]) {
        let buffer = self.next_buffer(queue);
        let message = &message[..message.len().min(BUFFER as usize)];
        store(machine, buffer, message);
        self.publish(machine, queue, (buffer, message.len() as u32), 0, 0);
    }

    fn next_buffer(&self, queue: u16) -> u64 {
        let slot = self.indices[usize::from(queue)].0 % QUEUE_SIZE;
        place(queue)[3] + BUFFER * u64::from(slot)
    }

    /// Takes the requests that have arrived, and answers them as a friendly
    /// backend would.
    pub fn serve(&mut self, machine: &Machine) {
        while let Some(message) = self.receive(machine, 0) {
            if let Some(reply) = answer(&message) {
                self.send(machine, 1, &reply);
            }
        }
        while self.receive(machine, 2).is_some() {}
    }

    /// The next message in a queue; its buffer is posted again.
    fn receive(&mut self, machine: &Machine, queue: u16) -> Option<Vec<u8>> {
        machine.rest();
        let [_, _, used, buffers] = place(queue);
        let used_idx: u16 = machine.memory().read_obj(GuestAddress(used + 2)).ok()?;
        let (_, seen) = &mut self.indices[usize::from(queue)];
        // A ring that was overwritten may claim anything.
        if used_idx.wrapping_sub(*seen).wrapping_sub(1) >= QUEUE_SIZE {
            return None;
        }
        let element = used + 4 + 8 * u64::from(*seen % QUEUE_SIZE);
        *seen = seen.wrapping_add(1);
        let [id, length]: [u32; 2] = machine.memory().read_obj(GuestAddress(element)).ok()?;
        let mut message = vec![0; length.min(BUFFER as u32) as usize];
        let buffer = buffers + BUFFER * u64::from(id % u32::from(QUEUE_SIZE));
        let read = machine
            .memory()
            .read_slice(&mut message, GuestAddress(buffer));
        read.ok()?;
        self.post(machine, queue, 1);
        Some(message)
    }
}

/// A write to BAR 0.
fn write(machine: &Machine, offset: u64, data: &[u8]) {
    machine.function.bar_write(0, offset, data);
}

/// Notifies the device of a queue.
pub fn notify(machine: &Machine, queue: u16) {
    write(machine, NOTIFY + 4 * u64::from(queue), &queue.to_le_bytes());
}

/// A store to memory; where there is none, nothing happens.
fn store(machine: &Machine, address: u64, data: &[u8]) {
    let _ = machine.memory().write_slice(data, GuestAddress(address));
}

/// The reply to a request, if there is one.
fn answer(message: &[u8]) -> Option<Vec<u8>> {
    let (endian, limits) = (Endian::NATIVE, Limits::default());
    let context = Context {
        offered: None,
        features: VirtioFeatures::all(),
        protocol_features: ProtocolFeatures::all(),
    };
    let frame = decode_whole(message, endian, &limits).ok()?;
    let (code, body) = (frame.header.code, frame.body.to_vec());
    let need_reply = frame.header.flags.contains(HeaderFlags::NEED_REPLY);
    let request = FrontendRequest::decode(frame, endian, &limits, &context).ok()?;
    let expectation = ReplyExpectation::of(&request.request, need_reply, &context);
    let ReplyExpectation::Due(shape) = expectation else {
        return None;
    };
    let reply = match shape {
        ReplyShape::Ack => Reply::Ack(0),
        ReplyShape::Features => Reply::Features(VirtioFeatures::all()),
        ReplyShape::ProtocolFeatures => Reply::ProtocolFeatures(ProtocolFeatures::all()),
        ReplyShape::U64 => Reply::U64(u64::from(VRINGS)),
        ReplyShape::DeviceState => Reply::DeviceState(DeviceStateReply(0).without_fd()),
        ReplyShape::Inflight => {
            let size = RECORD.to_ne_bytes();
            let wanted = [&size[..], body.get(8..)?].concat();
            Reply::decode(shape, &wanted, endian, &limits).ok()?
        }
        // The others are answered with what was asked.
        shape => Reply::decode(shape, &body, endian, &limits).ok()?,
    };
    let mut buffer = vec![0; limits.max_message_size];
    let length = reply.encode(code, false, endian, &mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}
