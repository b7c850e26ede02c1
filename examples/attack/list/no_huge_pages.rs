// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! As `no-pages`, with a file of huge pages where the system has none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::huge_pages::huge_file;
use super::no_pages::touches;
use super::Attack;
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::memfd;
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "no-huge-pages",
    what: "shared memory of huge pages, none of which is left",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: touches,
    prepare: |hostile| {
        let memory = match hostile {
            true => huge_file()?,
            false => memfd("small", SIZE)?,
        };
        Ok(Box::new(NoHugePages { memory }))
    },
};

const SIZE: u64 = 16 << 20;

struct NoHugePages {
    memory: OwnedFd,
}

impl Strike for NoHugePages {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        frontend.add_memory(self.memory.as_fd(), SIZE)?;
        attacker.until_told()?;
        Ok(Vec::new())
    }
}
