// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory is allocated to a file and taken away again, much at a time. The
//! kernel holds the inode's lock meanwhile; on some kernels `statx` on tmpfs
//! waits for it, and `ftruncate`, sealing and `write` do on all.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::fs::{fallocate, FallocateFlags};

use super::punches::punch;
use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::memfd;
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "inode-lock",
    what: "a file whose inode is locked for long, by allocations",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |hostile| Ok(Box::new(InodeLock::new(hostile)?)),
};

/// Takes a good part of a second to allocate.
const SIZE: u64 = 512 << 20;

struct InodeLock {
    memory: OwnedFd,
}

impl InodeLock {
    fn new(hostile: bool) -> io::Result<Self> {
        let (memory, other) = (memfd("locked", SIZE)?, memfd("other", SIZE)?);
        // In a calm run there is as much to do for the kernel, elsewhere.
        let file = match hostile {
            true => memory.try_clone()?,
            false => other,
        };
        thread::spawn(move || loop {
            let _ = fallocate(&file, FallocateFlags::empty(), 0, SIZE);
            let _ = punch(&file, 0, SIZE);
        });
        Ok(Self { memory })
    }
}

impl Strike for InodeLock {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        attacker.arm();
        while !attacker.is_told() {
            frontend.add_memory(self.memory.as_fd(), SIZE)?;
            frontend.remove_memory(SIZE)?;
        }
        Ok(Vec::new())
    }
}
