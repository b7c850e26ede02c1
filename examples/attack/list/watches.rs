// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A frontend of the VMM's own user fills that user's `max_user_watches`: the
//! device can have no other descriptor in its epoll set. It must do without the
//! frontend, and serve the next one when there is room again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use vhost_guest_msg::frontend as code;

use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::event;
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "watches",
    what: "no epoll watches are left for the VMM's user",
    unprivileged: true,
    knob: Some(("/proc/sys/fs/epoll/max_user_watches", 100_000)),
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |hostile| Ok(Box::new(Watches::new(hostile)?)),
};

/// Eventfds that are in each set.
const EVENTFDS: usize = 10_000;
/// Room that the VMM needs to serve somebody.
const ROOM: usize = 64;

/// Eventfds, and epoll sets with all of them, as many as there may be.
struct Watches {
    eventfds: Vec<OwnedFd>,
    sets: Vec<OwnedFd>,
    /// How many eventfds are not in the last set.
    room: usize,
}

impl Watches {
    fn new(hostile: bool) -> io::Result<Self> {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let current = maximum;
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
        let most = maximum.map_or(EVENTFDS, |most| most as usize / 2);
        let count = match hostile {
            true => EVENTFDS.min(most),
            false => 2 * ROOM,
        };
        let eventfds = (0..count).map(|_| event()).collect::<io::Result<_>>()?;
        let mut watches = Self {
            eventfds,
            sets: vec![epoll::create(CreateFlags::CLOEXEC)?],
            room: count,
        };
        if hostile {
            watches.fill()?;
        }
        Ok(watches)
    }

    /// Until there is no room for one more.
    fn fill(&mut self) -> io::Result<()> {
        loop {
            if self.room == 0 {
                self.sets.push(epoll::create(CreateFlags::CLOEXEC)?);
                self.room = self.eventfds.len();
            }
            let (Some(set), Some(eventfd)) = (self.sets.last(), self.eventfds.get(self.room - 1))
            else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            match epoll::add(set, eventfd, EventData::new_u64(0), EventFlags::IN) {
                Ok(()) => self.room -= 1,
                Err(Errno::NOSPC) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn make_room(&mut self) -> io::Result<()> {
        // The last set may have too few to take out.
        if self.room + ROOM > self.eventfds.len() {
            self.sets.pop();
            self.room = 0;
        }
        for _ in 0..ROOM {
            let (Some(set), Some(eventfd)) = (self.sets.last(), self.eventfds.get(self.room))
            else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            epoll::delete(set, eventfd)?;
            self.room += 1;
        }
        Ok(())
    }
}

impl Strike for Watches {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        if attacker.hostile {
            self.make_room()?;
        }
        let mut frontend = attacker.negotiated()?;
        if attacker.hostile {
            self.fill()?;
        }
        let (ours, theirs) = UnixStream::pair()?;
        // Whatever becomes of it.
        let _ = frontend.ask(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
        attacker.until_told()?;
        if attacker.hostile {
            self.make_room()?;
        }
        Ok(vec![Box::new((ours, theirs))])
    }
}
