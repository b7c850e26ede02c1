// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk whose backend guest is killed with its VMM, at any instruction, with
//! requests under way. The record of them survives in the frontend.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};
use vhost_guest_msg::{Config, DeviceState, OnlyFd, ProtocolFeatures, Transfer, VringSelect};
use vmm_sys_util::tempdir::TempDir;

use crate::frontend::{Frontend, Request, PATIENCE};
use crate::ring::{NUM, SLOTS};
use crate::vm::{Plan, Vm};
use crate::Noise;

const KILLS: u32 = 15;
const SECTOR: usize = 512;
/// Each slot has sectors of its own, so that what is under way at a time is
/// apart.
const SECTORS: u64 = 8;

const READ: u32 = 0;
const WRITE: u32 = 1;

/// Where the parts of a request are in its slot.
const HEADER: u64 = 0;
const STATUS: u64 = 16;
const DATA: u64 = 0x100;

/// `cargo test` builds the examples next to the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/loopback");
    assert!(path.exists(), "{path:?}: run `cargo test` without --test");
    path
}

/// A VMM with a guest that serves a disk.
struct Backend {
    child: Child,
    socket: PathBuf,
}

impl Backend {
    fn start(directory: &Path, disk: &Path, life: u32) -> Self {
        let socket = directory.join(format!("socket-{life}"));
        let mut child = Command::new(program())
            .args(["--listen", "--queues", "1", "--socket"])
            .args([&socket, Path::new("--disk"), disk])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening"), "{line}");
        Self { child, socket }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a slot is about.
#[derive(Clone, Copy)]
struct Access {
    sector: u64,
    /// What is written; `None` to read.
    tag: Option<u32>,
}

/// A guest that uses the disk.
struct User {
    vm: Vm,
    waiting: BTreeMap<u16, Access>,
    /// What is on the disk, as far as the guest was told.
    disk: Vec<u32>,
    requests: u32,
    noise: Noise,
}

fn content(tag: u32) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    for word in sector.chunks_exact_mut(4) {
        word.copy_from_slice(&tag.to_le_bytes());
    }
    sector
}

impl User {
    fn offer(&mut self) {
        let slot = self.noise.below(SLOTS.into()) as u16;
        if self.waiting.contains_key(&slot) {
            return;
        }
        self.requests += 1;
        let sector = SECTORS * u64::from(slot) + self.noise.below(SECTORS);
        let tag = (self.noise.below(4) > 0).then_some(self.requests);
        let kind = if tag.is_some() { WRITE } else { READ };
        let ring = &mut self.vm.ring;
        ring.write(slot, HEADER, &kind.to_le_bytes());
        ring.write(slot, HEADER + 8, &sector.to_le_bytes());
        ring.write(slot, STATUS, &[0xff]);
        ring.write(slot, DATA, &content(tag.unwrap_or(u32::MAX)));
        let data = (DATA, SECTOR as u32, tag.is_none());
        ring.offer(slot, &[(HEADER, 16, false), data, (STATUS, 1, true)]);
        self.waiting.insert(slot, Access { sector, tag });
    }

    fn collect(&mut self) {
        for _ in 0..NUM {
            let Some(slot) = self.vm.ring.used() else {
                return;
            };
            let access = self.waiting.remove(&slot);
            let access = access.expect("completed twice, or never requested");
            let mut status = [0xff];
            self.vm.ring.read(slot, STATUS, &mut status);
            assert_eq!(status, [0]);
            let mut data = [0; SECTOR];
            self.vm.ring.read(slot, DATA, &mut data);
            let on_disk = &mut self.disk[access.sector as usize];
            *on_disk = access.tag.unwrap_or(*on_disk);
            assert!(data == content(*on_disk), "sector {}", access.sector);
        }
    }

    /// Works for some rounds, and leaves requests under way.
    fn work(&mut self, frontend: &Frontend) {
        for _ in 0..self.noise.below(60) {
            for _ in 0..self.noise.below(SLOTS.into()) {
                self.offer();
            }
            assert!(self.vm.kick_and_wait(frontend), "the backend is gone");
            self.collect();
        }
        while self.waiting.len() < usize::from(SLOTS) {
            self.offer();
        }
        self.vm.kick();
    }
}

fn survives(packed: bool) {
    let directory = TempDir::new().unwrap();
    let disk = directory.as_path().join("disk");
    let sectors = SECTORS as usize * usize::from(SLOTS);
    fs::write(&disk, vec![0; SECTOR * sectors]).unwrap();
    let plan = Plan {
        packed,
        event_idx: true,
        recorded: true,
    };
    let mut user = User {
        vm: Vm::new(plan),
        waiting: BTreeMap::new(),
        disk: vec![0; sectors],
        requests: 0,
        noise: Noise::new(packed.into()),
    };
    let mut under_way = 0;
    for life in 0..=KILLS {
        let backend = Backend::start(directory.as_path(), &disk, life);
        let frontend = user.vm.connect(&backend.socket).unwrap();
        if life == KILLS {
            user.vm.finish(&frontend).unwrap();
            user.collect();
            break;
        }
        user.work(&frontend);
        // It has a moment to get into the middle of it.
        std::thread::sleep(Duration::from_micros(user.noise.below(1000)));
        drop(backend);
        user.collect();
        under_way += user.waiting.len();
    }
    assert_eq!(user.waiting.len(), 0, "lost");
    let requests = user.requests;
    assert!(under_way > 20, "{under_way} of {requests} under way");
    let image = fs::read(&disk).unwrap();
    for (sector, tag) in image.chunks(SECTOR).zip(&user.disk) {
        assert!(sector == content(*tag), "a write was lost, or done again");
    }
    eprintln!("{requests} requests, {under_way} under way in {KILLS} kills");
}

#[test]
fn a_disk_survives_its_backend_with_split_rings() {
    survives(false);
}

#[test]
fn a_disk_survives_its_backend_with_packed_rings() {
    survives(true);
}

/// A disk behind the whole chain, with what a frontend negotiates for it.
struct Chain {
    backend: Backend,
    image: fs::File,
    vm: Vm,
    frontend: Frontend,
    _directory: TempDir,
}

impl Chain {
    fn new(mebibytes: u64, protocol: ProtocolFeatures) -> Self {
        let directory = TempDir::new().unwrap();
        let disk = directory.as_path().join("disk");
        let image = fs::File::create(&disk).unwrap();
        image.set_len(mebibytes << 20).unwrap();
        let backend = Backend::start(directory.as_path(), &disk, 0);
        let mut vm = Vm::new(Plan {
            packed: false,
            event_idx: true,
            recorded: false,
        });
        let frontend = vm.connect_with(&backend.socket, protocol).unwrap();
        Self {
            backend,
            image,
            vm,
            frontend,
            _directory: directory,
        }
    }

