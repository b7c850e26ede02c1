// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frontends that send too much, read too little, or hang up at a bad moment.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use rustix::net::{send, SendFlags};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use vhost_guest_msg::ProtocolFeatures;

use super::rig::{self, event, memory_file, message, words, Frontend};
use super::siege::{
    assert_closed, descriptors_of, wait_for_turn, Siege, NEED_REPLY, PLAIN, REPLY, SIZE, USER,
};
use crate::connection::carried;
use crate::fd::OVERLOAD;
use crate::guest::pci::bars::COMMON;

/// Sends the same message until the socket is full. Returns how often.
fn flood(frontend: &mut Frontend, bytes: &[u8]) -> usize {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut count = 0;
    while send(&frontend.stream, bytes, flags) == Ok(bytes.len()) {
        count += 1;
        assert!(count < 1_000_000, "the device takes everything");
    }
    count
}

#[test]
fn a_frontend_that_does_not_read_stops_the_guest_and_costs_nothing() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let rig = &mut siege.rig;
    // Large replies, that nobody reads.
    let ask = [words(&[4000 << 32]), vec![0; 4004]].concat();
    let reply = message(24, REPLY, &ask);
    let mut answered = 0;
    loop {
        frontend.send(&message(24, PLAIN, &ask), &[]);
        rig.receive(0).expect("a request");
        let is_sending = {
            let server = rig.device.server();
            server.connection.as_ref().unwrap().socket.is_sending()
        };
        if is_sending {
            break;
        }
        rig.send(1, &reply);
        answered += 1;
        assert!(answered < 10_000, "the device takes everything");
    }
    // One message is held at most; the next one stays with the guest.
    let used = rig.used(1);
    rig.send(1, &reply);
    rig.run();
    assert_eq!(rig.used(1), used);
    assert!(!rig.needs_reset());
    // When it reads after all, it gets all of them.
    frontend.stream.set_nonblocking(false).unwrap();
    for _ in 0..answered {
        let mut bytes = vec![0; reply.len()];
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            rig.run();
            let read = (&frontend.stream).read(rest).unwrap();
            rest = &mut rest[read..];
        }
        assert_eq!(bytes, reply);
    }
    rig.run();
    assert_eq!(rig.used(1), used + 1);
}

#[test]
fn a_flood_without_buffers_stays_in_the_socket() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(ProtocolFeatures::MQ);
    let rig = &mut siege.rig;
    let sent = flood(&mut frontend, &message(3, PLAIN, &[]));
    rig.run();
    let taken = rig.device.shared.counters.requests.read();
    flood(&mut frontend, &message(3, PLAIN, &[]));
    rig.run();
    assert_eq!(rig.device.shared.counters.requests.read(), taken);
    assert!((taken as usize) < sent);
    // Buffers get exactly one message each.
    assert!(rig.receive(0).is_some());
    rig.run();
    assert_eq!(rig.device.shared.counters.requests.read(), taken + 1);
    assert!(!rig.needs_reset());
}

#[test]
fn a_flood_of_questions_waits_for_the_guests_answers() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let rig = &mut siege.rig;
    flood(&mut frontend, &message(1, PLAIN, &[]));
    let mut asked = 0;
    while rig.receive(0).is_some() {
        asked += 1;
    }
    assert_eq!(asked, 64, "as many as replies can be outstanding");
    for _ in 0..10 {
        rig.reply(1, &words(&[0]));
        assert!(rig.receive(0).is_some());
        assert!(rig.receive(0).is_none());
    }
    // It hangs up without a word about the other ones.
    drop(frontend);
    assert!(rig.needs_reset());
    siege.serves_the_next();
}

#[test]
fn a_flood_of_requests_that_are_refused_is_answered_in_pace() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let ring = words(&[0, 0x1000, 0x2000, 0x3000, 0]);
    let sent = flood(&mut frontend, &message(9, NEED_REPLY, &ring));
    siege.rig.run();
    let nack = message(9, REPLY, &words(&[1]));
    frontend.stream.set_nonblocking(false).unwrap();
    for _ in 0..sent {
        let mut bytes = vec![0; nack.len()];
        (&frontend.stream).read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, nack);
        siege.rig.run();
    }
    assert_eq!(siege.rig.receive(0), None);
}

