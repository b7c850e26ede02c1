// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A backend with state that is migrated from one guest to another: saved
//! from one device and loaded into the next (SET_DEVICE_STATE_FD,
//! CHECK_DEVICE_STATE).

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::pipe::pipe;
use vhost_guest_driver::{Backend, Ring, State};
use vhost_guest_msg::{DeviceState, ProtocolFeatures, Transfer, VirtioFeatures};

use crate::frontend::{Frontend, Request};
use crate::host::Host;
use crate::Noise;

const DEVICE_TYPE: u16 = 26;
const SUCCESS: u64 = 0x100;
const FAILURE: u64 = 0x101;

/// What a guest remembers.
type Memory = Arc<Mutex<Vec<u8>>>;

/// A device that remembers bytes. They move with their number in front, and
/// with a sum behind.
struct Diary {
    memory: Memory,
    stream: Vec<u8>,
    /// Bytes given or taken at a time, whatever there is room for.
    step: usize,
}

fn sum(bytes: &[u8]) -> u64 {
    let add = |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte) + 1);
    bytes.iter().fold(0, add)
}

fn stream(bytes: &[u8]) -> Vec<u8> {
    let mut stream = (bytes.len() as u64).to_le_bytes().to_vec();
    stream.extend(bytes);
    stream.extend(sum(bytes).to_le_bytes());
    stream
}

impl State for Diary {
    fn begin(&mut self, direction: Transfer) -> bool {
        self.stream = match direction {
            Transfer::Save => stream(&self.memory.lock().unwrap()),
            Transfer::Load => Vec::new(),
        };
        true
    }

    fn save(&mut self, data: &mut [u8]) -> Option<usize> {
        let len = data.len().min(self.step).min(self.stream.len());
        for (to, from) in data.iter_mut().zip(self.stream.drain(..len)) {
            *to = from;
        }
        Some(len)
    }

    fn load(&mut self, data: &[u8]) -> bool {
        self.stream.extend(data);
        self.stream.len() <= 4 << 20
    }

    fn loaded(&mut self) -> bool {
        let Some((len, rest)) = self.stream.split_first_chunk() else {
            return false;
        };
        let Some((bytes, check)) = rest.split_last_chunk() else {
            return false;
        };
        let good = u64::from_le_bytes(*len) == bytes.len() as u64
            && u64::from_le_bytes(*check) == sum(bytes);
        if good {
            *self.memory.lock().unwrap() = bytes.to_vec();
        }
        good
    }
}

impl Backend for Diary {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn features(&self) -> VirtioFeatures {
        VirtioFeatures::empty()
    }

    fn queues(&self) -> u16 {
        1
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(self)
    }

    fn process(&mut self, _: u16, _: &mut Ring<'_>) {}
}

/// A guest with a diary.
struct Guest {
    _host: Host,
    memory: Memory,
    frontend: Frontend,
}

impl Guest {
    fn new(bytes: Vec<u8>, piece: u32, step: usize) -> Self {
        let memory = Arc::new(Mutex::new(bytes));
        let shared = memory.clone();
        let host = Host::start(
            DEVICE_TYPE,
            Some(piece),
            || None,
            move |_| Diary {
                memory: shared.clone(),
                stream: Vec::new(),
                step,
            },
        );
        let frontend = Frontend::connect(host.socket()).unwrap();
        frontend.ask_u64(&Request::GetFeatures).unwrap();
        let offered = frontend.ask_u64(&Request::GetProtocolFeatures).unwrap();
        let features = ProtocolFeatures::DEVICE_STATE | ProtocolFeatures::REPLY_ACK;
        assert_eq!(features.bits() & !offered, 0);
        frontend
            .tell(&Request::SetProtocolFeatures(features))
            .unwrap();
        let features = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES;
        frontend
            .order(&Request::SetFeatures(features), &[])
            .unwrap();
        Self {
            _host: host,
            memory,
            frontend,
        }
    }

    /// SET_DEVICE_STATE_FD; what it is answered with.
    fn set(&self, direction: Transfer, fd: OwnedFd) -> u64 {
        let request = Request::SetDeviceStateFd(DeviceState { direction, fd: () });
        let reply = self.frontend.ask_for_fds(&request, &[fd.as_fd()]);
        let (payload, fds) = reply.unwrap();
        assert!(fds.is_empty(), "a guest has none to give");
        u64::from_le_bytes(payload.try_into().unwrap())
    }

    fn check(&self) -> u64 {
        self.frontend.ask_u64(&Request::CheckDeviceState).unwrap()
    }

    fn memory(&self) -> Vec<u8> {
        self.memory.lock().unwrap().clone()
    }
}

/// Both ends of a channel: what a VMM keeps, and what it gives away.
fn channel(socket: bool, direction: Transfer) -> (File, OwnedFd) {
    if socket {
        let (own, other) = UnixStream::pair().unwrap();
        return (File::from(OwnedFd::from(own)), other.into());
    }
    let (reader, writer) = pipe().unwrap();
    match direction {
        Transfer::Save => (File::from(reader), writer),
        Transfer::Load => (File::from(writer), reader),
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 13 + i / 257) as u8).collect()
}

/// All that comes, in small portions and large ones.
fn read_all(mut channel: File, noise: &mut Noise) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut buffer = vec![0; 1 + noise.below(9000) as usize];
        match channel.read(&mut buffer).unwrap() {
            0 => return all,
            len => all.extend(&buffer[..len]),
        }
    }
}

