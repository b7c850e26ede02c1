// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Holes are punched in shared memory as fast as it goes. KVM invalidates what
//! it has of it each time, and changes its memory slots only when nothing is
//! being invalidated.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;

use rustix::fs::{fallocate, FallocateFlags};

use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::memfd;
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "punches",
    what: "a storm of holes in shared memory, against KVM's slot updates",
    unprivileged: false,
    knob: None,
    setup: Setup {
        kvm: true,
        ..Setup::PLAIN
    },
    guest: behaves,
    prepare: |_| {
        Ok(Box::new(Punches {
            memory: memfd("punches", SIZE)?,
        }))
    },
};

const SIZE: u64 = 64 << 20;
/// Another processor is left to the VMM.
const THREADS: usize = 1;

struct Punches {
    memory: OwnedFd,
}

impl Strike for Punches {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        frontend.add_memory(self.memory.as_fd(), SIZE)?;
        let over = Arc::new(AtomicBool::new(false));
        let other = Arc::new(memfd("other", SIZE)?);
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            // In a calm run there is as much to do for the kernel, elsewhere.
            let file = match attacker.hostile {
                true => Arc::new(self.memory.try_clone()?),
                false => other.clone(),
            };
            let over = over.clone();
            threads.push(thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let _ = punch(&file, 0, SIZE);
                }
            }));
        }
        attacker.until_told()?;
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            let _ = thread.join();
        }
        Ok(Vec::new())
    }
}

/// Takes the pages of a range out of a file.
pub fn punch(file: impl AsFd, offset: u64, length: u64) -> rustix::io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, offset, length)
}
