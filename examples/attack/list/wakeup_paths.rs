// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The backend channel's socket is in an epoll instance that is in 500 others.
//! Where the device's own epoll descriptor is in the VMM's, the kernel counts
//! such paths, and refuses to add what has too many (EINVAL).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use vhost_guest_msg::frontend as code;

use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "wakeup-paths",
    what: "a socket that the kernel does not let into the device's epoll set",
    unprivileged: false,
    knob: None,
    setup: Setup {
        event_loop: true,
        ..Setup::PLAIN
    },
    guest: behaves,
    prepare: |_| Ok(Box::new(WakeupPaths)),
};

/// Of depth 2, the kernel's limit (`path_limits` of `fs/eventpoll.c`).
const PATHS: usize = 500;

struct WakeupPaths;

impl Strike for WakeupPaths {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut kept: Kept = Vec::new();
        if attacker.hostile {
            let inner = epoll_set()?;
            for _ in 0..PATHS {
                let outer = epoll_set()?;
                add(&outer, &inner)?;
                kept.push(Box::new(outer));
            }
            add(&inner, &theirs)?;
            kept.push(Box::new(inner));
        }
        // Whatever becomes of it.
        let _ = frontend.ask(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
        attacker.until_told()?;
        kept.push(Box::new((ours, theirs)));
        Ok(kept)
    }
}

fn epoll_set() -> io::Result<OwnedFd> {
    Ok(epoll::create(CreateFlags::CLOEXEC)?)
}

fn add(set: &OwnedFd, fd: impl AsFd) -> io::Result<()> {
    Ok(epoll::add(set, fd, EventData::new_u64(0), EventFlags::IN)?)
}
