// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device, its guest, its frontends and its VMM, and what they can do.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::{pipe_with, PipeFlags};
use vhost_guest_msg::{frontend, BACKEND_ROWS, FRONTEND_ROWS};
use vhost_guest_vmm_traits::test_utils::Call;
use vhost_guest_vmm_traits::MsiMessage;
use vm_memory::{Bytes, GuestAddress};

use super::{Kind, Step};
use crate::guest::pci::bars::COMMON;
use crate::guest::snapshot::SnapshotError;
use crate::guest::virtio::feature;
use crate::tests::rig::{event, memory_file, message, place, words, Frontend, Rig};
use crate::tests::rig::{QUEUE_SELECT, VRINGS};
use crate::tests::session::{answer_all, introduce, right_reply, try_send};
use crate::tests::siege::{assert_all_closed, sample, sample_fds, REPLY, SIZE};
use crate::tests::translation::{Iommu, IOVA};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(100_000);

pub(super) struct World {
    pub(super) rig: Rig,
    iommu: Arc<Iommu>,
    frontends: Vec<Frontend>,
    channel: Option<UnixStream>,
    /// Memory to share: some of it, and all that there ever was.
    files: Vec<File>,
    all_files: Vec<File>,
    /// The frontend's ends of channels for device state.
    states: Vec<File>,
    /// The kick and call of all rings.
    bell: OwnedFd,
    /// What the VMM saved last.
    snapshot: Option<Vec<u8>>,
    /// Frontends say what has a meaning, and what was negotiated.
    civil: bool,
}

impl World {
    pub(super) fn new(kind: Kind, civil: bool) -> Self {
        let iommu = Arc::new(Iommu::default());
        let translator = kind.translator.then(|| Arc::clone(&iommu) as _);
        let mut rig = Rig::translated(translator, |mut builder| {
            if kind.migration {
                builder = builder.migration(4096);
            }
            if kind.limits {
                builder = builder.reply_timeout(LONG).orphan_timeout(LONG);
            }
            builder
        });
        rig.features |= feature::RING_RESET;
        if kind.translator {
            rig.features |= feature::ACCESS_PLATFORM;
            rig.iova = IOVA;
        }
        rig.vmm_fails = true;
        rig.initialise();
        rig.backend_up();
        let frontends = vec![introduce(&mut rig)];
        let mut world = Self {
            rig,
            iommu,
            frontends,
            channel: None,
            files: Vec::new(),
            all_files: Vec::new(),
            states: Vec::new(),
            bell: event(),
            snapshot: None,
            civil,
        };
        (0..3).for_each(|_| world.new_file());
        world
    }

    fn new_file(&mut self) {
        let file = memory_file(SIZE);
        self.all_files.push(file.try_clone().unwrap());
        self.files.push(file);
    }

    fn file(&self, index: u8) -> OwnedFd {
        self.files[usize::from(index)].try_clone().unwrap().into()
    }

    fn region(at: u8, pages: u8) -> [u64; 4] {
        let at = u64::from(at) << 12;
        [at, u64::from(pages) << 12, (1 << 32) + at, at]
    }

    fn say(&mut self, bytes: &[u8], fds: &[OwnedFd]) {
        if self.civil && !self.may_say(bytes) {
            return;
        }
        if let Some(frontend) = self.frontends.last() {
            try_send(frontend, bytes, fds);
        }
    }

