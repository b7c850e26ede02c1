// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A frontend, a guest, vCPUs and a VMM at the same time, each on a thread of its
//! own, with real mappings, and with KVM where there is KVM: nothing panics or
//! hangs, the device is dead only if the VMM failed, the next frontend is served
//! after a driver's reset, and after the device nothing is left.
//!
//! Input: what the VMM chose (see [`Chosen`]), then parts of the four scripts: a
//! byte that says whose, a byte that says how long. One input does not always lead
//! to the same run.

#![no_main]

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vhost_guest_device::{Builder, MemoryPolicy};
use vhost_guest_fuzz::{
    has_kvm, open_descriptors, Choice, Frontend, Guest, Input, Machine, Mode, Real, Watchdog, BARS,
};
use vhost_guest_vmm_traits::MsiMessage;
use vm_memory::{Bytes, GuestAddress};

/// Longer scripts find nothing more, only slower.
const STEPS: usize = 64;
const VCPUS: usize = 2;
/// The device may rest for a second after a failure of its host's.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a driver waits for a device that may be paused meanwhile.
const BUSY: Duration = Duration::from_millis(50);
const ATTEMPT: Duration = Duration::from_secs(1);
/// How long an event loop waits before it looks whether it is over.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
const NEEDS_RESET: u8 = 0x40;
/// GET_FEATURES, version 1, no payload.
const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
/// Structures of BAR 0 (vhost-guest specification, PCI layout): offset, length.
const STRUCTURES: [(u64, u64); 8] = [
    (0, 0x40),
    (0x14, 1),
    (0x1000, 4),
    (0x2000, 0x40),
    (0x3000, 0x40),
    (0x4000, 8),
    (0x8000, 0x200),
    (0, 0x1_0000),
];

/// What the VMM chose: flags, limits, and how messages are to be read.
struct Chosen {
    flags: u8,
    mode: Mode,
    limits: [u8; 5],
}

impl Chosen {
    fn take(input: &mut Input<'_>) -> Self {
        Self {
            flags: input.byte(),
            mode: Mode::take(input),
            limits: [(); 5].map(|()| input.byte()),
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & 1 << flag != 0
    }

    /// A flag that is not set is what most VMMs choose.
    fn choice(&self) -> Choice {
        Choice {
            whole: self.mode.is_whole(),
            real: Some(Real {
                kvm: self.has(0),
                event_loop: self.has(1),
                ioeventfds: !self.has(2),
            }),
        }
    }

    /// Limits of 0 are the device's own.
    fn build(&self, mut builder: Builder) -> Builder {
        let [vrings, slots, size, inflight, time] = self.limits.map(u64::from);
        builder = builder
            .queues(1 + (3 + vrings as u16) % 16)
            .window_size(1 << 30)
            .device_type(2)
            .uuid([self.flags; 16])
            .guest_address_bits(46)
            .memory_policy(MemoryPolicy {
                sealed_size: self.has(3),
                any_file_system: self.has(4),
            });
        if slots > 0 {
            builder = builder.memory_slots(slots as u16);
        }
        if size > 0 {
            builder = builder.max_message_size(512 + 14 * size as u32);
        }
        if inflight > 0 {
            builder = builder.inflight_limit(inflight << 12);
        }
        let time = Duration::from_millis(1 + time);
        if self.has(5) {
            builder = builder.reply_timeout(time);
        }
        if self.has(6) {
            builder = builder.orphan_timeout(time);
        }
        builder
    }
}

/// How far things are.
#[derive(Default)]
struct Stage {
    /// Scripts of the frontend and the VMM that have been played.
    played: AtomicUsize,
    /// The VMM unplugs the device, whoever is in the middle of something.
    unplugged: AtomicBool,
    /// The event loop may end.
    ended: AtomicBool,
}

impl Stage {
    fn is_over(&self) -> bool {
        self.played.load(Ordering::SeqCst) >= 2 || self.is_unplugged()
    }