#[test]
fn state_moves_from_one_guest_to_another() {
    let mut noise = Noise::new(1);
    for (round, len) in [0, 1, 4080, 70_000, 300_000].into_iter().enumerate() {
        let socket = round % 2 == 0;
        let piece = [4096, 8192, 1 << 20][round % 3];
        let step = 1 + noise.below(5000) as usize;
        let source = Guest::new(bytes(len), piece, step);
        let (own, other) = channel(socket, Transfer::Save);
        assert_eq!(source.set(Transfer::Save, other), SUCCESS);
        let saved = read_all(own, &mut noise);
        assert_eq!(source.check(), 0);
        assert_eq!(saved, stream(&bytes(len)));

        let destination = Guest::new(b"nothing yet".to_vec(), 4096, 4096);
        let (mut own, other) = channel(!socket, Transfer::Load);
        assert_eq!(destination.set(Transfer::Load, other), SUCCESS);
        let mut rest = &saved[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(1 + noise.below(9000) as usize));
            own.write_all(now).unwrap();
            rest = later;
        }
        drop(own);
        assert_eq!(destination.check(), 0);
        assert_eq!(destination.memory(), bytes(len));
    }
}

#[test]
fn both_ways_at_once_and_again() {
    // From one guest straight into the other, and back.
    let guests = [
        Guest::new(bytes(200_000), 4096, 4096),
        Guest::new(Vec::new(), 4096, 100),
    ];
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        let (reader, writer) = pipe().unwrap();
        assert_eq!(guests[to].set(Transfer::Load, reader), SUCCESS);
        assert_eq!(guests[from].set(Transfer::Save, writer), SUCCESS);
        assert_eq!((guests[from].check(), guests[to].check()), (0, 0));
        assert_eq!(guests[to].memory(), bytes(200_000));
        *guests[from].memory.lock().unwrap() = Vec::new();
    }
}

#[test]
fn state_that_breaks_off_or_is_wrong_is_not_loaded() {
    let good = stream(&bytes(50_000));
    let mut wrong = good.clone();
    wrong[20_000] ^= 1;
    let trailing = [&good[..], b"more"].concat();
    let endless = vec![0; 5 << 20];
    for (socket, state) in [
        (false, &good[..0]),
        (true, &good[..1]),
        (false, &good[..good.len() - 1]),
        (true, &wrong),
        (false, &trailing),
        (true, &endless),
    ] {
        let guest = Guest::new(b"as before".to_vec(), 4096, 4096);
        let (mut own, other) = channel(socket, Transfer::Load);
        assert_eq!(guest.set(Transfer::Load, other), SUCCESS);
        own.write_all(state).unwrap();
        drop(own);
        assert_eq!(guest.check(), 1);
        assert_eq!(guest.memory(), b"as before");
        // The connection stays, and so does the way to try again.
        let (mut own, other) = channel(socket, Transfer::Load);
        assert_eq!(guest.set(Transfer::Load, other), SUCCESS);
        own.write_all(&good).unwrap();
        drop(own);
        assert_eq!(guest.check(), 0);
        assert_eq!(guest.memory(), bytes(50_000));
    }
}

#[test]
fn a_frontend_that_reads_no_more_does_not_stop_the_guest() {
    for socket in [false, true] {
        let guest = Guest::new(bytes(1 << 20), 4096, 4096);
        let (mut own, other) = channel(socket, Transfer::Save);
        assert_eq!(guest.set(Transfer::Save, other), SUCCESS);
        own.read_exact(&mut [0; 100]).unwrap();
        drop(own);
        // What follows goes nowhere, which the backend cannot know.
        assert_eq!(guest.check(), 0);
        let (own, other) = channel(socket, Transfer::Save);
        assert_eq!(guest.set(Transfer::Save, other), SUCCESS);
        assert_eq!(read_all(own, &mut Noise::new(2)), stream(&bytes(1 << 20)));
        assert_eq!(guest.check(), 0);
    }
}

#[test]
fn a_second_channel_spoils_both() {
    let guest = Guest::new(bytes(1 << 20), 4096, 4096);
    let (mut first, other) = channel(false, Transfer::Save);
    assert_eq!(guest.set(Transfer::Save, other), SUCCESS);
    let (second, other) = channel(false, Transfer::Save);
    assert_eq!(guest.set(Transfer::Save, other), FAILURE);
    // Nobody is left in the belief that this was all.
    assert_eq!(guest.check(), 1);
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 1 << 20);
    assert!(read_all(second, &mut Noise::new(3)).len() < 1 << 20);
}

#[test]
fn a_frontend_that_leaves_takes_the_transfer_with_it() {
    let guest = Guest::new(bytes(1 << 20), 4096, 4096);
    let (mut own, other) = channel(true, Transfer::Save);
    assert_eq!(guest.set(Transfer::Save, other), SUCCESS);
    let Guest {
        _host: host,
        frontend,
        ..
    } = guest;
    drop(frontend);
    let mut rest = Vec::new();
    if let Err(error) = own.read_to_end(&mut rest) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(rest.len() < 1 << 20);
    // And the next one finds a guest that knows nothing of it.
    let frontend = Frontend::connect(host.socket()).unwrap();
    let features = ProtocolFeatures::DEVICE_STATE;
    frontend.ask_u64(&Request::GetProtocolFeatures).unwrap();
    frontend
        .tell(&Request::SetProtocolFeatures(features))
        .unwrap();
    assert_eq!(frontend.ask_u64(&Request::CheckDeviceState).unwrap(), 1);
}
