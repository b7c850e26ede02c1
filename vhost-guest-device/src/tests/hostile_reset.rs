// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A guest that resets, stops and reprograms the device at the worst moment.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vhost_guest_msg::ProtocolFeatures;
use vhost_guest_vmm_traits::test_utils::Call;
use vm_memory::{Bytes, GuestAddress};

use super::rig::{self, event, memory_file, message, place, words, Frontend, Rig};
use super::rig::{NEEDS_RESET, QUEUE_SELECT, QUEUE_SIZE};
use super::siege::{assert_closed, assert_nothing_connected, signalled, Siege};
use super::siege::{NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use crate::connection::carried;
use crate::guest::pci::bars::{COMMON, DEVICE, NOTIFY};
use crate::guest::virtio::feature;

const STATUS: u64 = COMMON + 0x14;
const QUEUE_ENABLE: u64 = COMMON + 0x1C;
const QUEUE_RESET: u64 = COMMON + 0x3A;

/// What a frontend has given the device.
struct Given {
    eventfds: Vec<OwnedFd>,
    files: Vec<File>,
    channel: UnixStream,
}

/// Gives the device one of everything.
fn give(rig: &mut Rig, frontend: &mut Frontend) -> Given {
    let file = memory_file(SIZE);
    let table = words(&[1, 0, SIZE, USER, 0]);
    frontend.send(&message(5, PLAIN, &table), &[file.as_fd()]);
    let eventfds = vec![event(), event(), event()];
    for (code, eventfd) in [12, 13, 14].into_iter().zip(&eventfds) {
        frontend.send(&message(code, PLAIN, &words(&[0])), &[eventfd.as_fd()]);
    }
    let (channel, theirs) = UnixStream::pair().unwrap();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    for _ in 0..5 {
        rig.receive(0).expect("a request");
    }
    Given {
        eventfds,
        files: vec![file],
        channel,
    }
}

/// Moments at which a reset comes unexpected.
type Moment = (&'static str, fn(&mut Rig, &mut Frontend, &mut Given));

const MOMENTS: [Moment; 8] = [
    ("idle", |_, _, _| {}),
    ("a header is half read", |rig, frontend, given| {
        let eventfd = event();
        frontend.send(&[12, 0, 0], &[eventfd.as_fd()]);
        given.eventfds.push(eventfd);
        rig.run();
    }),
    ("a payload is half read", |rig, frontend, given| {
        let eventfd = event();
        let kick = message(12, PLAIN, &words(&[1]));
        frontend.send(&kick[..15], &[eventfd.as_fd()]);
        given.eventfds.push(eventfd);
        rig.run();
    }),
    ("a change of memory is pending", |rig, frontend, given| {
        let file = memory_file(SIZE);
        let table = words(&[1, 0, SIZE, USER, 0]);
        frontend.send(&message(5, NEED_REPLY, &table), &[file.as_fd()]);
        given.files.push(file);
        rig.receive(0).expect("the second table");
        assert_eq!(rig.vmm.mappings().len(), 2);
    }),
    ("a request is held", |rig, frontend, given| {
        for _ in 0..3 {
            let file = memory_file(SIZE);
            let table = words(&[1, 0, SIZE, USER, 0]);
            frontend.send(&message(5, NEED_REPLY, &table), &[file.as_fd()]);
            given.files.push(file);
        }
        rig.receive(0).expect("the second table");
        let server = rig.device.server();
        assert!(server.connection.as_ref().unwrap().held.is_some());
    }),
    (
        "the guest has answered, nobody has looked",
        |rig, frontend, _| {
            frontend.send(&message(1, PLAIN, &[]), &[]);
            rig.receive(0).expect("a request");
            let buffer = place(1).buffers;
            let reply = message(1, REPLY, &words(&[0]));
            rig.memory
                .write_slice(&reply, GuestAddress(buffer))
                .unwrap();
            rig.publish(1, buffer, reply.len() as u32, 0, 0);
        },
    ),
    ("a backend request is open", |rig, _, _| {
        rig.send(3, &message(2, NEED_REPLY, &[]));
    }),
    ("a reply is on its way to the guest", |rig, _, given| {
        rig.send(3, &message(2, NEED_REPLY, &[]));
        let reply = message(2, REPLY, &words(&[0]));
        std::io::Write::write_all(&mut given.channel, &reply[..13]).unwrap();
        rig.run();
    }),
];

/// Ways to end it all, and whether the driver has to reset afterwards.
type End = (&'static str, fn(&mut Rig), bool);

const ENDS: [End; 6] = [
    ("device reset", |rig| rig.write(STATUS, &[0]), false),
    (
        "function level reset",
        |rig| rig.config_write(0xE4, &[1]),
        false,
    ),
    (
        "BACKEND_UP cleared",
        |rig| rig.write(DEVICE + 34, &[0]),
        true,
    ),
    ("revoked", |rig| rig.device.shared.revoke(), true),
    (
        "memory without pages",
        |rig| assert!(rig.device.shared.memory_fault(None)),
        true,
    ),
    (
        "truncated",
        |rig| assert!(!rig.device.shared.memory_fault(None)),
        true,
    ),
];

#[test]
fn a_reset_at_any_moment_takes_everything() {
    for (end, finish, needs_reset) in ENDS {
        for (moment, prepare) in MOMENTS {
            let what = format!("{end} while {moment}");
            let mut siege = Siege::new();
            let mut frontend = siege.frontend(carried());
            let mut given = give(&mut siege.rig, &mut frontend);
            prepare(&mut siege.rig, &mut frontend, &mut given);
            if end == "truncated" {
                rustix::fs::ftruncate(&given.files[0], 0).unwrap();
                assert!(siege.rig.device.shared.memory_fault(None), "{what}");
            } else {
                finish(&mut siege.rig);
            }
            siege.rig.run();
            assert!(frontend.is_disconnected(), "{what}");
            assert_nothing_connected(&siege.rig, &what);
            // A function level reset has taken the registers away, too.
            siege.rig.config_write(0x04, &6u16.to_le_bytes());
            let status = siege.rig.status();
            assert_eq!(status & NEEDS_RESET != 0, needs_reset, "{what}");
            assert_eq!(siege.rig.up(), 0, "{what}");
            siege.rig.write(STATUS, &[0]);
            siege.rig.run();
            assert_eq!(siege.rig.status(), 0, "{what}");
            assert_eq!(siege.rig.vmm.mappings(), [], "{what}");
            assert_eq!(siege.rig.vmm.armed(), [], "{what}");
            for eventfd in given.eventfds {
                assert_closed(eventfd, &what);
            }
            for file in given.files {
                assert_closed(file, &what);
            }
            let mut channel = Frontend {
                stream: given.channel,
            };
            assert!(channel.is_disconnected(), "{what}");
            siege.rig.initialise();
            siege.serves_the_next();
        }
    }
}

#[test]
fn a_message_is_handled_exactly_once_whenever_the_buffer_comes() {
    let mut siege = Siege::new();
    siege.rig.posts[0] = 0;
    let mut frontend = siege.frontend(ProtocolFeatures::empty());
    let eventfd = event();
    frontend.send(&message(13, PLAIN, &words(&[0])), &[eventfd.as_fd()]);
    for _ in 0..5 {
        siege.rig.notify(0);
        siege.rig.run();
    }
    assert_eq!(siege.rig.vmm.take_calls(), []);
    siege.rig.post(0);
    assert_eq!(siege.rig.receive(0), Some(message(13, PLAIN, &words(&[0]))));
    let calls = siege.rig.vmm.take_calls();
    assert!(matches!(calls[..], [Call::Register { .. }]), "{calls:?}");
    assert_eq!(siege.rig.receive(0), None);
    assert!(!siege.rig.needs_reset());
    drop(frontend);
    assert!(siege.rig.needs_reset());
    assert_closed(eventfd, "a call");
}

/// Resets a queue, as drivers do.
fn reset_queue(rig: &mut Rig, queue: u16) {
    rig.write(QUEUE_SELECT, &queue.to_le_bytes());
    rig.write(QUEUE_RESET, &1u16.to_le_bytes());
    assert_eq!(
        rig.read::<2>(QUEUE_RESET),
        [1, 0],
        "done without the server"
    );
    rig.run();
    assert_eq!(rig.read::<2>(QUEUE_RESET), [0, 0], "the reset is not done");
    assert_eq!(rig.read::<2>(QUEUE_ENABLE), [0, 0]);
}

#[test]
fn a_reset_of_a_queue_keeps_its_messages() {
    let mut siege = Siege::new();
    siege.rig.features |= feature::RING_RESET;
    let mut frontend = siege.frontend(carried());
    let rig = &mut siege.rig;
    let mut given = give(rig, &mut frontend);
    let mut channel = Frontend {
        stream: given.channel.try_clone().unwrap(),
    };
    channel.stream.set_nonblocking(true).unwrap();
    for round in 0..3 {
        // Requests wait in the socket, replies in the guest.
        reset_queue(rig, 0);
        frontend.send(&message(1, PLAIN, &[]), &[]);
        rig.run();
        rig.enable(0);
        rig.run();
        for _ in 0..4 {
            rig.post(0);
        }
        assert_eq!(rig.receive(0), Some(message(1, PLAIN, &[])), "{round}");
        reset_queue(rig, 1);
        rig.enable(1);
        rig.reply(1, &words(&[round]));
        let reply = message(1, REPLY, &words(&[round]));
        assert_eq!(frontend.receive(), Some(reply));
        reset_queue(rig, 3);
        rig.enable(3);
        rig.send(3, &message(2, NEED_REPLY, &[]));
        assert_eq!(channel.receive(), Some(message(2, NEED_REPLY, &[])));
        // The reply arrives while its queue is away; half of it before.
        let reply = message(2, REPLY, &words(&[round]));
        std::io::Write::write_all(&mut given.channel, &reply[..14]).unwrap();
        rig.run();
        reset_queue(rig, 2);
        std::io::Write::write_all(&mut given.channel, &reply[14..]).unwrap();
        rig.run();
        rig.enable(2);
        rig.post(2);
        assert_eq!(rig.receive(2), Some(reply), "{round}");
    }
    assert!(!rig.needs_reset());
    // Not all of them come back: the device waits, and a hang-up still counts.
    for queue in 0..4 {
        reset_queue(rig, queue);
    }
    frontend.send(&message(1, PLAIN, &[]), &[]);
    rig.run();
    drop(frontend);
    assert!(rig.needs_reset());
    siege.serves_the_next();
}

#[test]
fn without_ring_reset_a_queue_is_not_reset() {
    let (mut rig, mut frontend) = rig::connected();
    rig.write(QUEUE_SELECT, &0u16.to_le_bytes());
    rig.write(QUEUE_RESET, &1u16.to_le_bytes());
    assert_eq!(rig.read::<2>(QUEUE_ENABLE), [1, 0]);
    frontend.send(&message(3, PLAIN, &[]), &[]);
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
}

#[test]
fn no_queue_is_touched_without_bus_mastering() {
    let (mut rig, mut frontend) = rig::connected();
    rig.config_write(0x04, &2u16.to_le_bytes());
    let size = 8 << 20;
    let mut before = vec![0; size];
    rig.memory.read_slice(&mut before, GuestAddress(0)).unwrap();
    frontend.send(&message(1, PLAIN, &[]), &[]);
    for queue in 0..4 {
        rig.notify(queue);
    }
    rig.run();
    let mut after = vec![0; size];
    rig.memory.read_slice(&mut after, GuestAddress(0)).unwrap();
    assert!(before == after, "the device wrote to memory");
    assert_eq!(rig.vmm.armed(), []);
    rig.config_write(0x04, &6u16.to_le_bytes());
    assert_eq!(rig.receive(0), Some(message(1, PLAIN, &[])));
}

#[test]
fn queues_at_impossible_places_need_a_reset() {
    let mut siege = Siege::new();
    let outside = 8u64 << 20;
    for (register, address) in [
        (0x20, 0x10_0001),
        (0x28, 0x10_0001),
        (0x30, 0x10_0002),
        (0x20, outside),
        (0x28, outside),
        (0x30, outside),
        (0x20, outside - 16),
        (0x28, outside - 2),
        (0x30, outside - 4),
        (0x20, u64::MAX - 15),
        (0x28, u64::MAX - 1),
        (0x30, u64::MAX - 3),
    ] {
        for queue in 0..4u16 {
            let rig = &mut siege.rig;
            rig.write(STATUS, &[0]);
            rig.run();
            for status in [1, 3] {
                rig.write(STATUS, &[status]);
            }
            rig.write(COMMON + 8, &1u32.to_le_bytes());
            rig.write(COMMON + 12, &1u32.to_le_bytes());
            rig.write(STATUS, &[11]);
            rig.write(QUEUE_SELECT, &queue.to_le_bytes());
            for at in [0x20, 0x28, 0x30] {
                rig.write(COMMON + at, &0x10_0000u64.to_le_bytes());
            }
            rig.write(COMMON + register, &address.to_le_bytes());
            rig.write(QUEUE_ENABLE, &1u16.to_le_bytes());
            rig.write(STATUS, &[15]);
            rig.write(DEVICE + 34, &[1]);
            let _frontend = rig.connect();
            rig.run();
            let what = format!("queue {queue}, {register:#x} at {address:#x}");
            assert_ne!(rig.status() & NEEDS_RESET, 0, "{what}");
            assert_eq!(rig.up(), 0, "{what}");
            assert!(rig.device.server().connection.is_none(), "{what}");
        }
    }
    // Those that waited in vain are found out one after the other.
    siege.rig.start();
    siege.rig.backend_up();
    while siege.rig.status() & NEEDS_RESET != 0 {
        siege.rig.start();
        siege.rig.backend_up();
    }
    siege.serves_the_next();
}

#[test]
fn queues_may_come_after_driver_ok() {
    let mut rig = Rig::new();
    rig.initialise();
    rig.write(STATUS, &[0]);
    rig.run();
    for status in [1, 3] {
        rig.write(STATUS, &[status]);
    }
    rig.write(COMMON + 8, &1u32.to_le_bytes());
    rig.write(COMMON + 12, &1u32.to_le_bytes());
    rig.write(STATUS, &[11]);
    rig.write(STATUS, &[15]);
    rig.backend_up();
    let mut frontend = rig.connect();
    frontend.send(&message(3, PLAIN, &[]), &[]);
    for queue in 0..4 {
        rig.notify(queue);
    }
    rig.run();
    assert_eq!(rig.up(), 3);
    rig.enable(0);
    rig.post(0);
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
}

#[test]
fn nothing_but_a_reset_helps_a_device_that_needs_one() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let given = give(&mut siege.rig, &mut frontend);
    drop(frontend);
    let rig = &mut siege.rig;
    assert!(rig.needs_reset());
    let mapped = rig.vmm.mappings();
    let late = rig.connect();
    for width in [1, 2, 4, 8] {
        for pattern in [[0xFF; 8], [1; 8], [0x55; 8]] {
            for offset in (0..0x40)
                .chain(DEVICE..DEVICE + 40)
                .chain(NOTIFY..NOTIFY + 16)
            {
                // A zero there is the reset itself.
                rig.write(offset, &pattern[..width]);
                rig.run();
            }
        }
    }
    assert_ne!(rig.status() & NEEDS_RESET, 0);
    assert_eq!(rig.up(), 0);
    assert!(rig.device.server().connection.is_none());
    assert_eq!(rig.vmm.mappings(), mapped);
    assert!(!signalled(&given.eventfds[1]));
    drop(late);
    rig.write(STATUS, &[0]);
    rig.run();
    assert_eq!(rig.vmm.mappings(), []);
    rig.initialise();
    rig.backend_up();
    // The late one was waiting, and is gone.
    assert!(rig.needs_reset());
    siege.serves_the_next();
}

#[test]
fn a_guest_that_never_answers_holds_one_message() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let table = words(&[1, 0, SIZE, USER, 0]);
    let files = [SIZE; 12].map(memory_file);
    for file in &files {
        frontend.send(&message(5, PLAIN, &table), &[file.as_fd()]);
        siege.rig.run();
    }
    let mut seen = 0;
    while siege.rig.receive(0).is_some() {
        seen += 1;
    }
    assert_eq!(seen, 2, "one table, and one that waits for its proof");
    assert_eq!(siege.rig.vmm.mappings().len(), 2);
    let held = files.iter().filter(|file| {
        // Ours, the mapper's, the device's.
        super::siege::descriptors_of(file) > 1
    });
    assert!(held.count() <= 3);
    drop(frontend);
    assert!(siege.rig.needs_reset());
    siege.serves_the_next();
    for file in files {
        assert_closed(file, "a table");
    }
}

#[test]
fn the_queue_size_is_what_the_driver_chose() {
    // A guest that posts as many buffers as there are has all of them used.
    let (mut rig, mut frontend) = rig::connected();
    for _ in 0..QUEUE_SIZE / 2 {
        rig.post(0);
    }
    for _ in 0..QUEUE_SIZE {
        frontend.send(&message(3, PLAIN, &[]), &[]);
    }
    rig.run();
    assert_eq!(rig.used(0), QUEUE_SIZE);
    assert!(!rig.needs_reset());
}
