// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;
use crate::window::Window;

fn queue(direction: Direction, event_idx: bool) -> (Virtqueue, Window) {
    let memory = Window::allocate(QUEUE_LEN).unwrap();
    let dma = DmaMemory {
        memory: memory.clone(),
        address: 0x1000,
    };
    let mut queue = Virtqueue::new(0, direction, dma);
    assert_eq!(queue.reset(64, event_idx).unwrap().size, QUEUE_SIZE);
    (queue, memory)
}

fn use_buffer(memory: &Window, slot: u64, id: u32, len: u32, index: u16) {
    memory.store_le(USED + 4 + 8 * slot, id).unwrap();
    memory.store_le(USED + 8 + 8 * slot, len).unwrap();
    memory.store_le(USED + 2, index).unwrap();
}

#[test]
fn takes_a_power_of_two_as_size() {
    let (mut queue, _) = queue(Direction::DeviceReadable, false);
    assert_eq!(queue.reset(15, false).unwrap().size, 8);
    assert_eq!(queue.reset(1, false).unwrap().size, 1);
    assert_eq!(
        queue.reset(0, false).err(),
        Some(Error::BadQueue { queue: 0 })
    );
}

#[test]
fn receives_in_order_and_gives_buffers_back() {
    let (mut queue, memory) = queue(Direction::DeviceWritable, false);
    queue.fill().unwrap();
    memory.write(Virtqueue::buffer(5), b"second").unwrap();
    memory.write(Virtqueue::buffer(3), b"first").unwrap();
    use_buffer(&memory, 0, 3, 5, 1);
    use_buffer(&memory, 1, 5, 6, 2);
    let mut message = Vec::new();
    assert!(queue.receive(&mut message).unwrap());
    assert_eq!(message, b"first");
    assert!(queue.receive(&mut message).unwrap());
    assert_eq!(message, b"second");
    assert!(!queue.receive(&mut message).unwrap());
    assert_eq!(memory.load_le::<u16>(AVAILABLE + 2).unwrap(), 18);
    assert_eq!(memory.load_le::<u16>(AVAILABLE + 4 + 2).unwrap(), 5);
}

#[test]
fn rejects_a_used_index_that_jumps() {
    let (mut queue, memory) = queue(Direction::DeviceWritable, false);
    queue.fill().unwrap();
    for index in [QUEUE_SIZE + 1, 0x8000, u16::MAX] {
        memory.store_le(USED + 2, index).unwrap();
        let result = queue.receive(&mut Vec::new());
        assert_eq!(result, Err(Error::UsedIndex { queue: 0, index }));
    }
}

#[test]
fn rejects_used_ids_that_were_not_available() {
    let (mut queue, memory) = queue(Direction::DeviceReadable, false);
    assert!(queue.send(b"message").unwrap());
    for id in [1, u32::from(QUEUE_SIZE), 0x1_0000, u32::MAX] {
        use_buffer(&memory, 0, id, 0, 1);
        let result = queue.send(b"message");
        assert_eq!(result, Err(Error::UsedId { queue: 0, id }));
    }
    // The same one twice.
    use_buffer(&memory, 0, 0, 0, 1);
    assert!(queue.send(b"a").unwrap() && queue.send(b"b").unwrap());
    use_buffer(&memory, 1, 1, 0, 3);
    use_buffer(&memory, 2, 1, 0, 3);
    let result = queue.send(b"message");
    assert_eq!(result, Err(Error::UsedId { queue: 0, id: 1 }));
}

#[test]
fn rejects_a_used_length_beyond_the_buffer() {
    let (mut queue, memory) = queue(Direction::DeviceWritable, false);
    queue.fill().unwrap();
    use_buffer(&memory, 0, 0, BUFFER_LEN + 1, 1);
    let error = Error::UsedLen {
        queue: 0,
        len: BUFFER_LEN + 1,
    };
    assert_eq!(queue.receive(&mut Vec::new()), Err(error));
}

