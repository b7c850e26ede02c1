// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors on which a call never returns. Nothing of the device's waits,
//! neither its turns nor a vCPU's accesses nor its end: each of these tests
//! would hang.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{eventfd, EventfdFlags};
use rustix::net::sockopt::set_socket_linger;
use rustix::net::SendFlags;
use vhost_guest_msg::ProtocolFeatures;
use vmm_sys_util::signal::{block_signal, clear_signal};

use super::rig::{event, message, words, Rig, DOORBELLS, FIRST_KICK, STATUS, VRINGS};
use super::siege::{
    assert_closed, assert_nothing_connected, Siege, NEED_REPLY, PLAIN, REPLY, SIZE, USER,
};
use crate::connection::carried;
use crate::connection::MAX_FDS;
use crate::fd::fuse_tests::Mount;
use crate::fd::Reaper;
use crate::guest::pci::bars::{DRIVER_AUX, MSIX_PENDING, MSIX_TABLE};

/// Each request with a descriptor.
fn requests() -> [(u32, Vec<u8>); 10] {
    [
        (5, words(&[1, 0, SIZE, USER, 0])),
        (6, words(&[SIZE, 0])),
        (7, vec![]),
        (12, words(&[0])),
        (13, words(&[0])),
        (14, words(&[0])),
        (21, vec![]),
        (32, words(&[SIZE, 0, 1 | 256 << 16])),
        (37, words(&[0, 0, SIZE, USER, 0])),
        (42, words(&[1])),
    ]
}

#[test]
fn no_message_makes_the_device_wait_for_a_file_system() {
    let Some(mount) = Mount::new("device") else {
        return;
    };
    // The frontend's own descriptors are not closed by a test, either.
    let reaper = Reaper::spawn();
    let requests = requests();
    let files = mount.dead_files(requests.len(), &reaper);
    let mut siege = Siege::with_migration();
    for ((code, payload), file) in requests.iter().zip(&files) {
        let what = format!("request {code}");
        let mut frontend = siege.frontend(ProtocolFeatures::forwardable());
        let rig = &mut siege.rig;
        // One of another kind; refused, and asked about on the way.
        let request = message(*code, NEED_REPLY, payload);
        frontend.send(&request, &[file.as_fd()]);
        rig.run();
        assert!(frontend.receive().is_some(), "{what}: no refusal");
        // One in a message that has none, which disconnects; and one that
        // nobody reads any more.
        let owner = message(3, PLAIN, &[]);
        frontend.send(&owner, &[file.as_fd()]);
        frontend.send(&owner, &[file.as_fd()]);
        // Its socket is closed when its descriptors are, so it waits for that.
        assert!(rig.needs_reset(), "{what}");
        assert_nothing_connected(rig, &what);
        rig.write(STATUS, &[0]);
        rig.run();
        assert_eq!(rig.status(), 0, "{what}");
    }
    siege.serves_the_next();
    assert_eq!(mount.questions(), 0, "somebody asked the file system");
    // They are being closed, and that nobody waits for it is the test.
    while mount.closing() == 0 {
        std::thread::yield_now();
    }
    drop(siege);
    drop(files);
    drop(mount);
}

/// A socket whose last descriptor takes an hour to close, unless its peer, the
/// other one, goes away.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    set_socket_linger(&ours, Some(Duration::from_secs(3600))).unwrap();
    ours.set_nonblocking(true).unwrap();
    // Nobody reads, so something stays unsent.
    while ours.write(&[0; 1 << 16]).is_ok() {}
    (ours, peer)
}

/// The kernel closes what a reader has no room for within the reader's call.
#[test]
fn the_kernel_drops_no_descriptor_within_a_read() {
    let mut siege = Siege::new();
    let owner = message(3, PLAIN, &[]);
    // More than a table of regions has: they are received, and too many.
    let mut frontend = siege.frontend(carried());
    let (slow, many_peer) = lingering();
    let eventfd = event();
    let mut fds = vec![eventfd.as_fd(); MAX_FDS - 1];
    fds.push(slow.as_fd());
    frontend.send(&owner, &fds);
    drop(fds);
    drop(slow);
    siege.assert_lost(frontend, "253 descriptors");
    // Out-of-band data is a byte as any other: no message begins so.
    let mut frontend = siege.frontend(carried());
    let (slow, urgent_peer) = lingering();
    frontend.send_flagged(b"!", &[slow.as_fd()], SendFlags::OOB);
    drop(slow);
    frontend.send(&owner, &[]);
    siege.assert_lost(frontend, "out-of-band data");
    siege.serves_the_next();
    drop((many_peer, urgent_peer));
}

/// The kernel closes what was sent to a listener, and not accepted, with it.
#[test]
fn the_end_of_the_device_waits_for_no_frontend_that_was_never_accepted() {
    let mut rig = Rig::new();
    let mut frontend = rig.connect();
    let (slow, peer) = lingering();
    frontend.send(&message(3, PLAIN, &[]), &[slow.as_fd()]);
    drop(slow);
    drop(rig);
    // It is closed all the same, and that nobody waits for it is the test.
    drop(peer);
    while !frontend.is_disconnected() {
        std::thread::yield_now();
    }
}

/// Blocking, and with a counter that takes nothing any more.
fn full() -> OwnedFd {
    let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    fd
}

/// The guest rings by a store that reaches userspace.
fn ring(rig: &mut Rig, doorbell: u64) {
    rig.device.shared.bar_write(2, 4 * doorbell, &[1]);
}

