// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Device state over the migration queues.

use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::pipe::pipe;
use vhost_guest_msg::{FrontendRequest, ProtocolFeatures};

use super::rig::{event, memory_file, message, words, Frontend, Rig};
use super::siege::{assert_closed, wait_for_turn};
use crate::guest::pci::bars::{COMMON, DEVICE};
use crate::guest::virtio::feature;

const SAVE: u64 = 0;
const LOAD: u64 = 1;
const CHUNK: u32 = 4096;

fn migrating() -> (Rig, Frontend) {
    let mut rig = Rig::with(|builder| builder.migration(CHUNK));
    rig.initialise();
    let frontend = reconnect(&mut rig);
    (rig, frontend)
}

fn reconnect(rig: &mut Rig) -> Frontend {
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    let features = ProtocolFeatures::DEVICE_STATE | ProtocolFeatures::REPLY_ACK;
    rig.negotiate(&mut frontend, features);
    frontend
}

/// `SET_DEVICE_STATE_FD`, which the guest accepts.
fn set(rig: &mut Rig, frontend: &mut Frontend, direction: u64, fd: BorrowedFd<'_>) {
    frontend.send(&message(42, 1, &words(&[direction])), &[fd]);
    let request = rig.request();
    assert!(matches!(
        request,
        Some(FrontendRequest::SetDeviceStateFd(_))
    ));
    rig.reply(42, &words(&[0]));
    // The guest has no descriptor to return, and need not say so.
    assert_eq!(frontend.receive(), Some(message(42, 5, &words(&[0x100]))));
}

/// Lets the device work until there is an answer.
fn until<T>(rig: &mut Rig, mut answer: impl FnMut(&mut Rig) -> Option<T>) -> T {
    loop {
        rig.run();
        if let Some(answer) = answer(rig) {
            return answer;
        }
        wait_for_turn(rig);
    }
}

/// The guest saves a buffer, which the device takes.
fn save(rig: &mut Rig, bytes: &[u8]) {
    let used = rig.used(4);
    rig.send(4, bytes);
    until(rig, |rig| (rig.used(4) != used).then_some(()));
}

/// The guest loads to the end.
fn load(rig: &mut Rig) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = until(rig, |rig| rig.receive(5));
        if bytes.is_empty() {
            return all;
        }
        assert!(bytes.len() <= CHUNK as usize);
        all.extend(bytes);
    }
}

