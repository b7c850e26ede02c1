// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Device state on its way between the backend and the device.
//!
//! The backend sees a pipe, whose end is the end of the state. The device takes
//! pieces, and an empty one is the end (vhost-guest specification, migration
//! queues).

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::ioctl_fionbio;
use vhost_guest_msg::{DeviceStateReply, FrontendRequest, Reply, Transfer as Direction};

/// The transfers of a session, one at a time.
///
/// Queues do not say which transfer their contents belong to. So if one begins
/// before the other is over, neither can be trusted, nor any that comes after
/// them; the driver's server does the same.
#[derive(Default)]
pub struct Transfers {
    current: Option<Transfer>,
    confused: bool,
}

impl Transfers {
    /// What is answered in place of the backend, to whom a request about transfers
    /// must not go.
    pub fn refuse(&mut self, request: &FrontendRequest<()>) -> Option<Reply> {
        match request {
            FrontendRequest::SetDeviceStateFd(_) => {
                self.confused |= self.current.take().is_some();
                let refused = DeviceStateReply(1).without_fd();
                self.confused.then_some(Reply::DeviceState(refused))
            }
            FrontendRequest::CheckDeviceState => self.confused.then_some(Reply::U64(1)),
            _ => None,
        }
    }

    /// One begins.
    pub fn begin(&mut self, transfer: Transfer) {
        self.current = Some(transfer);
    }

    /// The backend does not want it.
    pub fn end(&mut self) {
        self.current = None;
    }

    /// The backend wants it to go through another channel.
    pub fn redirect(&mut self, pipe: OwnedFd) -> io::Result<()> {
        if let Some(transfer) = self.current.take() {
            self.current = Some(Transfer::new(transfer.direction, pipe)?);
        }
        Ok(())
    }

    /// The one that is not over.
    pub fn current(&self) -> Option<&Transfer> {
        self.current.as_ref()
    }

    /// Moves what can be moved, in pieces of at most `most` bytes.
    pub fn step(&mut self, state: &File, most: usize) -> io::Result<()> {
        let Some(transfer) = &mut self.current else {
            return Ok(());
        };
        transfer.step(state, most)?;
        if transfer.over {
            self.current = None;
        }
        Ok(())
    }
}

/// State that moves.
pub struct Transfer {
    direction: Direction,
    /// Our end of the pipe, until the state has passed through it.
    pipe: Option<File>,
    /// What was taken from one side and not yet by the other. An empty one is
    /// the end.
    piece: Option<Vec<u8>>,
    /// Everything has passed.
    over: bool,
}

