// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backend guests that crash with requests under way: with the record of
//! them (GET_INFLIGHT_FD, SET_INFLIGHT_FD) the next life loses none, and
//! repeats none that was complete.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use vhost_guest_msg::{
    Endian, Inflight, Limits, ProtocolFeatures, Reply, ReplyShape, SetInflight, VirtioFeatures,
    VringBase, VringEnable, VringFd, VringNum, VringSelect,
};

use crate::frontend::{Frontend, Request};
use crate::host::Host;
use crate::ledger::{answer, Book, Ledger, DEVICE_TYPE};
use crate::ring::{Ring, NUM, SLOTS};
use crate::Noise;

const CRASHES: u32 = 12;

/// What is tried.
#[derive(Clone, Copy)]
struct Plan {
    packed: bool,
    event_idx: bool,
    recorded: bool,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    requests: u32,
    lost: usize,
    /// Used, although nobody was waiting for it.
    surprises: u32,
    repeated: usize,
    hard_crashes: u32,
}

impl Outcome {
    fn is_right(&self) -> bool {
        (self.lost, self.surprises, self.repeated) == (0, 0, 0)
    }
}

/// The frontend's VM, which goes on while its backend comes and goes.
struct Vm {
    plan: Plan,
    ring: Ring,
    kick: OwnedFd,
    call: OwnedFd,
    record: Option<(Inflight, OwnedFd)>,
    /// Tags by slots.
    waiting: BTreeMap<u16, u32>,
    outcome: Outcome,
    noise: Noise,
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

impl Vm {
    fn new(plan: Plan, seed: u64) -> Self {
        Self {
            plan,
            ring: Ring::new(plan.packed),
            kick: event(),
            call: event(),
            record: None,
            waiting: BTreeMap::new(),
            outcome: Outcome::default(),
            noise: Noise::new(seed),
        }
    }

    /// What a VMM does when its backend is there again.
    fn connect(&mut self, host: &Host) -> io::Result<Frontend> {
        let frontend = Frontend::connect(host.socket())?;
        let offered = frontend.ask_u64(&Request::GetFeatures)?;
        let mut features = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES;
        features.set(VirtioFeatures::RING_PACKED, self.plan.packed);
        features.set(VirtioFeatures::RING_EVENT_IDX, self.plan.event_idx);
        assert_eq!(features.bits() & !offered, 0);
        let offered = frontend.ask_u64(&Request::GetProtocolFeatures)?;
        let protocol = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::INFLIGHT_SHMFD;
        assert_eq!(protocol.bits() & !offered, 0);
        frontend.tell(&Request::SetProtocolFeatures(protocol))?;
        frontend.order(&Request::SetFeatures(features), &[])?;
        frontend.order(&Request::SetOwner, &[])?;
        frontend.order(&self.ring.table(), &[self.ring.fd()])?;
        if self.plan.recorded {
            self.bring_record(&frontend)?;
        }
        let base = self.ring.known_base();
        self.start_ring(&frontend, base)?;
        Ok(frontend)
    }

    /// The same record in all lives of the backend.
    fn bring_record(&mut self, frontend: &Frontend) -> io::Result<()> {
        if self.record.is_none() {
            let wanted = Inflight::new(0, 0, 1, NUM).unwrap();
            let request = Request::GetInflightFd(wanted);
            let (payload, mut fds) = frontend.ask_for_fds(&request, &[])?;
            let (shape, limits) = (ReplyShape::Inflight, Limits::default());
            let reply = Reply::decode(shape, &payload, Endian::Little, &limits);
            let Ok(Reply::Inflight(inflight)) = reply else {
                panic!("{reply:?}");
            };
            self.record = fds.pop().map(|fd| (inflight, fd));
        }
        let (inflight, fd) = self.record.as_ref().unwrap();
        let set = SetInflight::new(*inflight, ()).unwrap();
        frontend.order(&Request::SetInflightFd(set), &[fd.as_fd()])
    }

    fn start_ring(&self, frontend: &Frontend, base: u32) -> io::Result<()> {
        let (index, fd) = (0, Some(()));
        let num = VringNum::new(index, NUM).unwrap();
        frontend.order(&Request::SetVringNum(num), &[])?;
        frontend.order(&Request::SetVringBase(VringBase { index, base }), &[])?;
        frontend.order(&self.ring.address(), &[])?;
        let call = Request::SetVringCall(VringFd { index, fd });
        frontend.order(&call, &[self.call.as_fd()])?;
        let kick = Request::SetVringKick(VringFd { index, fd });
        frontend.order(&kick, &[self.kick.as_fd()])?;
        let enable = true;
        frontend.order(&Request::SetVringEnable(VringEnable { index, enable }), &[])
    }

