// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any order of anything: what guest and frontends do, sensible or not. The
//! device never panics, always comes to rest, connects nothing of a frontend's
//! without a frontend, and serves again in the end.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::collection::vec;
use proptest::prelude::*;
use vhost_guest_msg::{BACKEND_ROWS, FRONTEND_ROWS};
use vm_memory::{Bytes, GuestAddress};

use super::rig::{event, memory_file, message, place, words, Frontend, Rig};
use super::rig::{NEEDS_RESET, QUEUE_SELECT};
use super::session::{answer_all, assert_recovers, introduce, right_reply, try_send};
use super::siege::{sample, sample_fds, REPLY, SIZE};
use crate::pci::bars::{COMMON, DEVICE, DRIVER_AUX, MSIX_TABLE, NOTIFY};
use crate::virtio::feature;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A driver starts from scratch, with or without `BACKEND_UP`.
    Start(bool),
    /// A register write: structure, offset in it, bytes.
    Write(u64, Vec<u8>),
    /// A configuration space write.
    Configure(u16, Vec<u8>),
    /// A doorbell store that reaches userspace.
    Ring(u64),
    /// The driver resets a queue and perhaps enables it again.
    ResetQueue(u16, bool),
    /// Buffers are posted.
    Post(u16, u8),
    /// A descriptor of any kind is made available.
    Publish(u16, u64, u32, u16, u16),
    /// `avail_idx` is anything.
    Jump(u16, u16),
    /// The guest sends bytes.
    Send(u16, Vec<u8>),
    /// The guest takes a request and answers it, rightly or with this status.
    Answer(Option<u64>),
    /// The guest answers all that it got.
    AnswerAll,
    /// A backend request: row, flags.
    Ask(usize, u32),
    /// A frontend connects; or the driver resets the device if it has to, and
    /// a frontend connects and negotiates.
    Connect(bool),
    /// The last frontend, or one that waits, hangs up.
    HangUp(u8),
    /// A request of the last frontend's: row, flags.
    Request(usize, u32),
    /// A table of regions: offsets and sizes in pages, which file.
    Table(Vec<(u8, u8, u8)>, u32),
    /// A slot comes or goes.
    Slot(bool, u8, u8, u32),
    /// A ring in memory.
    RingAt(u8, u8),
    /// Any bytes, with some descriptors.
    Noise(Vec<u8>, u8),
    /// The first bytes of a message.
    Part(usize, u8),
    /// What the device sent is read.
    Read,
    /// A reply on the backend channel.
    ChannelReply(u32, Vec<u8>),
    /// The channel is closed.
    ChannelHangUp,
    /// A file is truncated, and a vCPU notices.
    Truncate(u8),
    /// The VMM takes everything.
    Revoke,
    /// The VMM pauses the device, or lets it go on.
    Pause(bool),
    /// The device takes its turns.
    Run,
}

fn flags() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(1), 4 => Just(9), 1 => Just(5), 1 => any::<u32>()]
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..0x40u64).prop_map(|at| COMMON + at),
        2 => (0..40u64).prop_map(|at| DEVICE + at),
        1 => (0..20u64).prop_map(|at| NOTIFY + at),
        2 => (0..4u64).prop_map(|at| DRIVER_AUX + at),
        2 => (0..200u64).prop_map(|at| MSIX_TABLE + at),
    ]
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let small = prop_oneof![
        Just(0u8),
        Just(1),
        Just(2),
        Just(4),
        Just(0xFF),
        any::<u8>()
    ];
    prop_oneof![Just(1usize), Just(2), Just(4), Just(8), 0..9usize]
        .prop_flat_map(move |length| vec(small.clone(), length))
}

fn guest_step() -> impl Strategy<Value = Step> {
    let queue = 0..4u16;
    prop_oneof![
        1 => any::<bool>().prop_map(Step::Start),
        4 => (register(), some_bytes()).prop_map(|(at, bytes)| Step::Write(at, bytes)),
        2 => (0..0x100u16, some_bytes()).prop_map(|(at, bytes)| Step::Configure(at, bytes)),
        1 => (0..64u64).prop_map(Step::Ring),
        2 => (queue.clone(), any::<bool>()).prop_map(|(q, back)| Step::ResetQueue(q, back)),
        2 => (queue.clone(), 0..10u8).prop_map(|(q, n)| Step::Post(q, n)),
        1 => (queue.clone(), 0..0x90_0000u64, 0..9000u32, 0..8u16, 0..20u16)
            .prop_map(|(q, at, length, flags, next)| Step::Publish(q, at, length, flags, next)),
        1 => (queue.clone(), any::<u16>()).prop_map(|(q, idx)| Step::Jump(q, idx)),
        1 => (queue, vec(any::<u8>(), 0..40)).prop_map(|(q, bytes)| Step::Send(q, bytes)),
        6 => proptest::option::weighted(0.2, 0..3u64).prop_map(Step::Answer),
        6 => Just(Step::AnswerAll),
        2 => (0..BACKEND_ROWS.len(), flags()).prop_map(|(row, flags)| Step::Ask(row, flags)),
    ]
}

