// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A scripted frontend, and what it shares.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The other end of a vhost-user connection.
pub(crate) struct Frontend {
    pub(crate) stream: UnixStream,
}

impl Drop for Frontend {
    /// Hangs up at once. A close alone would not, while a child that another
    /// test forks has not come to its `exec`, or while another test reads what
    /// `/proc` tells about this descriptor.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Frontend {
    /// Sends bytes with descriptors.
    pub(crate) fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send_flagged(bytes, fds, SendFlags::empty());
    }

    /// As [`send`](Self::send), in some way.
    pub(crate) fn send_flagged(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL | flags,
        );
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Receives what is there.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        self.receive_with_fds().map(|(bytes, _)| bytes)
    }

    /// Receives what is there, with descriptors.
    pub(crate) fn receive_with_fds(&mut self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let mut bytes = vec![0; 8192];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let read = recvmsg(&self.stream, &mut iov, &mut control, RecvFlags::DONTWAIT)
            .ok()?
            .bytes;
        bytes.truncate(read);
        let fds = control.drain().flat_map(|part| match part {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
            _ => Vec::new(),
        });
        let fds = fds.collect();
        Some((bytes, fds))
    }

    /// Whether the device closes its end, which it does in another thread.
    pub(crate) fn is_disconnected(&mut self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::empty())];
        let patience = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&patience)).unwrap() > 0
    }
}

/// An eventfd.
pub(crate) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

/// A memory file of `size` bytes.
pub(crate) fn memory_file(size: u64) -> File {
    let fd = memfd_create("frontend", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size).unwrap();
    File::from(fd)
}
