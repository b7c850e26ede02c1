// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Messages on sockets, and the wait for them.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use vhost_guest_msg::{Endian, Reply};

/// A patience that is never exhausted by a machine that is merely busy.
const LIMIT: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

pub fn encode(code: u32, reply: &Reply) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let len = reply
        .encode(code, false, Endian::NATIVE, &mut bytes)
        .unwrap();
    bytes.truncate(len);
    bytes
}

pub fn wait(fd: &impl AsFd, events: PollFlags) {
    let mut fds = [PollFd::new(fd, events)];
    assert_eq!(poll(&mut fds, Some(&LIMIT)), Ok(1), "nothing happens");
}

pub fn datagram(fd: &OwnedFd) -> Vec<u8> {
    wait(fd, PollFlags::IN);
    let mut bytes = vec![0; 8192];
    let read = rustix::io::read(fd, &mut bytes).unwrap();
    bytes.truncate(read);
    bytes
}

pub fn receive(stream: &UnixStream, bytes: &mut [u8]) -> Vec<OwnedFd> {
    wait(stream, PollFlags::IN);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::WAITALL,
    );
    assert_eq!(received.unwrap().bytes, bytes.len());
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    fds
}

/// Does something until it does not work for long enough that nobody is about
/// to make room for it.
pub fn until_full(mut attempt: impl FnMut() -> bool) -> u64 {
    let (mut count, mut failures) = (0, 0);
    while failures < 100 {
        match attempt() {
            true => (count, failures) = (count + 1, 0),
            false => {
                failures += 1;
                thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
    count
}
