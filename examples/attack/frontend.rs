// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A frontend's connection, message by message.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vhost_guest_msg::frontend as code;

use crate::wire::{message, send, words};

/// After this time the device does not answer any more.
const PATIENCE: Duration = Duration::from_secs(3);
/// Flags of a request that wants no acknowledgement.
pub const PLAIN: u32 = 1;
/// Flags of one that does.
pub const NEED_REPLY: u32 = 9;
/// Where frontends say that their memory is.
pub const MEMORY: u64 = 0x7f00_0000_0000;
const PAGE: u64 = 4096;
/// Features that frontends here do not want: LOG_ALL, ACCESS_PLATFORM and
/// RING_PACKED.
const NOT_WANTED: u64 = 1 << 26 | 1 << 33 | 1 << 34;

/// A connection.
pub struct Frontend {
    /// The socket.
    pub socket: UnixStream,
    /// What it acknowledged: features, and protocol features.
    acknowledged: [u64; 2],
}

impl Frontend {
    /// Connects, and no more.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            acknowledged: [0; 2],
        })
    }

    /// Connects, and negotiates everything that is offered.
    pub fn negotiated(path: &Path) -> io::Result<Self> {
        let mut frontend = Self::connect(path)?;
        let features = frontend.number(code::GET_FEATURES, PLAIN, &[], &[])?;
        let protocol = frontend.number(code::GET_PROTOCOL_FEATURES, PLAIN, &[], &[])?;
        frontend.acknowledged = [features & !NOT_WANTED, protocol];
        frontend.acknowledge(frontend.acknowledged)?;
        Ok(frontend)
    }

    fn acknowledge(&self, [features, protocol]: [u64; 2]) -> io::Result<()> {
        self.say(code::SET_PROTOCOL_FEATURES, PLAIN, &[protocol], &[])?;
        self.say(code::SET_FEATURES, PLAIN, &[features], &[])
    }

    /// Another connection, which waits for its turn until this one ends. What
    /// it says it says before the device reads it.
    pub fn queued(&self) -> io::Result<Self> {
        let address = self.socket.peer_addr()?;
        let path = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
        let other = Self::connect(path)?;
        other.say(code::GET_FEATURES, PLAIN, &[], &[])?;
        other.say(code::GET_PROTOCOL_FEATURES, PLAIN, &[], &[])?;
        other.acknowledge(self.acknowledged)?;
        Ok(other)
    }

    /// Sends a request.
    pub fn say(
        &self,
        code: u32,
        flags: u32,
        payload: &[u64],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        send(&self.socket, &message(code, flags, &words(payload)), fds).map(drop)
    }

    /// Receives the payload of a message.
    pub fn hear(&mut self) -> io::Result<Vec<u8>> {
        let mut header = [0; 12];
        self.socket.read_exact(&mut header)?;
        let [.., a, b, c, d] = header;
        let size = u32::from_ne_bytes([a, b, c, d]).min(4096);
        let mut payload = vec![0; size as usize];
        self.socket.read_exact(&mut payload)?;
        Ok(payload)
    }

    /// Sends a request whose reply begins with a number.
    fn number(
        &mut self,
        code: u32,
        flags: u32,
        payload: &[u64],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<u64> {
        self.say(code, flags, payload, fds)?;
        let reply = self.hear()?;
        let number = reply.first_chunk().copied();
        Ok(u64::from_ne_bytes(
            number.ok_or(io::ErrorKind::InvalidData)?,
        ))
    }

    /// Sends a request that is to be acknowledged. Tells whether it was carried
    /// out.
    pub fn ask(&mut self, code: u32, payload: &[u64], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        Ok(self.number(code, NEED_REPLY, payload, fds)? == 0)
    }

    /// As [`ask`](Self::ask); that it is refused is an error.
    pub fn tell(&mut self, code: u32, payload: &[u64], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self.ask(code, payload, fds)? {
            true => Ok(()),
            false => Err(io::Error::other(format!("request {code} is refused"))),
        }
    }

    /// Shares `size` bytes of a file, at [`MEMORY`].
    pub fn add_memory(&mut self, file: impl AsFd, size: u64) -> io::Result<bool> {
        let region = [0, 0, size, MEMORY, 0];
        self.ask(code::ADD_MEM_REG, &region, &[file.as_fd()])
    }

    /// Takes it back.
    pub fn remove_memory(&mut self, size: u64) -> io::Result<bool> {
        self.ask(code::REM_MEM_REG, &[0, 0, size, MEMORY, 0], &[])
    }

    /// A frontend that does what all do: memory, a ring with its eventfds,
    /// started and stopped; and its call has to arrive.
    pub fn honest(path: &Path, size: u64) -> io::Result<()> {
        let mut frontend = Self::negotiated(path)?;
        let memory = memfd(HONEST, size)?;
        for page in 0..size / PAGE {
            rustix::io::pwrite(&memory, &[0], page * PAGE)?;
        }
        frontend.share(&memory, size)?;
        frontend.add_ring(0)?;
        let (kick, call) = (event()?, event()?);
        frontend.tell(code::SET_VRING_KICK, &[0], &[kick.as_fd()])?;
        frontend.tell(code::SET_VRING_CALL, &[0], &[call.as_fd()])?;
        frontend.tell(code::SET_VRING_ENABLE, &[1 << 32], &[])?;
        wait_for(&call)?;
        frontend.number(code::GET_VRING_BASE, PLAIN, &[0], &[])?;
        Ok(())
    }

    /// Shares a file, and nothing else.
    pub fn share(&mut self, memory: impl AsFd, size: u64) -> io::Result<()> {
        let table = [1, 0, size, MEMORY, 0];
        self.tell(code::SET_MEM_TABLE, &table, &[memory.as_fd()])
    }

    /// Has an empty ring in three pages of shared memory.
    pub fn add_ring(&mut self, vring: u64) -> io::Result<()> {
        let at = MEMORY + vring * 3 * PAGE;
        self.tell(code::SET_VRING_NUM, &[vring | 16 << 32], &[])?;
        let ring = [vring, at, at + 2 * PAGE, at + PAGE, 0];
        self.tell(code::SET_VRING_ADDR, &ring, &[])?;
        self.tell(code::SET_VRING_BASE, &[vring], &[])
    }
}

/// How the memory of honest frontends is called.
pub const HONEST: &str = "honest";

/// A file of memory.
pub fn memfd(name: &str, size: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(name, flags)?;
    ftruncate(&file, size)?;
    Ok(file)
}

/// An eventfd.
pub fn event() -> io::Result<OwnedFd> {
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    Ok(eventfd(0, flags)?)
}

/// A probe stores at the doorbell of vring 0 again and again.
fn wait_for(call: &OwnedFd) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let limit = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(call, PollFlags::IN)];
        if poll(&mut fds, Some(&limit))? > 0 {
            return Ok(());
        }
    }
    Err(io::Error::other("the guest's call does not arrive"))
}
