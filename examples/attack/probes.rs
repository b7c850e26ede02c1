// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that do what vCPUs and the VMM do, and how long they wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::victim::Victim;

/// What is done again and again, each by a thread of its own: the name, the
/// pause between two, and the work, which is told how often it was done.
type Work = (&'static str, Duration, fn(&dyn Victim, u64));

const WORK: [Work; 5] = [
    ("register read", Duration::from_micros(500), |victim, _| {
        victim.read_register();
    }),
    (
        "register write",
        Duration::from_micros(700),
        |victim, turn| {
            victim.write_register(turn);
        },
    ),
    ("statistics", Duration::from_micros(900), |victim, _| {
        victim.statistics();
    }),
    ("memory_fault", Duration::from_micros(1100), |victim, _| {
        victim.innocent_fault();
    }),
    ("BAR move", Duration::from_millis(5), |victim, turn| {
        victim.move_bar(turn);
    }),
];
/// The same for what is done once in a round.
type Ending = (&'static str, fn(&dyn Victim));

/// What ends a frontend.
const ENDINGS: [Ending; 3] = [
    ("revoke", |victim| victim.revoke()),
    // Whether there was something to take depends on how far the attack got.
    ("memory_fault", |victim| _ = victim.fault(true)),
    ("memory_fault", |victim| _ = victim.fault(false)),
];
/// A thread that does not come back in this time never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long something takes.
pub struct Probe {
    /// What is done.
    pub name: &'static str,
    /// Microseconds, of the longest that is over.
    longest: AtomicU64,
    /// When the one that is under way began, in microseconds after `start`.
    since: AtomicU64,
    start: Instant,
}

impl Probe {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            longest: AtomicU64::new(0),
            since: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    fn measure(&self, work: impl FnOnce()) {
        let begin = Instant::now();
        let since = begin.duration_since(self.start).as_micros() as u64;
        self.since.store(since + 1, Ordering::SeqCst);
        work();
        let took = begin.elapsed().as_micros() as u64;
        self.longest.fetch_max(took, Ordering::SeqCst);
        self.since.store(0, Ordering::SeqCst);
    }

    /// Microseconds, of the longest so far.
    pub fn longest(&self) -> u64 {
        let now = self.start.elapsed().as_micros() as u64 + 1;
        let under_way = match self.since.load(Ordering::SeqCst) {
            0 => 0,
            since => now.saturating_sub(since),
        };
        self.longest.load(Ordering::SeqCst).max(under_way)
    }
}

/// All probes of a run.
pub struct Probes {
    victim: Arc<dyn Victim>,
    stop: Arc<AtomicBool>,
    probes: Vec<Arc<Probe>>,
    threads: Vec<JoinHandle<()>>,
}

impl Probes {
    /// Starts those that run all the time.
    pub fn start(victim: &Arc<dyn Victim>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut probes = Self {
            victim: victim.clone(),
            stop: stop.clone(),
            probes: Vec::new(),
            threads: Vec::new(),
        };
        for (name, pause, work) in WORK {
            let probe = Arc::new(Probe::new(name));
            probes.probes.push(probe.clone());
            let (victim, stop) = (victim.clone(), stop.clone());
            probes.threads.push(thread::spawn(move || {
                let mut turn = 0;
                while !stop.load(Ordering::SeqCst) {
                    probe.measure(|| work(&*victim, turn));
                    turn += 1;
                    thread::sleep(pause);
                }
            }));
        }
        probes
    }

    /// Ends the frontend, in the way of this round.
    pub fn end_frontend(&mut self, round: usize) {
        let (name, work) = ENDINGS[round % ENDINGS.len()];
        let probe = Arc::new(Probe::new(name));
        self.probes.push(probe.clone());
        let victim = self.victim.clone();
        let end = move || probe.measure(|| work(&*victim));
        self.threads.push(thread::spawn(end));
    }

    /// Whether all that ends a frontend is done.
    pub fn are_endings_done(&self) -> bool {
        let endings = self.threads.iter().skip(WORK.len());
        endings.into_iter().all(JoinHandle::is_finished)
    }

    /// Stops all. The names of those that do not come back, and the longest
    /// duration of each, in microseconds.
    pub fn finish(mut self) -> (Vec<&'static str>, Vec<(&'static str, u64)>) {
        self.stop.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        let mut stuck = Vec::new();
        for (thread, probe) in self.threads.drain(..).zip(&self.probes) {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            match thread.is_finished() {
                true => drop(thread.join()),
                false => stuck.push(probe.name),
            }
        }
        let mut longest: Vec<(&'static str, u64)> = Vec::new();
        for probe in &self.probes {
            match longest.iter_mut().find(|(name, _)| *name == probe.name) {
                Some((_, found)) => *found = probe.longest().max(*found),
                None => longest.push((probe.name, probe.longest())),
            }
        }
        (stuck, longest)
    }
}