#[test]
fn unanswered_needless_questions_do_not_stop_a_frontend() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(ProtocolFeatures::MQ);
    for n in 0..200 {
        frontend.send(&message(3, NEED_REPLY, &[]), &[]);
        let request = siege.rig.receive(0);
        // A barrier of the device's own may come in between.
        let own = request == Some(message(1, PLAIN, &[]));
        if own {
            siege.rig.reply(1, &words(&[0]));
        }
        let request = if own { siege.rig.receive(0) } else { request };
        assert_eq!(request, Some(message(3, NEED_REPLY, &[])), "message {n}");
    }
    assert_eq!(frontend.receive(), None);
}

/// Descriptors that come with an urgent byte come with a byte of the stream.
#[test]
fn urgent_bytes_are_bytes_of_the_stream_and_wake_nobody_for_ever() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(ProtocolFeatures::MQ);
    let whole = message(3, PLAIN, &[]);
    for (at, byte) in whole.iter().enumerate() {
        frontend.send(&whole[..at], &[]);
        let flags = SendFlags::OOB | SendFlags::NOSIGNAL;
        // Old kernels have none, and it is no part of the protocol.
        if send(&frontend.stream, &[*byte], flags).is_err() {
            frontend.send(&[*byte], &[]);
        }
        siege.rig.run();
        frontend.send(&whole[at + 1..], &[]);
        assert_eq!(siege.rig.receive(0), Some(whole.clone()), "at {at}");
    }
    drop(frontend);
    assert!(siege.rig.needs_reset());
}

#[test]
fn half_a_hang_up_is_a_loss() {
    let mut siege = Siege::new();
    for how in [Shutdown::Write, Shutdown::Both] {
        siege.costs_the_connection(ProtocolFeatures::MQ, "shutdown", |_, frontend| {
            frontend.stream.shutdown(how).unwrap();
        });
    }
    // One that does not want to read is found out by the next reply.
    let mut frontend = siege.frontend(ProtocolFeatures::MQ);
    frontend.stream.shutdown(Shutdown::Read).unwrap();
    siege.rig.run();
    frontend.send(&message(1, PLAIN, &[]), &[]);
    if siege.rig.receive(0).is_some() {
        siege.rig.reply(1, &words(&[0]));
    }
    siege.assert_lost(frontend, "shutdown of reading");
    siege.serves_the_next();
}

#[test]
fn a_reply_that_is_not_read_wakes_nobody_while_the_guest_is_out_of_reach() {
    let (mut rig, mut frontend) = rig::connected();
    let config = [words(&[4000 << 32]), vec![0; 4004]].concat();
    rig.negotiate(&mut frontend, carried());
    loop {
        frontend.send(&message(24, PLAIN, &config), &[]);
        rig.receive(0).expect("a request");
        if rig
            .device
            .server()
            .connection
            .as_ref()
            .unwrap()
            .socket
            .is_sending()
        {
            break;
        }
        rig.send(1, &message(24, REPLY, &config));
    }
    // Bus Master off; then there is room in the socket.
    rig.config_write(0x04, &2u16.to_le_bytes());
    while frontend.receive().is_some() {}
    rig.run();
    assert!(!rig.needs_reset());
    rig.config_write(0x04, &6u16.to_le_bytes());
    rig.run();
    assert!(frontend.receive().is_some());
    assert!(!rig.needs_reset());
}

#[test]
fn a_request_that_is_held_goes_with_its_frontend() {
    let mut siege = Siege::new();
    for hang_up in [true, false] {
        let mut frontend = siege.frontend(carried());
        let table = words(&[1, 0, SIZE, USER, 0]);
        let files = [SIZE; 3].map(memory_file);
        for file in &files {
            frontend.send(&message(5, PLAIN, &table), &[file.as_fd()]);
            siege.rig.run();
        }
        let rig = &mut siege.rig;
        // Nothing goes away with the first one; the second one asks for proof.
        while rig.receive(0).is_some() {}
        assert!(rig
            .device
            .server()
            .connection
            .as_ref()
            .unwrap()
            .held
            .is_some());
        flood(&mut frontend, &message(3, PLAIN, &[]));
        rig.run();
        assert_eq!(rig.receive(0), None);
        if hang_up {
            drop(frontend);
            assert!(rig.needs_reset());
        } else {
            rig.write(COMMON + 0x14, &[0]);
            rig.run();
            assert!(frontend.is_disconnected());
        }
        rig.write(COMMON + 0x14, &[0]);
        rig.run();
        assert_eq!(rig.vmm.mappings(), []);
        for file in files {
            assert_closed(file, "shared memory");
        }
    }
    siege.serves_the_next();
}