    fn kick(&self) {
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    fn offer(&mut self) {
        let slot = self.noise.below(SLOTS.into()) as u16;
        if !self.waiting.contains_key(&slot) {
            self.outcome.requests += 1;
            let tag = self.outcome.requests;
            self.ring.offer(slot, tag);
            self.waiting.insert(slot, tag);
        }
    }

    fn collect(&mut self) {
        // Without the record the ring may end up saying anything.
        for _ in 0..NUM {
            let Some((slot, answered)) = self.ring.used() else {
                return;
            };
            let expected = self.waiting.remove(&slot).map(answer);
            self.outcome.surprises += u32::from(expected != Some(answered));
        }
    }

    /// Works until the backend is gone, or will not go any more.
    fn work(&mut self, frontend: &Frontend, host: &Host) {
        while !host.is_last_life() {
            assert!(!host.has_ended(), "the guest has ended");
            for _ in 0..self.noise.below(SLOTS.into()) {
                self.offer();
            }
            self.kick();
            let events = PollFlags::IN;
            let mut fds = [
                PollFd::new(&self.call, events),
                PollFd::new(frontend, events),
            ];
            // A crash may have taken a call with it: look all the same.
            let soon = Timespec {
                tv_sec: 0,
                tv_nsec: 2_000_000,
            };
            let _ = poll(&mut fds, Some(&soon));
            if !fds[1].revents().is_empty() {
                return;
            }
            let _ = rustix::io::read(&self.call, &mut [0; 8]);
            self.collect();
        }
    }

    /// Waits until the backend has nothing left to do. One without a record
    /// may never get there.
    fn finish(&mut self, frontend: &Frontend) -> io::Result<()> {
        let rounds = if self.plan.recorded { u32::MAX } else { 100 };
        for _ in 0..rounds {
            self.kick();
            let body = frontend.ask(&Request::GetVringBase(VringSelect { index: 0 }))?;
            let base = u32::from_le_bytes(body[4..].try_into().unwrap());
            self.collect();
            if self.ring.is_all_taken(base) {
                break;
            }
            self.start_ring(frontend, base)?;
        }
        Ok(())
    }
}

/// Runs a backend through its lives.
fn run(plan: Plan, seed: u64) -> Outcome {
    let book = Arc::new(Mutex::new(Book::default()));
    let mut noise = Noise::new(seed + 1000);
    let mut lives = 0;
    let life = move || {
        lives += 1;
        // Some crash while they boot, or in the middle of messages.
        let steps = match noise.below(4) {
            0 => noise.below(250),
            _ => 150 + noise.below(400),
        };
        (lives <= CRASHES).then_some(steps as u32)
    };
    let (shared, mut number) = (book.clone(), seed << 16);
    let host = Host::start(DEVICE_TYPE, None, life, move |fuse| {
        number += 1;
        Ledger::new(&shared, fuse, number)
    });
    let mut vm = Vm::new(plan, seed + 2000);
    loop {
        assert!(!host.has_ended(), "the guest has ended");
        // While nobody is there, and whenever one goes away: once more.
        let Ok(frontend) = vm.connect(&host) else {
            continue;
        };
        vm.work(&frontend, &host);
        if host.is_last_life() && vm.finish(&frontend).is_ok() {
            break;
        }
    }
    drop(host);
    let book = book.lock().unwrap();
    Outcome {
        lost: vm.waiting.len(),
        repeated: book.repeated.len(),
        hard_crashes: book.hard_crashes,
        ..vm.outcome
    }
}

fn survives(packed: bool) {
    let (mut requests, mut hard_crashes) = (0, 0);
    for seed in 0..8u64 {
        let plan = Plan {
            packed,
            event_idx: seed.is_multiple_of(2),
            recorded: true,
        };
        let outcome = run(plan, seed);
        assert!(outcome.is_right(), "seed {seed}: {outcome:?}");
        requests += outcome.requests;
        hard_crashes += outcome.hard_crashes;
    }
    // Or it would prove nothing.
    assert!(hard_crashes > 30, "{hard_crashes} in {requests} requests");
    eprintln!("{requests} requests, {hard_crashes} crashes with some under way");
}

/// Why the record is there: how many of the same runs go wrong without.
fn fails_without(packed: bool) {
    let wrong = |seed: &u64| {
        let plan = Plan {
            packed,
            event_idx: seed.is_multiple_of(2),
            recorded: false,
        };
        !run(plan, *seed).is_right()
    };
    let wrong = (0..4).filter(wrong).count();
    assert_eq!(wrong, 4);
}

#[test]
fn nothing_is_lost_or_done_twice_in_split_rings() {
    survives(false);
}

#[test]
fn nothing_is_lost_or_done_twice_in_packed_rings() {
    survives(true);
}

#[test]
fn without_the_record_split_rings_go_wrong() {
    fails_without(false);
}

#[test]
fn without_the_record_packed_rings_go_wrong() {
    fails_without(true);
}
