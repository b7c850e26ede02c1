// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the player says.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::ftruncate;
use rustix::pipe::{pipe_with, PipeFlags};
use vhost_guest_examples::wire::{message, send, words};
use vhost_guest_msg::frontend as code;

use super::Player;
use crate::lab::nameless;
use crate::memory::{Parts, Region};
use crate::script::Body;

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;
/// Flags of SET_VRING_ADDR.
const F_LOG: u64 = 1;
const IOTLB_UPDATE: u8 = 2;
const READ_WRITE: u8 = 3;
const PAGE: u64 = 4096;
/// Directions of a transfer of device state.
const SAVE: u32 = 0;

impl Player {
    /// Sends a message.
    pub(super) fn say(&mut self, number: u32, need_reply: bool, body: &Body) {
        let payload = self.payload(body);
        let fds = self.descriptors(number, body);
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let flags = if need_reply {
            VERSION | NEED_REPLY
        } else {
            VERSION
        };
        let bytes = message(number, flags, &payload);
        let sent = send(&self.socket, &bytes, &fds);
        let sent = sent.unwrap_or_else(|error| panic!("{}: {error}", self.place));
        assert_eq!(sent, bytes.len(), "{}", self.place);
    }

    fn payload(&mut self, body: &Body) -> Vec<u8> {
        match *body {
            Body::Empty | Body::Channel => Vec::new(),
            Body::Number(number) => words(&[number]),
            Body::Features(wanted) => words(&[wanted & self.offered]),
            Body::ProtocolFeatures(wanted) => words(&[wanted & self.offered_protocol]),
            Body::Vring(ring, number) => pair(ring, number),
            Body::Address(ring) => address(ring, self.memory.user_parts(ring), None),
            Body::LoggedAddress(ring) => {
                let log = self.memory.guest_parts(ring).used;
                address(ring, self.memory.user_parts(ring), Some(log))
            }
            Body::IovaAddress(ring) => address(ring, self.memory.guest_parts(ring), None),
            Body::Base(ring) => {
                let used = self.memory.load(self.memory.guest_parts(ring).used + 2);
                let base = self.bases[ring as usize].take();
                pair(ring, base.unwrap_or(used.into()))
            }
            Body::AvailableIndex(ring) => pair(ring, self.memory.made[ring as usize].into()),
            Body::EventFd(ring) | Body::CallOf(ring, _) => words(&[ring.into()]),
            Body::Table(regions) => {
                let regions = regions.iter().flat_map(|region| self.region(*region));
                let table: Vec<u64> = regions.collect();
                [words(&[table.len() as u64 / 4]), words(&table)].concat()
            }
            Body::Slot(region) => [words(&[0]), words(&self.region(region))].concat(),
            Body::SlotWithoutFile(region) => {
                let [guest, size, user, _] = self.region(region);
                words(&[0, guest, size, user, 0])
            }
            Body::Config(offset, size, flags) => [
                pair(offset, size),
                flags.to_ne_bytes().to_vec(),
                vec![0; size as usize],
            ]
            .concat(),
            Body::ConfigByte(offset, flags, value) => {
                [pair(offset, 1), flags.to_ne_bytes().to_vec(), vec![value]].concat()
            }
            Body::Inflight(vrings, size) => {
                words(&[0, 0, u64::from(vrings) | u64::from(size) << 16])
            }
            Body::Record => self.record.as_ref().expect("a record").0.clone(),
            Body::Log(size) => words(&[size, 0]),
            Body::Translation(guest) => self.translation(guest),
            Body::Pipe(direction) | Body::StateSocket(direction) => pair(direction, 0),
        }
    }

    fn region(&self, region: usize) -> [u64; 4] {
        let Region {
            guest,
            size,
            user,
            offset,
            ..
        } = self.memory.plan().regions[region];
        [guest, size, user, offset]
    }

    /// The page of `guest`, as the guest's IOMMU maps it: to where it is.
    fn translation(&self, guest: u64) -> Vec<u8> {
        let page = guest & !(PAGE - 1);
        let user = self.memory.user(page).expect("memory");
        let mut payload = words(&[page, PAGE, user]);
        payload.extend([READ_WRITE, IOTLB_UPDATE, 0, 0, 0, 0, 0, 0]);
        payload
    }

    /// Answers that the backend has missed a translation.
    pub(super) fn translate(&mut self, iova: u64) {
        let body = Body::Translation(iova);
        self.say(code::IOTLB_MSG, true, &body);
        self.hear(code::IOTLB_MSG, &body, crate::script::Reply::Ack);
    }

    /// What goes beside a message.
    fn descriptors(&mut self, number: u32, body: &Body) -> Vec<OwnedFd> {
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
        match *body {
            Body::EventFd(ring) => {
                let events = &mut self.events[ring as usize];
                events.callable |= number == code::SET_VRING_CALL;
                vec![copy(match number {
                    code::SET_VRING_KICK => events.kick.as_fd(),
                    code::SET_VRING_CALL => events.call.as_fd(),
                    code::SET_VRING_ERR => events.error.as_fd(),
                    _ => panic!("{}: no eventfd goes with it", self.place),
                })]
            }
            Body::CallOf(ring, other) => {
                let call = copy(self.events[other as usize].call.as_fd());
                let events = &mut self.events[ring as usize];
                (events.call, events.callable) = (copy(call.as_fd()), true);
                vec![call]
            }
            Body::Table(regions) => {
                let files = regions.iter().map(|region| self.memory.file(*region));
                files.map(copy).collect()
            }
            Body::Slot(region) => vec![copy(self.memory.file(region))],
            Body::Record => {
                let (_, file) = self.record.as_ref().expect("a record");
                vec![copy(file.as_fd())]
            }
            Body::Log(size) => {
                let file = nameless();
                ftruncate(&file, size).unwrap();
                self.log = Some(file.try_clone().unwrap());
                vec![file.into()]
            }
            Body::Channel => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                self.channel = Some(ours);
                vec![theirs.into()]
            }
            Body::Pipe(direction) => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
                let (ours, theirs) = match direction {
                    SAVE => (read, write),
                    _ => (write, read),
                };
                self.pipe = Some(File::from(ours));
                vec![theirs]
            }
            Body::StateSocket(_) => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                self.pipe = Some(File::from(OwnedFd::from(ours)));
                vec![theirs.into()]
            }
            _ => Vec::new(),
        }
    }
}

fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_ne_bytes(), second.to_ne_bytes()].concat()
}

fn address(ring: u32, parts: Parts, log: Option<u64>) -> Vec<u8> {
    let flags = if log.is_some() { F_LOG } else { 0 };
    words(&[
        u64::from(ring) | flags << 32,
        parts.descriptors,
        parts.used,
        parts.available,
        log.unwrap_or(0),
    ])
}
