// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's guest is migrated while the backend writes to it, and the
//! dirty log says what (SET_LOG_BASE, SET_LOG_FD, LOG_ALL).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vhost_guest_driver::{Backend, Ring};
use vhost_guest_msg::{LogArea, LogBase, OnlyFd, ProtocolFeatures, VirtioFeatures, VringSelect};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileMemory};

use crate::frontend::{Frontend, Request};
use crate::host::Host;
use crate::ring::{self, GPA, LEN, SLOTS};
use crate::vm::{Plan, Vm};
use crate::Noise;

const DEVICE_TYPE: u16 = 26;
const PAGE: u64 = 0x1000;
/// Bytes that the log of the guest's memory has.
const LOG_LEN: u64 = (GPA + LEN) / PAGE / 8;
/// Where the log is in its file.
const LOG_OFFSET: u64 = PAGE;
/// Behind the rings and the slots, there is memory for answers.
const ANSWERS: u64 = 0x5000;
const ROUNDS: u32 = 150;

/// Reads a number, and writes bytes made of it wherever it may.
struct Scribe;

impl Backend for Scribe {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn features(&self) -> VirtioFeatures {
        VirtioFeatures::empty()
    }

    fn queues(&self) -> u16 {
        1
    }

    fn process(&mut self, _: u16, ring: &mut Ring<'_>) {
        while let Some(mut chain) = ring.next_chain() {
            let number = u32::from_le_bytes(chain.read_array().unwrap_or_default());
            let len = chain.writable_len() as usize;
            let bytes = number.to_le_bytes().into_iter().cycle();
            let written = chain.write(&bytes.take(len).collect::<Vec<u8>>());
            ring.complete(chain, written as u32);
        }
    }
}

fn host() -> Host {
    Host::start(DEVICE_TYPE, None, || None, |_| Scribe)
}

/// A log that the frontend shares.
struct Log {
    file: File,
    memory: GuestMemoryMmap,
    size: u64,
}

impl Log {
    fn new(size: u64) -> Self {
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        let len = LOG_OFFSET + size.next_multiple_of(PAGE);
        ftruncate(&file, len).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let range = (GuestAddress(0), len as usize, Some(offset));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        Self { file, memory, size }
    }

    /// SET_LOG_BASE, and what is answered.
    fn set(&self, frontend: &Frontend) {
        let area = LogArea::new(self.size, LOG_OFFSET).unwrap();
        let request = Request::SetLogBase(LogBase::Shared { area, fd: () });
        let reply = frontend.ask_for_fds(&request, &[self.file.as_fd()]);
        let expected = [self.size, LOG_OFFSET].map(u64::to_le_bytes).concat();
        assert_eq!(reply.unwrap().0, expected);
    }

    /// Takes the pages in the guest's memory that are marked.
    fn take(&self) -> BTreeSet<u64> {
        self.take_from(GPA)
    }

    /// The same, for all addresses from `start` on.
    fn take_from(&self, start: u64) -> BTreeSet<u64> {
        let bytes = self
            .memory
            .get_slice(GuestAddress(LOG_OFFSET), self.size as usize);
        let bytes = bytes.unwrap();
        let mut pages = BTreeSet::new();
        for at in start / PAGE / 8..self.size {
            let byte: &AtomicU8 = bytes.get_atomic_ref(at as usize).unwrap();
            let bits = byte.swap(0, Ordering::SeqCst);
            for bit in (0..8).filter(|bit| bits >> bit & 1 == 1) {
                let address = (8 * at + bit) * PAGE;
                assert!(
                    (GPA..GPA + LEN).contains(&address),
                    "no page of the guest's"
                );
                pages.insert((address - GPA) / PAGE);
            }
        }
        pages
    }
}

/// The guest, with its VMM.
struct Source {
    vm: Vm,
    frontend: Frontend,
    noise: Noise,
    number: u32,
    waiting: BTreeSet<u16>,
    /// Pages that it wrote to itself, which its VMM knows of.
    own: BTreeSet<u64>,
}

impl Source {
    fn new(vm: Vm, frontend: Frontend, seed: u64) -> Self {
        Self {
            vm,
            frontend,
            noise: Noise::new(seed),
            number: 0,
            waiting: BTreeSet::new(),
            own: BTreeSet::new(),
        }
    }

    /// Makes a request whose answer goes to two places anywhere.
    fn offer(&mut self) {
        let slot = self.noise.below(SLOTS.into()) as u16;
        if !self.waiting.insert(slot) {
            return;
        }
        self.number += 1;
        let data = ring::Ring::data(slot);
        self.vm.ring.write(slot, 0, &self.number.to_le_bytes());
        let mut parts = vec![(0, 4, false)];
        for _ in 0..2 {
            let len = 1 + self.noise.below(0x1800);
            let at = ANSWERS + self.noise.below(LEN - ANSWERS - len);
            parts.push((at - data, len as u32, true));
        }
        self.vm.ring.offer(slot, &parts);
        // Descriptors, the available ring, and what is asked.
        self.own.extend([0, 1, data / PAGE]);
    }

    fn collect(&mut self) {
        while let Some(slot) = self.vm.ring.used() {
            assert!(self.waiting.remove(&slot), "an answer to nothing");
        }
    }

