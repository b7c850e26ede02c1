// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A descriptor comes over the backend channel, where none may. If `recvmsg` has
//! no room for it, the kernel drops it before it returns; if it is the last
//! reference to a socket that lingers, that sleeps.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vhost_guest_msg::{backend, frontend};

use super::{behaves, lingering, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::PLAIN;
use crate::attack::machine::Setup;
use crate::wire::{message, send};

pub const ATTACK: Attack = Attack {
    name: "channel-descriptor",
    what: "a descriptor on the backend channel whose close sleeps",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |_| Ok(Box::new(ChannelDescriptor)),
};

/// Flags of a reply.
const REPLY: u32 = 5;

struct ChannelDescriptor;

impl Strike for ChannelDescriptor {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let frontend = attacker.negotiated()?;
        let (ours, theirs) = UnixStream::pair()?;
        let (socket, peer) = lingering::either(attacker.hostile)?;
        let reply = message(backend::IOTLB_MSG, REPLY, &[]);
        send(&ours, &reply, &[socket.as_fd()])?;
        // The one in the channel is the last reference.
        drop(socket);
        // What is in the channel may end the connection.
        let code = frontend::SET_BACKEND_REQ_FD;
        frontend.say(code, PLAIN, &[], &[theirs.as_fd()])?;
        drop(theirs);
        attacker.until_told()?;
        Ok(vec![Box::new((peer, ours))])
    }
}