fn frontend_step() -> impl Strategy<Value = Step> {
    let row = 0..FRONTEND_ROWS.len();
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Connect),
        1 => any::<u8>().prop_map(Step::HangUp),
        8 => (row.clone(), flags()).prop_map(|(row, flags)| Step::Request(row, flags)),
        4 => (vec((0..8u8, 0..5u8, 0..3u8), 0..4), flags()).prop_map(|(r, f)| Step::Table(r, f)),
        4 => (any::<bool>(), 0..8u8, 0..3u8, flags())
            .prop_map(|(add, at, file, flags)| Step::Slot(add, at, file, flags)),
        2 => (0..5u8, 0..9u8).prop_map(|(vring, page)| Step::RingAt(vring, page)),
        1 => (vec(any::<u8>(), 0..40), 0..5u8).prop_map(|(b, n)| Step::Noise(b, n)),
        1 => (row, any::<u8>()).prop_map(|(row, length)| Step::Part(row, length)),
        4 => Just(Step::Read),
        2 => (0..4u32, vec(0..2u8, 8)).prop_map(|(code, bytes)| Step::ChannelReply(code, bytes)),
        1 => Just(Step::ChannelHangUp),
        1 => (0..3u8).prop_map(Step::Truncate),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => guest_step(),
        10 => frontend_step(),
        1 => Just(Step::Revoke),
        1 => prop::bool::weighted(0.4).prop_map(Step::Pause),
        8 => Just(Step::Run),
    ];
    vec(step, 1..80)
}

struct World {
    rig: Rig,
    frontends: Vec<Frontend>,
    channel: Option<UnixStream>,
    files: Vec<std::fs::File>,
}

impl World {
    fn new(asynchronous: bool) -> Self {
        let mut rig = Rig::with(|builder| builder.asynchronous_reset(asynchronous));
        rig.features |= feature::RING_RESET;
        rig.initialise();
        rig.backend_up();
        let frontends = vec![introduce(&mut rig)];
        Self {
            rig,
            frontends,
            channel: None,
            files: vec![memory_file(SIZE), memory_file(SIZE), memory_file(SIZE)],
        }
    }

    fn file(&self, index: u8) -> OwnedFd {
        self.files[usize::from(index)].try_clone().unwrap().into()
    }

    fn region(at: u8, pages: u8) -> [u64; 4] {
        let at = u64::from(at) << 12;
        [at, u64::from(pages) << 12, (1 << 32) + at, at]
    }

    fn say(&mut self, bytes: &[u8], fds: &[OwnedFd]) {
        if let Some(frontend) = self.frontends.last() {
            try_send(frontend, bytes, fds);
        }
    }

    fn guest(&mut self, step: Step) {
        let rig = &mut self.rig;
        match step {
            Step::Start(up) => {
                rig.initialise();
                if up {
                    rig.backend_up();
                }
            }
            Step::Write(at, bytes) => rig.write(at, &bytes),
            Step::Configure(at, bytes) => rig.config_write(at, &bytes),
            Step::Ring(at) => {
                let effect = rig.device.registers.bar_write(2, at, &[1]);
                let _ = rig.device.apply(effect);
            }
            Step::ResetQueue(queue, back) => {
                rig.write(QUEUE_SELECT, &queue.to_le_bytes());
                rig.write(COMMON + 0x3A, &1u16.to_le_bytes());
                if back {
                    rig.enable(queue);
                }
            }
            Step::Post(queue, count) => (0..count).for_each(|_| rig.post(queue)),
            Step::Publish(queue, at, length, flags, next) => {
                rig.publish(queue, at, length, flags, next);
            }
            Step::Jump(queue, idx) => {
                let avail = GuestAddress(place(queue).avail + 2);
                rig.memory.write_obj(idx, avail).unwrap();
                rig.notify(queue);
            }
            Step::Send(queue, bytes) => rig.send(queue, &bytes),
            Step::Answer(status) => {
                let request = rig.receive(0);
                let reply = request.as_deref().and_then(right_reply);
                if let Some(mut reply) = reply {
                    if let (Some(status), 20) = (status, reply.len()) {
                        reply[12..].copy_from_slice(&status.to_ne_bytes());
                    }
                    rig.send(1, &reply);
                }
            }
            Step::AnswerAll => drop(answer_all(rig)),
            Step::Ask(row, flags) => {
                let row = &BACKEND_ROWS[row];
                rig.send(3, &message(row.code, flags, &sample(row)));
                rig.receive(2);
            }
            Step::Revoke => rig.device.revoke(),
            Step::Pause(true) => rig.device.pause(),
            Step::Pause(false) => rig.device.resume(),
            _ => rig.run(),
        }
    }

