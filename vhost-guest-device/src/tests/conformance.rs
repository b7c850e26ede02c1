// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Statements of the specifications that no other test makes on its own.
//! `docs/conformance.md` lists all statements and their tests.

use vhost_guest_vmm_traits::test_utils::Call;
use virtio_queue::desc::{split::Descriptor, RawDescriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::rig::{
    self, message, place, words, Rig, NEEDS_RESET, QUEUE_SELECT, QUEUE_SIZE, STATUS, VRINGS,
};
use super::siege::{signalled, take_config_interrupt, NEED_REPLY, PLAIN, REPLY};
use crate::connection::carried;
use crate::guest::pci::bars::{COMMON, DEVICE, DRIVER_AUX};
use crate::guest::queue::MessageQueue;
use crate::guest::virtio::common_config::QueueSetup;
use crate::guest::virtio::{feature, NO_VECTOR};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Where buffers and tables of these tests are.
const BUFFERS: u64 = 0x8000;
/// Where their used ring is: the mock's overlaps with `used_event`.
const USED: u64 = 0x4000;

/// All that the guest has in memory.
fn snapshot(rig: &Rig) -> Vec<u8> {
    let mut bytes = vec![0; 8 << 20];
    rig.memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

/// Addresses of the bytes that have changed.
fn changes(before: &[u8], after: &[u8]) -> Vec<u64> {
    let pairs = (0u64..).zip(before.iter().zip(after));
    pairs
        .filter(|(_, (old, new))| old != new)
        .map(|(at, _)| at)
        .collect()
}

/// Up to `FEATURES_OK`, with queues that have buffers.
fn initialised_but_for_driver_ok() -> Rig {
    let mut rig = Rig::new();
    rig.initialise();
    rig.write(STATUS, &[0]);
    rig.run();
    rig.write(STATUS, &[3]);
    rig.write(COMMON + 8, &1u32.to_le_bytes());
    rig.write(COMMON + 12, &1u32.to_le_bytes());
    rig.write(STATUS, &[11]);
    for queue in 0..4 {
        rig.enable(queue);
    }
    rig.post(0);
    rig.post(2);
    rig
}

#[test]
fn uses_no_buffer_before_driver_ok() {
    let mut rig = initialised_but_for_driver_ok();
    let buffer = place(3).buffers;
    rig.publish(3, buffer, 12, 0, 0);
    rig.write(DEVICE + 34, &[1]);
    let mut frontend = rig.connect();
    frontend.send(&message(3, PLAIN, &[]), &[]);
    for queue in 0..4 {
        rig.notify(queue);
    }
    let before = snapshot(&rig);
    rig.run();
    assert!(changes(&before, &snapshot(&rig)).is_empty());
    rig.write(STATUS, &[15]);
    rig.run();
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
}

#[test]
fn touches_no_queue_between_a_reset_and_the_next_driver_ok() {
    let (mut rig, mut frontend) = rig::connected();
    frontend.send(&message(3, PLAIN, &[]), &[]);
    rig.write(STATUS, &[0]);
    rig.run();
    assert_eq!(rig.status(), 0);
    let before = snapshot(&rig);
    for queue in 0..4 {
        rig.notify(queue);
    }
    rig.run();
    assert!(changes(&before, &snapshot(&rig)).is_empty());
    assert_eq!(rig.vmm.armed(), []);
    // All of it is as at the beginning.
    for queue in 0..4u16 {
        rig.write(QUEUE_SELECT, &queue.to_le_bytes());
        assert_eq!(rig.read(COMMON + 0x18), 128u16.to_le_bytes());
        assert_eq!(rig.read(COMMON + 0x1A), NO_VECTOR.to_le_bytes());
        assert_eq!(rig.read::<2>(COMMON + 0x1C), [0, 0]);
        assert_eq!(rig.read::<24>(COMMON + 0x20), [0; 24]);
        assert_eq!(rig.read::<2>(COMMON + 0x3A), [0, 0]);
    }
}

#[test]
fn shows_its_configuration_before_features_ok_and_keeps_it() {
    let uuid = *b"a disk of a kind";
    let mut rig = Rig::with(|builder| builder.uuid(uuid));
    rig.config_write(0x04, &2u16.to_le_bytes());
    let first: [u8; 34] = rig.read(DEVICE);
    assert_eq!(first[..4], u32::from(VRINGS).to_le_bytes());
    assert_eq!(first[4..8], 4096u32.to_le_bytes());
    assert_eq!(first[16..32], uuid);
    rig.initialise();
    assert_eq!(rig.read::<34>(DEVICE), first);
    rig.write(DEVICE, &[0xFF; 32]);
    rig.write(DEVICE + 16, &[0xFF; 4]);
    rig.backend_up();
    let frontend = rig.connect();
    rig.run();
    assert_eq!(rig.read::<34>(DEVICE), first);
    drop(frontend);
    assert!(rig.needs_reset());
    assert_eq!(rig.read::<34>(DEVICE), first);
    rig.start();
    assert_eq!(rig.read::<34>(DEVICE), first);
}

#[test]
fn counts_writes_to_read_only_configuration_and_keeps_it() {
    let mut rig = rig::serving();
    let before: [u8; 4] = rig.read(DEVICE);
    for writes in 0..3 {
        assert_eq!(rig.device.shared.registers.lock().ignored_writes(), writes);
        rig.write(DEVICE, &0xFFFF_FFFF_u32.to_le_bytes());
        assert_eq!(rig.read::<4>(DEVICE), before);
    }
}

#[test]
fn accepts_the_same_features_again_after_a_reset() {
    for features in [feature::VERSION_1, feature::offered(false)] {
        let mut rig = Rig::new();
        rig.features = features;
        rig.initialise();
        for _ in 0..3 {
            rig.start();
            for half in 0..2u32 {
                rig.write(COMMON + 8, &half.to_le_bytes());
                let expected = (features >> (32 * half)) as u32;
                assert_eq!(rig.read(COMMON + 12), expected.to_le_bytes());
            }
        }
    }
}

#[test]
fn refuses_a_driver_without_version_1_until_it_resets_the_device() {
    let mut rig = Rig::new();
    rig.initialise();
    rig.write(STATUS, &[0]);
    rig.run();
    rig.write(STATUS, &[3]);
    rig.vmm.take_calls();
    rig.write(STATUS, &[11]);
    assert_eq!(rig.status(), 3 | NEEDS_RESET);
    rig.write(STATUS, &[15]);
    let told = |call: &&Call| matches!(call, Call::NeedsReset);
    assert_eq!(rig.vmm.calls().iter().filter(told).count(), 1);
    rig.write(DEVICE + 34, &[1]);
    let _frontend = rig.connect();
    rig.run();
    assert_eq!(rig.status() & 0x0C, 0, "it runs without VERSION_1");
    assert!(rig.device.server().connection.is_none());
    assert!(!take_config_interrupt(&rig), "before DRIVER_OK");
    rig.start();
    rig.backend_up();
    assert_eq!(rig.up(), 3);
}

#[test]
fn writes_to_used_rings_and_device_writable_buffers_only() {
    let (mut rig, mut frontend) = rig::connected();
    frontend.send(&message(1, PLAIN, &[]), &[]);
    let before = snapshot(&rig);
    rig.run();
    let written = changes(&before, &snapshot(&rig));
    let at = place(0);
    let allowed = |byte: &u64| {
        // The header is as long as the whole message.
        (at.used..at.used + 0x1000).contains(byte) || (at.buffers..at.buffers + 12).contains(byte)
    };
    assert!(!written.is_empty() && written.iter().all(allowed));
    // The used length is what was written, no more.
    let used: [u32; 2] = rig.memory.read_obj(GuestAddress(at.used + 4)).unwrap();
    assert_eq!(used, [0, 12]);
    assert_eq!(rig.receive(0), Some(message(1, PLAIN, &[])));

    let reply = message(1, REPLY, &words(&[0]));
    let at = place(1);
    rig.memory
        .write_slice(&reply, GuestAddress(at.buffers))
        .unwrap();
    rig.publish(1, at.buffers, reply.len() as u32, 0, 0);
    let before = snapshot(&rig);
    rig.run();
    let written = changes(&before, &snapshot(&rig));
    let used = at.used..at.used + 0x1000;
    assert!(!written.is_empty() && written.iter().all(|byte| used.contains(byte)));
    assert_eq!(frontend.receive(), Some(reply));
}

#[test]
fn every_event_takes_every_vector_and_gives_it_up() {
    let mut rig = Rig::new();
    rig.initialise();
    let control: u16 = {
        let mut data = [0; 2];
        rig.device
            .shared
            .registers
            .lock()
            .config_read(0xD6, &mut data);
        u16::from_le_bytes(data)
    };
    let vectors = (control & 0x7FF) + 1;
    assert_eq!(vectors, 1 + 6 + VRINGS);
    let mut registers = vec![(COMMON + 0x16, 0, COMMON + 0x10)];
    registers.extend((0..4).map(|queue| (QUEUE_SELECT, queue, COMMON + 0x1A)));
    registers.extend((0..VRINGS).map(|kick| (DRIVER_AUX, kick, DRIVER_AUX + 2)));
    for (select, index, register) in registers {
        rig.write(select, &index.to_le_bytes());
        for vector in (0..vectors).chain([NO_VECTOR]) {
            rig.write(register, &vector.to_le_bytes());
            assert_eq!(rig.read(register), vector.to_le_bytes());
        }
        for vector in [vectors, 0x7FF, 0x800, 0xFFFE] {
            rig.write(register, &vector.to_le_bytes());
            assert_eq!(rig.read(register), NO_VECTOR.to_le_bytes());
        }
    }
}

#[test]
fn passes_the_choice_of_protocol_features_on_as_it_is() {
    let (mut rig, mut frontend) = rig::connected();
    frontend.send(&message(15, PLAIN, &[]), &[]);
    rig.receive(0).expect("the question");
    rig.reply(15, &words(&[u64::MAX]));
    frontend.receive().expect("the answer");
    for choice in [carried().bits(), 0, carried().bits()] {
        let bytes = message(16, PLAIN, &words(&[choice]));
        frontend.send(&bytes, &[]);
        assert_eq!(rig.receive(0), Some(bytes));
    }
}

#[test]
fn early_buffers_and_empty_notifications_change_nothing() {
    let (mut rig, mut frontend) = rig::connected();
    // For a queue that has not been opened by a message yet.
    rig.send(3, &message(2, NEED_REPLY, &[]));
    for queue in [0, 1, 2, 3, 1, 1] {
        rig.notify(queue);
        rig.run();
    }
    assert_eq!((rig.used(1), rig.used(3)), (0, 0));
    assert!(!rig.needs_reset());
    frontend.send(&message(3, PLAIN, &[]), &[]);
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
}

#[test]
fn tells_the_driver_of_a_reset_that_it_needs_exactly_once() {
    let (mut rig, frontend) = rig::connected();
    let vector = vhost_guest_vmm_traits::MsiMessage {
        address: 0xFEE0_0000,
        data: 0,
    };
    let source = rig.vmm.armed_with(vector).remove(0);
    assert!(signalled(&source), "the frontend that came");
    drop(frontend);
    assert!(rig.needs_reset());
    assert!(signalled(&source));
    for _ in 0..3 {
        rig.write(DEVICE + 34, &[1]);
        rig.run();
    }
    assert!(!signalled(&source));
    assert_ne!(rig.status() & NEEDS_RESET, 0);
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x2_0000)]).unwrap()
}