#[test]
fn does_not_believe_descriptors_that_the_device_changed() {
    let (mut queue, memory) = queue(Direction::DeviceWritable, false);
    queue.fill().unwrap();
    memory.write(Virtqueue::buffer(0), b"good").unwrap();
    for offset in (0..1024).step_by(8) {
        memory.store_le(offset, u64::MAX).unwrap();
    }
    use_buffer(&memory, 0, 0, 4, 1);
    let mut message = Vec::new();
    assert!(queue.receive(&mut message).unwrap());
    assert_eq!(message, b"good");
    // The descriptor that went back is whole again.
    assert_eq!(memory.load_le::<u32>(8).unwrap(), BUFFER_LEN);
}

#[test]
fn says_when_it_is_full_and_asks_to_be_told() {
    let (mut queue, memory) = queue(Direction::DeviceReadable, false);
    assert_eq!(memory.load_le::<u16>(AVAILABLE).unwrap(), NO_INTERRUPT);
    for _ in 0..QUEUE_SIZE {
        assert!(queue.send(b"message").unwrap());
    }
    assert!(!queue.send(b"message").unwrap());
    assert_eq!(memory.load_le::<u16>(AVAILABLE).unwrap(), 0);
    use_buffer(&memory, 0, 7, 0, 1);
    assert!(queue.send(b"other").unwrap());
    assert_eq!(memory.load_le::<u16>(AVAILABLE).unwrap(), NO_INTERRUPT);
    let mut data = [0; 5];
    memory.read(Virtqueue::buffer(7), &mut data).unwrap();
    assert_eq!(&data, b"other");
}

#[test]
fn rejects_messages_larger_than_a_buffer() {
    let (mut queue, _) = queue(Direction::DeviceReadable, false);
    let result = queue.send(&[0; BUFFER_LEN as usize + 1]);
    assert_eq!(result, Err(Error::MessageTooLarge(4097)));
}

#[test]
fn notifies_as_the_flags_say() {
    let (mut queue, memory) = queue(Direction::DeviceReadable, false);
    assert!(!queue.needs_notification().unwrap());
    queue.send(b"message").unwrap();
    assert!(queue.needs_notification().unwrap());
    assert!(!queue.needs_notification().unwrap());
    memory.store_le(USED, NO_NOTIFY).unwrap();
    queue.send(b"message").unwrap();
    assert!(!queue.needs_notification().unwrap());
}

#[test]
fn notifies_as_the_event_index_says() {
    let (mut queue, memory) = queue(Direction::DeviceReadable, true);
    let avail_event = USED + 4 + 8 * u64::from(QUEUE_SIZE);
    queue.send(b"message").unwrap();
    assert!(queue.needs_notification().unwrap());
    queue.send(b"message").unwrap();
    assert!(!queue.needs_notification().unwrap());
    memory.store_le(avail_event, 2u16).unwrap();
    queue.send(b"message").unwrap();
    assert!(queue.needs_notification().unwrap());
}

#[test]
fn event_indices_wrap_around() {
    assert!(need_event(0xffff, 0, 0xffff));
    assert!(!need_event(0, 0, 0xffff));
    assert!(need_event(0, 1, 0));
    assert!(!need_event(1, 1, 0));
    assert!(need_event(5, 10, 2));
    assert!(!need_event(10, 10, 2));
}

#[test]
fn survives_used_rings_full_of_noise() {
    let mut noise = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    for _ in 0..300 {
        let (mut inbound, memory) = queue(Direction::DeviceWritable, true);
        inbound.fill().unwrap();
        for offset in (0..RING_LEN as u64).step_by(8) {
            memory
                .store_le(offset, next() & 0x0000_001f_0000_001f)
                .unwrap();
        }
        memory.store_le(USED + 2, (next() % 18) as u16).unwrap();
        let mut message = Vec::new();
        while let Ok(true) = inbound.receive(&mut message) {
            assert!(message.len() <= BUFFER_LEN as usize);
            inbound.needs_notification().unwrap();
        }
    }
}
