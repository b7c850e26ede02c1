// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A message comes with many descriptors. Those that `recvmsg` has no room for
//! the kernel drops before it returns; if one is the last reference to a socket
//! that lingers, that sleeps.

use std::io;
use std::os::fd::AsFd;

use vhost_guest_msg::frontend as code;

use super::{behaves, lingering, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::{event, PLAIN};
use crate::attack::machine::Setup;
use crate::wire::{message, send};

pub const ATTACK: Attack = Attack {
    name: "many-descriptors",
    what: "253 descriptors with one message, the last of which closes slowly",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |_| Ok(Box::new(ManyDescriptors)),
};

/// As many as the kernel passes on with one message (SCM_MAX_FD), but for one.
const OTHERS: usize = 252;

struct ManyDescriptors;

impl Strike for ManyDescriptors {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let first = attacker.negotiated()?;
        let frontend = first.queued()?;
        let event = event()?;
        let (socket, peer) = lingering::either(attacker.hostile)?;
        let mut fds = vec![event.as_fd(); OTHERS];
        fds.push(socket.as_fd());
        let request = message(code::SET_OWNER, PLAIN, &[]);
        send(&frontend.socket, &request, &fds)?;
        // The one in the connection is the last reference.
        drop((socket, first));
        attacker.until_told()?;
        Ok(vec![Box::new(peer)])
    }
}
