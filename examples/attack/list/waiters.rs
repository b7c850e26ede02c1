// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The eventfds of all rings have 20,000 waiters each: whoever signals or reads
//! one wakes all of these.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use vhost_guest_msg::frontend as code;

use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::{event, memfd};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "waiters",
    what: "eventfds with 20,000 waiters, which a signal wakes",
    unprivileged: false,
    knob: None,
    setup: Setup {
        vrings: VRINGS as u16,
        ioeventfds: false,
        ..Setup::PLAIN
    },
    guest: behaves,
    prepare: |hostile| {
        let count = match hostile {
            true => SIDE,
            false => 1,
        };
        let rings = (0..VRINGS).map(|_| Ok([Waited::new(count)?, Waited::new(count)?]));
        let rings = rings.collect::<io::Result<_>>()?;
        Ok(Box::new(Waiters { rings }))
    },
};

const VRINGS: u64 = 8;
const SIZE: u64 = 1 << 20;
/// So many sets wait for so many duplicates: some 20,000 together.
const SIDE: usize = 142;

/// An eventfd, and who waits for it.
struct Waited {
    eventfd: OwnedFd,
    _sets: Vec<OwnedFd>,
    _duplicates: Vec<OwnedFd>,
}

impl Waited {
    fn new(count: usize) -> io::Result<Self> {
        let eventfd = event()?;
        let duplicates = (0..count).map(|_| eventfd.try_clone());
        let duplicates = duplicates.collect::<io::Result<Vec<_>>>()?;
        let mut sets = Vec::new();
        for _ in 0..count {
            let set = epoll::create(CreateFlags::CLOEXEC)?;
            for duplicate in &duplicates {
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                epoll::add(&set, duplicate, EventData::new_u64(0), flags)?;
            }
            sets.push(set);
        }
        Ok(Self {
            eventfd,
            _sets: sets,
            _duplicates: duplicates,
        })
    }
}

struct Waiters {
    /// Kicks and calls.
    rings: Vec<[Waited; 2]>,
}

impl Strike for Waiters {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        let memory = memfd("waiters", SIZE)?;
        frontend.share(&memory, SIZE)?;
        for (vring, [kick, call]) in (0..).zip(&self.rings) {
            frontend.add_ring(vring)?;
            for (code, waited) in [(code::SET_VRING_KICK, kick), (code::SET_VRING_CALL, call)] {
                frontend.tell(code, &[vring], &[waited.eventfd.as_fd()])?;
            }
        }
        attacker.until_told()?;
        Ok(Vec::new())
    }
}
