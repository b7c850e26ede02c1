// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a frontend sends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixStream};

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::pipe::{pipe_with, PipeFlags};
use vhost_guest_msg::{frontend, HEADER_SIZE};

use crate::machine::connect;
use crate::{Input, Mode};

/// Size of a memory file: that of the VMs in captured sessions.
const MEMORY: u64 = 256 << 20;
/// What is read at a time.
const READ: usize = 8192;
/// More than a message may carry.
const FDS_MAX: u8 = 34;
/// Ends of channels that are kept.
const ENDS_MAX: usize = 4;

/// One that is connected, or was.
pub struct Frontend {
    stream: Option<UnixStream>,
    /// Its memory, one file as QEMU's.
    memory: File,
    /// Eventfds that it has sent.
    events: Vec<OwnedFd>,
    /// Its ends of the latest sockets and pipes that it has sent.
    ends: VecDeque<File>,
    /// What the last reply to GET_PROTOCOL_FEATURES offered.
    offered: [u8; 8],
}

impl Frontend {
    /// One that is not connected yet.
    #[must_use]
    pub fn new() -> Self {
        let memory = memfd_create("frontend", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
        let memory = File::from(memory.expect("a memory file"));
        ftruncate(&memory, MEMORY).expect("a length");
        Self {
            stream: None,
            memory,
            events: Vec::new(),
            ends: VecDeque::new(),
            offered: [0; 8],
        }
    }

    /// It goes away, and perhaps comes back.
    pub fn reconnect(&mut self, stream: Option<UnixStream>) {
        self.stream = stream;
    }

    /// One of the eight things that a frontend does.
    pub fn step(&mut self, kind: u8, device: &SocketAddr, mode: Mode, input: &mut Input<'_>) {
        match kind {
            0 => self.reconnect(connect(device).ok()),
            1 => self.reconnect(None),
            2 => {
                let fds = self.descriptors(input);
                self.send(&mode.take_message(input), &fds);
            }
            3 => {
                let fds = self.descriptors(input);
                self.send_honestly(mode.take_message(input), &fds);
            }
            4 => {
                let fds = self.descriptors(input);
                let length = usize::from(input.byte());
                self.send(input.bytes(length), &fds);
            }
            5 => self.receive(),
            6 => self.truncate(input.byte()),
            _ => self.signal(input.byte().into()),
        }
    }

    /// Makes descriptors: a number of them, and the kind of each.
    pub fn descriptors(&mut self, input: &mut Input<'_>) -> Vec<OwnedFd> {
        let count = input.byte() % FDS_MAX;
        (0..count).map(|_| self.descriptor(input.byte())).collect()
    }

    fn descriptor(&mut self, kind: u8) -> OwnedFd {
        match kind % 10 {
            0 => self.memory.try_clone().expect("a duplicate").into(),
            1 => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
                let event = event.expect("an eventfd");
                self.events.push(event.try_clone().expect("a duplicate"));
                event
            }
            2 => {
                let (theirs, ours) = UnixStream::pair().expect("sockets");
                ours.set_nonblocking(true).expect("a socket");
                self.keep(OwnedFd::from(ours));
                theirs.into()
            }
            3 | 8 => {
                let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
                let (reader, writer) = pipe_with(flags).expect("a pipe");
                let (theirs, ours) = match kind % 10 {
                    3 => (reader, writer),
                    _ => (writer, reader),
                };
                self.keep(ours);
                theirs
            }
            4 => File::open("/dev/zero").expect("a device").into(),
            5 => {
                let file = memfd_create("other", MemfdFlags::CLOEXEC).expect("a memory file");
                ftruncate(&file, MEMORY).expect("a length");
                file
            }
            6 => eventfd(1, EventfdFlags::SEMAPHORE).expect("an eventfd"),
            _ => match self.stream.as_ref().map(UnixStream::try_clone) {
                Some(Ok(stream)) => stream.into(),
                _ => File::open("/dev/null").expect("a device").into(),
            },
        }
    }

    fn keep(&mut self, end: OwnedFd) {
        self.ends.push_back(end.into());
        if self.ends.len() > ENDS_MAX {
            self.ends.pop_front();
        }
    }

    /// Uses the other ends of what it has sent: writes, reads, or closes one.
    pub fn use_ends(&mut self, what: u8) {
        match what % 4 {
            0 => drop(self.ends.pop_back()),
            1 => self.ends.iter_mut().for_each(|end| {
                let _ = end.read(&mut [0; READ]);
            }),
            _ => {
                // This program does not ignore SIGPIPE, which shows whether
                // the device does without it. So nobody else may raise it.
                if let Some(end) = self.ends.back_mut().filter(|end| has_reader(end)) {
                    let _ = end.write(&vec![what; usize::from(what) << 4]);
                }
            }
        }
    }

    /// Sends bytes with descriptors; nobody cares whether they arrive.
    pub fn send(&mut self, bytes: &[u8], fds: &[OwnedFd]) {
        let Some(stream) = &self.stream else {
            return;
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let _ = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags);
    }

    /// As [`send`](Self::send), but it acknowledges what was offered only: few
    /// sessions would come far otherwise.
    pub fn send_honestly(&mut self, mut message: Vec<u8>, fds: &[OwnedFd]) {
        self.receive();
        if code(&message) == Some(frontend::SET_PROTOCOL_FEATURES) {
            for (byte, offered) in message.iter_mut().skip(HEADER_SIZE).zip(self.offered) {
                *byte &= offered;
            }
        }
        self.send(&message, fds);
    }

    /// Takes what there is, descriptors included (they are closed).
    pub fn receive(&mut self) {
        let Some(stream) = &self.stream else {
            return;
        };
        let mut bytes = [0; READ];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(stream, &mut parts, &mut control, RecvFlags::DONTWAIT);
        let length = received.map_or(0, |message| message.bytes);
        let message = &bytes[..length];
        if code(message) == Some(frontend::GET_PROTOCOL_FEATURES) {
            if let Some(offered) = message.get(HEADER_SIZE..HEADER_SIZE + 8) {
                self.offered.copy_from_slice(offered);
            }
        }
    }

    /// Truncates its memory to a number of MiB.
    pub fn truncate(&mut self, mebibytes: u8) {
        let _ = ftruncate(&self.memory, u64::from(mebibytes) << 20);
    }

    /// Signals one of its eventfds.
    pub fn signal(&mut self, number: usize) {
        if let Some(event) = self.events.get(number % self.events.len().max(1)) {
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }
}

/// Whether somebody has the other end.
fn has_reader(end: &File) -> bool {
    let mut fds = [PollFd::new(end, PollFlags::OUT)];
    let gone = PollFlags::ERR | PollFlags::HUP;
    poll(&mut fds, Some(&Timespec::default())).is_ok() && !fds[0].revents().intersects(gone)
}

fn code(message: &[u8]) -> Option<u32> {
    message.first_chunk().copied().map(u32::from_ne_bytes)
}

impl Default for Frontend {
    fn default() -> Self {
        Self::new()
    }
}
