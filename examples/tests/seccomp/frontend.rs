// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontends: one that uses all there is, and some that attack.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::pipe::pipe;
use vhost_guest_examples::wire::{message, receive, send, words};
use vhost_guest_msg::frontend as code;

use crate::filter::violations;

/// Flags of a request that asks for an acknowledgement.
const NEED_REPLY: u32 = 9;
/// Where the frontend's memory is, as it says.
const USER: u64 = 0x7000_0000;
/// How much of it there is.
const SIZE: u64 = 1 << 20;
/// After this time something hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// The highest count of an eventfd; one more blocks.
const FULL: u64 = u64::MAX - 1;

/// An eventfd with this count.
pub fn event(count: u64) -> OwnedFd {
    let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, &count.to_ne_bytes()).unwrap();
    fd
}

fn memory() -> OwnedFd {
    let fd = memfd_create("frontend", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, SIZE).unwrap();
    fd
}

/// A connection.
pub struct Frontend {
    stream: UnixStream,
}

impl Frontend {
    /// Connects and negotiates everything.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let this = Self { stream };
        let features = this.ask(code::GET_FEATURES, &[], &[]);
        let protocol = this.ask(code::GET_PROTOCOL_FEATURES, &[], &[]);
        // Acknowledgements begin with the next message.
        let payload = protocol.get(12..).unwrap();
        this.say(&message(code::SET_PROTOCOL_FEATURES, 1, payload), &[]);
        let payload = words(&[u64::from_ne_bytes(features[12..].try_into().unwrap())]);
        this.ask(code::SET_FEATURES, &payload, &[]);
        this
    }

    fn say(&self, bytes: &[u8], fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        // The device may have hung up.
        let _ = send(&self.stream, bytes, &fds);
    }

    /// Sends a request and returns the reply; empty if it costs the connection.
    fn ask(&self, code: u32, payload: &[u8], fds: &[OwnedFd]) -> Vec<u8> {
        self.ask_with_fds(code, payload, fds).0
    }

    fn ask_with_fds(&self, code: u32, payload: &[u8], fds: &[OwnedFd]) -> (Vec<u8>, Vec<OwnedFd>) {
        self.say(&message(code, NEED_REPLY, payload), fds);
        match receive(&self.stream, 4096) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no reply to request {code}; {:?}", violations())
            }
            outcome => outcome.unwrap_or_default(),
        }
    }

    /// As `ask`, of a request that succeeds.
    fn succeed(&self, code: u32, payload: &[u64], fds: &[OwnedFd]) {
        let reply = self.ask(code, &words(payload), fds);
        let right = message(code, 5, &words(&[0]));
        assert_eq!(reply, right, "request {code}; {:?}", violations());
    }

    /// Shares memory, in two ways.
    pub fn share(&self) -> OwnedFd {
        let file = memory();
        let table = [1, 0, SIZE, USER, 0];
        self.succeed(code::SET_MEM_TABLE, &table, &[file.try_clone().unwrap()]);
        let slot = [0, 1 << 40, SIZE, 1 << 40, 0];
        self.succeed(code::ADD_MEM_REG, &slot, &[memory()]);
        file
    }

    /// Every request that the device carries, once or more often.
    pub fn use_everything(&self) {
        self.succeed(code::SET_OWNER, &[], &[]);
        self.ask(code::GET_QUEUE_NUM, &[], &[]);
        self.ask(code::GET_MAX_MEM_SLOTS, &[], &[]);
        self.ask(code::GET_STATUS, &[], &[]);
        self.succeed(code::SET_STATUS, &[15], &[]);
        self.share();
        self.share();
        self.succeed(code::REM_MEM_REG, &[0, 1 << 40, SIZE, 1 << 40, 0], &[]);
        self.ask(code::SET_LOG_BASE, &words(&[SIZE, 0]), &[memory()]);
        self.succeed(code::SET_LOG_FD, &[], &[event(0)]);
        self.succeed(code::IOTLB_MSG, &[0x1000, 0x1000, USER, 0x203], &[]);
        self.succeed(code::SEND_RARP, &[1], &[]);
        self.succeed(code::NET_SET_MTU, &[1500], &[]);
        let config = [words(&[4 << 32]), vec![0; 8]].concat();
        self.ask(code::GET_CONFIG, &config, &[]);
        self.ask(code::SET_CONFIG, &config, &[]);
        let record = words(&[SIZE, 0, 1 | 256 << 16]);
        for _ in 0..2 {
            // The second one empties the first.
            let (reply, fds) = self.ask_with_fds(code::GET_INFLIGHT_FD, &record, &[]);
            self.ask(code::SET_INFLIGHT_FD, &reply[12..], &fds);
        }
        self.use_vring(1);
        self.converse();
        self.migrate();
        self.succeed(code::RESET_OWNER, &[], &[]);
        self.succeed(code::RESET_DEVICE, &[], &[]);
    }

    /// Eventfds of a vring; the call's is as given.
    pub fn notifications(&self, vring: u64, call: OwnedFd) {
        let kick = event(0);
        self.succeed(code::SET_VRING_KICK, &[vring], &[kick.try_clone().unwrap()]);
        rustix::io::write(&kick, &1_u64.to_ne_bytes()).unwrap();
        self.succeed(code::SET_VRING_CALL, &[vring], &[call]);
        self.succeed(code::SET_VRING_ERR, &[vring], &[event(0)]);
    }

    fn use_vring(&self, vring: u64) {
        self.succeed(code::SET_VRING_NUM, &[vring | 64 << 32], &[]);
        let addresses = [vring, USER, USER + 0x1000, USER + 0x2000, 0];
        self.succeed(code::SET_VRING_ADDR, &addresses, &[]);
        self.succeed(code::SET_VRING_BASE, &[vring], &[]);
        self.succeed(code::SET_VRING_ENDIAN, &[vring], &[]);
        self.notifications(vring, event(0));
        self.succeed(code::SET_VRING_ENABLE, &[vring | 1 << 32], &[]);
        let stop = [code::GET_VRING_BASE, code::GET_VRING_BASE_SKIP_DRAIN];
        for code in stop {
            assert!(!self.ask(code, &words(&[vring]), &[]).is_empty(), "{code}");
        }
        // Without eventfds.
        for code in [
            code::SET_VRING_KICK,
            code::SET_VRING_CALL,
            code::SET_VRING_ERR,
        ] {
            self.succeed(code, &[vring | 0x100], &[]);
        }
    }

    /// Answers what the guest asks.
    fn converse(&self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.succeed(code::SET_BACKEND_REQ_FD, &[], &[theirs.into()]);
        for _ in 0..2 {
            let mut header = [0; 12];
            (&ours).read_exact(&mut header).unwrap();
            let [code, _, size] =
                [0, 4, 8].map(|at| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap()));
            (&ours).read_exact(&mut vec![0; size as usize]).unwrap();
            send(&ours, &message(code, 5, &words(&[0])), &[]).unwrap();
        }
    }

    /// State goes out and in, through pipes and sockets.
    fn migrate(&self) {
        for socket in [false, true] {
            let channel = || -> (OwnedFd, OwnedFd) {
                match socket {
                    true => {
                        let (reader, writer) = UnixStream::pair().unwrap();
                        (reader.into(), writer.into())
                    }
                    false => pipe().unwrap(),
                }
            };
            let (reader, writer) = channel();
            self.ask(code::SET_DEVICE_STATE_FD, &words(&[0]), &[writer]);
            let mut state = Vec::new();
            File::from(reader).read_to_end(&mut state).unwrap();
            assert!(!state.is_empty(), "{:?}", violations());
            self.succeed(code::CHECK_DEVICE_STATE, &[], &[]);

            let (reader, writer) = channel();
            self.ask(code::SET_DEVICE_STATE_FD, &words(&[1]), &[reader]);
            rustix::io::write(&writer, &state[..100]).unwrap();
            drop(writer);
            self.succeed(code::CHECK_DEVICE_STATE, &[], &[]);
        }
    }

    /// Truncates what it has shared. The device notices and hangs up.
    pub fn truncate(self) {
        let file = self.share();
        ftruncate(&file, 0).unwrap();
        self.expect_end();
    }

    /// Waits until the device has hung up.
    pub fn expect_end(self) {
        loop {
            match receive(&self.stream, 4096) {
                Ok((bytes, _)) if !bytes.is_empty() => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("the device does not hang up; {:?}", violations())
                }
                _ => return,
            }
        }
    }

    /// Dies in the middle of a message, with descriptors in the socket.
    pub fn die(self) {
        for vring in 0..2 {
            let bytes = message(code::SET_VRING_CALL, 1, &words(&[vring]));
            self.say(&bytes, &[event(0)]);
        }
        self.say(
            &message(code::ADD_MEM_REG, 1, &words(&[0; 5]))[..20],
            &[memory()],
        );
    }
}

