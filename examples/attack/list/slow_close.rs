// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors whose close sleeps come in place of eventfds, more than the
//! device has threads to close what it does not keep. The frontend is gone then:
//! they must not keep the memory of those after it from being closed.

use std::io;
use std::os::fd::AsFd;

use vhost_guest_msg::frontend as code;

use super::{behaves, lingering, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::NEED_REPLY;
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "slow-close",
    what: "descriptors whose close sleeps, more than there are threads for it",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |_| Ok(Box::new(SlowClose)),
};

const SOCKETS: u32 = 5;

struct SlowClose;

impl Strike for SlowClose {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let first = attacker.negotiated()?;
        let frontend = first.queued()?;
        let mut peers = Vec::new();
        for _ in 0..SOCKETS {
            let (socket, peer) = lingering::either(attacker.hostile)?;
            peers.push(peer);
            let vring = [0];
            frontend.say(code::SET_VRING_KICK, NEED_REPLY, &vring, &[socket.as_fd()])?;
        }
        // Those in the connection are the last references.
        drop(first);
        attacker.until_told()?;
        Ok(vec![Box::new(peers)])
    }
}
