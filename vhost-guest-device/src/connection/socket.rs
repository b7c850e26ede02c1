// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The main socket: whole frames in, bytes out, never a block.
//!
//! Nobody else has a descriptor of this end of it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::{ioctl_fionread, Errno};
use rustix::net::sockopt::set_socket_oobinline;
use rustix::net::{
    recvmsg, sendmsg, shutdown, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg,
    ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
};
use vhost_guest_msg::{Endian, Fds, Frame, Framer, Limits, Progress};

use crate::error::{EnvironmentFault, Fault, FrontendFault};
use crate::fd::{ForeignFd, Reaper};

/// Descriptors that can come with one message (`SCM_MAX_FD` of the kernel). There
/// is room for all of them: what does not fit, the kernel closes within the call,
/// which can take as long as the peer likes.
pub(crate) const MAX_FDS: usize = 253;

/// One end of a vhost-user connection.
pub(crate) struct Socket {
    fd: ForeignFd,
    reaper: Reaper,
    framer: Framer<ForeignFd>,
    /// At most one message that the peer has not taken yet.
    outbox: VecDeque<u8>,
    /// A descriptor that goes with its first byte.
    attached: Option<OwnedFd>,
}

impl Socket {
    /// Speaks over `fd`, a connected stream socket that only this process has.
    pub(crate) fn new(fd: ForeignFd, reaper: &Reaper, limits: &Limits) -> Self {
        // Out-of-band data that is not read in line is dropped by the kernel,
        // with the descriptors that came along, within the next read. It can
        // only fail on what is no socket.
        let _ = set_socket_oobinline(&fd, true);
        Self {
            fd,
            reaper: reaper.clone(),
            framer: Framer::new(Endian::NATIVE, limits),
            outbox: VecDeque::new(),
            attached: None,
        }
    }

    /// The socket, to wait for.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether bytes wait for the peer to read.
    pub(crate) fn is_sending(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether something has arrived that was not read.
    pub(crate) fn has_unread(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Reads the next message and decodes it. `None`: it has not arrived, or
    /// not all of it.
    ///
    /// # Errors
    ///
    /// [`Fault::HungUp`] at the end of the stream, the frontend's fault for
    /// bytes that are no message, the environment's when the process is out
    /// of descriptors.
    pub(crate) fn receive<T>(
        &mut self,
        decode: impl FnOnce(Frame<'_, ForeignFd>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        loop {
            // Exactly the bytes that are wanted next: a longer read could run
            // into the next message's descriptors.
            let space = self.framer.space();
            let read = read(&self.fd, &self.reaper, space)?;
            let Some((bytes, fds)) = read else {
                return Ok(None);
            };
            match self.framer.advance(bytes, fds) {
                Ok(Progress::Frame(frame)) => return decode(frame).map(Some),
                Ok(Progress::More) => {}
                Err(error) => return Err(FrontendFault::Frame(error.reason()).into()),
            }
        }
    }

    /// Queues a message, with a descriptor of the device's own if there is
    /// one, and sends what the peer takes.
    ///
    /// To be called only while nothing [`is_sending`](Self::is_sending), so
    /// that at most one message is held.
    pub(crate) fn send(&mut self, message: &[u8], fd: Option<OwnedFd>) -> Result<(), Fault> {
        self.outbox.extend(message);
        self.attached = fd;
        self.flush()
    }

    /// Sends as much of the outbox as the peer takes. A descriptor goes with
    /// the first byte.
    ///
    /// # Errors
    ///
    /// [`Fault::HungUp`] if nobody will read it any more.
    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        while !self.outbox.is_empty() {
            let (front, back) = self.outbox.as_slices();
            let bytes = [IoSlice::new(front), IoSlice::new(back)];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = self.attached.as_ref().map(|fd| [fd.as_fd()]);
            if let Some(fds) = &fds {
                // The buffer is made for one.
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.fd, &bytes, &mut control, flags) {
                Ok(sent) => {
                    self.attached = None;
                    drop(self.outbox.drain(..sent.min(self.outbox.len())));
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Fault::HungUp),
                Err(error) => return Err(FrontendFault::Send(error).into()),
            }
        }
        Ok(())
    }
}

impl Drop for Socket {
    /// What is left in it may be descriptors, which the kernel closes with it, as
    /// long as that takes. Mostly nothing is; so a socket that nobody else has is
    /// shut down, so that nothing can come, and asked.
    fn drop(&mut self) {
        let shut = shutdown(&self.fd, Shutdown::Both);
        if shut.is_ok() && ioctl_fionread(&self.fd) == Ok(0) {
            self.fd.is_empty_socket();
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sending = self.outbox.len();
        f.debug_struct("Socket")
            .field("sending", &sending)
            .finish_non_exhaustive()
    }
}

/// Reads what is there, with the descriptors that came along.
fn read(
    socket: &ForeignFd,
    reaper: &Reaper,
    space: &mut [u8],
) -> Result<Option<(usize, Fds<ForeignFd>)>, Fault> {
    let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut control);
    let Some(received) = receive(socket, space, &mut control)? else {
        return Ok(None);
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights.map(|fd| ForeignFd::new(fd, reaper)));
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // There was room for all; so this process may not open so many.
        return Err(EnvironmentFault::Descriptors.into());
    }
    Ok(Some((received.bytes, fds.into_iter().collect())))
}

/// `recvmsg`. `None`: nothing is there.
fn receive(
    socket: &ForeignFd,
    space: &mut [u8],
    control: &mut RecvAncillaryBuffer<'_>,
) -> Result<Option<RecvMsg>, Fault> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(space)], control, flags) {
            Ok(received) if received.bytes == 0 => return Err(Fault::HungUp),
            Ok(received) => return Ok(Some(received)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(Fault::HungUp),
            Err(error) => return Err(FrontendFault::Receive(error).into()),
        }
    }
}
