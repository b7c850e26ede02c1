// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's side of a connection, message by message. Whoever it talks
//! to may be gone at any moment.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use vhost_guest_msg::{Endian, FrontendRequest, Header, HEADER_SIZE};

/// A request whose descriptors go beside it.
pub type Request = FrontendRequest<()>;

/// After this time something hangs. Nothing is expected to come close.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A connection.
pub struct Frontend {
    stream: UnixStream,
}

impl Frontend {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let bytes = [IoSlice::new(bytes)];
        let sent = sendmsg(&self.stream, &bytes, &mut control, SendFlags::NOSIGNAL)?;
        assert_eq!(sent, bytes[0].len());
        Ok(())
    }

    /// Fills `bytes`; the descriptors that came with them.
    fn receive(&self, bytes: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
        let mut fds = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut rest = [IoSliceMut::new(&mut bytes[done..])];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = match recvmsg(&self.stream, &mut rest, &mut control, flags) {
                // Not "would block": that would be an end of patience.
                Err(rustix::io::Errno::AGAIN) => panic!("the backend hangs"),
                received => received?.bytes,
            };
            if received == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            done += received;
        }
        Ok(fds)
    }

    /// Waits until the other side closes the connection; whether it says nothing
    /// before.
    pub fn has_been_left(&self) -> bool {
        std::io::Read::read(&mut &self.stream, &mut [0]).unwrap() == 0
    }

    fn reply(&self, request: &Request) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut header = [0; HEADER_SIZE];
        let fds = self.receive(&mut header)?;
        let header = Header::parse(&header, Endian::Little).unwrap();
        assert_eq!(header.code, request.code());
        let mut payload = vec![0; header.size as usize];
        self.receive(&mut payload)?;
        Ok((payload, fds))
    }

    /// Sends a request without a reply.
    pub fn tell(&self, request: &Request) -> io::Result<()> {
        self.send(&request.to_vec(false, Endian::Little), &[])
    }

    /// Sends a request that has a reply of its own.
    pub fn ask(&self, request: &Request) -> io::Result<Vec<u8>> {
        Ok(self.ask_for_fds(request, &[])?.0)
    }

    /// The same, with descriptors both ways.
    pub fn ask_for_fds(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        self.send(&request.to_vec(false, Endian::Little), fds)?;
        self.reply(request)
    }

    /// The same, for a number.
    pub fn ask_u64(&self, request: &Request) -> io::Result<u64> {
        let payload = self.ask(request)?;
        Ok(u64::from_le_bytes(payload.try_into().unwrap()))
    }

    /// Sends a request and waits until it has been carried out.
    pub fn order(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(&request.to_vec(true, Endian::Little), fds)?;
        let (payload, _) = self.reply(request)?;
        assert_eq!(payload, [0; 8], "refused: {request:?}");
        Ok(())
    }
}

impl AsFd for Frontend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
