// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
use vm_memory::{ReadVolatile, VolatileMemory};

use super::*;
use crate::fd::fuse_tests::{is_stuck, Mount};
use crate::fd::Reaper;
use crate::tests::rig::message;

/// Channels of one frontend, and what they signal.
fn channels() -> (Channels, Arc<OwnedFd>) {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    let channels = Channels::new(&wake);
    channels.start(&Launcher::start(None).unwrap());
    (channels, wake)
}

fn open(channels: &Channels) -> Result<(UnixStream, Channel), NoChannel> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    Ok((ours, open_end(channels, theirs)?))
}

fn open_end(channels: &Channels, end: UnixStream) -> Result<Channel, NoChannel> {
    let socket = ForeignFd::new(end.into(), &Reaper::spawn());
    let socket = ChannelSocket::check(socket).unwrap();
    channels.open(socket, &Limits::default())
}

fn wait<T>(wake: &OwnedFd, found: impl Fn() -> Option<T>) -> T {
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert_eq!(rustix::io::read(wake, &mut [0; 8]), Ok(8));
    }
}

#[test]
fn passes_one_message_after_the_other_in_both_directions() {
    let (channels, wake) = channels();
    let (mut ours, channel) = open(&channels).unwrap();
    for n in 0..100u64 {
        let bytes = message(2, 0x5, &n.to_ne_bytes());
        channel.send(bytes.clone());
        let mut read = vec![0; bytes.len()];
        ours.read_exact(&mut read).unwrap();
        assert_eq!(read, bytes);
        // In two pieces.
        ours.write_all(&bytes[..7]).unwrap();
        ours.write_all(&bytes[7..]).unwrap();
        let received = wait(&wake, || channel.receive());
        assert_eq!((received.header.code, &*received.body), (2, &bytes[12..]));
        wait(&wake, || (!channel.is_sending()).then_some(()));
    }
    assert_eq!(channel.end(), None);
}

#[test]
fn reads_no_message_before_the_one_before_was_taken() {
    let (channels, wake) = channels();
    let (mut ours, channel) = open(&channels).unwrap();
    for _ in 0..2 {
        ours.write_all(&message(2, 0x5, &[0; 8])).unwrap();
    }
    drop(ours);
    for _ in 0..2 {
        wait(&wake, || channel.shared.state().inbox.as_ref().map(drop));
        assert_eq!(channel.end(), None, "before the end there is something");
        assert!(channel.receive().is_some());
    }
    assert_eq!(wait(&wake, || channel.end()), ChannelEnd::HungUp);
}

#[test]
fn ends_with_what_the_peer_has_done() {
    type Attack = fn(&mut UnixStream);
    let descriptor: Attack = |ours| {
        let (_, writer) = rustix::pipe::pipe().unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [writer.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [std::io::IoSlice::new(b"x")];
        rustix::net::sendmsg(&*ours, &bytes, &mut control, SendFlags::empty()).unwrap();
    };
    let urgent: Attack = |ours| {
        send(&*ours, b"!", SendFlags::OOB).unwrap();
    };
    let nonsense: Attack = |ours| ours.write_all(&[0xFF; 12]).unwrap();
    let cases = [
        (descriptor, "control data"),
        (urgent, "out-of-band"),
        (nonsense, "version"),
    ];
    for (attack, word) in cases {
        let (channels, wake) = channels();
        let (mut ours, channel) = open(&channels).unwrap();
        attack(&mut ours);
        let end = wait(&wake, || channel.end()).to_string();
        assert!(end.contains(word), "{word}: {end}");
        // The socket is closed then.
        assert_eq!(ours.read(&mut [0; 12]).unwrap_or(0), 0);
    }
}

#[test]
fn one_that_is_abandoned_ends_whatever_its_thread_does() {
    let (channels, wake) = channels();
    for full in [false, true] {
        let (mut ours, channel) = open(&channels).unwrap();
        while full && !channel.shared.state().sending {
            // Nobody reads it.
            channel.send(vec![0; 1 << 20]);
            thread::yield_now();
        }
        drop(channel);
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).unwrap();
    }
    drop(wake);
}

/// As many threads as a frontend may have stuck.
#[test]
fn a_frontend_whose_channels_are_stuck_gets_no_other_and_the_next_one_does() {
    let (channels, _wake) = channels();
    let hold = Arc::new(Mutex::new(()));
    let held = hold.lock().unwrap();
    for _ in 0..PATIENCE {
        let hold = Arc::clone(&hold);
        let stuck = move || drop(hold.lock());
        channels.share.begin(stuck).unwrap();
    }
    assert!(matches!(open(&channels), Err(NoChannel::Stuck)));
    open(&channels.for_frontend()).unwrap();
    drop(held);
    while channels.share.backlog() > 0 {
        thread::yield_now();
    }
    open(&channels).unwrap();
}

/// Who receives from the same end holds its lock, and `MSG_DONTWAIT` says nothing
/// about that.
#[test]
fn one_that_somebody_else_reads_keeps_its_thread_waiting_and_nobody_else() {
    let Some(mount) = Mount::new("iolock") else {
        return;
    };
    let (channels, wake) = channels();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(&[1; 64]).unwrap();
    let (memory, duplicate) = (mount.memory(), theirs.try_clone().unwrap());
    let before = mount.questions();
    let reader = thread::spawn(move || {
        let mut slice = memory.get_slice(0, 64).unwrap();
        // Fails when the file system is gone.
        let _ = (&duplicate).read_volatile(&mut slice);
    });
    while mount.questions() == before {
        thread::yield_now();
    }
    let channel = open_end(&channels, theirs).unwrap();
    while !is_stuck("vhost-guest-chn") {
        thread::yield_now();
    }
    channel.send(vec![0; 12]);
    assert!(channel.receive().is_none());
    assert!(channel.end().is_none());
    drop(channel);
    // Another one is served.
    let (mut ours, channel) = open(&channels).unwrap();
    ours.write_all(&message(2, 0x5, &[0; 8])).unwrap();
    wait(&wake, || channel.receive());
    drop(mount);
    reader.join().unwrap();
}
