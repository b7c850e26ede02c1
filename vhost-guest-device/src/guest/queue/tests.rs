// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use virtio_queue::desc::{split::Descriptor, RawDescriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Address, GuestMemoryMmap};

use super::*;

const WRITE: u16 = 2;
const NEXT: u16 = 1;
const INDIRECT: u16 = 4;
/// Where the buffers of these tests are.
const BUFFERS: u64 = 0x8000;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x2_0000)]).unwrap()
}

fn mock(memory: &GuestMemoryMmap) -> MockSplitQueue<'_, GuestMemoryMmap> {
    MockSplitQueue::create(memory, GuestAddress(0x1000), 8)
}

fn open(memory: &GuestMemoryMmap, mock: &MockSplitQueue<'_, GuestMemoryMmap>) -> MessageQueue {
    let rings = QueueSetup {
        size: 8,
        descriptors: mock.desc_table_addr().raw_value(),
        avail: mock.avail_addr().raw_value(),
        used: mock.used_addr().raw_value(),
    };
    MessageQueue::open(0, 8, rings, false, memory).unwrap()
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> RawDescriptor {
    Descriptor::new(address, length, flags, next).into()
}

/// Makes one chain available whose descriptors are written as they are.
fn publish(mock: &MockSplitQueue<'_, GuestMemoryMmap>, head: u16, table: &[RawDescriptor]) {
    for (index, descriptor) in table.iter().enumerate() {
        mock.desc_table().store(index as u16, *descriptor).unwrap();
    }
    let at = mock.avail().idx().load();
    mock.avail()
        .ring()
        .ref_at(usize::from(at % 8))
        .unwrap()
        .store(head);
    mock.avail().idx().store(at + 1);
}

/// The rule of queue 0 that is broken.
fn rule(fault: Fault) -> QueueFault {
    match fault {
        Fault::Guest(GuestFault::Queue { queue: 0, rule }) => rule,
        other => panic!("another fault: {other}"),
    }
}

fn reserve_error(table: &[RawDescriptor], head: u16) -> QueueFault {
    let memory = memory();
    let mock = mock(&memory);
    publish(&mock, head, table);
    rule(open(&memory, &mock).reserve(&memory).unwrap_err())
}

#[test]
fn delivers_a_message_over_several_descriptors() {
    let memory = memory();
    let mock = mock(&memory);
    let table = [
        descriptor(BUFFERS, 3, WRITE | NEXT, 1),
        descriptor(BUFFERS + 0x100, 0, WRITE | NEXT, 2),
        descriptor(BUFFERS + 0x200, 100, WRITE, 0),
    ];
    publish(&mock, 0, &table);
    let mut queue = open(&memory, &mock);
    let reserved = queue.reserve(&memory).unwrap().unwrap();
    assert!(queue.deliver(&memory, reserved, b"message").unwrap());
    let mut head = [0; 3];
    let mut tail = [0; 4];
    memory.read_slice(&mut head, GuestAddress(BUFFERS)).unwrap();
    memory
        .read_slice(&mut tail, GuestAddress(BUFFERS + 0x200))
        .unwrap();
    assert_eq!((&head, &tail), (b"mes", b"sage"));
    let used = mock.used().ring().ref_at(0).unwrap().load();
    assert_eq!((used.id(), used.len()), (0, 7));
    assert_eq!(mock.used().idx().load(), 1);
}

/// Its pages may have to be translated one by one.
#[test]
fn looks_at_no_more_of_a_buffer_than_a_message_needs() {
    let range = (GuestAddress(0x1000), 2 * LARGEST_MESSAGE);
    let memory = GuestMemoryMmap::from_ranges(&[range]).unwrap();
    let mock = mock(&memory);
    let table = [
        descriptor(BUFFERS, 3, WRITE | NEXT, 1),
        descriptor(BUFFERS + 0x100, LARGEST_MESSAGE as u32, WRITE | NEXT, 2),
        descriptor(u64::MAX, 0x1000, WRITE, 0),
    ];
    publish(&mock, 0, &table);
    let mut queue = open(&memory, &mock);
    let reserved = queue.reserve(&memory).unwrap().unwrap();
    assert_eq!(reserved.capacity(), LARGEST_MESSAGE);
    assert!(queue.deliver(&memory, reserved, b"message").unwrap());
}

#[test]
fn takes_a_message_and_gives_the_buffer_back() {
    let memory = memory();
    let mock = mock(&memory);
    memory.write_slice(b"hello", GuestAddress(BUFFERS)).unwrap();
    let table = [
        descriptor(BUFFERS, 2, NEXT, 1),
        descriptor(BUFFERS + 2, 3, 0, 0),
    ];
    publish(&mock, 0, &table);
    let mut queue = open(&memory, &mock);
    let mut message = Vec::new();
    assert_eq!(queue.take(&memory, 5, &mut message).unwrap(), Some(true));
    assert_eq!(message, b"hello");
    assert_eq!(mock.used().idx().load(), 1);
    assert_eq!(queue.take(&memory, 5, &mut message).unwrap(), None);
}

#[test]
fn refuses_a_message_larger_than_the_limit_before_reading_it() {
    let memory = memory();
    let mock = mock(&memory);
    publish(
        &mock,
        0,
        &[
            descriptor(BUFFERS, 0x1000, NEXT, 1),
            descriptor(BUFFERS, 1, 0, 0),
        ],
    );
    let mut message = Vec::new();
    let taken = open(&memory, &mock).take(&memory, 0x1000, &mut message);
    let rule = rule(taken.unwrap_err());
    assert!(matches!(rule, QueueFault::MessageTooLarge), "{rule}");
    assert_eq!(message.capacity(), 0);
}

#[test]
fn refuses_a_buffer_that_is_too_small() {
    let memory = memory();
    let mock = mock(&memory);
    publish(&mock, 0, &[descriptor(BUFFERS, 4, WRITE, 0)]);
    let mut queue = open(&memory, &mock);
    let reserved = queue.reserve(&memory).unwrap().unwrap();
    let rule = rule(queue.deliver(&memory, reserved, b"hello").unwrap_err());
    assert!(matches!(rule, QueueFault::BufferTooSmall(5)), "{rule}");
}

#[test]
fn refuses_the_wrong_direction() {
    let rule = reserve_error(&[descriptor(BUFFERS, 4, 0, 0)], 0);
    assert!(matches!(rule, QueueFault::Direction), "{rule}");
}

#[test]
fn refuses_a_mixed_chain() {
    let table = [
        descriptor(BUFFERS, 4, WRITE | NEXT, 1),
        descriptor(BUFFERS, 4, 0, 0),
    ];
    let rule = reserve_error(&table, 0);
    assert!(matches!(rule, QueueFault::Direction), "{rule}");
}

#[test]
fn refuses_a_loop() {
    let rule = reserve_error(&[descriptor(BUFFERS, 4, WRITE | NEXT, 0)], 0);
    assert!(matches!(rule, QueueFault::NoEnd), "{rule}");
}

#[test]
fn refuses_a_next_index_outside_the_table() {
    let rule = reserve_error(&[descriptor(BUFFERS, 4, WRITE | NEXT, 8)], 0);
    assert!(matches!(rule, QueueFault::NoEnd), "{rule}");
}

#[test]
fn refuses_a_head_outside_the_table() {
    let rule = reserve_error(&[], 8);
    assert!(matches!(rule, QueueFault::NoDescriptor), "{rule}");
}

#[test]
fn refuses_memory_that_is_not_there() {
    for (address, length) in [
        (0, 4),
        (BUFFERS, u32::MAX),
        (u64::MAX - 1, 4),
        (0x2_0ffe, 4),
    ] {
        let rule = reserve_error(&[descriptor(address, length, WRITE, 0)], 0);
        let told = matches!(rule, QueueFault::BufferOutside);
        assert!(told, "{address:#x}: {rule}");
    }
}

#[test]
fn refuses_an_indirect_table_in_an_indirect_table() {
    let memory = memory();
    let mock = mock(&memory);
    let inner: [u8; 16] = {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&BUFFERS.to_le_bytes());
        bytes[8..12].copy_from_slice(&16u32.to_le_bytes());
        bytes[12..14].copy_from_slice(&INDIRECT.to_le_bytes());
        bytes
    };
    memory.write_slice(&inner, GuestAddress(BUFFERS)).unwrap();
    publish(&mock, 0, &[descriptor(BUFFERS, 16, INDIRECT, 0)]);
    let rule = rule(open(&memory, &mock).reserve(&memory).unwrap_err());
    assert!(matches!(rule, QueueFault::NoDescriptor), "{rule}");
}

