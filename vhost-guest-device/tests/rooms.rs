// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A model of what vCPUs, the VMM and the worker do to the rooms of registers and
//! window, explored whole: in every order in which three threads can get at the
//! locks, the epoch and the eventfd that wakes the worker.
//!
//! What it proves of the protocol:
//!
//! - when `revoke()` returns, nothing of a frontend that was there before is armed
//!   or attached;
//! - when `device_status` reads 0 after a reset, nothing is, and no frontend is
//!   connected;
//! - nobody waits for ever: neither the driver for its reset, nor who drops the
//!   device for its worker.
//!
//! The epoch is the crate's own source. The rooms are as small as can be: one kick,
//! one piece of memory. Each step here has the name of the method that it is taken
//! from, in `shared/` and `server/`. The controls leave one rule out each, and the
//! model has to find what follows.

#![forbid(unsafe_code)]

use std::env;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;

/// What `src/sync.rs` takes from the standard library.
mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[path = "../src/sync/epoch.rs"]
mod epoch;

use epoch::{Epoch, Epochs};

/// Which rule is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Who ends a frontend raises the epoch when the rooms are empty already.
    RaisingFirst,
    /// The worker connects whatever the epoch is.
    Comparing,
    /// A turn looks at the registers, and then takes note of having been woken.
    DrainingFirst,
    /// The worker sleeps before it looks whether it is to end.
    LookingForTheEnd,
}

/// The registers' room.
#[derive(Debug, Default)]
struct Registers {
    reset_pending: bool,
    needs_reset: bool,
    frontend: Option<Epoch>,
    /// A kick, and for whom it is armed.
    armed: Option<Epoch>,
}

/// The window's room: whose piece of memory is attached.
type Window = Option<Epoch>;

/// What is armed and attached, for those who check it: looking at it is no step
/// in which anything else could happen.
type Seen = std::sync::Mutex<[Option<Epoch>; 2]>;

