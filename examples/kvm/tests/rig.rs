// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A machine with a device, the guest in it, the driver, and a frontend.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use vhost_guest_examples::kvm::vcpu::Vcpu;
use vhost_guest_examples::kvm::{Error, Function, Machine};

use crate::driver::Driver;
use crate::frontend::{
    event, message, words, Frontend, SET_MEM_TABLE, SET_VRING_CALL, SET_VRING_KICK,
};
use crate::guest::{Guest, Op};

/// RAM of the machine.
const RAM: u64 = 16 << 20;
/// Size of the window.
pub const WINDOW: u64 = 64 << 20;
/// After this time something hangs. Nothing is expected to come close.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_micros(50);

/// Everything.
pub struct Rig {
    pub machine: Machine,
    pub function: Function,
    pub guest: Guest,
    pub driver: Driver,
    vcpu: Option<Vcpu>,
    socket: PathBuf,
}

/// A machine, or nothing where there is no KVM and none has to be.
pub fn machine() -> Option<Machine> {
    match Machine::new(RAM) {
        Ok(machine) => Some(machine),
        Err(error @ Error::NoKvm(_)) if std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Waits until something is the case.
pub fn settle(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "hangs: {what}");
        thread::sleep(PAUSE);
    }
}

impl Rig {
    /// A guest that runs, and a device with `vrings` vrings whose driver has
    /// set `BACKEND_UP`.
    pub fn start(vrings: u16) -> Option<Self> {
        Some(Self::start_in(machine()?, vrings))
    }

    /// As [`start`](Self::start), in a machine without irqfds and ioeventfds.
    pub fn start_in_userspace(vrings: u16) -> Option<Self> {
        let mut machine = machine()?;
        machine.use_userspace_doorbells();
        machine.use_userspace_interrupts().unwrap();
        Some(Self::start_in(machine, vrings))
    }

    fn start_in(mut machine: Machine, vrings: u16) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        raise_descriptor_limit();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vhost-guest-kvm-{}-{number}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let function = machine.plug(listener, vrings, WINDOW).unwrap();
        let (guest, vcpu) = Guest::start(&machine);
        let bus = machine.bus().clone();
        let driver = Driver::new(bus, machine.memory().clone(), vrings);
        let mut rig = Self {
            machine,
            function,
            guest,
            driver,
            vcpu: Some(vcpu),
            socket,
        };
        rig.driver.initialise();
        rig
    }

    /// As [`start`](Self::start), with a frontend.
    pub fn connected(vrings: u16) -> Option<(Self, Frontend)> {
        let mut rig = Self::start(vrings)?;
        let frontend = rig.connect();
        Some((rig, frontend))
    }

    /// A frontend connects.
    pub fn connect(&mut self) -> Frontend {
        let frontend = Frontend::connect(&self.socket);
        self.wait("FRONTEND_UP", |rig| rig.driver.up() == 3);
        frontend
    }

    /// Waits until something is the case.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        settle(what, || {
            if done(self) {
                return true;
            }
            if self.vcpu.as_ref().is_some_and(Vcpu::has_ended) {
                let exception = self.guest.exception();
                let outcome = self.vcpu.take().map(Vcpu::wait);
                panic!("{what}: the guest ended: {outcome:?}, exception {exception}");
            }
            false
        });
    }

    /// Has the guest execute a program once, to the end.
    pub fn run(&mut self, program: &[Op]) {
        self.give(program, 1);
        self.finish();
    }

    /// Gives the guest a program to execute so many times.
    pub fn give(&self, program: &[Op], repeats: u64) {
        self.guest.give(&self.machine, program, repeats);
    }

    /// Waits until the guest is done. It has taken every interrupt that was
    /// raised before then.
    pub fn finish(&mut self) {
        self.wait("the guest's program", |rig| rig.guest.is_done());
    }

    /// Ends the program that the guest repeats.
    pub fn stop_program(&mut self) {
        self.guest.ask_to_stop();
        self.finish();
    }

    /// Sends a message, and waits until it is with the driver. The device has
    /// carried it out then.
    pub fn exchange(&mut self, frontend: &Frontend, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        frontend.send(bytes, fds);
        let mut received = None;
        self.wait("a message", |rig| {
            received = rig.driver.receive();
            received.is_some()
        });
        let code = |bytes: &[u8]| bytes.get(..4).map(<[u8]>::to_vec);
        assert_eq!(received.as_deref().and_then(code), code(bytes));
    }

    /// The frontend connects an eventfd to a vring.
    pub fn set_eventfd(&mut self, frontend: &Frontend, code: u32, vring: u16, fd: impl AsFd) {
        let payload = words(&[vring.into()]);
        self.exchange(frontend, &message(code, 1, &payload), &[fd.as_fd()]);
    }

    /// The frontend sends new eventfds for kick and call of a vring.
    pub fn set_vring(&mut self, frontend: &Frontend, vring: u16) -> Vring {
        let vring_fds = Vring {
            kick: event(EventfdFlags::empty()),
            call: event(EventfdFlags::empty()),
        };
        self.set_eventfd(frontend, SET_VRING_KICK, vring, &vring_fds.kick);
        self.set_eventfd(frontend, SET_VRING_CALL, vring, &vring_fds.call);
        vring_fds
    }

    /// The frontend shares `size` bytes of a file, and nothing else any more.
    /// Returns their guest physical address, in the window.
    pub fn share(&mut self, frontend: &Frontend, file: impl AsFd, size: u64) -> u64 {
        let payload = words(&[1, 0, size, 0x7000_0000_0000, 0]);
        frontend.send(&message(SET_MEM_TABLE, 1, &payload), &[file.as_fd()]);
        let mut received = Vec::new();
        self.wait("the memory table", |rig| {
            received.extend(rig.driver.receive().unwrap_or_default());
            !received.is_empty()
        });
        // Header, number of regions, then guest address, size, user address.
        let user_address = received.get(12 + 8 + 16..12 + 8 + 24).unwrap();
        let offset = u64::from_ne_bytes(user_address.try_into().unwrap());
        self.driver.bar(4) + offset
    }

    /// Another device, in the place of one that was unplugged.
    pub fn replace(&mut self, vrings: u16) {
        std::fs::remove_file(&self.socket).unwrap();
        let listener = UnixListener::bind(&self.socket).unwrap();
        self.function = self.machine.plug(listener, vrings, WINDOW).unwrap();
    }

    /// Waits until the device has seen all that the driver has sent: a turn that
    /// begins after now, and its end.
    pub fn catch_up(&mut self) {
        // The first of these may have begun before it was asked for, the second one
        // has not.
        for _ in 0..2 {
            let turns = self.function.statistics().turns;
            self.driver.notify(1);
            self.wait("a turn", |rig| rig.function.statistics().turns > turns);
        }
        self.function.memory_changed();
    }

    /// Guest physical address of a vring's call doorbell.
    pub fn call_doorbell(&self, vring: u16) -> u64 {
        self.driver.bar(2) + 4 * u64::from(vring)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        if let Some(vcpu) = self.vcpu.take() {
            let outcome = vcpu.stop();
            if !thread::panicking() {
                outcome.unwrap();
            }
        }
    }
}

/// What a frontend keeps of a vring's eventfds.
pub struct Vring {
    pub kick: OwnedFd,
    pub call: OwnedFd,
}

/// Devices with many vrings want many descriptors.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}
