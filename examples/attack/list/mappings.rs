// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Processes of the frontend's map its file very often, and a hole is punched in
//! it again and again. The kernel goes through all mappings meanwhile, with the
//! file's `i_mmap_rwsem`, for which every `mmap` and `munmap` of it waits.

use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::io::{dup, pwrite};
use rustix::mm::{mmap, MapFlags, ProtFlags};
use rustix::process::{set_parent_process_death_signal, Signal};

use super::punches::punch;
use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike, THIS_PROGRAM};
use crate::attack::frontend::memfd;
use crate::attack::machine::Setup;
use crate::loopback::failure::{Context, Failure};

pub const ATTACK: Attack = Attack {
    name: "mappings",
    what: "holes punched in a file that is mapped 240,000 times",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |hostile| Ok(Box::new(Mappings::new(hostile)?)),
};

const SIZE: u64 = 1 << 20;
const PAGE: u64 = 4096;
const PROCESSES: usize = 4;
/// For each process; the kernel's limit is 65530 (`vm.max_map_count`).
const MAPPINGS: usize = 60_000;
const READY: &str = "mapped";

struct Mappings {
    memory: OwnedFd,
    processes: Vec<Child>,
}

impl Mappings {
    fn new(hostile: bool) -> io::Result<Self> {
        let (memory, other) = (memfd("mappings", SIZE)?, memfd("other", SIZE)?);
        pwrite(&memory, b"x", 0)?;
        let mut mappings = Self {
            memory,
            processes: Vec::new(),
        };
        for _ in 0..PROCESSES {
            let mut command = Command::new(THIS_PROGRAM);
            let file = Stdio::from(dup(&mappings.memory)?);
            command.arg("map").stdin(file).stdout(Stdio::piped());
            mappings.processes.push(command.spawn()?);
        }
        for process in &mut mappings.processes {
            let output = process.stdout.as_mut().ok_or(io::ErrorKind::Other)?;
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line)?;
            if line.trim() != READY {
                return Err(io::Error::other("a process does not map its file"));
            }
        }
        // In a calm run there is as much to do for the kernel, elsewhere.
        let file = match hostile {
            true => mappings.memory.try_clone()?,
            false => other,
        };
        std::thread::spawn(move || loop {
            let _ = punch(&file, 0, PAGE).and_then(|()| pwrite(&file, b"x", 0));
        });
        Ok(mappings)
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Strike for Mappings {
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

/// A process of the frontend's: maps the file that is its standard input, and
/// sleeps.
pub fn map() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("death signal")?;
    for n in 0..MAPPINGS {
        // Neighbours that are alike would be one mapping.
        let protection = match n % 2 {
            0 => ProtFlags::READ,
            _ => ProtFlags::READ | ProtFlags::WRITE,
        };
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        let (null, size, file) = (std::ptr::null_mut(), PAGE as usize, io::stdin());
        // SAFETY: a new mapping that nobody uses.
        let mapped = unsafe { mmap(null, size, protection, flags, file, 0) };
        mapped.context("mmap")?;
    }
    println!("{READY}");
    loop {
        std::thread::park();
    }
}