    fn is_unplugged(&self) -> bool {
        self.unplugged.load(Ordering::SeqCst)
    }
}

/// The offset of an access to registers.
fn register(input: &mut Input<'_>) -> u64 {
    let (start, length) = STRUCTURES[usize::from(input.byte()) % STRUCTURES.len()];
    start + u64::from(input.half()) % length
}

fn width(input: &mut Input<'_>) -> usize {
    match input.byte() {
        kind @ 0..240 => 1 << (kind % 4),
        odd => usize::from(odd % 16),
    }
}

/// The guest's driver plays its script, and answers all along.
fn drive(machine: &Machine, guest: &mut Guest, mode: Mode, script: &[u8], stage: &Stage) {
    let mut input = Input::new(script);
    guest.boot(machine);
    for step in 0.. {
        if stage.is_over() {
            break;
        }
        if !input.is_empty() && step < STEPS {
            guest_step(machine, guest, mode, &mut input);
        } else if machine.status() & NEEDS_RESET != 0 {
            guest.start(machine);
        }
        guest.serve(machine);
        thread::yield_now();
    }
}

fn guest_step(machine: &Machine, guest: &mut Guest, mode: Mode, input: &mut Input<'_>) {
    let queue = |input: &mut Input<'_>| u16::from(input.byte() % 6);
    match input.byte() % 8 {
        0 => guest.serve(machine),
        1 => guest.start(machine),
        2 => guest.post(machine, queue(input), 1),
        3 => guest.send(machine, queue(input), &mode.take_message(input)),
        4 => {
            let queue = queue(input);
            let buffer = (u64::from(input.half()) << 4, u32::from(input.half()));
            let (flags, next) = (input.half() & 7, input.half() & 31);
            guest.publish(machine, queue, buffer, flags, next);
        }
        5 => {
            let address = GuestAddress(u64::from(input.half()) << 2);
            let length = usize::from(input.byte() % 16);
            let _ = machine.memory().write_slice(input.bytes(length), address);
        }
        6 => guest.boot(machine),
        _ => thread::yield_now(),
    }
}

/// A vCPU plays its script again and again.
fn run_vcpu(machine: &Machine, script: &[u8], stage: &Stage) {
    while !stage.is_over() && !script.is_empty() {
        let mut input = Input::new(script);
        for _ in 0..STEPS {
            if input.is_empty() || stage.is_over() {
                break;
            }
            vcpu_step(machine, &mut input);
        }
        thread::yield_now();
    }
}

fn vcpu_step(machine: &Machine, input: &mut Input<'_>) {
    let function = &machine.function;
    let mut data = [0; 16];
    match input.byte() % 8 {
        0 => function.config_read(input.half(), &mut data[..width(input)]),
        1 => {
            let (offset, width) = (input.half() & 0x1FF, width(input));
            machine.config_write(offset, input.bytes(width));
        }
        2 => function.bar_read(0, register(input), &mut data[..width(input)]),
        3 => {
            let (offset, width) = (register(input), width(input));
            function.bar_write(0, offset, input.bytes(width));
        }
        4 => {
            let (bar, offset) = (input.byte() % 7, input.long());
            function.bar_read(bar, offset, &mut data[..width(input)]);
        }
        5 => {
            let (bar, offset, width) = (input.byte() % 7, u64::from(input.half()), width(input));
            function.bar_write(bar, offset, input.bytes(width));
        }
        _ => {
            let offset = u64::from(input.half()) << 12;
            let store = input.byte();
            let store = (store & 1 != 0).then_some(store);
            let lent = machine.lent.as_ref().expect("a real machine");
            if !lent.window.access(offset, store) {
                // As a VMM has to do: ask, then let the vCPU try again.
                let address = BARS[2].1 + offset;
                let _ = function.memory_truncated() || function.memory_fault(Some(address));
            }
        }
    }
}

/// The VMM plays its script.
fn manage(machine: &Machine, script: &[u8], stage: &Stage) {
    let mut input = Input::new(script);
    let mut snapshot = Vec::new();
    for _ in 0..STEPS {
        if input.is_empty() || stage.is_unplugged() {
            break;
        }
        vmm_step(machine, &mut snapshot, &mut input, stage);
    }
}

fn vmm_step(machine: &Machine, snapshot: &mut Vec<u8>, input: &mut Input<'_>, stage: &Stage) {
    let function = &machine.function;
    match input.byte() % 21 {
        0 => thread::sleep(Duration::from_micros(100 * u64::from(input.byte()))),
        1 => function.revoke(),
        2 => machine.reset(),
        3 => function.pause(),
        4 => function.resume(),
        5 => *snapshot = function.snapshot().unwrap_or_default(),
        6 => {
            for _ in 0..input.byte() % 4 {
                let at = usize::from(input.half()) % snapshot.len().max(1);
                let byte = input.byte();
                snapshot.get_mut(at).into_iter().for_each(|at| *at = byte);
            }
            let _ = machine.restore(snapshot);
        }
        7 => {
            let length = usize::from(input.byte());
            let _ = machine.restore(input.bytes(length));
        }
        8 => drop(function.memory_fault(None)),
        9 => drop(function.memory_fault(Some(input.long()))),
        10 => drop(function.memory_fault(Some(BARS[2].1 + (u64::from(input.half()) << 12)))),
        11 => drop(function.memory_truncated()),
        12 => machine.replace_memory(),
        13 => {
            let vector = u16::from(input.byte());
            let message = (input.byte() & 1 != 0).then_some(MsiMessage {
                address: 0xFEE0_0000,
                data: vector.into(),
            });
            function.set_vector(vector, message);
        }
        14 => machine.fail_nth(usize::from(input.byte() % 32)),
        15 => {
            let none = input.byte() & 1 != 0;
            if let Some(iommu) = &machine.iommu {
                iommu.unmapped.store(none, Ordering::Relaxed);
            }
        }
        16 => {
            let address = (input.byte() & 1 != 0).then(|| input.long());
            machine.bar_moved(input.byte() % 7, address);
        }
        17 => {
            let statistics = function.statistics();
            assert!(statistics.turns <= function.statistics().turns);
            let fds = function.fds_to_keep();
            assert!(!fds.is_empty() && function.vectors() > 0);
        }
        18 => machine.go_round(),
        19 => stage.unplugged.store(true, Ordering::SeqCst),
        _ => thread::yield_now(),
    }
}

/// The device's turns in the VMM's own event loop.
fn turn(machine: &Machine, stage: &Stage) {
    while !stage.ended.load(Ordering::SeqCst) {
        let mut fds = [PollFd::from_borrowed_fd(
            machine.function.event_fd(),
            PollFlags::IN,
        )];
        let _ = poll(&mut fds, Some(&TICK));
        machine.function.process_events();
    }
}

/// The VMM has no failures any more, and the driver resets the device: the next
/// frontend has to be served.
fn assert_recovers(machine: &Machine, guest: &mut Guest) {
    machine.vmm.clear_failure();
    if let Some(iommu) = &machine.iommu {
        iommu.unmapped.store(false, Ordering::Relaxed);
    }
    machine.function.resume();
    guest.patience = PATIENCE;
    let began = Instant::now();
    loop {
        if machine.is_dead() {
            assert!(machine.has_failed(), "dead, though nothing failed");
            return;
        }
        guest.boot(machine);
        if is_served(machine, guest) {
            return;
        }
        let late = began.elapsed() > PATIENCE;
        assert!(
            !late,
            "the next frontend is not served: status {:#x}",
            machine.status()
        );
    }
}

fn is_served(machine: &Machine, guest: &mut Guest) -> bool {
    let mut stream = machine.connect();
    if stream.write_all(&GET_FEATURES).is_err() {
        return false;
    }
    let began = Instant::now();
    while began.elapsed() < ATTEMPT {
        // Frontends that are gone already come before this one.
        if machine.status() & NEEDS_RESET != 0 {
            guest.start(machine);
        }
        guest.serve(machine);
        match stream.read(&mut [0; 64]) {
            Ok(length) => return length > 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(_) => return false,
        }
    }
    false
}

/// Whose part of the input: frontend, guest, vCPUs, VMM.
fn scripts(input: &mut Input<'_>) -> [Vec<u8>; 4] {
    let mut scripts = [const { Vec::new() }; 4];
    while !input.is_empty() {
        let script = &mut scripts[usize::from(input.byte() % 4)];
        let length = usize::from(input.byte());
        script.extend(input.bytes(length));
    }
    scripts
}

/// Says whether inputs that are to be on KVM are.
fn say_where() {
    match has_kvm() {
        true => eprintln!("machines: emulated ones, and KVM"),
        false => eprintln!("machines: emulated ones only, without KVM"),
    }
}

fuzz_target!(init: say_where(), |bytes: &[u8]| {
    let _watchdog = Watchdog::start("an input");
    let before = open_descriptors(usize::MAX);
    let mut input = Input::new(bytes);
    let chosen = Chosen::take(&mut input);
    let mode = chosen.mode;
    let [frontends, guests, vcpus, vmms] = scripts(&mut input);
    let Ok(machine) = Machine::with(chosen.choice(), |builder| chosen.build(builder)) else {
        return;
    };
    let mut guest = Guest::default();
    guest.patience = BUSY;
    let stage = Stage::default();
    let (address, played) = (machine.address(), &stage.played);
    thread::scope(|scope| {
        // It does not end with the device.
        scope.spawn(move || {
            let (mut frontend, mut input) = (Frontend::new(), Input::new(&frontends));
            for _ in 0..STEPS {
                if input.is_empty() {
                    break;
                }
                frontend.step(input.byte() % 8, &address, mode, &mut input);
            }
            frontend.reconnect(None);
            played.fetch_add(1, Ordering::SeqCst);
        });
        thread::scope(|scope| {
            if chosen.has(1) {
                scope.spawn(|| turn(&machine, &stage));
            }
            thread::scope(|scope| {
                scope.spawn(|| drive(&machine, &mut guest, mode, &guests, &stage));
                for _ in 0..VCPUS {
                    scope.spawn(|| run_vcpu(&machine, &vcpus, &stage));
                }
                manage(&machine, &vmms, &stage);
                stage.played.fetch_add(1, Ordering::SeqCst);
            });
            if !stage.is_unplugged() {
                assert_recovers(&machine, &mut guest);
            }
            stage.ended.store(true, Ordering::SeqCst);
        });
        machine.finish();
    });
    assert!(open_descriptors(before) <= before, "descriptors are leaked");
});
