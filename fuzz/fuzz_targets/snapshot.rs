// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VMM that restores what it was given: nothing panics; what is refused
//! changes nothing; what is accepted is what the bytes say, and the device
//! serves a driver after it.
//!
//! Input: a byte that says how the rest becomes a snapshot, see [`snapshot`].

#![no_main]

use libfuzzer_sys::fuzz_target;
use vhost_guest_device::SnapshotError;
use vhost_guest_fuzz::{open_descriptors, Guest, Input, Machine};

/// Where `status` is: a frontend does not come back.
const STATUS: usize = 348 + 2;
/// Header, and what the VMM chose.
const CONSTANT: usize = 68;

/// | first byte | snapshot |
/// |---|---|
/// | 0 | the bytes as they are |
/// | 1 | those behind the constant beginning of a snapshot |
/// | other | one of a running device, with changes: offset, byte |
fn snapshot(input: &mut Input<'_>, right: &[u8]) -> Vec<u8> {
    match input.byte() {
        0 => input.rest().to_vec(),
        1 => {
            let mut bytes = right.to_vec();
            for (to, from) in bytes[CONSTANT..].iter_mut().zip(input.rest()) {
                *to = *from;
            }
            bytes
        }
        _ => {
            let mut bytes = right.to_vec();
            while !input.is_empty() {
                let at = usize::from(input.half()) % bytes.len();
                bytes[at] = input.byte();
            }
            bytes
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let before = open_descriptors(usize::MAX);
    let machine = Machine::new(false);
    let mut guest = Guest::default();
    guest.boot(&machine);
    machine.function.pause();
    let right = machine.function.snapshot().expect("a pause");
    let bytes = snapshot(&mut Input::new(bytes), &right);
    let outcome = machine.restore(&bytes);
    let after = machine.function.snapshot().expect("a pause");
    match outcome {
        Ok(()) => {
            let lost = after[STATUS] != bytes[STATUS];
            assert!(lost || after == bytes, "another state");
        }
        Err(SnapshotError::Environment(error)) => panic!("{error}"),
        Err(_) => assert_eq!(after, right),
    }
    machine.function.resume();
    machine.rest();
    let frontend = machine.connect();
    machine.rest();
    guest.serve(&machine);
    guest.boot(&machine);
    machine.rest();
    drop(frontend);
    machine.finish();
    assert!(open_descriptors(before) <= before, "descriptors are leaked");
});