/// `CHECK_DEVICE_STATE` arrives, and its reply.
fn check(rig: &mut Rig, frontend: &mut Frontend) {
    let request = until(rig, Rig::request);
    assert_eq!(request, FrontendRequest::CheckDeviceState);
    rig.reply(43, &words(&[0]));
    assert_eq!(frontend.receive(), Some(message(43, 5, &words(&[0]))));
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

/// The device's end and the frontend's, as a pipe and as a socket pair.
fn channels(direction: u64) -> [(OwnedFd, File); 2] {
    let (reader, writer) = pipe().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (device, frontend) = if direction == SAVE {
        (writer, reader)
    } else {
        (reader, writer)
    };
    let ours = OwnedFd::from(ours);
    [(device, frontend.into()), (theirs.into(), ours.into())]
}

#[test]
fn has_migration_queues_only_if_the_vmm_wants_them() {
    for (mut rig, queues, size) in [
        (Rig::new(), 4, 0),
        (Rig::with(|builder| builder.migration(CHUNK)), 6, CHUNK),
    ] {
        rig.initialise();
        assert_eq!(u16::from_le_bytes(rig.read(COMMON + 0x12)), queues);
        assert_eq!(u32::from_le_bytes(rig.read(DEVICE + 8)), size);
        rig.backend_up();
        let mut frontend = rig.connect();
        frontend.send(&message(15, 1, &[]), &[]);
        rig.request();
        rig.reply(15, &u64::MAX.to_le_bytes());
        let reply = frontend.receive().unwrap();
        let shown = u64::from_ne_bytes(reply[12..].try_into().unwrap());
        let state = ProtocolFeatures::DEVICE_STATE.bits();
        assert_eq!(shown & state != 0, size != 0);
    }
}

#[test]
fn saves_through_pipes_and_sockets() {
    for length in [1, 7, 4096] {
        for (fd, mut ours) in channels(SAVE) {
            let (mut rig, mut frontend) = migrating();
            set(&mut rig, &mut frontend, SAVE, fd.as_fd());
            drop(fd);
            let frontends_side = thread::spawn(move || {
                let mut saved = Vec::new();
                ours.read_to_end(&mut saved).unwrap();
                saved
            });
            let state = pattern(20 * length + 3);
            for chunk in state.chunks(length) {
                save(&mut rig, chunk);
            }
            save(&mut rig, &[]);
            assert_eq!(frontends_side.join().unwrap(), state);
            frontend.send(&message(43, 1, &[]), &[]);
            check(&mut rig, &mut frontend);
        }
    }
}

#[test]
fn loads_through_pipes_and_sockets() {
    for buffer in [1, 1000, CHUNK] {
        for (fd, mut ours) in channels(LOAD) {
            let (mut rig, mut frontend) = migrating();
            // Buffers that come early stay unread.
            for _ in 0..8 {
                rig.post_sized(5, buffer);
            }
            rig.run();
            assert_eq!(rig.used(5), 0);
            set(&mut rig, &mut frontend, LOAD, fd.as_fd());
            let state = pattern(10_000);
            ours.write_all(&state).unwrap();
            drop(ours);
            drop(fd);
            assert_eq!(load(&mut rig), state);
            frontend.send(&message(43, 1, &[]), &[]);
            check(&mut rig, &mut frontend);
            let used = rig.used(5);
            rig.run();
            assert_eq!(rig.used(5), used, "the end came twice");
        }
    }
}

#[test]
fn checks_a_load_after_its_end_has_arrived() {
    let (mut rig, mut frontend) = migrating();
    let [(fd, mut ours), _] = channels(LOAD);
    set(&mut rig, &mut frontend, LOAD, fd.as_fd());
    ours.write_all(b"state").unwrap();
    drop(ours);
    frontend.send(&message(43, 1, &[]), &[]);
    assert_eq!(rig.request(), None);
    rig.post(5);
    assert_eq!(until(&mut rig, |rig| rig.receive(5)), b"state");
    assert_eq!(load(&mut rig), []);
    check(&mut rig, &mut frontend);
}

#[test]
fn checks_a_save_after_its_channel_is_closed() {
    let (mut rig, mut frontend) = migrating();
    let [(fd, ours), _] = channels(SAVE);
    set(&mut rig, &mut frontend, SAVE, fd.as_fd());
    frontend.send(&message(43, 1, &[]), &[]);
    assert_eq!(rig.request(), None);
    save(&mut rig, b"state");
    assert_eq!(rig.request(), None);
    save(&mut rig, &[]);
    check(&mut rig, &mut frontend);
    assert_closed(&fd, "the channel");
    drop(ours);
}

#[test]
fn an_early_close_does_not_stop_the_guest() {
    for (fd, ours) in channels(SAVE) {
        let (mut rig, mut frontend) = migrating();
        set(&mut rig, &mut frontend, SAVE, fd.as_fd());
        drop(fd);
        drop(ours);
        for _ in 0..40 {
            save(&mut rig, &[1; 4096]);
        }
        save(&mut rig, &[]);
        frontend.send(&message(43, 1, &[]), &[]);
        check(&mut rig, &mut frontend);
    }
}

#[test]
fn the_guest_may_refuse() {
    let (mut rig, mut frontend) = migrating();
    let [(fd, _ours), _] = channels(SAVE);
    frontend.send(&message(42, 1, &words(&[SAVE])), &[fd.as_fd()]);
    rig.request();
    rig.reply(42, &words(&[1]));
    assert_eq!(frontend.receive(), Some(message(42, 5, &words(&[0x101]))));
    assert_closed(&fd, "the channel");
    // Nothing is under way.
    frontend.send(&message(43, 1, &[]), &[]);
    check(&mut rig, &mut frontend);
}

#[test]
fn the_reply_says_that_no_descriptor_comes_with_it() {
    for (guest, frontend_sees) in [(0, 0x100), (0x100, 0x100), (1, 0x101), (0x1FF, 0x1FF)] {
        for direction in [SAVE, LOAD] {
            let (mut rig, mut frontend) = migrating();
            let [(fd, _ours), _] = channels(direction);
            frontend.send(&message(42, 1, &words(&[direction])), &[fd.as_fd()]);
            assert_eq!(rig.receive(0), Some(message(42, 1, &words(&[direction]))));
            rig.reply(42, &words(&[guest]));
            let (reply, fds) = frontend.receive_with_fds().unwrap();
            assert_eq!(reply, message(42, 5, &words(&[frontend_sees])));
            assert!(fds.is_empty());
        }
    }
}

#[test]
fn transfers_of_no_kind_are_refused() {
    for payload in [2, 3, u64::from(u32::MAX), 1 << 32, 1 << 63] {
        let (mut rig, mut frontend) = migrating();
        let [(fd, _ours), _] = channels(SAVE);
        frontend.send(&message(42, 9, &words(&[payload])), &[fd.as_fd()]);
        rig.run();
        let refusal = message(42, 5, &words(&[0x101]));
        assert_eq!(frontend.receive(), Some(refusal), "{payload:x}");
        assert_eq!(rig.receive(0), None);
        assert_closed(&fd, "the channel");
    }
}

#[test]
fn a_load_that_breaks_off_ends_like_one_that_is_complete() {
    // The state itself tells the guest which of the two it was.
    let (mut rig, mut frontend) = migrating();
    let [_, (fd, mut ours)] = channels(LOAD);
    set(&mut rig, &mut frontend, LOAD, fd.as_fd());
    ours.write_all(b"half").unwrap();
    // Closing with something unread resets the connection.
    let mut back = File::from(fd.try_clone().unwrap());
    back.write_all(b"?").unwrap();
    drop((ours, back));
    rig.post(5);
    rig.post(5);
    assert_eq!(load(&mut rig), b"half");
    frontend.send(&message(43, 1, &[]), &[]);
    check(&mut rig, &mut frontend);
    assert_closed(&fd, "the channel");
}

/// The verdict on a transfer is the guest's.
#[test]
fn a_failed_transfer_is_the_guests_to_tell() {
    let (mut rig, mut frontend) = migrating();
    let [(fd, ours), _] = channels(LOAD);
    set(&mut rig, &mut frontend, LOAD, fd.as_fd());
    drop((fd, ours));
    rig.post(5);
    assert_eq!(load(&mut rig), []);
    for value in [1, 22, u64::MAX] {
        frontend.send(&message(43, 1, &[]), &[]);
        let request = until(&mut rig, Rig::request);
        assert_eq!(request, FrontendRequest::CheckDeviceState);
        rig.reply(43, &words(&[value]));
        assert_eq!(frontend.receive(), Some(message(43, 5, &words(&[value]))));
    }
}

#[test]
fn refuses_what_is_neither_pipe_nor_socket() {
    let (mut rig, mut frontend) = migrating();
    let (reader, writer) = pipe().unwrap();
    let (datagram, _peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let others: [(u64, OwnedFd); 7] = [
        (SAVE, memory_file(4096).into()),
        (LOAD, File::open("/dev/zero").unwrap().into()),
        (LOAD, event()),
        (LOAD, datagram.into()),
        (SAVE, UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        (SAVE, reader),
        (LOAD, writer),
    ];
    for (direction, fd) in others {
        for flags in [0x1, 0x9] {
            let request = message(42, flags, &words(&[direction]));
            frontend.send(&request, &[fd.as_fd()]);
            assert_eq!(rig.receive(0), None);
            assert_eq!(frontend.receive(), Some(message(42, 5, &words(&[0x101]))));
        }
        assert_closed(&fd, "what was refused");
    }
    assert!(!rig.needs_reset());
}

#[test]
fn a_second_channel_takes_the_place_of_the_first() {
    let (mut rig, mut frontend) = migrating();
    let [(first, _jammed), (second, mut ours)] = channels(SAVE);
    set(&mut rig, &mut frontend, SAVE, first.as_fd());
    jam(&mut rig);
    set(&mut rig, &mut frontend, SAVE, second.as_fd());
    drop(second);
    assert_closed(&first, "the first channel");
    // What did not go to the first goes to the second; then it ends.
    save(&mut rig, b"second");
    save(&mut rig, &[]);
    // Behind the two that had to wait: nobody gives the device turns below.
    until(&mut rig, |rig| (rig.used(4) == 16 + 2 + 2).then_some(()));
    let mut saved = Vec::new();
    ours.read_to_end(&mut saved).unwrap();
    assert!(saved.ends_with(b"second"));
}

/// The guest saves more than a pipe holds that nobody reads.
fn jam(rig: &mut Rig) {
    for _ in 0..16 {
        save(rig, &[1; 4096]);
    }
    // The thread has one more in its hand, and one waits in the queue.
    rig.send(4, &[1; 4096]);
    rig.send(4, &[1; 4096]);
}

#[test]
fn a_loss_or_a_reset_in_the_middle_waits_for_nobody() {
    for direction in [SAVE, LOAD] {
        for loss in [true, false] {
            for (fd, ours) in channels(direction) {
                let (mut rig, mut frontend) = migrating();
                set(&mut rig, &mut frontend, direction, fd.as_fd());
                if direction == SAVE {
                    save(&mut rig, &[1; 4096]);
                }
                frontend.send(&message(43, 1, &[]), &[]);
                rig.run();
                if loss {
                    drop(frontend);
                    assert!(rig.needs_reset());
                } else {
                    rig.write(COMMON + 0x14, &[0]);
                    rig.run();
                }
                assert_closed(&fd, "the channel");
                drop(ours);
                rig.start();
                reconnect(&mut rig);
            }
        }
    }
}

#[test]
fn a_queue_reset_in_the_middle_loses_nothing() {
    let mut rig = Rig::with(|builder| builder.migration(CHUNK));
    rig.features |= feature::RING_RESET;
    rig.initialise();
    let mut frontend = reconnect(&mut rig);
    let [(fd, mut ours), _] = channels(LOAD);
    set(&mut rig, &mut frontend, LOAD, fd.as_fd());
    ours.write_all(b"state").unwrap();
    drop(ours);
    rig.post_sized(5, 2);
    until(&mut rig, |rig| (rig.used(5) == 1).then_some(()));
    rig.write(COMMON + 0x16, &5u16.to_le_bytes());
    rig.write(COMMON + 0x3A, &1u16.to_le_bytes());
    rig.run();
    rig.enable(5);
    rig.post(5);
    assert_eq!(until(&mut rig, |rig| rig.receive(5)), b"ate");
    assert_eq!(load(&mut rig), []);
}

#[test]
fn a_guest_that_breaks_the_queues_is_at_fault() {
    let (mut rig, mut frontend) = migrating();
    let [(fd, _ours), _] = channels(SAVE);
    set(&mut rig, &mut frontend, SAVE, fd.as_fd());
    rig.publish(4, 0x60_0000, CHUNK + 1, 0, 0);
    assert!(rig.needs_reset());

    let (mut rig, mut frontend) = migrating();
    let [(fd, mut ours), _] = channels(LOAD);
    set(&mut rig, &mut frontend, LOAD, fd.as_fd());
    ours.write_all(b"state").unwrap();
    rig.post_sized(5, 0);
    until(&mut rig, |rig| rig.needs_reset().then_some(()));
}

#[test]
fn channel_after_channel_takes_no_more_than_the_threads_there_are() {
    let (mut rig, mut frontend) = migrating();
    let [(fd, _ours), _] = channels(LOAD);
    for _ in 0..100 {
        frontend.send(&message(42, 1, &words(&[LOAD])), &[fd.as_fd()]);
        // One is refused while those before it are still being given up, and one
        // waits while many are.
        let (answer, reply) = loop {
            let answer = match rig.request() {
                Some(_) => {
                    rig.reply(42, &words(&[0]));
                    0x100
                }
                None => 0x101,
            };
            match frontend.receive() {
                Some(reply) => break (answer, reply),
                None => wait_for_turn(&rig),
            }
        };
        assert_eq!(reply, message(42, 5, &words(&[answer])));
        assert!(rig.device.server().pump.as_ref().unwrap().busy() <= 4);
    }
    drop(frontend);
    assert!(rig.needs_reset());
    assert_closed(&fd, "a channel");
    while rig.device.server().pump.as_ref().unwrap().busy() > 0 {
        thread::yield_now();
    }
}
