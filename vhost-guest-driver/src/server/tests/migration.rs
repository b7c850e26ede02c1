// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's guest is migrated while the backend writes to it.

use super::*;
use crate::fake::WINDOW_LEN;
use crate::fake_ring::{Noise, WRITE};
use crate::vring::RingFault;
use crate::window::Window;
use std::collections::BTreeSet;
use vhost_guest_msg::{LogArea, LogBase, MemRegion, OnlyFd, VringAddr};

const PAGE: u64 = 0x1000;
/// Bytes that the log of the usual memory has.
const LOG_LEN: u64 = (GPA + LEN) / PAGE / 8;
const LOG: u64 = 0x1_0003;

const FEATURES: VirtioFeatures = VirtioFeatures::VERSION_1
    .union(VirtioFeatures::PROTOCOL_FEATURES)
    .union(F_OWN);

fn log_base(size: u64, offset: u64) -> Request {
    let area = LogArea::new(size, offset).unwrap();
    Request::SetLogBase(LogBase::Shared { area, fd: () })
}

fn log_all(on: bool, others: VirtioFeatures) -> Request {
    let mut features = FEATURES | others;
    features.set(VirtioFeatures::LOG_ALL, on);
    Request::SetFeatures(features)
}

/// SET_VRING_ADDR that has the used ring logged where it is, or not.
fn log_used(ring: &GuestRing, on: bool) -> Request {
    Request::SetVringAddr(VringAddr {
        log_used: on,
        log: GPA + ring.base + 0x3000,
        ..ring.address(0)
    })
}

/// The other side of a migration.
struct Target {
    memory: Vec<u8>,
    window: Window,
    log: LogArea,
    /// Pages that the guest itself wrote to, which its VMM knows of.
    guest: BTreeSet<u64>,
}

impl Target {
    fn new(window: &Window) -> Self {
        let mut memory = vec![0; LEN as usize];
        window.read(USER, &mut memory).unwrap();
        Self {
            memory,
            window: window.clone(),
            log: LogArea::new(LOG_LEN, LOG).unwrap(),
            guest: BTreeSet::new(),
        }
    }

    /// Copies the pages that are dirty; returns those that the log knew of.
    fn sync(&mut self) -> BTreeSet<u64> {
        self.sync_from(0)
    }

    /// The same, but for pages from `start` on only.
    fn sync_from(&mut self, start: u64) -> BTreeSet<u64> {
        let mut logged = BTreeSet::new();
        for byte in start / PAGE / 8..self.log.size() {
            let bits = self.window.take_bits(self.log.offset() + byte);
            for page in (0..8).filter(|bit| bits >> bit & 1 == 1) {
                let address = (byte * 8 + page) * PAGE;
                assert!((GPA..GPA + LEN).contains(&address), "no page of the guest");
                logged.insert((address - GPA) / PAGE);
            }
        }
        for page in logged.iter().chain(&self.guest) {
            let at = (page * PAGE) as usize;
            let to = &mut self.memory[at..at + PAGE as usize];
            self.window.read(USER + page * PAGE, to).unwrap();
        }
        self.guest.clear();
        logged
    }

    fn is_complete(&self) -> bool {
        let mut source = vec![0; LEN as usize];
        self.window.read(USER, &mut source).unwrap();
        source == self.memory
    }
}

/// A request with buffers anywhere behind the ring's pages.
fn random_request(noise: &mut Noise, ring: &mut GuestRing) {
    let mut chain = Vec::new();
    for flags in [0, WRITE, WRITE] {
        let len = 1 + noise.below(0x2800);
        let at = 0x8000 + noise.below(LEN - 0x8000 - len);
        chain.push((GPA + at, len as u32, flags));
    }
    ring.add(&chain);
}

#[test]
fn misses_no_page_while_the_guest_is_migrated() {
    for seed in 1..=8u64 {
        let event = VirtioFeatures::from_bits_retain((seed & 1) << 29);
        let mut noise = Noise::new(seed);
        let mut setup = Setup::negotiated();
        setup.share_memory();
        setup.send(&log_all(false, event));
        let mut ring = setup.start_ring(0);
        let mut target = Target::new(&setup.fake.window);
        for round in 0..60u8 {
            if round == 10 {
                assert_eq!(target.sync(), BTreeSet::new(), "not asked for yet");
                assert!(setup.ask(&log_base(LOG_LEN, LOG)).len() == 16);
                assert!(setup.acked(&log_all(true, event)));
                assert!(setup.acked(&log_used(&ring, true)));
                target = Target::new(&setup.fake.window);
            }
            setup.server.backend.salt = round;
            for _ in 0..noise.below(3) {
                random_request(&mut noise, &mut ring);
                // Descriptors and available ring.
                target.guest.extend([0, 2]);
            }
            setup.kick(0);
            while ring.used().is_some() {}
            if noise.below(3) == 0 {
                target.sync();
            }
        }
        setup.stop_ring(0);
        target.sync();
        assert!(target.is_complete(), "seed {seed}");
        assert_eq!(target.sync(), BTreeSet::new());
    }
}

