// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk whose backend guest is killed with its VMM, at any instruction, with
//! requests under way. The record of them survives in the frontend.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vmm_sys_util::tempdir::TempDir;

use crate::frontend::Frontend;
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