fn mock(memory: &GuestMemoryMmap) -> MockSplitQueue<'_, GuestMemoryMmap> {
    MockSplitQueue::create(memory, GuestAddress(0x1000), QUEUE_SIZE)
}

fn open(
    memory: &GuestMemoryMmap,
    mock: &MockSplitQueue<'_, GuestMemoryMmap>,
    event_idx: bool,
) -> MessageQueue {
    let rings = QueueSetup {
        size: QUEUE_SIZE,
        descriptors: mock.desc_table_addr().raw_value(),
        avail: mock.avail_addr().raw_value(),
        used: USED,
    };
    MessageQueue::open(0, QUEUE_SIZE, rings, event_idx, memory).unwrap()
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> RawDescriptor {
    Descriptor::new(address, length, flags, next).into()
}

/// Makes a chain that begins at descriptor 0 available.
fn publish(mock: &MockSplitQueue<'_, GuestMemoryMmap>, table: &[RawDescriptor]) {
    for (index, descriptor) in (0..).zip(table) {
        mock.desc_table().store(index, *descriptor).unwrap();
    }
    let avail_idx = mock.avail().idx().load();
    let slot = usize::from(avail_idx % QUEUE_SIZE);
    mock.avail().ring().ref_at(slot).unwrap().store(0);
    mock.avail().idx().store(avail_idx.wrapping_add(1));
}

/// Delivers a message each time; returns when the driver is interrupted.
fn interruptions(event_idx: bool, flags: u16, used_event: u16) -> Vec<bool> {
    let memory = memory();
    let mock = mock(&memory);
    let mut queue = open(&memory, &mock, event_idx);
    let ring = mock.avail_addr();
    memory.write_obj(flags, ring).unwrap();
    let event = ring.unchecked_add(4 + 2 * u64::from(QUEUE_SIZE));
    memory.write_obj(used_event, event).unwrap();
    let interrupts = (0..4).map(|_| {
        publish(&mock, &[descriptor(BUFFERS, 64, WRITE, 0)]);
        let reserved = queue.reserve(&memory).unwrap().unwrap();
        let interrupt = queue.deliver(&memory, reserved, b"message").unwrap();
        let used_flags: u16 = memory.read_obj(GuestAddress(USED)).unwrap();
        assert_eq!(used_flags, 0, "the driver may always notify");
        interrupt
    });
    interrupts.collect()
}

#[test]
fn interrupts_each_time_without_event_idx() {
    // A driver that asks for none may still get them.
    for used_event in [0, 2, 0xFFFF] {
        assert_eq!(interruptions(false, 0, used_event), [true; 4]);
    }
}

#[test]
fn interrupts_as_the_event_index_says_and_never_as_the_flags() {
    for flags in [0, 1] {
        let due = [true, false, false, false];
        assert_eq!(interruptions(true, flags, 0), due);
        let due = [false, false, true, false];
        assert_eq!(interruptions(true, flags, 2)[1..], due[1..]);
        assert_eq!(interruptions(true, flags, 9)[1..], [false; 3]);
    }
}

#[test]
fn ignores_the_write_flag_of_a_descriptor_that_refers_to_a_table() {
    for (writable, flags) in [(WRITE, INDIRECT), (WRITE, INDIRECT | WRITE)] {
        let memory = memory();
        let mock = mock(&memory);
        let inner = descriptor(BUFFERS + 0x100, 64, writable, 0);
        memory.write_obj(inner, GuestAddress(BUFFERS)).unwrap();
        publish(&mock, &[descriptor(BUFFERS, 16, flags, 0)]);
        let reserved = open(&memory, &mock, false).reserve(&memory);
        assert!(reserved.unwrap().is_some(), "flags {flags}");
    }
    let memory = memory();
    let mock = mock(&memory);
    memory
        .write_slice(b"hello", GuestAddress(BUFFERS + 0x100))
        .unwrap();
    let inner = descriptor(BUFFERS + 0x100, 5, 0, 0);
    memory.write_obj(inner, GuestAddress(BUFFERS)).unwrap();
    publish(&mock, &[descriptor(BUFFERS, 16, INDIRECT | WRITE, 0)]);
    let mut taken = Vec::new();
    let mut queue = open(&memory, &mock, false);
    assert!(queue.take(&memory, 64, &mut taken).unwrap().is_some());
    assert_eq!(taken, b"hello");
}

#[test]
fn takes_descriptors_in_front_of_an_indirect_table() {
    let memory = memory();
    let mock = mock(&memory);
    let inner = [
        descriptor(BUFFERS + 0x300, 2, WRITE | NEXT, 1),
        descriptor(BUFFERS + 0x400, 64, WRITE, 0),
    ];
    memory.write_obj(inner[0], GuestAddress(BUFFERS)).unwrap();
    memory
        .write_obj(inner[1], GuestAddress(BUFFERS + 16))
        .unwrap();
    let table = [
        descriptor(BUFFERS + 0x100, 2, WRITE | NEXT, 1),
        descriptor(BUFFERS + 0x200, 2, WRITE | NEXT, 2),
        descriptor(BUFFERS, 32, INDIRECT, 0),
    ];
    publish(&mock, &table);
    let mut queue = open(&memory, &mock, false);
    let reserved = queue.reserve(&memory).unwrap().unwrap();
    queue.deliver(&memory, reserved, b"messages").unwrap();
    let mut found = Vec::new();
    for (offset, length) in [(0x100, 2), (0x200, 2), (0x300, 2), (0x400, 2)] {
        let mut piece = vec![0; length];
        memory
            .read_slice(&mut piece, GuestAddress(BUFFERS + offset))
            .unwrap();
        found.extend(piece);
    }
    assert_eq!(found, b"messages");
}
