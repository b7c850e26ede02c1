// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A memfd is made unreadable: a VMM that is not privileged cannot have inotify
//! watch it, and would not learn that it is truncated.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::fs::{fchmod, ftruncate, Mode};

use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::{memfd, Frontend};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "unwatchable",
    what: "a file that cannot be watched, and is truncated",
    unprivileged: true,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |_| Ok(Box::new(Unwatchable)),
};

const SIZE: u64 = 1 << 20;
/// In this time a device that watches has noticed.
const NOTICED: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);

struct Unwatchable;

impl Strike for Unwatchable {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        let memory = memfd("unwatchable", SIZE)?;
        if attacker.hostile {
            fchmod(&memory, Mode::empty())?;
        }
        if frontend.add_memory(memory.as_fd(), SIZE)? {
            thread::sleep(PAUSE);
            ftruncate(&memory, 0)?;
            if !is_disconnected(&mut frontend)? {
                attacker.fault("memory that was truncated stays in the window");
            }
        }
        attacker.until_told()?;
        Ok(Vec::new())
    }
}

/// Whether the device hangs up, which is what it does with whoever truncates.
pub fn is_disconnected(frontend: &mut Frontend) -> io::Result<bool> {
    frontend.socket.set_read_timeout(Some(NOTICED))?;
    match frontend.socket.read(&mut [0; 64]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        _ => Ok(true),
    }
}
