// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! As `inode-lock`, with huge pages: there the kernel takes the inode's lock
//! for `mmap`, too, and clears two MiB at a time with it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::fs::{fallocate, ftruncate, memfd_create, FallocateFlags, MemfdFlags};

use super::punches::punch;
use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::knob::Knob;
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "huge-pages",
    what: "a file of huge pages whose inode is locked for long",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |hostile| Ok(Box::new(HugePages::new(hostile)?)),
};

const PAGE: u64 = 2 << 20;
const PAGES: u64 = 256;
const SIZE: u64 = PAGES * PAGE;
/// How many huge pages the system has.
const KNOB: &str = "/proc/sys/vm/nr_hugepages";

struct HugePages {
    memory: OwnedFd,
    _pages: Knob,
}

impl HugePages {
    fn new(hostile: bool) -> io::Result<Self> {
        let pages = Knob::set(KNOB, |before| before + PAGES)?;
        let (memory, other) = (huge_file()?, huge_file()?);
        // In a calm run there is as much to do for the kernel, elsewhere.
        let file = match hostile {
            true => memory.try_clone()?,
            false => other,
        };
        thread::spawn(move || loop {
            let _ = fallocate(&file, FallocateFlags::empty(), 0, SIZE);
            let _ = punch(&file, 0, SIZE);
        });
        Ok(Self {
            memory,
            _pages: pages,
        })
    }
}

/// A file of huge pages, which it takes when they are needed.
pub fn huge_file() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = memfd_create("huge", flags)?;
    ftruncate(&file, SIZE)?;
    Ok(file)
}

impl Strike for HugePages {
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
