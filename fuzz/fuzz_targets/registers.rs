// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A guest that reads and writes registers as it likes, on a VMM whose
//! services fail at times: nothing panics, and after it nothing is left.
//!
//! Input: steps of a byte that says what, and what that needs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vhost_guest_fuzz::{open_descriptors, Guest, Input, Machine, BARS};

/// Widths of accesses; the last two are not possible on a bus.
const WIDTHS: [usize; 6] = [1, 2, 4, 8, 3, 9];

fn step(machine: &Machine, guest: &mut Guest, input: &mut Input<'_>) {
    let kind = input.byte();
    let width = WIDTHS[usize::from(kind >> 3) % WIDTHS.len()];
    let mut data = [0; 9];
    match kind & 7 {
        0 => machine
            .function
            .config_read(input.half(), &mut data[..width]),
        1 | 2 => {
            let offset = input.half() & 0xFF;
            machine.config_write(offset, input.bytes(width));
        }
        3 => {
            let bar = input.byte() % 8;
            let offset = u64::from(input.half());
            machine.function.bar_read(bar, offset, &mut data[..width]);
        }
        4 | 5 => {
            let offset = u64::from(input.half());
            machine.function.bar_write(0, offset, input.bytes(width));
        }
        6 => {
            let (bar, _) = BARS[usize::from(input.byte()) % BARS.len()];
            let offset = u64::from(input.half());
            machine.function.bar_write(bar, offset, input.bytes(width));
        }
        _ => match input.byte() % 9 {
            0 => guest.boot(machine),
            1 => machine.fail_nth(input.byte().into()),
            2 => machine.bar_moved(input.byte() % 6, None),
            3 => machine.bar_moved(input.byte() % 6, Some(input.long())),
            4 => drop(machine.function.memory_fault(Some(input.long()))),
            5 => machine.function.revoke(),
            6 => machine.function.pause(),
            7 => machine.function.resume(),
            _ => machine.go_round(),
        },
    }
}

fuzz_target!(|bytes: &[u8]| {
    let before = open_descriptors(usize::MAX);
    let mut input = Input::new(bytes);
    let machine = Machine::new(true);
    let mut guest = Guest::default();
    while !input.is_empty() {
        step(&machine, &mut guest, &mut input);
    }
    machine.rest();
    machine.finish();
    assert!(open_descriptors(before) <= before, "descriptors are leaked");
});