    fn mebibytes(&self) -> u64 {
        let config = Config::new(0, 0, vec![0; 60]).unwrap();
        let reply = self.frontend.ask(&Request::GetConfig(config)).unwrap();
        u64::from_le_bytes(reply[12..20].try_into().unwrap()) >> 11
    }

    /// The image has this size, and its user says so.
    fn resize(&self, mebibytes: u64) {
        self.image.set_len(mebibytes << 20).unwrap();
        kill_process(Pid::from_child(&self.backend.child), Signal::USR1).unwrap();
    }

    /// The status of a read of the last sector of this mebibyte.
    fn read(&mut self, mebibyte: u64) -> u8 {
        let ring = &mut self.vm.ring;
        ring.write(0, HEADER, &READ.to_le_bytes());
        ring.write(0, HEADER + 8, &((mebibyte << 11) - 1).to_le_bytes());
        let data = (DATA, SECTOR as u32, true);
        ring.offer(0, &[(HEADER, 16, false), data, (STATUS, 1, true)]);
        while self.vm.ring.used().is_none() {
            assert!(self.vm.kick_and_wait(&self.frontend), "the backend is gone");
        }
        let mut status = [0xff];
        self.vm.ring.read(0, STATUS, &mut status);
        status[0]
    }
}

#[test]
fn a_disk_is_resized_while_it_is_used() {
    let features = ProtocolFeatures::CONFIG | ProtocolFeatures::BACKEND_REQ;
    let mut chain = Chain::new(8, features);
    let (channel, theirs) = UnixStream::pair().unwrap();
    channel.set_read_timeout(Some(PATIENCE)).unwrap();
    let channel_request = Request::SetBackendReqFd(OnlyFd { fd: () });
    chain
        .frontend
        .order(&channel_request, &[theirs.as_fd()])
        .unwrap();
    let told = || {
        let mut message = [0; 12];
        (&channel).read_exact(&mut message).unwrap();
        assert_eq!(message, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    };
    assert_eq!(chain.mebibytes(), 8);
    assert_eq!((chain.read(8), chain.read(9)), (0, 1));
    for mebibytes in [32, 4] {
        chain.resize(mebibytes);
        told();
        assert_eq!((chain.read(mebibytes), chain.read(mebibytes + 1)), (0, 1));
        assert_eq!(chain.mebibytes(), mebibytes);
    }
}

#[test]
fn a_disk_has_no_state_and_can_be_saved_and_loaded() {
    let features = ProtocolFeatures::CONFIG | ProtocolFeatures::DEVICE_STATE;
    let chain = Chain::new(8, features);
    let stop = Request::GetVringBase(VringSelect { index: 0 });
    chain.frontend.ask(&stop).unwrap();
    for (direction, bytes, failed) in [
        (Transfer::Save, &[][..], 0),
        (Transfer::Load, &[][..], 0),
        (Transfer::Load, &[0][..], 1),
    ] {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let request = Request::SetDeviceStateFd(DeviceState { direction, fd: () });
        let set = |fd: BorrowedFd<'_>| {
            let (reply, _) = chain.frontend.ask_for_fds(&request, &[fd]).unwrap();
            // Done, and no other descriptor than that one.
            assert_eq!(reply, 0x100u64.to_le_bytes());
        };
        match direction {
            Transfer::Save => {
                set(writer.as_fd());
                drop(writer);
                let mut state = Vec::new();
                reader.read_to_end(&mut state).unwrap();
                assert_eq!(state, bytes);
            }
            Transfer::Load => {
                set(reader.as_fd());
                writer.write_all(bytes).unwrap();
                drop(writer);
            }
        }
        let check = chain.frontend.ask_u64(&Request::CheckDeviceState);
        assert_eq!(check.unwrap(), failed, "{direction:?}");
    }
}