/// A socket whose `close` waits until its peer is dropped.
fn slow_to_close() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (receiver, _) = listener.accept().unwrap();
    let patience = Some(Duration::from_secs(60));
    rustix::net::sockopt::set_socket_linger(&sender, patience).unwrap();
    sender.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut (&sender), &[0; 1 << 16]).is_ok() {}
    sender.set_nonblocking(false).unwrap();
    (receiver, sender.into())
}

/// Descriptors that do not close: more than a frontend has threads for it.
const SLOW: usize = 3;

/// A frontend that has sent descriptors that do not close, and what lets them go.
fn jam(siege: &mut Siege) -> (Frontend, Vec<TcpStream>) {
    let mut frontend = siege.frontend(carried());
    let slow = (0..SLOW).map(|_| slow_to_close());
    let (receivers, senders): (Vec<_>, Vec<_>) = slow.unzip();
    for sender in senders {
        frontend.send(&message(12, NEED_REPLY, &words(&[0])), &[sender.as_fd()]);
        drop(sender);
        siege.rig.run();
        assert!(frontend.receive().is_some());
    }
    (frontend, receivers)
}

#[test]
fn memory_is_given_back_while_other_descriptors_do_not_close() {
    let mut siege = Siege::new();
    let (attacker, receivers) = jam(&mut siege);
    drop(attacker);
    siege.rig.run();
    let mut frontend = siege.frontend(carried());
    let (file, eventfd) = (memory_file(SIZE), event());
    let add = message(37, NEED_REPLY, &words(&[0, 0, SIZE, USER, 0]));
    frontend.send(&add, &[file.as_fd()]);
    assert!(siege.rig.receive(0).is_some());
    siege.rig.reply(37, &words(&[0]));
    // More than may wait.
    for _ in 0..2 * OVERLOAD {
        frontend.send(&message(13, PLAIN, &words(&[1])), &[eventfd.as_fd()]);
        while siege.rig.receive(0).is_none() {
            wait_for_turn(&siege.rig);
        }
    }
    drop(frontend);
    assert!(siege.rig.needs_reset());
    assert_closed(&eventfd, "a call");
    siege.rig.start();
    assert_closed(&file, "memory");
    siege.serves_the_next();
    assert!(siege.rig.device.server().reaper.backlog() >= SLOW);
    drop(receivers);
}

/// Neither their memory nor their eventfds nor their sockets wait behind what
/// somebody before them has left.
#[test]
fn honest_frontends_leave_nothing_behind_one_whose_descriptors_do_not_close() {
    let mut siege = Siege::new();
    let (attacker, receivers) = jam(&mut siege);
    drop(attacker);
    siege.rig.run();
    let left = siege.rig.device.server().reaper.backlog();
    for n in 0..32 {
        let mut frontend = siege.frontend(carried());
        let (file, eventfd) = (memory_file(SIZE), event());
        let add = message(37, NEED_REPLY, &words(&[0, 0, SIZE, USER, 0]));
        frontend.send(&add, &[file.as_fd()]);
        assert!(siege.rig.receive(0).is_some());
        siege.rig.reply(37, &words(&[0]));
        for code in [12, 13, 14] {
            frontend.send(&message(code, PLAIN, &words(&[1])), &[eventfd.as_fd()]);
            assert!(siege.rig.receive(0).is_some());
        }
        drop(frontend);
        assert!(siege.rig.needs_reset());
        siege.rig.start();
        assert_closed(&file, &format!("memory of {n}"));
        assert_closed(&eventfd, &format!("eventfds of {n}"));
    }
    siege.serves_the_next();
    while siege.rig.device.server().reaper.backlog() > left {
        std::thread::yield_now();
    }
    drop(receivers);
}

