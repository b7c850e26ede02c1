// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A guest that breaks the rules of its queues and of their messages. It
//! gets `NEEDS_RESET`, its frontend is disconnected, and after a reset both
//! are served again.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vhost_guest_msg::{backend, ProtocolFeatures, Verdict, BACKEND_ROWS};
use vm_memory::{Bytes, GuestAddress};

use super::rig::{memory_file, message, place, words, Frontend, Rig, QUEUE_SIZE};
use super::siege::{sample, Siege, NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use crate::connection::carried;
use crate::guest::pci::bars::{COMMON, DEVICE};
use crate::guest::virtio::feature;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// What a guest does to one of its queues.
type Attack<'a> = (&'a str, &'a dyn Fn(&mut Rig, u16));

/// A frontend, and its end of the backend channel.
fn with_channel(siege: &mut Siege) -> (Frontend, Frontend) {
    let mut frontend = siege.frontend(carried());
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    siege.rig.receive(0).expect("the channel");
    (frontend, Frontend { stream: ours })
}

/// What the guest does costs it the frontend until it resets the device.
fn breaks(siege: &mut Siege, queue: u16, what: &str, attack: &dyn Fn(&mut Rig, u16)) {
    siege.rig.posts = [QUEUE_SIZE / 2, 0, QUEUE_SIZE / 2, 0];
    siege.rig.posts[usize::from(queue)] = 0;
    let what = format!("queue {queue}: {what}");
    let frontend = if queue == 0 {
        siege.frontend(ProtocolFeatures::empty())
    } else {
        with_channel(siege).0
    };
    siege.rig.run();
    attack(&mut siege.rig, queue);
    siege.assert_lost(frontend, &what);
}

/// The right direction for a queue, and the wrong one.
fn directions(queue: u16) -> (u16, u16) {
    if queue.is_multiple_of(2) {
        (WRITE, 0)
    } else {
        (0, WRITE)
    }
}

/// Writes a descriptor that is not made available.
fn write_descriptor(rig: &Rig, queue: u16, slot: u64, parts: (u64, u32, u16, u16)) {
    let at = place(queue).descriptors + 16 * slot;
    write_at(rig, at, parts);
}

fn write_at(rig: &Rig, at: u64, (address, length, flags, next): (u64, u32, u16, u16)) {
    rig.memory.write_obj(address, GuestAddress(at)).unwrap();
    rig.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
    rig.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    rig.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
}

/// Moves `avail_idx` by so much, and sets the element before it.
fn move_avail(rig: &mut Rig, queue: u16, by: u16, head: u16) {
    let avail = place(queue).avail;
    let now: u16 = rig.memory.read_obj(GuestAddress(avail + 2)).unwrap();
    let avail_idx = now.wrapping_add(by);
    let slot = u64::from(avail_idx.wrapping_sub(1) % QUEUE_SIZE);
    let element = GuestAddress(avail + 4 + 2 * slot);
    rig.memory.write_obj(head, element).unwrap();
    rig.memory
        .write_obj(avail_idx, GuestAddress(avail + 2))
        .unwrap();
    rig.notify(queue);
}

#[test]
fn chains_that_break_a_rule() {
    const OUTSIDE: u64 = 8 << 20;
    let mut siege = Siege::new();
    for queue in 0..4 {
        let buffer = place(queue).buffers;
        let (right, wrong) = directions(queue);
        let attacks: [Attack<'_>; 13] = [
            ("wrong direction", &|rig, queue| {
                rig.publish(queue, buffer, 64, wrong, 0);
            }),
            ("wrong direction behind the first", &|rig, queue| {
                write_descriptor(rig, queue, 7, (buffer, 64, wrong, 0));
                rig.publish(queue, buffer, 64, right | NEXT, 7);
            }),
            ("a loop", &|rig, queue| {
                rig.publish(queue, buffer, 1, right | NEXT, 0);
            }),
            ("a long loop", &|rig, queue| {
                for slot in 1..16 {
                    let next = (slot as u16 + 1) % 16;
                    write_descriptor(rig, queue, slot, (buffer, 1, right | NEXT, next));
                }
                rig.publish(queue, buffer, 1, right | NEXT, 1);
            }),
            ("a next that does not exist", &|rig, queue| {
                rig.publish(queue, buffer, 1, right | NEXT, QUEUE_SIZE);
            }),
            ("a head that does not exist", &|rig, queue| {
                move_avail(rig, queue, 1, QUEUE_SIZE);
            }),
            ("the last head there is", &|rig, queue| {
                move_avail(rig, queue, 1, u16::MAX);
            }),
            ("an index that jumps", &|rig, queue| {
                move_avail(rig, queue, QUEUE_SIZE + 1, 0);
            }),
            ("an index that goes back", &|rig, queue| {
                move_avail(rig, queue, u16::MAX, 0);
            }),
            ("a buffer outside of memory", &|rig, queue| {
                rig.publish(queue, OUTSIDE, 64, right, 0);
            }),
            ("a buffer that ends outside of memory", &|rig, queue| {
                rig.publish(queue, OUTSIDE - 32, 64, right, 0);
            }),
            ("a buffer at the end of the address space", &|rig, queue| {
                rig.publish(queue, u64::MAX - 31, 64, right, 0);
            }),
            ("a table of a part of a descriptor", &|rig, queue| {
                rig.publish(queue, buffer, 24, INDIRECT, 0);
            }),
        ];
        for (what, attack) in attacks {
            breaks(&mut siege, queue, what, attack);
        }
        if right == 0 {
            // A buffer for a message of the device's may be as large as can be.
            breaks(&mut siege, queue, "the largest buffer", &|rig, queue| {
                rig.publish(queue, 0, u32::MAX, right, 0);
            });
        }
    }
    siege.rig.posts = [8, 0, 8, 0];
    siege.serves_the_next();
}

#[test]
fn indirect_tables_that_break_a_rule() {
    let mut siege = Siege::new();
    siege.rig.features |= feature::INDIRECT_DESC;
    for queue in 0..4 {
        let table = place(queue).buffers + 0x8000;
        let (right, wrong) = directions(queue);
        let attacks: [Attack<'_>; 6] = [
            ("empty table", &|rig, queue| {
                rig.publish(queue, table, 0, INDIRECT, 0);
            }),
            ("table outside of memory", &|rig, queue| {
                rig.publish(queue, 1 << 40, 32, INDIRECT, 0);
            }),
            ("table in a table", &|rig, queue| {
                write_at(rig, table, (table, 16, INDIRECT, 0));
                rig.publish(queue, table, 16, INDIRECT, 0);
            }),
            ("loop in a table", &|rig, queue| {
                write_at(rig, table, (table, 1, right | NEXT, 0));
                rig.publish(queue, table, 16, INDIRECT, 0);
            }),
            ("next behind a table", &|rig, queue| {
                write_at(rig, table, (table, 1, right | NEXT, 1));
                rig.publish(queue, table, 16, INDIRECT, 0);
            }),
            ("wrong direction in a table", &|rig, queue| {
                write_at(rig, table, (table, 1, wrong, 0));
                rig.publish(queue, table, 16, INDIRECT, 0);
            }),
        ];
        for (what, attack) in attacks {
            breaks(&mut siege, queue, what, attack);
        }
    }
    siege.rig.posts = [8, 0, 8, 0];
    siege.serves_the_next();
}

#[test]
fn a_buffer_that_is_too_small_for_the_message() {
    let mut siege = Siege::new();
    for (length, lost) in [(0, true), (1, true), (11, true), (12, false)] {
        siege.rig.posts[0] = 0;
        let mut frontend = siege.frontend(ProtocolFeatures::empty());
        siege.rig.publish(0, place(0).buffers, length, WRITE, 0);
        siege.rig.run();
        assert!(!siege.rig.needs_reset());
        frontend.send(&message(3, PLAIN, &[]), &[]);
        assert_eq!(siege.rig.needs_reset(), lost, "{length} bytes");
    }
    // In pieces it fits, as many as were announced.
    for register in [12, 14] {
        let most = u16::from_le_bytes(siege.rig.read(DEVICE + register));
        assert_eq!(most, QUEUE_SIZE);
    }
    let mut frontend = siege.frontend(ProtocolFeatures::empty());
    let buffer = place(0).buffers;
    for slot in 1..15 {
        write_descriptor(
            &siege.rig,
            0,
            slot,
            (buffer + slot, 1, WRITE | NEXT, slot as u16 + 1),
        );
    }
    write_descriptor(&siege.rig, 0, 15, (buffer + 15, 1, WRITE, 0));
    siege.rig.publish(0, buffer, 1, WRITE | NEXT, 1);
    frontend.send(&message(3, PLAIN, &[]), &[]);
    assert_eq!(siege.rig.receive(0), Some(message(3, PLAIN, &[])));
}

#[test]
fn replies_that_break_a_rule() {
    let mut siege = Siege::new();
    let right = message(1, REPLY, &words(&[0]));
    let header = |size: u32| {
        let mut bytes = right.clone();
        bytes[8..12].copy_from_slice(&size.to_ne_bytes());
        bytes
    };
    let flags = |flags: u32| message(1, flags, &words(&[0]));
    let mut wrong = vec![
        vec![],
        right[..1].to_vec(),
        right[..11].to_vec(),
        right[..12].to_vec(),
        right[..19].to_vec(),
        [&right[..], &[0]].concat(),
        right.repeat(2),
        header(7),
        header(9),
        header(4084),
        header(u32::MAX),
        message(1, REPLY, &[]),
        message(1, REPLY, &[0; 7]),
        message(1, REPLY, &[0; 9]),
        message(1, REPLY, &[0; 4084]),
        message(1, REPLY, &[0; 4085]),
        flags(PLAIN),
        flags(NEED_REPLY),
        flags(0x4),
        flags(0x6),
        flags(0x7),
        flags(REPLY | 0x10),
        flags(REPLY | 0x8000_0000),
    ];
    for code in [0, 2, 3, 5, 15, 45, 46, 1 << 8, u32::MAX] {
        wrong.push(message(code, REPLY, &words(&[0])));
    }
    for asked in [false, true] {
        for reply in &wrong {
            let what = format!("asked: {asked}, {:x?}", reply.get(..12));
            let mut frontend = siege.frontend(carried());
            if asked {
                frontend.send(&message(1, PLAIN, &[]), &[]);
                siege.rig.receive(0).expect("a request");
            }
            siege.rig.send(1, reply);
            assert_eq!(frontend.receive().unwrap_or_default(), [], "{what}");
            siege.assert_lost(frontend, &what);
        }
    }
    // One answer is enough.
    let mut frontend = siege.frontend(carried());
    frontend.send(&message(1, PLAIN, &[]), &[]);
    siege.rig.receive(0).expect("a request");
    siege.rig.send(1, &right);
    assert_eq!(frontend.receive(), Some(right.clone()));
    siege.rig.send(1, &right);
    siege.assert_lost(frontend, "a second answer");
    siege.serves_the_next();
}

#[test]
fn answers_that_promise_more_than_the_device_carries() {
    let mut siege = Siege::new();
    // Of the memory slots it cannot know.
    for (code, most, fault) in [(17, 4, true), (36, 509, false)] {
        for (value, lost) in [
            (0, false),
            (most, false),
            (most + 1, fault),
            (u64::MAX, fault),
        ] {
            let mut frontend = siege.frontend(carried());
            frontend.send(&message(code, PLAIN, &[]), &[]);
            siege.rig.receive(0).expect("a request");
            siege.rig.reply(code, &words(&[value]));
            let what = format!("{value} to request {code}");
            assert_eq!(siege.rig.needs_reset(), lost, "{what}");
            let shown = value.min(most);
            let answer = (!lost).then(|| message(code, REPLY, &words(&[shown])));
            assert_eq!(
                frontend.receive().filter(|r| !r.is_empty()),
                answer,
                "{what}"
            );
        }
    }
}

#[test]
fn backend_requests_that_break_a_rule() {
    let mut siege = Siege::new();
    let right = message(backend::CONFIG_CHANGE_MSG, PLAIN, &[]);
    let mut wrong = vec![
        vec![],
        right[..11].to_vec(),
        [&right[..], &[0]].concat(),
        message(backend::CONFIG_CHANGE_MSG, REPLY, &[]),
        message(backend::CONFIG_CHANGE_MSG, 0, &[]),
        message(backend::CONFIG_CHANGE_MSG, PLAIN | 0x10, &[]),
        message(backend::CONFIG_CHANGE_MSG, PLAIN, &[0; 8]),
        message(backend::CONFIG_CHANGE_MSG, PLAIN, &[0; 4085]),
    ];
    for code in [0, 11, 12, 1002, u32::MAX] {
        wrong.push(message(code, PLAIN, &[]));
    }
    for row in BACKEND_ROWS {
        // One is answered unasked, and so refused with an answer.
        let exceptions = [backend::CONFIG_CHANGE_MSG, backend::SHARED_OBJECT_LOOKUP];
        if !exceptions.contains(&row.code) {
            wrong.push(message(row.code, PLAIN, &sample(row)));
        }
    }
    for request in wrong {
        let what = format!("{:x?}", request.get(..12));
        let (frontend, mut channel) = with_channel(&mut siege);
        siege.rig.send(3, &request);
        assert_eq!(channel.receive().unwrap_or_default(), [], "{what}");
        siege.assert_lost(frontend, &what);
        assert!(channel.is_disconnected());
    }
    siege.serves_the_next();
}

#[test]
fn refused_backend_requests_are_answered_even_when_the_channel_goes() {
    let mut siege = Siege::new();
    siege.rig.posts[2] = 0;
    let (mut frontend, channel) = with_channel(&mut siege);
    let refused = BACKEND_ROWS
        .iter()
        .filter(|row| matches!(row.verdict, Verdict::Refuse(_)) && row.code > 5);
    let mut expected = Vec::new();
    for row in refused {
        siege
            .rig
            .send(3, &message(row.code, NEED_REPLY, &sample(row)));
        expected.push(row.code);
        siege.rig.send(3, &message(2, NEED_REPLY, &[]));
        expected.push(2);
    }
    // There is no buffer for the answers yet, and nobody to give them soon.
    drop(channel);
    siege.rig.run();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    siege.rig.receive(0).expect("another channel");
    for _ in 0..QUEUE_SIZE {
        siege.rig.post(2);
    }
    for code in expected {
        let answer = message(code, REPLY, &words(&[1]));
        assert_eq!(siege.rig.receive(2), Some(answer), "request {code}");
    }
    assert_eq!(siege.rig.receive(2), None);
    assert!(!siege.rig.needs_reset());
}

#[test]
fn a_guest_that_asks_too_much_waits_for_the_frontends_answers() {
    let mut siege = Siege::new();
    let (_frontend, mut channel) = with_channel(&mut siege);
    let request = message(2, NEED_REPLY, &[]);
    let mut sent = 0u16;
    while siege.rig.used(3) == sent {
        siege.rig.send(3, &request);
        sent += 1;
        assert!(sent < 1000, "the device takes everything");
    }
    assert_eq!(sent - 1, 64, "as many as replies can be outstanding");
    assert_eq!(channel.receive().map(|bytes| bytes.len()), Some(64 * 12));
}

#[test]
fn a_refused_table_is_the_end_of_the_connection() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let files = [memory_file(SIZE), memory_file(SIZE)];
    let table = words(&[1, 0, SIZE, USER, 0]);
    for file in &files {
        frontend.send(&message(5, NEED_REPLY, &table), &[file.as_fd()]);
        siege.rig.run();
    }
    siege.rig.receive(0).expect("a table");
    siege.rig.reply(5, &words(&[0]));
    siege.rig.receive(0).expect("a second table");
    siege.rig.reply(5, &words(&[22]));
    assert!(siege.rig.needs_reset());
    // Nobody knows which one the guest uses: both stay until it has reset.
    assert_eq!(siege.rig.vmm.mappings().len(), 2);
    siege.rig.write(COMMON + 0x14, &[0]);
    siege.rig.run();
    assert_eq!(siege.rig.vmm.mappings(), []);
    siege.serves_the_next();
}