    fn frontend(&mut self, step: Step) {
        match step {
            Step::Connect(true) => {
                // A driver that does its work, so that most of the rest
                // happens while somebody is connected.
                if self.rig.device.registers.needs_reset() {
                    self.frontends.clear();
                    self.rig.initialise();
                    self.rig.backend_up();
                }
                let frontend = introduce(&mut self.rig);
                self.frontends.push(frontend);
            }
            Step::Connect(false) => self.frontends.push(self.rig.connect()),
            Step::HangUp(which) if !self.frontends.is_empty() => {
                let index = usize::from(which) % self.frontends.len();
                drop(self.frontends.remove(index));
            }
            Step::Request(row, flags) => {
                let row = &FRONTEND_ROWS[row];
                let mut fds = sample_fds(row);
                if row.code == vhost_guest_msg::frontend::SET_BACKEND_REQ_FD {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    self.channel = Some(ours);
                    fds = vec![theirs.into()];
                }
                self.say(&message(row.code, flags, &sample(row)), &fds);
            }
            Step::Table(regions, flags) => {
                let fds: Vec<_> = regions
                    .iter()
                    .map(|(_, _, file)| self.file(*file))
                    .collect();
                let regions = regions
                    .iter()
                    .map(|(at, pages, _)| Self::region(*at, *pages));
                let mut payload = words(&[fds.len() as u64]);
                payload.extend(regions.flat_map(|region| words(&region)));
                self.say(&message(5, flags, &payload), &fds);
            }
            Step::Slot(add, at, file, flags) => {
                let payload = [words(&[0]), words(&Self::region(at, 1))].concat();
                let fd = [self.file(file)];
                match add {
                    true => self.say(&message(37, flags, &payload), &fd),
                    false => self.say(&message(38, flags, &payload), &[]),
                }
            }
            Step::RingAt(vring, page) => {
                let at = Self::region(page, 1)[2];
                let ring = words(&[vring.into(), at, at + 16, at + 32, 0]);
                self.say(&message(9, 9, &ring), &[]);
            }
            Step::Noise(bytes, count) => {
                let fds: Vec<OwnedFd> = (0..count).map(|_| event()).collect();
                self.say(&bytes, &fds);
            }
            Step::Part(row, length) => {
                let row = &FRONTEND_ROWS[row];
                let bytes = message(row.code, 1, &sample(row));
                let length = usize::from(length) % bytes.len();
                self.say(&bytes[..length], &sample_fds(row));
            }
            Step::Read => self.frontends.iter_mut().for_each(|frontend| {
                frontend.receive();
            }),
            Step::ChannelReply(code, bytes) => {
                if let Some(stream) = &self.channel {
                    let frontend = Frontend {
                        stream: stream.try_clone().unwrap(),
                    };
                    try_send(&frontend, &message(code, REPLY, &bytes), &[]);
                }
            }
            Step::ChannelHangUp => self.channel = None,
            Step::Truncate(file) => {
                self.files[usize::from(file)].set_len(0).unwrap();
                let _ = self.rig.device.memory_fault(None);
                self.files[usize::from(file)] = memory_file(SIZE);
            }
            other => self.guest(other),
        }
    }

    /// What holds whatever happened.
    fn check(&mut self) {
        self.rig.run();
        let vmm = &self.rig.vmm;
        if self.rig.device.is_paused() {
            assert!(vmm.armed().is_empty(), "{:?}", vmm.armed());
            if self.rig.device.registers.reset_pending() {
                return;
            }
        }
        assert!(!self.rig.device.registers.reset_pending());
        if self.rig.device.connection.is_some() {
            assert!(self.rig.device.registers.is_running());
            return;
        }
        // The device's own queues and configuration changes are left.
        assert!(vmm.doorbells().len() <= 4, "{:x?}", vmm.doorbells());
        assert!(vmm.armed().len() <= 5, "{:?}", vmm.armed());
        let stays = self.rig.device.registers.needs_reset();
        assert!(stays || vmm.mappings().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_brings_it_down(asynchronous in any::<bool>(), steps in steps()) {
        let mut world = World::new(asynchronous);
        for step in steps {
            world.frontend(step);
            world.check();
        }
        world.frontends.clear();
        world.channel = None;
        let rig = &mut world.rig;
        rig.device.resume();
        rig.run();
        rig.config_write(0x04, &6u16.to_le_bytes());
        rig.write(COMMON + 0x14, &[0]);
        rig.run();
        prop_assert_eq!(rig.status() & NEEDS_RESET, 0);
        prop_assert_eq!(rig.vmm.mappings(), vec![]);
        prop_assert!(rig.vmm.armed().is_empty());
        assert_recovers(rig, "any order of anything");
        let vmm = std::sync::Arc::clone(&rig.vmm);
        drop(world);
        prop_assert_eq!(vmm.mappings(), vec![]);
        prop_assert!(vmm.doorbells().is_empty());
        prop_assert_eq!(vmm.source_count(), 0);
    }
}
