// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A connection with a backend: whole messages and descriptors, never a block.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use vhost_guest_msg::{Endian, Fds, Frame, Framer, Limits, Progress};

use crate::error::End;

/// Descriptors in a message: the regions of a memory table.
pub const MAX_FDS: usize = 32;

/// A stream socket that speaks vhost-user.
pub struct Socket {
    stream: UnixStream,
    framer: Framer<OwnedFd>,
    /// At most one message that the backend has not taken yet.
    outbox: VecDeque<u8>,
    /// They go with its first byte.
    attached: Vec<OwnedFd>,
}

impl Socket {
    /// Speaks over `stream`.
    pub fn new(stream: UnixStream, limits: &Limits) -> Self {
        Self {
            stream,
            framer: Framer::new(Endian::NATIVE, limits),
            outbox: VecDeque::new(),
            attached: Vec::new(),
        }
    }

    /// The socket, to wait for.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether there is a message that was not taken yet. Until then, there
    /// must not be another.
    pub fn is_sending(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Sends what the backend takes of a message, and keeps the rest.
    pub fn send(&mut self, message: &[u8], fds: Vec<OwnedFd>) -> Result<(), End> {
        self.outbox.extend(message);
        self.attached = fds;
        self.flush()
    }

    /// Sends what the backend takes of what was kept.
    pub fn flush(&mut self) -> Result<(), End> {
        while !self.outbox.is_empty() {
            let (front, back) = self.outbox.as_slices();
            let bytes = [IoSlice::new(front), IoSlice::new(back)];
            let fds: Vec<_> = self.attached.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                let error = Errno::MSGSIZE.into();
                return Err(End::System("attaching descriptors", error));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.stream, &bytes, &mut control, flags) {
                Ok(sent) => {
                    self.attached.clear();
                    drop(self.outbox.drain(..sent.min(self.outbox.len())));
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(End::Backend),
                Err(error) => return Err(End::System("sendmsg", error.into())),
            }
        }
        Ok(())
    }

    /// Sends nothing any more, and waits until the backend does not, either; what
    /// it still sends is for nobody. Not longer than `limit`.
    pub fn finish(&self, limit: Duration) {
        // Where nobody is, nobody has to be told.
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = Instant::now() + limit;
        loop {
            match read(&self.stream, &mut [0; 4096]) {
                Err(_) => return,
                Ok(Some(_)) => {}
                Ok(None) => {
                    let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
                    let left = deadline.saturating_duration_since(Instant::now());
                    let left = Timespec::try_from(left).unwrap_or_default();
                    let _ = poll(&mut fds, Some(&left));
                }
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Receives the next message. `None`: it is not here, or not all of it.
    pub fn receive<T>(
        &mut self,
        take: impl FnOnce(Frame<'_, OwnedFd>) -> Result<T, End>,
    ) -> Result<Option<T>, End> {
        loop {
            // No more than is wanted next, lest descriptors of the next message
            // come along.
            let Some((bytes, fds)) = read(&self.stream, self.framer.space())? else {
                return Ok(None);
            };
            match self.framer.advance(bytes, fds) {
                Ok(Progress::Frame(frame)) => return take(frame).map(Some),
                Ok(Progress::More) => {}
                Err(error) => return Err(End::BackendFault(error.to_string())),
            }
        }
    }
}

fn read(stream: &UnixStream, space: &mut [u8]) -> Result<Option<(usize, Fds<OwnedFd>)>, End> {
    let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut control);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    loop {
        match recvmsg(stream, &mut [IoSliceMut::new(space)], &mut control, flags) {
            Ok(received) if received.bytes == 0 => return Err(End::Backend),
            Ok(received) => {
                let mut fds = Vec::new();
                for part in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = part {
                        fds.extend(rights);
                    }
                }
                return Ok(Some((received.bytes, fds.into_iter().collect())));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(End::Backend),
            Err(error) => return Err(End::System("recvmsg", error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pair() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Socket::new(ours, &Limits::default()), theirs)
    }

    #[test]
    fn keeps_what_the_backend_does_not_take_and_sends_it_later() {
        let (mut socket, mut theirs) = pair();
        let message = vec![7; 1 << 22];
        socket.send(&message, Vec::new()).unwrap();
        assert!(socket.is_sending());
        let mut all = vec![0; message.len()];
        let mut read = 0;
        while read < all.len() {
            read += theirs.read(&mut all[read..]).unwrap();
            socket.flush().unwrap();
        }
        assert_eq!(all, message);
        assert!(!socket.is_sending());
    }

    #[test]
    fn tells_a_backend_that_left_from_one_that_breaks_the_rules() {
        let (mut socket, mut theirs) = pair();
        assert!(matches!(socket.receive(|_| Ok(())), Ok(None)));
        // Version 0.
        theirs.write_all(&[0; 12]).unwrap();
        assert!(matches!(
            socket.receive(|_| Ok(())),
            Err(End::BackendFault(_))
        ));
        drop(theirs);
        assert!(matches!(socket.receive(|_| Ok(())), Err(End::Backend)));
        assert!(matches!(socket.send(&[0], Vec::new()), Err(End::Backend)));
    }
}
