// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How long things take. What is tested is that nothing is lost; the figures
//! are to be looked at:
//! `cargo test --package vhost-guest-examples --test kvm measures -- --nocapture`.

use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

use crate::driver::kick_vector;
use crate::frontend::{event, signal, take, SET_VRING_CALL};
use crate::guest::{Op, Variable};
use crate::rig::Rig;

const BATCHES: u32 = 40;
const BATCH: u32 = 1000;

/// How long the guest takes for a store: in the best of many batches, since
/// other programs want the processor, too.
fn store(rig: &mut Rig, address: u64) -> Duration {
    // Many in a row, since the loop has an exit to userspace of its own.
    let program = [Op::Store16(address, 0); BATCH as usize];
    let mut best = Duration::MAX;
    for _ in 0..BATCHES {
        let start = Instant::now();
        rig.give(&program, 1);
        while !rig.guest.is_done() {
            std::hint::spin_loop();
        }
        best = best.min(start.elapsed());
    }
    best / BATCH
}

#[test]
fn measures_notifications() {
    let Some((mut rig, frontend)) = Rig::connected(4) else {
        return;
    };
    let vring = rig.set_vring(&frontend, 0);
    let call = rig.call_doorbell(0);
    // An address that is the device's, and nothing: KVM gives it to the VMM.
    let nothing = rig.driver.bar(2) + 0x8000;
    // Memory, to see what the guest takes for all but the store.
    let memory = store(&mut rig, 0x50_0000);
    let in_kernel = store(&mut rig, call);
    let in_userspace = store(&mut rig, nothing);
    assert_eq!(take(&vring.call), u64::from(BATCHES * BATCH));
    println!(
        "store to memory {memory:?}, to a doorbell {in_kernel:?}, with an exit {in_userspace:?}"
    );

    rig.guest.set_bell(kick_vector(0), Some(call));
    let mut trips = Vec::new();
    for _ in 0..2000 {
        let start = Instant::now();
        signal(&vring.kick);
        while take(&vring.call) == 0 {
            std::hint::spin_loop();
        }
        trips.push(start.elapsed());
    }
    trips.sort();
    println!("kick to handler to call, median: {:?}", trips[1000]);

    let replacement = |rig: &mut Rig| {
        let start = Instant::now();
        for _ in 0..50 {
            let call = event(EventfdFlags::empty());
            rig.set_eventfd(&frontend, SET_VRING_CALL, 1, &call);
        }
        start.elapsed() / 50
    };
    let idle = replacement(&mut rig);
    rig.give(&[Op::Increment(Variable(0))], u64::MAX);
    let busy = replacement(&mut rig);
    rig.stop_program();
    println!("replacing a call: {idle:?} with an idle guest, {busy:?} with a busy one");
}