#[test]
fn accepts_an_indirect_table() {
    let memory = memory();
    let mock = mock(&memory);
    let mut inner = [0; 16];
    inner[..8].copy_from_slice(&(BUFFERS + 0x100).to_le_bytes());
    inner[8..12].copy_from_slice(&4096u32.to_le_bytes());
    inner[12..14].copy_from_slice(&WRITE.to_le_bytes());
    memory.write_slice(&inner, GuestAddress(BUFFERS)).unwrap();
    publish(&mock, 0, &[descriptor(BUFFERS, 16, INDIRECT, 0)]);
    assert!(open(&memory, &mock).reserve(&memory).unwrap().is_some());
}

#[test]
fn refuses_an_available_index_that_jumps() {
    let memory = memory();
    let mock = mock(&memory);
    mock.avail().idx().store(9);
    let rule = rule(open(&memory, &mock).reserve(&memory).unwrap_err());
    let jumps = virtio_queue::Error::InvalidAvailRingIndex;
    let QueueFault::Avail(error) = &rule else {
        panic!("{rule}");
    };
    assert_eq!(error.to_string(), jumps.to_string());
}

#[test]
fn refuses_a_chain_longer_than_announced() {
    let memory = memory();
    let mut list = Vec::new();
    for n in 0..=MAX_CHAIN {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&BUFFERS.to_le_bytes());
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        let flags = if n == MAX_CHAIN { WRITE } else { WRITE | NEXT };
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&(n + 1).to_le_bytes());
        list.extend_from_slice(&bytes);
    }
    memory.write_slice(&list, GuestAddress(BUFFERS)).unwrap();
    let mock = mock(&memory);
    publish(
        &mock,
        0,
        &[descriptor(BUFFERS, list.len() as u32, INDIRECT, 0)],
    );
    let rule = rule(open(&memory, &mock).reserve(&memory).unwrap_err());
    assert!(matches!(rule, QueueFault::ChainTooLong), "{rule}");
}