struct Shared {
    without: Without,
    registers: Mutex<Registers>,
    /// The driver looks at `device_status` again.
    status: Condvar,
    window: Mutex<Window>,
    epochs: Epochs,
    /// The eventfd, and epoll.
    woken: Mutex<bool>,
    wake: Condvar,
    stopped: Mutex<bool>,
    seen: Seen,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Shared {
    /// A frontend is connected, and about to send what it has.
    fn new(without: Without) -> Self {
        let epochs = Epochs::default();
        let registers = Registers {
            frontend: Some(epochs.current()),
            ..Registers::default()
        };
        Self {
            without,
            registers: Mutex::new(registers),
            status: Condvar::new(),
            window: Mutex::new(None),
            epochs,
            // It has sent something.
            woken: Mutex::new(true),
            wake: Condvar::new(),
            stopped: Mutex::new(false),
            seen: Seen::default(),
        }
    }

    fn see(&self, armed: Option<Epoch>) {
        self.seen.lock().unwrap()[0] = armed;
    }

    fn see_attached(&self, attached: Option<Epoch>) {
        self.seen.lock().unwrap()[1] = attached;
    }

    /// Nothing of an epoch before this one is there.
    fn assert_gone(&self, now: Epoch) {
        let seen = *self.seen.lock().unwrap();
        let gone = seen.iter().flatten().all(|epoch| *epoch >= now);
        assert!(gone, "armed and attached: {seen:?}");
    }

    fn wake(&self) {
        *lock(&self.woken) = true;
        self.wake.notify_one();
    }

    fn drain(&self) {
        *lock(&self.woken) = false;
    }

    /// `Registers::detach_some`, of `shared/revocation.rs`: kicks of older epochs.
    fn detach_notifications(&self, now: Epoch) {
        let mut registers = lock(&self.registers);
        if registers.frontend.is_some_and(|epoch| epoch != now) {
            (registers.frontend, registers.armed) = (None, None);
            self.see(None);
        }
    }

    /// `Window::detach_some`.
    fn detach_memory(&self, now: Epoch) {
        let mut window = lock(&self.window);
        if window.is_some_and(|epoch| epoch < now) {
            *window = None;
            self.see_attached(None);
        }
    }

    /// The VMM's `revoke`.
    fn revoke(&self) {
        let late = self.without == Without::RaisingFirst;
        {
            let mut registers = lock(&self.registers);
            registers.needs_reset |= registers.frontend.is_some();
            if !late {
                self.epochs.raise();
            }
        }
        let now = match late {
            false => self.epochs.current(),
            true => self.revoke_and_raise(),
        };
        self.detach_notifications(now);
        self.detach_memory(now);
        self.assert_gone(now);
        self.wake();
    }

    /// The rule is left out: the rooms are emptied, and then the epoch is over.
    fn revoke_and_raise(&self) -> Epoch {
        {
            let mut registers = lock(&self.registers);
            (registers.frontend, registers.armed) = (None, None);
            self.see(None);
        }
        {
            *lock(&self.window) = None;
            self.see_attached(None);
        }
        let now = self.epochs.raise();
        self.assert_gone(now);
        now
    }

    /// A driver's reset, and what it does when it is done.
    fn reset(&self) {
        lock(&self.registers).reset_pending = true;
        // `Effect::Reset`, of `shared/accesses.rs`.
        self.epochs.raise();
        self.wake();
        let mut registers = lock(&self.registers);
        while registers.reset_pending {
            registers = self.status.wait(registers).unwrap();
        }
        drop(registers);
        // It counts as if all of it were of another epoch.
        let seen = *self.seen.lock().unwrap();
        assert_eq!(seen, [None; 2], "armed and attached after the reset");
    }

    /// The VMM drops the device: `Device::stop`.
    fn stop(&self) {
        *lock(&self.stopped) = true;
        self.wake();
    }
}

/// The room of the connection: when its frontend came.
#[derive(Default)]
struct Server(Option<Epoch>);

impl Server {
    /// `server/turn.rs`. Tells whether it was the end of a reset.
    fn turn(&mut self, shared: &Shared) -> bool {
        let drains_late = shared.without == Without::DrainingFirst;
        if !drains_late {
            shared.drain();
        }
        let pending = lock(&shared.registers).reset_pending;
        if drains_late {
            shared.drain();
        }
        if pending {
            return self.continue_reset(shared);
        }
        self.look(shared);
        self.step(shared);
        false
    }

    /// `server/reset.rs`.
    fn continue_reset(&mut self, shared: &Shared) -> bool {
        if self.0.is_some() {
            self.close_connection(shared);
            shared.wake();
            return false;
        }
        shared.detach_memory(shared.epochs.current());
        let mut registers = lock(&shared.registers);
        *registers = Registers::default();
        shared.see(None);
        shared.status.notify_one();
        true
    }

    /// `server/look.rs`.
    fn look(&mut self, shared: &Shared) {
        let (over, left) = {
            let registers = lock(&shared.registers);
            (registers.needs_reset, registers.frontend.is_some())
        };
        let stale = self.0.is_some_and(|epoch| epoch != shared.epochs.current());
        if self.0.is_some() && (over || stale) {
            self.close_connection(shared);
        } else if self.0.is_none() && left {
            shared.detach_notifications(shared.epochs.current());
        }
    }

    /// `server/loss.rs`.
    fn close_connection(&mut self, shared: &Shared) {
        self.0 = None;
        let now = shared.epochs.raise();
        shared.detach_notifications(now);
    }

