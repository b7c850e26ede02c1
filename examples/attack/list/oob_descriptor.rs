// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A descriptor comes with out-of-band data. A reader that does not ask for
//! such data has the kernel skip it, and drop the descriptor: if it is the last
//! reference to a socket that lingers, that sleeps.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::{behaves, lingering, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "oob-descriptor",
    what: "a descriptor with out-of-band data whose close sleeps",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |_| Ok(Box::new(OobDescriptor)),
};

struct OobDescriptor;

impl Strike for OobDescriptor {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let first = attacker.negotiated()?;
        let frontend = first.queued()?;
        let (socket, peer) = lingering::either(attacker.hostile)?;
        if attacker.hostile {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [socket.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let flags = SendFlags::NOSIGNAL | SendFlags::OOB;
            sendmsg(&frontend.socket, &[IoSlice::new(b"!")], &mut control, flags)?;
        }
        // The one in the connection is the last reference.
        drop((socket, first));
        attacker.until_told()?;
        Ok(vec![Box::new(peer)])
    }
}