/// Descriptors that are not what the messages call for.
pub fn attack(socket: &Path) {
    let others = || -> Vec<OwnedFd> {
        let (one, other) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        vec![
            File::open("/dev/null").unwrap().into(),
            File::open("/").unwrap().into(),
            File::open("/proc/self/maps").unwrap().into(),
            one.into(),
            other.into(),
            reader,
            writer,
            std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(),
            event(0),
            memory(),
        ]
    };
    for (code, payload) in [
        (code::SET_VRING_CALL, vec![0]),
        (code::SET_MEM_TABLE, vec![1, 0, SIZE, USER, 0]),
        (code::SET_BACKEND_REQ_FD, vec![]),
        (code::SET_DEVICE_STATE_FD, vec![0]),
        (code::SET_INFLIGHT_FD, vec![SIZE, 0, 1 | 256 << 16]),
    ] {
        for fd in others() {
            let frontend = Frontend::connect(socket);
            // Refused, or the end.
            frontend.ask(code, &words(&payload), &[fd]);
        }
    }
}

/// Eventfds that cannot be signalled, and one that can.
pub fn jam(socket: &Path) -> (Frontend, OwnedFd) {
    let frontend = Frontend::connect(socket);
    frontend.notifications(0, event(FULL));
    let call = event(0);
    frontend.notifications(1, call.try_clone().unwrap());
    (frontend, call)
}
