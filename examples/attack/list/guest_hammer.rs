// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! vCPUs use registers as fast as they can, those that take long among them.
//! Others must have their turn all the same.

use std::io;

use super::Attack;
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::guest::Guest;
use crate::attack::machine::Setup;
use crate::attack::stage::Stage;
use crate::loopback::failure::Failure;

pub const ATTACK: Attack = Attack {
    name: "guest-hammer",
    what: "vCPUs that use registers as fast as they can",
    unprivileged: false,
    knob: None,
    setup: Setup {
        vrings: 64,
        ..Setup::PLAIN
    },
    guest: hammers,
    prepare: |_| Ok(Box::new(Idle)),
};

const VCPUS: u64 = 4;
/// How much a vCPU of a calm run computes in place of an access.
const SPIN: usize = 1000;

/// A frontend that does nothing.
struct Idle;

impl Strike for Idle {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let _frontend = attacker.negotiated()?;
        attacker.until_told()?;
        Ok(Vec::new())
    }
}

/// A guest whose other vCPUs hammer, or compute as much.
fn hammers(stage: &Stage, mut guest: Guest, hostile: bool) -> Result<Guest, Failure> {
    for vcpu in 0..VCPUS {
        let victim = stage.victim();
        let mut turn = vcpu;
        guest.add_vcpu(move |_| {
            turn += 1;
            match (hostile, turn % 2) {
                (false, _) => (0..SPIN).for_each(|_| std::hint::spin_loop()),
                (true, 0) => victim.read_register(),
                (true, _) => victim.write_register(turn / 2),
            }
        });
    }
    Ok(guest)
}