#[test]
fn descriptors_that_do_not_close_hold_up_their_senders_only() {
    let mut siege = Siege::new();
    let (mut frontend, receivers) = jam(&mut siege);
    // Nobody closes anything of its own now. What else comes has bounds.
    let (bait, _writer) = rustix::pipe::pipe().unwrap();
    let mut sent = 0;
    let overloaded = |siege: &Siege| {
        let server = siege.rig.device.server();
        server.connection.as_ref().unwrap().is_overloaded()
    };
    for _ in 0..2000 {
        if overloaded(&siege) {
            break;
        }
        frontend.send(&message(13, NEED_REPLY, &words(&[1])), &[bait.as_fd()]);
        siege.rig.run();
        while frontend.receive().is_some() {}
        sent += 1;
    }
    assert!(overloaded(&siege), "after {sent}");
    let before = descriptors_of(&bait);
    for _ in 0..100 {
        let bytes = message(13, NEED_REPLY, &words(&[1]));
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = [bait.as_fd()];
        control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
        let bytes = [std::io::IoSlice::new(&bytes)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = rustix::net::sendmsg(&frontend.stream, &bytes, &mut control, flags);
        siege.rig.run();
    }
    let grown = descriptors_of(&bait) - before;
    assert!(grown <= 2, "{grown} descriptors more");
    drop(frontend);
    siege.rig.run();
    // The next frontend is served after a rest, unless it is one too many for the
    // process.
    wait_for_turn(&siege.rig);
    siege.rig.run();
    siege.serves_the_next();
    siege.rig.device.server().reaper.leave(OVERLOAD);
    siege.rig.start();
    siege.rig.backend_up();
    let _next = siege.rig.connect();
    siege.rig.run();
    assert!(siege.rig.device.server().connection.is_none());
    // They close at last, and the next frontend does not have to knock again.
    drop(receivers);
    for _ in 0..100 {
        wait_for_turn(&siege.rig);
        siege.rig.run();
        if siege.rig.device.server().connection.is_some() {
            return;
        }
    }
    panic!("the next frontend waits for ever");
}

#[test]
fn the_listener_rests_without_descriptors() {
    const CHILD: &str = "VHOST_GUEST_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        // In a process of its own: the limit is the process's.
        let name = "tests::hostile_flow::the_listener_rests_without_descriptors";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", name]).env(CHILD, "1");
        let output = child.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let mut rig = rig::serving();
    let frontend = rig.connect();
    let usual = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..usual
    };
    // The epoll descriptor of a test's turn is a duplicate: made before.
    let epoll = rig.device.poller_fd().unwrap();
    setrlimit(Resource::Nofile, none).unwrap();
    for turn in 0.. {
        let ready = crate::event_loop::poller::wait(epoll.as_fd(), false).unwrap();
        if ready.is_empty() {
            break;
        }
        assert!(turn < 10, "the listener spins");
        rig.device.turn(&ready);
    }
    assert!(rig.device.server().connection.is_none());
    setrlimit(Resource::Nofile, usual).unwrap();
    wait_for_turn(&rig);
    rig.run();
    assert_eq!(rig.up(), 3);
    drop(frontend);
}

#[test]
fn a_hang_up_without_descriptors_for_more_is_the_environments_fault() {
    const CHILD: &str = "VHOST_GUEST_TEST_TRUNCATED_CONTROL";
    if std::env::var_os(CHILD).is_none() {
        let name =
            "tests::hostile_flow::a_hang_up_without_descriptors_for_more_is_the_environments_fault";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args(["--exact", name]).env(CHILD, "1");
        let output = child.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let eventfd = event();
    let usual = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..usual
    };
    let epoll = siege.rig.device.poller_fd().unwrap();
    frontend.send(&message(13, NEED_REPLY, &words(&[1])), &[eventfd.as_fd()]);
    setrlimit(Resource::Nofile, none).unwrap();
    let ready = crate::event_loop::poller::wait(epoll.as_fd(), false).unwrap();
    siege.rig.device.turn(&ready);
    setrlimit(Resource::Nofile, usual).unwrap();
    siege.assert_lost(frontend, "no descriptors");
    // The next one would meet the same limit.
    wait_for_turn(&siege.rig);
    siege.rig.run();
    siege.serves_the_next();
}

/// The frontend keeps the channel's descriptor, and with it its options.
#[test]
fn socket_options_of_the_channel_add_no_descriptors() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    siege.rig.receive(0).expect("the channel");
    rustix::net::sockopt::set_socket_passcred(&theirs, true).unwrap();
    std::io::Write::write_all(&mut ours, &[1]).unwrap();
    siege.rig.run();
    siege.assert_lost(frontend, "control data");
    // Descriptors that a reply brings along are not even received.
    let mut frontend = siege.frontend(carried());
    let (ours, theirs) = UnixStream::pair().unwrap();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    siege.rig.receive(0).expect("the channel");
    siege.rig.send(3, &message(2, NEED_REPLY, &[]));
    let eventfd = event();
    let mut ours = Frontend { stream: ours };
    let reply = message(2, REPLY, &words(&[0]));
    ours.send(&reply, &[eventfd.as_fd()]);
    assert!(siege.rig.needs_reset());
    assert_closed(eventfd, "a descriptor with a reply");
    assert_eq!(siege.rig.receive(2), None);
}
