// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A hostile frontend and a hostile guest, together, on a VMM whose services
//! fail at times: nothing panics or hangs, the device always comes to rest, and
//! after it nothing is left.
//!
//! Input: steps of a byte that says what, and what that needs. Messages have a
//! length of two bytes before them, see `Mode::message`.

#![no_main]

use std::sync::atomic::Ordering;

use libfuzzer_sys::fuzz_target;
use vhost_guest_fuzz::{open_descriptors, Frontend, Guest, Input, Machine, Mode};
use vm_memory::{Bytes, GuestAddress};

/// A session is short; longer inputs find nothing more, only slower.
const STEPS: usize = 64;

struct Session {
    machine: Machine,
    guest: Guest,
    frontend: Frontend,
}

impl Session {
    /// What a guest, or the VMM that it runs on, does.
    fn guest_step(&mut self, kind: u8, mode: Mode, input: &mut Input<'_>) {
        let (machine, guest) = (&self.machine, &mut self.guest);
        match kind {
            0 => guest.serve(machine),
            1 => guest.start(machine),
            2 => guest.post(machine, u16::from(input.byte() % 6), 1),
            3 => {
                let queue = u16::from(input.byte() % 6);
                guest.send(machine, queue, &mode.take_message(input));
            }
            4 => {
                let queue = u16::from(input.byte() % 6);
                let buffer = (u64::from(input.half()) << 4, u32::from(input.half()));
                let (flags, next) = (input.half() & 7, input.half() & 31);
                guest.publish(machine, queue, buffer, flags, next);
            }
            5 => {
                let address = GuestAddress(u64::from(input.half()) << 2);
                let length = usize::from(input.byte() % 16);
                let _ = machine.memory().write_slice(input.bytes(length), address);
            }
            6 => {
                let (bar, offset) = ((input.byte() % 6) & !1, u64::from(input.half()));
                machine.function.bar_write(bar, offset, input.bytes(2));
            }
            7 => {
                let offset = input.half() & 0xFF;
                machine.config_write(offset, input.bytes(4));
            }
            8 => machine.function.revoke(),
            9 => machine.fail_nth(usize::from(input.byte() % 32)),
            10 => drop(machine.function.memory_fault(None)),
            12 => {
                if let Some(iommu) = &machine.iommu {
                    iommu
                        .unmapped
                        .store(input.byte() & 1 != 0, Ordering::Relaxed);
                }
            }
            13 => self.frontend.use_ends(input.byte()),
            14 => machine.function.pause(),
            15 => machine.function.resume(),
            16 => machine.go_round(),
            17 => drop(machine.function.memory_truncated()),
            _ => drop(machine.function.memory_fault(Some(input.long()))),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let before = open_descriptors(usize::MAX);
    let mut input = Input::new(bytes);
    let mode = Mode::take(&mut input);
    let mut session = Session {
        machine: Machine::new(mode.is_whole()),
        guest: Guest::default(),
        frontend: Frontend::new(),
    };
    let address = session.machine.address();
    session.guest.boot(&session.machine);
    session.machine.rest();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        match input.byte() % 26 {
            kind @ 0..8 => session.frontend.step(kind, &address, mode, &mut input),
            kind => session.guest_step(kind - 8, mode, &mut input),
        }
        session.machine.rest();
    }
    let Session {
        machine, frontend, ..
    } = session;
    machine.finish();
    drop(frontend);
    assert!(open_descriptors(before) <= before, "descriptors are leaked");
});
