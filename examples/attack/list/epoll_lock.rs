// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Eventfds whose last descriptor the device has, in an epoll set that the frontend
//! waits for with memory that a userfaultfd does not let it have. The kernel holds the
//! set's lock meanwhile, and needs it to close a file that is in the set.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::event::{epoll, eventfd, EventfdFlags};
use vhost_guest_msg::frontend as code;

use super::io_lock::unreachable_page;
use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "epoll-lock",
    what: "call eventfds in an epoll set whose waiter sleeps with the set's lock",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |_| Ok(Box::new(EpollLock)),
};

/// Time for the attacker's thread to get into the kernel.
const PAUSE: Duration = Duration::from_millis(20);

struct EpollLock;

impl Strike for EpollLock {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        let mut kept: Kept = Vec::new();
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Each takes the place of the one before, which is closed.
        for _ in 0..4 {
            let call = eventfd(1, EventfdFlags::CLOEXEC)?;
            let data = epoll::EventData::new_u64(0);
            epoll::add(&set, &call, data, epoll::EventFlags::IN)?;
            frontend.tell(code::SET_VRING_CALL, &[0], &[call.as_fd()])?;
        }
        if attacker.hostile {
            let (userfaultfd, page) = unreachable_page()?;
            let waiter = set.try_clone()?;
            thread::spawn(move || wait_into(&waiter, page));
            thread::sleep(PAUSE);
            kept.push(Box::new(userfaultfd));
        }
        attacker.until_told()?;
        kept.push(Box::new(set));
        Ok(kept)
    }
}

/// Waits for events, which go into a page at `address`.
fn wait_into(set: &OwnedFd, address: usize) {
    let page = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: the page is this thread's alone, has room for the events, and stays
    // mapped for good.
    unsafe { libc::epoll_wait(set.as_raw_fd(), page, 8, -1) };
}