#[test]
fn calls_that_block_hold_up_nobody() {
    let mut siege = Siege::new();
    for end in 0..4 {
        let mut frontend = siege.frontend(carried());
        let rig = &mut siege.rig;
        let calls = [full(), full()];
        for (call, code) in calls.iter().zip([13, 14]) {
            frontend.send(&message(code, PLAIN, &words(&[0])), &[call.as_fd()]);
            rig.receive(0).expect("a doorbell");
        }
        for doorbell in [0, u64::from(VRINGS)] {
            assert!(rig.vmm.doorbell(DOORBELLS + 4 * doorbell).is_some());
            ring(rig, doorbell);
        }
        // Another one comes in the place of one of them.
        let other = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        frontend.send(&message(13, PLAIN, &words(&[0])), &[other.as_fd()]);
        rig.receive(0).expect("another call");
        match end {
            0 => drop(frontend),
            1 => rig.write(STATUS, &[0]),
            2 => rig.device.shared.revoke(),
            _ => rig.config_write(0xE4, &[1]),
        }
        rig.run();
        rig.initialise();
        for call in calls {
            assert_closed(call, "a call");
        }
    }
    siege.serves_the_next();
}

#[test]
fn kicks_that_block_are_not_read() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let rig = &mut siege.rig;
    // Nothing is in it, and who reads it waits.
    let kick = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let other = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    frontend.send(&message(12, PLAIN, &words(&[0])), &[kick.as_fd()]);
    rig.receive(0).expect("a kick");
    let entry = MSIX_TABLE + 16 * u64::from(FIRST_KICK);
    for masked in [1u32, 0, 1, 0] {
        rig.write(entry + 12, &masked.to_le_bytes());
        assert_eq!(rig.read::<4>(MSIX_PENDING), [0; 4]);
    }
    for vector in [0xFFFF, u32::from(FIRST_KICK) + 1, u32::from(FIRST_KICK)] {
        rig.write(DRIVER_AUX, &(vector << 16).to_le_bytes());
    }
    for control in [0xC000u16, 0x8000, 0x0000, 0x8000] {
        rig.config_write(0xD6, &control.to_le_bytes());
    }
    frontend.send(&message(12, PLAIN, &words(&[0])), &[other.as_fd()]);
    rig.receive(0).expect("another kick");
    rig.write(STATUS, &[0]);
    rig.run();
    assert_closed(kick, "a kick");
    assert_closed(other, "another kick");
    siege.serves_the_next();
}

/// Somebody else may have the socket, too: it is closed, and not shut down.
#[test]
fn a_socket_that_is_given_still_works_for_others() {
    for (code, payload) in [(21, vec![]), (42, words(&[0])), (42, words(&[1]))] {
        let mut siege = Siege::with_migration();
        let mut frontend = siege.frontend(ProtocolFeatures::forwardable());
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let what = format!("request {code}");
        frontend.send(&message(code, PLAIN, &payload), &[theirs.as_fd()]);
        siege.rig.receive(0).expect("a socket");
        drop(frontend);
        assert!(siege.rig.needs_reset());
        assert_closed(&theirs, &what);
        let mut theirs = theirs;
        for (from, to) in [(true, "there"), (false, "back")] {
            let (writer, reader) = match from {
                true => (&mut ours, &mut theirs),
                false => (&mut theirs, &mut ours),
            };
            writer.write_all(to.as_bytes()).unwrap();
            let mut bytes = vec![0; to.len()];
            reader.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, to.as_bytes(), "{what}");
        }
    }
}

/// The socket's flags are the frontend's to change, and here it is a blocking
/// one.
#[test]
fn a_channel_that_nobody_reads_holds_up_its_requests_only() {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(false).unwrap();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    let rig = &mut siege.rig;
    rig.receive(0).expect("the channel");
    let mut sent = 0u16;
    while rig.used(3) == sent {
        // Nobody is asked for an answer.
        rig.send(3, &message(2, PLAIN, &[]));
        sent += 1;
        assert!(sent < 10_000, "the socket takes everything");
    }
    let ask = message(1, PLAIN, &[]);
    frontend.send(&ask, &[]);
    assert_eq!(rig.receive(0), Some(ask));
    rig.reply(1, &words(&[3]));
    assert_eq!(frontend.receive(), Some(message(1, REPLY, &words(&[3]))));
    // When it is read, the rest comes.
    ours.set_nonblocking(true).unwrap();
    let mut bytes = 0;
    while bytes < 12 * usize::from(sent) {
        rig.run();
        bytes += (&ours).read(&mut [0; 4096]).unwrap();
    }
    assert_eq!(rig.used(3), sent);
}

/// Whether a signal waits for this thread to take it.
fn pending(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let field = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let signals = u64::from_str_radix(field.unwrap().trim(), 16).unwrap();
    signals & 1 << (signal - 1) != 0
}

#[test]
fn sending_to_nobody_raises_no_signal() {
    const SIGPIPE: i32 = 13;
    let program = std::thread::spawn(|| {
        // One that is blocked stays, even if it is ignored otherwise.
        block_signal(SIGPIPE).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        rustix::io::write(&ours, b"?").unwrap_err();
        assert!(pending(SIGPIPE), "nothing would be noticed");
        clear_signal(SIGPIPE).unwrap();
        assert!(!pending(SIGPIPE));

        let mut siege = Siege::new();
        let mut frontend = siege.frontend(carried());
        let rig = &mut siege.rig;
        let (ours, theirs) = UnixStream::pair().unwrap();
        frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
        rig.receive(0).expect("the channel");
        drop(ours);
        drop(theirs);
        rig.send(3, &message(2, PLAIN, &[]));
        assert!(!rig.needs_reset());
        frontend.send(&message(1, PLAIN, &[]), &[]);
        rig.receive(0).expect("a question");
        drop(frontend);
        rig.reply(1, &words(&[0]));
        assert!(rig.needs_reset());
        assert!(!pending(SIGPIPE));
    });
    program.join().unwrap();
}