    /// Requests, some of which may be under way when this is over.
    fn work(&mut self) {
        for _ in 0..self.noise.below(5) {
            self.offer();
        }
        match self.noise.below(2) {
            0 => self.vm.kick(),
            _ => assert!(self.vm.kick_and_wait(&self.frontend)),
        }
        self.collect();
    }

    fn drain(&mut self) {
        while !self.waiting.is_empty() {
            assert!(self.vm.kick_and_wait(&self.frontend));
            self.collect();
        }
    }
}

/// What has arrived at the other side.
struct Target {
    memory: Vec<u8>,
    log: Log,
    logged: usize,
}

impl Target {
    fn copy(&mut self, source: &mut Source) {
        let logged = self.log.take();
        self.logged += logged.len();
        for page in logged.into_iter().chain(std::mem::take(&mut source.own)) {
            let at = page * PAGE;
            let to = &mut self.memory[at as usize..(at + PAGE) as usize];
            source.vm.ring.peek(at, to);
        }
    }

    fn is_complete(&self, source: &Source) -> bool {
        let mut memory = vec![0; LEN as usize];
        source.vm.ring.peek(0, &mut memory);
        memory == self.memory
    }
}

fn signals(eventfd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    // Empty if it fails.
    let _ = rustix::io::read(eventfd, &mut count);
    u64::from_ne_bytes(count)
}

/// Migrates a guest up to where it stops: with what has arrived, and where its
/// ring goes on.
fn migrate(event_idx: bool, logging: bool, seed: u64) -> (Source, Target, u32, u64) {
    let host = host();
    let plan = Plan {
        packed: false,
        event_idx,
        recorded: false,
    };
    let mut vm = Vm::new(plan);
    let frontend = vm.connect_with(host.socket(), ProtocolFeatures::LOG_SHMFD);
    let mut source = Source::new(vm, frontend.unwrap(), seed);
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let signal = eventfd(0, flags).unwrap();
    let set = Request::SetLogFd(OnlyFd { fd: () });
    source.frontend.order(&set, &[signal.as_fd()]).unwrap();
    for _ in 0..10 {
        source.work();
    }
    assert_eq!(signals(&signal), 0, "nothing is logged yet");

    let mut target = Target {
        memory: vec![0; LEN as usize],
        log: Log::new(LOG_LEN),
        logged: 0,
    };
    target.log.set(&source.frontend);
    if logging {
        let features = source.vm.features() | VirtioFeatures::LOG_ALL;
        let request = Request::SetFeatures(features);
        source.frontend.order(&request, &[]).unwrap();
        let request = source.vm.ring.logged_address(true);
        source.frontend.order(&request, &[]).unwrap();
    }
    source.vm.ring.peek(0, &mut target.memory);
    for round in 0..ROUNDS {
        source.work();
        if source.noise.below(3) == 0 {
            target.copy(&mut source);
        }
        if round == ROUNDS / 2 {
            // The log grows, and the ring runs.
            let longer = Log::new(LOG_LEN + 2 * PAGE);
            longer.set(&source.frontend);
            target.copy(&mut source);
            target.log = longer;
        }
    }
    let stop = Request::GetVringBase(VringSelect { index: 0 });
    let reply = source.frontend.ask(&stop).unwrap();
    let base = u32::from_le_bytes(reply[4..].try_into().unwrap());
    target.copy(&mut source);
    (source, target, base, signals(&signal))
}

#[test]
fn no_page_is_missed_while_the_backend_writes() {
    for seed in 1..=6 {
        let event_idx = seed % 2 == 0;
        let (source, target, base, signals) = migrate(event_idx, true, seed);
        assert!(target.is_complete(&source), "seed {seed}");
        assert!(target.logged > 0 && signals > 0);
        assert!(target.log.take_from(0).is_empty(), "no more, and elsewhere");

        // It goes on where it stopped, and gets what it was waiting for.
        let host = host();
        let mut vm = Vm::new(source.vm.plan);
        vm.ring = source.vm.ring.arrived(&target.memory);
        assert_eq!(vm.ring.known_base(), base);
        let features = ProtocolFeatures::LOG_SHMFD;
        let frontend = vm.connect_with(host.socket(), features).unwrap();
        let waiting = source.waiting;
        let mut source = Source::new(vm, frontend, seed);
        source.waiting = waiting;
        source.drain();
        for _ in 0..10 {
            source.work();
        }
        source.drain();
    }
}

#[test]
fn the_target_is_stale_without_the_log() {
    // The control of the test above.
    let (source, target, _, signals) = migrate(false, false, 1);
    assert!(!target.is_complete(&source));
    assert_eq!((target.logged, signals), (0, 0));
}

#[test]
fn a_log_that_is_not_shared_ends_the_connection_and_not_the_backend() {
    let host = host();
    let plan = Plan {
        packed: false,
        event_idx: false,
        recorded: false,
    };
    for offset in [None, Some(0)] {
        let mut vm = Vm::new(plan);
        let frontend = vm.connect(host.socket()).unwrap();
        let mut source = Source::new(vm, frontend, 1);
        source.work();
        source.drain();
        let base = 0x7f00_0000_0000;
        let log = Request::SetLogBase(LogBase::Unshared { base, offset });
        assert!(
            source.frontend.ask(&log).is_err(),
            "there is no way to refuse"
        );
    }
    let mut vm = Vm::new(plan);
    let frontend = vm.connect(host.socket()).unwrap();
    let mut source = Source::new(vm, frontend, 2);
    source.work();
    source.drain();
    assert!(!host.has_ended());
}