#[test]
fn refuses_rings_that_are_misaligned_or_not_in_memory() {
    let memory = memory();
    let good = QueueSetup {
        size: 8,
        descriptors: 0x1000,
        avail: 0x2000,
        used: 0x3000,
    };
    assert!(MessageQueue::open(0, 8, good, true, &memory).is_ok());
    type Told = fn(&QueueFault) -> bool;
    let size: Told = |rule| matches!(rule, QueueFault::Size);
    let misaligned: Told = |rule| matches!(rule, QueueFault::Misaligned);
    let outside: Told = |rule| matches!(rule, QueueFault::RingOutside);
    let places = |descriptors, avail, used| QueueSetup {
        descriptors,
        avail,
        used,
        ..good
    };
    let bad = [
        (QueueSetup { size: 0, ..good }, size),
        (QueueSetup { size: 16, ..good }, size),
        (QueueSetup { size: 3, ..good }, size),
        (places(0x1008, 0x2000, 0x3000), misaligned),
        (places(0x1000, 0x2001, 0x3000), misaligned),
        (places(0x1000, 0x2000, 0x3002), misaligned),
        (places(0x1000, 0, 0x3000), outside),
        (places(0x1000, 0x2000, u64::MAX - 3), outside),
        (places(0x10_0000, 0x2000, 0x3000), outside),
    ];
    for (rings, told) in bad {
        let rule = rule(MessageQueue::open(0, 8, rings, true, &memory).unwrap_err());
        assert!(told(&rule), "{rings:?}: {rule}");
    }
}

#[test]
fn a_queue_that_is_not_enabled_has_nothing() {
    let memory = memory();
    let mut queues = Queues::default();
    assert!(queues.reserve(0, &memory).unwrap().is_none());
    assert!(queues
        .take(1, &memory, 4096, &mut Vec::new())
        .unwrap()
        .is_none());
    assert!(queues.reserve(99, &memory).unwrap().is_none());
    let lost = Reserved {
        head: 0,
        pieces: Vec::new(),
    };
    let fault = rule(queues.deliver(0, &memory, lost, b"message").unwrap_err());
    assert!(matches!(fault, QueueFault::Gone), "{fault}");
}

/// A translation may go away between two accesses.
#[test]
fn memory_that_goes_while_a_buffer_is_reserved_is_the_guests_fault() {
    let whole = memory();
    let mock = mock(&whole);
    publish(&mock, 0, &[descriptor(BUFFERS, 8, WRITE, 0)]);
    let only = |start, size| GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(start), size)]);
    let deliver = |memory: &GuestMemoryMmap| {
        let mut queue = open(&whole, &mock);
        let reserved = queue.reserve(&whole).unwrap().unwrap();
        rule(queue.deliver(memory, reserved, b"message").unwrap_err())
    };
    let rings = deliver(&only(0x1000, 0x1000).unwrap());
    assert!(matches!(rings, QueueFault::Buffer(_)), "{rings}");
    let buffers = deliver(&only(BUFFERS, 0x1000).unwrap());
    assert!(matches!(buffers, QueueFault::Ring(_)), "{buffers}");
}