#[test]
fn the_target_goes_on_where_the_source_stopped() {
    // As QEMU does it, and the guest makes requests until the end.
    let (mut setup, mut ring) = logging();
    let mut target = Target::new(&setup.fake.window);
    for _ in 0..3 {
        ring.add(&[(GPA + 0x9_0000, 1, WRITE)]);
        setup.kick(0);
        assert!(ring.used().is_some());
        target.sync();
    }
    let disable = VringEnable {
        index: 0,
        enable: false,
    };
    assert!(setup.acked(&Request::SetVringEnable(disable)));
    ring.write(GPA + 0x8_0000, b"last");
    let head = ring.add(&[(GPA + 0x8_0000, 4, 0), (GPA + 0x9_0000, 2, WRITE)]);
    setup.kick(0);
    let base = setup.stop_ring(0);
    assert_eq!(base, 3);
    target.guest.extend([0, 2, 0x80]);
    target.sync();
    assert!(target.is_complete());

    let mut setup = Setup::negotiated();
    setup.fake.window.write(USER, &target.memory).unwrap();
    setup.share_memory();
    ring.window = setup.fake.window.clone();
    setup.restart_ring(0, &ring, base);
    assert_eq!(setup.server.backend().seen, [(0, b"last".to_vec())]);
    assert_eq!((ring.used(), ring.used()), (Some((head.into(), 2)), None));
}

#[test]
fn logs_exactly_what_it_writes() {
    let (mut setup, mut ring) = logging();
    let mut target = Target::new(&setup.fake.window);
    target.sync();
    ring.add(&[
        (GPA + 0x8_0000, 0x2000, 0),
        (GPA + 0x9_0fff, 1, WRITE),
        (GPA + 0xa_0fff, 0x1002, WRITE),
    ]);
    setup.kick(0);
    let pages = [3, 0x90, 0xa0, 0xa1, 0xa2];
    assert_eq!(target.sync(), pages.into(), "used ring and buffers");
    assert!(setup.acked(&log_used(&ring, false)));
    ring.add(&[(GPA + 0x9_0000, 1, WRITE)]);
    setup.kick(0);
    assert_eq!(target.sync(), [0x90].into(), "buffers alone");
    assert!(setup.acked(&log_all(false, VirtioFeatures::empty())));
    ring.add(&[(GPA + 0x9_0000, 1, WRITE)]);
    setup.kick(0);
    assert_eq!(target.sync(), [].into(), "migration is cancelled");
    assert_eq!(setup.server.statistics().requests, 3);
}

/// A running vring whose migration has begun.
fn logging() -> (Setup, GuestRing) {
    let mut setup = Setup::negotiated();
    setup.share_memory();
    let ring = setup.start_ring(0);
    setup.ask(&log_base(LOG_LEN, LOG));
    assert!(setup.acked(&log_all(true, VirtioFeatures::empty())));
    assert!(setup.acked(&log_used(&ring, true)));
    (setup, ring)
}

#[test]
fn answers_with_the_log_that_it_was_given() {
    let mut setup = Setup::negotiated();
    let body = setup.ask(&log_base(0x1001, 0x2_0005));
    assert_eq!(body[..8], 0x1001u64.to_le_bytes());
    assert_eq!(body[8..], 0x2_0005u64.to_le_bytes());
    // With NEED_REPLY it is the same one reply.
    let request = log_base(0x1000, 0x2_0000);
    setup.send_bytes(&request.to_vec(true, Endian::Little));
    assert_eq!(setup.reply().unwrap().1.len(), 16);
    assert_eq!(setup.reply(), None);
}

#[test]
fn rejects_logs_that_it_cannot_write() {
    for (size, offset) in [
        (1, WINDOW_LEN as u64),
        (WINDOW_LEN as u64, 1),
        (u64::MAX - 1, 1),
        (1, u64::MAX - 1),
    ] {
        let mut setup = Setup::negotiated();
        setup.send(&log_base(size, offset));
        assert_eq!(setup.reply(), None, "there is no error form");
        assert_eq!(setup.server.statistics().faults, 1);
    }
    // Without LOG_SHMFD the log is in the frontend's process.
    let mut setup = Setup::new();
    setup.send(&Request::SetProtocolFeatures(ProtocolFeatures::REPLY_ACK));
    let base = LogBase::Unshared {
        base: 0x1000,
        offset: None,
    };
    assert!(!setup.acked(&Request::SetLogBase(base)));
    assert!(setup.acked(&log_all(true, VirtioFeatures::empty())));
    assert!(setup.acked(&log_all(false, VirtioFeatures::empty())));
}

