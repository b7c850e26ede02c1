// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend: raw vhost-user messages over a socket.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// `SET_MEM_TABLE`.
pub const SET_MEM_TABLE: u32 = 5;
/// `SET_VRING_KICK`.
pub const SET_VRING_KICK: u32 = 12;
/// `SET_VRING_CALL`.
pub const SET_VRING_CALL: u32 = 13;
/// `SET_VRING_ERR`.
pub const SET_VRING_ERR: u32 = 14;

/// A message: number, flags, payload.
pub fn message(code: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [code, flags, payload.len() as u32] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// The payload that is made of numbers.
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The other end of a vhost-user connection.
pub struct Frontend {
    stream: UnixStream,
}

impl Frontend {
    /// Connects.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        Self { stream }
    }

    /// Sends a message with descriptors.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let bytes = [IoSlice::new(bytes)];
        let sent = sendmsg(&self.stream, &bytes, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(bytes[0].len()));
    }
}

/// An eventfd that does not block.
pub fn event(flags: EventfdFlags) -> OwnedFd {
    eventfd(0, flags | EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

/// Signals an eventfd.
pub fn signal(eventfd: &OwnedFd) {
    assert_eq!(rustix::io::write(eventfd, &1_u64.to_ne_bytes()), Ok(8));
}

/// Takes the count of an eventfd; 0 if there is none.
pub fn take(eventfd: impl AsFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(eventfd, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(_) => 0,
    }
}

/// Waits a while for the count of any eventfd.
pub fn wait_for_any(eventfds: &[OwnedFd]) {
    let mut fds: Vec<_> = eventfds
        .iter()
        .map(|eventfd| PollFd::new(eventfd, PollFlags::IN))
        .collect();
    let a_while = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    poll(&mut fds, Some(&a_while)).unwrap();
}

/// A file of memory to share, with `fill` in each byte.
pub fn memory_file(size: u64, fill: u8) -> File {
    let fd = memfd_create("frontend", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, size).unwrap();
    let file = File::from(fd);
    file.write_all_at(&vec![fill; size as usize], 0).unwrap();
    file
}
