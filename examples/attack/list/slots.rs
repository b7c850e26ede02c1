// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A table with one region takes the place of 500. Each of them is a memory
//! slot of KVM's, and KVM takes its time for each.

use std::io;
use std::os::fd::AsFd;

use vhost_guest_msg::frontend as code;

use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::{memfd, MEMORY};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "slots",
    what: "500 memory slots of KVM's that go at once",
    unprivileged: false,
    knob: None,
    setup: Setup {
        kvm: true,
        ..Setup::PLAIN
    },
    guest: behaves,
    prepare: |_| Ok(Box::new(Slots)),
};

const PAGE: u64 = 4096;
const REGIONS: u64 = 500;

struct Slots;

impl Strike for Slots {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        let memory = memfd("slots", 2 * PAGE * (REGIONS + 1))?;
        let regions = match attacker.hostile {
            true => REGIONS,
            false => 1,
        };
        attacker.arm();
        while !attacker.is_told() {
            for region in 0..regions {
                // Every other page: neighbours would be one mapping.
                let place = 2 * PAGE * region;
                let region = [0, place, PAGE, MEMORY + place, place];
                frontend.tell(code::ADD_MEM_REG, &region, &[memory.as_fd()])?;
            }
            let place = 2 * PAGE * REGIONS;
            let table = [1, place, PAGE, MEMORY + place, place];
            frontend.tell(code::SET_MEM_TABLE, &table, &[memory.as_fd()])?;
            frontend.tell(
                code::REM_MEM_REG,
                &[0, place, PAGE, MEMORY + place, place],
                &[],
            )?;
        }
        Ok(Vec::new())
    }
}