#[test]
fn writes_nothing_before_there_is_a_log() {
    // QEMU starts a device during a migration in this order.
    let mut setup = Setup::negotiated();
    setup.share_memory();
    assert!(setup.acked(&log_all(true, VirtioFeatures::empty())));
    let mut ring = setup.start_ring(0);
    assert!(setup.acked(&log_used(&ring, true)));
    ring.add(&[(GPA + 0x9_0000, 1, WRITE)]);
    setup.kick(0);
    assert_eq!((ring.used(), ring.used_flags()), (None, 0));
    setup.ask(&log_base(LOG_LEN, LOG));
    assert!(ring.used().is_some(), "the kick is not forgotten");
    let mut target = Target::new(&setup.fake.window);
    assert_eq!(target.sync(), [3, 0x90].into());
    // The same if the migration is cancelled before.
    let mut setup = Setup::negotiated();
    setup.share_memory();
    assert!(setup.acked(&log_all(true, VirtioFeatures::empty())));
    let mut ring = setup.start_ring(0);
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert_eq!(ring.used(), None);
    assert!(setup.acked(&log_all(false, VirtioFeatures::empty())));
    assert!(ring.used().is_some());
}

#[test]
fn a_log_grows_while_vrings_run() {
    let (mut setup, mut ring) = logging();
    let mut target = Target::new(&setup.fake.window);
    ring.add(&[(GPA + 0x9_0000, 1, WRITE)]);
    setup.kick(0);
    // Memory behind the log's end: a longer one first, then the memory.
    let (size, offset) = (LOG_LEN + 2, 0x10_0000);
    setup.ask(&log_base(size, offset));
    assert_eq!(target.sync(), [3, 0x90].into(), "what the old one has");
    let region = Region::new(GPA + LEN, 0x1_0000, 0x4_0000, 0).unwrap();
    assert!(setup.acked(&Request::AddMemReg(MemRegion { region, fd: () })));
    ring.add(&[(GPA + LEN - 1, 0x1_0001, WRITE)]);
    setup.kick(0);
    assert_eq!(setup.server.statistics().requests, 2);
    assert_eq!(target.sync(), [].into(), "the old one is left alone");
    let window = &setup.fake.window;
    let bytes: Vec<u8> = (0..4)
        .map(|byte| window.take_bits(offset + size - 4 + byte))
        .collect();
    assert_eq!(bytes, [0, 0x80, 0xff, 0xff]);
}

#[test]
fn rather_stops_a_vring_than_to_write_what_it_cannot_log() {
    let err = VringFd {
        index: 0,
        fd: Some(()),
    };
    // One byte too short for the buffer; or for the used ring.
    for (used, size, address) in [
        (false, LOG_LEN - 1, GPA + LEN - 1),
        (true, (GPA + 0x3000) / PAGE / 8, GPA + 0x3000),
        (true, 1, GPA + 0x3000),
    ] {
        let (mut setup, mut ring) = logging();
        assert!(setup.acked(&Request::SetVringErr(err)));
        assert!(setup.acked(&log_used(&ring, used)));
        setup.ask(&log_base(size, LOG));
        ring.add(&[(GPA + LEN - 1, 1, WRITE)]);
        setup.kick(0);
        assert_eq!(ring.used(), None);
        let fault = Disconnect::Ring(RingFault::Log(address));
        assert_eq!(setup.server.last_fault(), Some(&fault));
        assert_eq!(setup.calls(), [4]);
        assert_eq!(ring.read(GPA + LEN - 1, 1), [0]);
        assert!(!setup.disconnected());
    }
}

#[test]
fn signals_the_log_after_a_batch_if_the_frontend_wants_it() {
    let (mut setup, mut ring) = logging();
    let mut request = |setup: &mut Setup| {
        ring.add(&[(GPA, 1, 0)]);
        ring.add(&[(GPA, 1, 0)]);
        setup.kick(0);
        setup.calls()
    };
    assert_eq!(request(&mut setup), [0]);
    assert!(setup.acked(&Request::SetLogFd(OnlyFd { fd: () })));
    // Doorbell 8 is the log of a device with 4 vrings.
    assert_eq!(request(&mut setup), [0, 8]);
    setup.kick(0);
    assert_eq!(setup.calls(), [], "nothing was written");
    assert!(setup.acked(&log_all(false, VirtioFeatures::empty())));
    assert_eq!(request(&mut setup), [0]);
}

#[test]
fn misses_no_page_while_somebody_else_takes_the_marks_away() {
    let mut bench = crate::fake_ring::Bench::new(8, VirtioFeatures::VERSION_1);
    let area = LogArea::new(LOG_LEN, LOG).unwrap();
    let log = crate::log::DirtyLog::new(bench.memory.window(), area);
    bench.memory.set_log(log.unwrap());
    bench.memory.set_logging(true);
    bench.vring.memory_changed(&bench.memory);
    let mut target = Target::new(bench.memory.window());
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut target = std::thread::scope(|scope| {
        let frontend = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                target.sync_from(GPA);
            }
            target
        });
        let mut noise = Noise::new(99);
        for round in 0..3000u32 {
            let at = 0x8000 + 8 * noise.below((LEN - 0x8000) / 8);
            bench.guest.add(&[(GPA + at, 4, WRITE)]);
            let mut ring = bench.ring();
            let mut chain = ring.next_chain().unwrap();
            chain.write(&round.to_le_bytes());
            ring.complete(chain, 4);
        }
        done.store(true, Ordering::Release);
        frontend.join().unwrap()
    });
    target.guest.extend(0..4);
    target.sync_from(GPA);
    assert!(target.is_complete());
}
