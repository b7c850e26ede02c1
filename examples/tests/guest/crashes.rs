// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backend guests that crash with requests under way: with the record of
//! them (GET_INFLIGHT_FD, SET_INFLIGHT_FD) the next life loses none, and
//! repeats none that was complete.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::frontend::Frontend;
use crate::host::Host;
use crate::ledger::{answer, Book, Ledger, DEVICE_TYPE};
use crate::ring::{NUM, SLOTS};
use crate::vm::{Plan, Vm};
use crate::Noise;

const CRASHES: u32 = 12;

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

/// A guest that wants answers.
struct Asker {
    vm: Vm,
    /// Tags by slots.
    waiting: BTreeMap<u16, u32>,
    outcome: Outcome,
    noise: Noise,
}

impl Asker {
    fn offer(&mut self) {
        let slot = self.noise.below(SLOTS.into()) as u16;
        if !self.waiting.contains_key(&slot) {
            self.outcome.requests += 1;
            let tag = self.outcome.requests;
            self.vm.ring.write(slot, 0, &tag.to_le_bytes());
            self.vm.ring.write(slot, 4, &[0; 4]);
            // One to read and one to write, and some with nothing between.
            let mut parts = vec![(0, 4, false), (0, 0, false), (0, 0, false)];
            parts.truncate(1 + self.noise.below(3) as usize);
            parts.push((4, 4, true));
            self.vm.ring.offer(slot, &parts);
            self.waiting.insert(slot, tag);
        }
    }

    fn collect(&mut self) {
        // Without the record the ring may end up saying anything.
        for _ in 0..NUM {
            let Some(slot) = self.vm.ring.used() else {
                return;
            };
            let mut answered = [0; 4];
            if slot < SLOTS {
                self.vm.ring.read(slot, 4, &mut answered);
            }
            let expected = self.waiting.remove(&slot).map(answer);
            let surprise = expected != Some(u32::from_le_bytes(answered));
            self.outcome.surprises += u32::from(surprise);
        }
    }

    /// Works until the backend is gone, or will not go any more.
    fn work(&mut self, frontend: &Frontend, host: &Host) {
        while !host.is_last_life() {
            assert!(!host.has_ended(), "the guest has ended");
            for _ in 0..self.noise.below(SLOTS.into()) {
                self.offer();
            }
            if !self.vm.kick_and_wait(frontend) {
                return;
            }
            self.collect();
        }
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
    let mut asker = Asker {
        vm: Vm::new(plan),
        waiting: BTreeMap::new(),
        outcome: Outcome::default(),
        noise: Noise::new(seed + 2000),
    };
    loop {
        assert!(!host.has_ended(), "the guest has ended");
        // While nobody is there, and whenever one goes away: once more.
        let Ok(frontend) = asker.vm.connect(host.socket()) else {
            continue;
        };
        asker.work(&frontend, &host);
        if host.is_last_life() && asker.vm.finish(&frontend).is_ok() {
            break;
        }
    }
    asker.collect();
    drop(host);
    let book = book.lock().unwrap();
    Outcome {
        lost: asker.waiting.len(),
        repeated: book.repeated.len(),
        hard_crashes: book.hard_crashes,
        ..asker.outcome
    }
}

/// How many runs are tried; more of them with GUEST_CRASH_SEEDS.
fn seeds() -> u64 {
    let given = std::env::var("GUEST_CRASH_SEEDS").ok();
    given.and_then(|given| given.parse().ok()).unwrap_or(8)
}

fn survives(packed: bool) {
    let (mut requests, mut hard_crashes) = (0, 0);
    for seed in 0..seeds() {
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
    let enough = 3 * seeds() as u32;
    assert!(
        hard_crashes > enough,
        "{hard_crashes} in {requests} requests"
    );
    eprintln!("{requests} requests, {hard_crashes} crashes with some under way");
}

/// Why the record is there: the same runs go wrong without. Not all of them
/// need to, since it is threads that they are made of.
fn fails_without(packed: bool) {
    let wrong = |seed: &u64| {
        let plan = Plan {
            packed,
            event_idx: seed.is_multiple_of(2),
            recorded: false,
        };
        !run(plan, *seed).is_right()
    };
    let wrong = (0..6).filter(wrong).count();
    assert!(wrong > 1, "{wrong}");
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