impl Transfer {
    /// State that moves through `pipe`.
    pub fn new(direction: Direction, pipe: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&pipe, true)?;
        Ok(Self {
            direction,
            pipe: Some(pipe.into()),
            piece: None,
            over: false,
        })
    }

    /// What to wait for: of the pipe, and of the device.
    pub fn interest(&self) -> [Option<PollFlags>; 2] {
        match (self.direction, &self.piece) {
            _ if self.over => [None, None],
            (Direction::Save, None) => [Some(PollFlags::IN), None],
            (Direction::Save, Some(_)) => [None, Some(PollFlags::OUT)],
            (Direction::Load, None) => [None, Some(PollFlags::IN)],
            (Direction::Load, Some(_)) => [Some(PollFlags::OUT), None],
        }
    }

    /// The pipe, to wait for.
    pub fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Moves what can be moved, in pieces of at most `most` bytes.
    fn step(&mut self, state: &File, most: usize) -> io::Result<()> {
        while !self.over {
            let moved = match self.direction {
                Direction::Save => self.save(state, most),
                Direction::Load => self.load(state, most),
            };
            match moved {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One read or write, from the pipe to the device.
    fn save(&mut self, state: &File, most: usize) -> io::Result<()> {
        if let Some(piece) = &self.piece {
            // A piece is taken as a whole.
            rustix::io::write(state, piece)?;
            self.over = piece.is_empty();
            self.piece = None;
            return Ok(());
        }
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        let mut piece = vec![0; most];
        let read = pipe.read(&mut piece)?;
        piece.truncate(read);
        self.piece = Some(piece);
        Ok(())
    }

    /// One read or write, from the device to the pipe.
    fn load(&mut self, mut state: &File, most: usize) -> io::Result<()> {
        if let Some(piece) = &mut self.piece {
            if let Some(pipe) = &mut self.pipe {
                match pipe.write(piece) {
                    Ok(written) => drop(piece.drain(..written)),
                    // It wants no more; what comes is taken all the same, for
                    // the frontend waits for that.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => self.pipe = None,
                    Err(error) => return Err(error),
                }
            }
            if self.pipe.is_none() || piece.is_empty() {
                self.piece = None;
            }
            return Ok(());
        }
        let mut piece = vec![0; most];
        let read = state.read(&mut piece)?;
        if read == 0 {
            // The backend sees the end.
            self.pipe = None;
            self.over = true;
        } else {
            piece.truncate(read);
            self.piece = Some(piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use rustix::pipe::{pipe_with, PipeFlags};

    use super::*;

    /// The device's file as a datagram socket: pieces are pieces. (An empty
    /// piece is one, too.)
    fn state_file() -> (File, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (OwnedFd::from(ours).into(), theirs)
    }

    fn transfer(direction: Direction) -> (Transfer, File) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (ours, theirs) = match direction {
            Direction::Save => (read, write),
            Direction::Load => (write, read),
        };
        (Transfer::new(direction, ours).unwrap(), theirs.into())
    }

    #[test]
    fn saves_in_pieces_and_ends_with_an_empty_one() {
        let (state, device) = state_file();
        let (mut transfer, mut backend) = transfer(Direction::Save);
        transfer.step(&state, 4).unwrap();
        assert_eq!(transfer.interest(), [Some(PollFlags::IN), None]);
        backend.write_all(b"abcdefghi").unwrap();
        transfer.step(&state, 4).unwrap();
        let mut pieces = Vec::new();
        let mut buffer = [0; 16];
        while let Ok(read) = device.recv(&mut buffer) {
            pieces.push(buffer[..read].to_vec());
        }
        assert_eq!(pieces, [&b"abcd"[..], b"efgh", b"i"]);
        assert!(!transfer.over);
        drop(backend);
        transfer.step(&state, 4).unwrap();
        assert_eq!(device.recv(&mut buffer).unwrap(), 0);
        assert!(transfer.over);
    }

    #[test]
    fn loads_until_an_empty_piece_and_closes_the_pipe() {
        let (state, device) = state_file();
        let (mut transfer, mut backend) = transfer(Direction::Load);
        for piece in [&b"ab"[..], b"c", b""] {
            transfer.step(&state, 16).unwrap();
            assert!(!transfer.over);
            device.send(piece).unwrap();
        }
        transfer.step(&state, 16).unwrap();
        assert!(transfer.over);
        let mut all = Vec::new();
        backend.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc");
    }

    #[test]
    fn takes_everything_for_a_backend_that_wants_no_more() {
        let (state, device) = state_file();
        let (mut transfer, backend) = transfer(Direction::Load);
        drop(backend);
        for piece in [&b"ab"[..], b"c", b""] {
            device.send(piece).unwrap();
        }
        transfer.step(&state, 16).unwrap();
        assert!(transfer.over);
    }

    #[test]
    fn waits_for_a_backend_that_does_not_read() {
        let (state, device) = state_file();
        let (mut transfer, mut backend) = transfer(Direction::Load);
        let piece = vec![1; 16 << 10];
        let mut sent = 0;
        while transfer.interest() != [Some(PollFlags::OUT), None] {
            device.send(&piece).unwrap();
            sent += piece.len();
            transfer.step(&state, piece.len()).unwrap();
        }
        device.send(&[]).unwrap();
        let mut all = vec![0; sent];
        let mut read = 0;
        while read < sent {
            read += backend.read(&mut all[read..]).unwrap();
            transfer.step(&state, piece.len()).unwrap();
        }
        assert!(transfer.over && all.iter().all(|byte| *byte == 1));
    }
}