    /// A kick, and memory, in the frontend's messages: `Resources::registers`,
    /// `Window::attach`.
    fn step(&mut self, shared: &Shared) {
        let Some(epoch) = self.0 else {
            return;
        };
        let compares = shared.without != Without::Comparing;
        let over = || compares && shared.epochs.current() != epoch;
        {
            let mut registers = lock(&shared.registers);
            if over() {
                drop(registers);
                return self.close_connection(shared);
            }
            registers.armed = Some(epoch);
            shared.see(Some(epoch));
        }
        let mut window = lock(&shared.window);
        if over() {
            drop(window);
            return self.close_connection(shared);
        }
        *window = Some(epoch);
        shared.see_attached(Some(epoch));
    }
}

/// The worker in the middle of a turn, and the next one.
fn serve_for_two_turns(shared: &Shared) {
    let mut server = Server(Some(shared.epochs.current()));
    server.step(shared);
    server.turn(shared);
}

/// The worker, until it has done the reset.
fn serve_until_reset(shared: &Shared) {
    let mut server = Server(Some(shared.epochs.current()));
    server.step(shared);
    loop {
        sleep(shared);
        if server.turn(shared) {
            return;
        }
    }
}

/// The worker, until the device is dropped: `device/worker.rs`. What it does in its
/// turns has no part in it.
fn serve_until_stopped(shared: &Shared) {
    let looks = shared.without != Without::LookingForTheEnd;
    while !(looks && *lock(&shared.stopped)) {
        sleep(shared);
        if !looks && *lock(&shared.stopped) {
            return;
        }
        shared.drain();
    }
}

/// `poller::wait`.
fn sleep(shared: &Shared) {
    let mut woken = lock(&shared.woken);
    while !*woken {
        woken = shared.wake.wait(woken).unwrap();
    }
}

/// Explores every order of a worker and of somebody else. Returns how many there
/// are.
fn explore(without: Without, worker: fn(&Shared), other: fn(&Shared)) -> usize {
    let orders = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&orders);
    Builder::new().check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared::new(without));
        let served = Arc::clone(&shared);
        let worker = thread::spawn(move || worker(&served));
        other(&shared);
        worker.join().unwrap();
    });
    orders.load(Ordering::Relaxed)
}

/// Somebody who wakes the worker, and then drops the device.
fn wake_and_stop(shared: &Shared) {
    shared.wake();
    shared.stop();
}

#[test]
fn a_revocation_leaves_nothing_in_any_order() {
    let orders = explore(Without::Nothing, serve_for_two_turns, Shared::revoke);
    println!("revoke() and the worker: {orders} orders");
}

#[test]
fn a_reset_ends_and_leaves_nothing_in_any_order() {
    let orders = explore(Without::Nothing, serve_until_reset, Shared::reset);
    println!("a reset and the worker: {orders} orders");
}

#[test]
fn whoever_drops_the_device_waits_for_its_worker_and_not_for_ever() {
    let orders = explore(Without::Nothing, serve_until_stopped, wake_and_stop);
    println!("the end and the worker: {orders} orders");
}

/// Where this process explores one model that has to fail.
const CONTROL: &str = "VHOST_GUEST_MODEL_CONTROL";

type Control = (Without, fn(&Shared), fn(&Shared));

const CONTROLS: [Control; 4] = [
    (Without::RaisingFirst, serve_for_two_turns, Shared::revoke),
    (Without::Comparing, serve_for_two_turns, Shared::revoke),
    (Without::DrainingFirst, serve_until_reset, Shared::reset),
    (
        Without::LookingForTheEnd,
        serve_until_stopped,
        wake_and_stop,
    ),
];

/// A model that has failed cannot be left but by the end of its process.
#[test]
fn each_rule_is_needed() {
    if let Some(control) = env::var_os(CONTROL) {
        let number: usize = control.to_string_lossy().parse().unwrap();
        let (without, worker, other) = CONTROLS[number];
        explore(without, worker, other);
        return;
    }
    for (number, (without, ..)) in CONTROLS.iter().enumerate() {
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", "each_rule_is_needed"])
            .env(CONTROL, number.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "without {without:?} all is well");
    }
}
