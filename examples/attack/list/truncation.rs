// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A file is truncated at about the time at which the device looks at its size,
//! maps it, and has it watched. Whatever comes first, the guest must not be left
//! with memory that is not there.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::ftruncate;
use vhost_guest_msg::frontend as code;

use super::unwatchable::is_disconnected;
use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::{memfd, MEMORY, NEED_REPLY, PLAIN};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "truncation",
    what: "a file that is truncated while it is mapped",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |_| Ok(Box::new(Truncation { tries: 0 })),
};

const SIZE: u64 = 1 << 20;
/// The truncation comes so much later than the region at most.
const LATEST: u64 = 1_500_000;
const STEP: u64 = 7919;
/// Messages that keep the device's turn from ending.
const CROWD: usize = 25;
/// Tries in a round.
const TRIES: u64 = 50;

struct Truncation {
    tries: u64,
}

impl Strike for Truncation {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        for _ in 0..TRIES {
            self.tries += 1;
            if self.try_once(attacker)? {
                attacker.fault("memory that was truncated stays in the window");
                break;
            }
            if attacker.is_told() {
                break;
            }
        }
        attacker.until_told()?;
        Ok(Vec::new())
    }
}

impl Truncation {
    /// Whether the guest keeps what is not there.
    fn try_once(&self, attacker: &Attacker) -> io::Result<bool> {
        let mut frontend = attacker.negotiated()?;
        attacker.arm();
        let memory = memfd("truncation", SIZE)?;
        let delay = Duration::from_nanos(self.tries * STEP * 16 % LATEST);
        let region = [0, 0, SIZE, MEMORY, 0];
        frontend.say(code::ADD_MEM_REG, NEED_REPLY, &region, &[memory.as_fd()])?;
        for _ in 0..CROWD {
            frontend.say(code::SET_OWNER, PLAIN, &[], &[])?;
        }
        let start = Instant::now();
        while start.elapsed() < delay {
            std::hint::spin_loop();
        }
        if !attacker.hostile {
            return frontend.hear().map(|_| false);
        }
        ftruncate(&memory, 0)?;
        // Disconnected, or refused, or taken back.
        match frontend.hear() {
            Ok(answer) if answer.iter().all(|byte| *byte == 0) => {
                Ok(!is_disconnected(&mut frontend)?)
            }
            _ => Ok(false),
        }
    }
}