    /// Whether what a message needs was negotiated.
    fn may_say(&self, bytes: &[u8]) -> bool {
        let code = bytes.first().map_or(0, |code| usize::from(*code));
        let row = FRONTEND_ROWS.get(code.wrapping_sub(1));
        let server = self.rig.device.server();
        row.zip(server.connection.as_ref())
            .is_some_and(|(row, connection)| row.gate.is_open(connection.session.context()))
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
                rig.device.shared.bar_write(2, at, &[1]);
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
            other => self.vmm(other),
        }
    }

    fn vmm(&mut self, step: Step) {
        let device = &mut self.rig.device;
        match step {
            Step::Revoke => device.shared.revoke(),
            Step::ResetBus => {
                self.rig.function_reset();
                let vmm = &self.rig.vmm;
                let dead = vmm.calls().contains(&Call::Dead);
                let left = (vmm.mappings(), vmm.armed(), vmm.placed());
                assert!(dead || left == (vec![], vec![], None), "{left:?}");
            }
            Step::Vector(vector, on) => {
                let (address, data) = (0xFEE0_0000, vector.into());
                let message = on.then_some(MsiMessage { address, data });
                device.shared.set_vector(vector, message);
            }
            Step::Pause(true) => device.pause(),
            Step::Pause(false) => device.resume(),
            Step::Snapshot => {
                device.pause();
                let snapshot = device.snapshot().unwrap();
                device
                    .shared
                    .registers
                    .lock()
                    .parse(&snapshot)
                    .map(drop)
                    .unwrap();
                self.snapshot = Some(snapshot);
            }
            Step::GoBack => self.go_back(),
            // Time stands still in a pause.
            Step::Late(_) if device.server().is_paused() => {}
            Step::Late(true) => device.server().reply_limit.pass(),
            Step::Late(false) => device.server().memory_limit.pass(),
            Step::Unmap(away) => self.iommu.unmapped.store(away, Ordering::Relaxed),
            Step::Fail(n, kind) => self.rig.vmm.fail_nth(n.into(), kind),
            _ => self.rig.run(),
        }
    }

    /// The VMM may fail in the middle, and the device be dead.
    fn go_back(&mut self) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        let rig = &mut self.rig;
        rig.device.pause();
        let outcome = rig.restore(snapshot);
        let failed = matches!(outcome, Err(SnapshotError::Environment(_)));
        assert!(outcome.is_ok() || failed, "{outcome:?}");
        assert!(failed || rig.vmm.mappings().is_empty());
        rig.device.resume();
    }

    fn other_memory(&mut self, step: Step) {
        match step {
            Step::Log(offset, size, file, flags) => {
                let payload = words(&[size.into(), offset.into()]);
                self.say(&message(6, flags, &payload), &[self.file(file)]);
            }
            Step::Inflight(None, flags) => {
                let payload = words(&[0, 0, 2 | 256 << 16]);
                self.say(&message(31, flags, &payload), &[]);
            }
            Step::Inflight(Some((offset, size, file)), flags) => {
                let payload = words(&[size.into(), offset.into(), 2 | 256 << 16]);
                self.say(&message(32, flags, &payload), &[self.file(file)]);
            }
            Step::Iotlb(kind, page, size, flags) => {
                let user = Self::region(page, 1)[2];
                let (mut kind, mut size) = (kind, size);
                if self.civil {
                    kind = 2 + kind % 2;
                    size = size.max(1);
                }
                let payload = words(&[0x1000, size.into(), user, 3 | u64::from(kind) << 8]);
                self.say(&message(22, flags, &payload), &[]);
            }
            Step::Features(features) => {
                self.say(&message(2, 1, &words(&[features])), &[]);
            }
            other => self.state(other),
        }
    }

    fn state(&mut self, step: Step) {
        match step {
            Step::State(direction, socket, flags) => {
                let (theirs, ours) = state_channel(direction, socket);
                self.states.push(ours);
                let payload = words(&[direction.into()]);
                self.say(&message(42, flags, &payload), &[theirs]);
            }
            Step::StateBytes(length) => {
                if let Some(state) = self.states.last_mut() {
                    let _ = state.write(&vec![0x5A; length.into()]);
                }
            }
            Step::Save(length) => self.rig.send(4, &vec![0xA5; length.into()]),
            Step::StateRead => self.states.iter_mut().for_each(|state| {
                let _ = state.read(&mut [0; 8192]);
            }),
            Step::StateHangUp => drop(self.states.pop()),
            other => self.guest(other),
        }
    }

    /// All frontends go away.
    pub(super) fn hang_up(&mut self) {
        self.frontends.clear();
        self.channel = None;
        self.states.clear();
        self.iommu.unmapped.store(false, Ordering::Relaxed);
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Connect(true) if self.rig.device.server().connection.is_some() => {}
            Step::Connect(true) => {
                // A driver that does its work, so that most of the rest
                // happens while somebody is connected.
                if self.rig.device.shared.registers.lock().needs_reset() {
                    self.frontends.clear();
                    self.iommu.unmapped.store(false, Ordering::Relaxed);
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
                let fds = match row.code {
                    frontend::SET_BACKEND_REQ_FD => {
                        let (ours, theirs) = UnixStream::pair().unwrap();
                        self.channel = Some(ours);
                        vec![theirs.into()]
                    }
                    frontend::SET_VRING_KICK | frontend::SET_VRING_CALL => {
                        vec![self.bell.try_clone().unwrap()]
                    }
                    _ => sample_fds(row),
                };
                self.say(&message(row.code, flags, &sample(row)), &fds);
            }
            Step::Table(mut regions, flags) => {
                if self.civil {
                    // One behind the other.
                    let mut end = 0;
                    for (at, pages, _) in &mut regions {
                        *at = end;
                        end += *pages;
                    }
                }
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
                let _ = self.rig.device.shared.memory_truncated();
                self.new_file();
                self.files.swap_remove(file.into());
            }
            other => self.other_memory(other),
        }
    }

    /// What holds whatever happened.
    pub(super) fn check(&mut self) {
        self.rig.run();
        self.check_bounds();
        let vmm = &self.rig.vmm;
        if vmm.calls().contains(&Call::Dead) {
            // What did not come off is there until it does.
            let server = self.rig.device.server();
            assert!(server.connection.is_none() || server.is_paused());
            return;
        }
        if self.rig.device.server().is_paused() {
            assert!(vmm.armed().is_empty(), "{:?}", vmm.armed());
            if self.rig.device.shared.registers.lock().reset_pending() {
                return;
            }
        }
        assert!(!self.rig.device.shared.registers.lock().reset_pending());
        if self.rig.device.server().connection.is_some() {
            // What was revoked in a pause is closed after it.
            let registers = self.rig.device.shared.registers.lock();
            let later = self.rig.device.server().is_paused() && registers.needs_reset();
            assert!(registers.is_running() || later);
            return;
        }
        // The device's own queues and configuration changes are left.
        assert!(vmm.doorbells().len() <= 6, "{:x?}", vmm.doorbells());
        assert!(vmm.armed().len() <= 7, "{:?}", vmm.armed());
        let stays = self.rig.device.shared.registers.lock().needs_reset();
        assert!(stays || vmm.mappings().is_empty());
    }

    /// What the device has is what the VMM has given it, and never more than
    /// was agreed on.
    fn check_bounds(&self) {
        let (device, vmm) = (&self.rig.device, &self.rig.vmm);
        let mapped: u64 = vmm.mappings().iter().map(|(_, _, length)| length).sum();
        assert_eq!(
            device.shared.window.lock().attached_bytes(),
            mapped,
            "the books are wrong"
        );
        let vrings = usize::from(VRINGS);
        assert!(vmm.doorbells().len() <= 6 + 2 * vrings + 1);
        assert!(vmm.armed().len() <= 7 + vrings);
        if let Some(connection) = &device.server().connection {
            assert!(connection.replies.len() <= 64);
            assert!(connection.channel_replies.len() <= 64);
        }
        assert!(device
            .server()
            .pump
            .as_ref()
            .is_none_or(|pump| pump.busy() <= 4));
    }

    /// The device is unplugged: nothing of anybody's is left.
    pub(super) fn finish(self) {
        let vmm = Arc::clone(&self.rig.vmm);
        drop(self.rig);
        assert_eq!(vmm.mappings(), []);
        assert!(vmm.doorbells().is_empty());
        assert_eq!(vmm.source_count(), 0);
        drop((self.frontends, self.files));
        let files = self.all_files.iter().map(File::as_fd);
        let all: Vec<_> = files.chain([self.bell.as_fd()]).collect();
        assert_all_closed(&all, "any order of anything");
    }
}

/// The device's end of a channel, and the frontend's, which does not block.
fn state_channel(direction: u8, socket: bool) -> (OwnedFd, File) {
    if socket {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        return (theirs.into(), OwnedFd::from(ours).into());
    }
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
    match direction {
        0 => (writer, reader.into()),
        _ => (reader, writer.into()),
    }
}
