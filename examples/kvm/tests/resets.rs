// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Bus Master, Memory Space, resets, and the end of a frontend.

use rustix::event::EventfdFlags;

use crate::driver::kick_vector;
use crate::frontend::{event, memory_file, signal, take, SET_VRING_KICK};
use crate::guest::{Op, Variable};
use crate::rig::Rig;

/// Device control of the advanced features capability: function level reset.
const INITIATE_RESET: (u16, u8) = (0xE4, 1);
const NEEDS_RESET: u8 = 0x40;

fn kicks(rig: &mut Rig) -> u64 {
    rig.run(&[]);
    rig.guest.interrupts(kick_vector(0))
}

#[test]
fn raises_nothing_without_bus_master() {
    let Some((mut rig, frontend)) = Rig::connected(1) else {
        return;
    };
    let vring = rig.set_vring(&frontend, 0);
    rig.driver.set_bus_master(false);
    signal(&vring.kick);
    assert_eq!(kicks(&mut rig), 0);
    // Stores of the guest's are another matter.
    rig.run(&[Op::Store16(rig.call_doorbell(0), 1)]);
    assert_eq!(take(&vring.call), 1);
    rig.driver.set_bus_master(true);
    rig.wait("the kick", |rig| rig.guest.interrupts(kick_vector(0)) == 1);
}

#[test]
fn decodes_nothing_without_memory_space() {
    let Some((mut rig, frontend)) = Rig::connected(1) else {
        return;
    };
    let vring = rig.set_vring(&frontend, 0);
    let (bell, registers) = (rig.call_doorbell(0), rig.driver.bar(0));
    rig.driver.set_memory_space(false);
    rig.run(&[
        Op::Store16(bell, 1),
        Op::Load32(registers + 0x14, Variable(0)),
    ]);
    assert_eq!(take(&vring.call), 0);
    assert_eq!(rig.guest.get(Variable(0)), 0xFFFF_FFFF);
    // Interrupts go the other way.
    signal(&vring.kick);
    rig.wait("the kick", |rig| rig.guest.interrupts(kick_vector(0)) == 1);
    rig.driver.set_memory_space(true);
    rig.run(&[Op::Store16(bell, 1)]);
    assert_eq!(take(&vring.call), 1);
    assert_eq!(rig.driver.status(), 15);
}

/// What a kick, a ring and a read find when there is no frontend any more.
fn assert_cut_off(rig: &mut Rig, vring: &crate::rig::Vring, [bell, memory]: [u64; 2]) {
    let before = kicks(rig);
    signal(&vring.kick);
    rig.run(&[
        Op::Store16(bell, 1),
        Op::Store32(memory, 0),
        Op::Load32(memory, Variable(0)),
    ]);
    assert_eq!(kicks(rig), before);
    assert_eq!(take(&vring.call), 0);
    assert_eq!(rig.guest.get(Variable(0)), 0xFFFF_FFFF);
    // It was never looked at.
    assert_eq!(take(&vring.kick), 1);
}

#[test]
fn takes_everything_from_the_guest_at_resets() {
    let resets: [fn(&mut Rig); 4] = [
        |rig| rig.driver.reset(),
        |rig| {
            let (register, value) = INITIATE_RESET;
            rig.driver.config_write(register, &[value]);
        },
        |rig| rig.function.revoke(),
        |rig| rig.machine.reset(),
    ];
    for reset in resets {
        let Some(mut rig) = Rig::start(1) else {
            return;
        };
        rig.driver.move_bar(4, 0xD000_0000);
        for _ in 0..2 {
            let frontend = rig.connect();
            let vring = rig.set_vring(&frontend, 0);
            let file = memory_file(2 << 20, 0x66);
            let memory = rig.share(&frontend, &file, 2 << 20);
            let bell = rig.call_doorbell(0);
            let bars = [0, 2, 4].map(|bar| rig.driver.bar(bar));
            let before = kicks(&mut rig);
            signal(&vring.kick);
            rig.wait("the kick", |rig| {
                rig.guest.interrupts(kick_vector(0)) == before + 1
            });
            rig.run(&[Op::Load32(memory, Variable(0))]);
            assert_eq!(rig.guest.get(Variable(0)), 0x6666_6666);
            reset(&mut rig);
            assert_cut_off(&mut rig, &vring, [bell, memory]);
            // And again, from the start: a reset of the function has taken the
            // addresses of its BARs as well.
            for (bar, address) in [0, 2, 4].into_iter().zip(bars) {
                rig.driver.move_bar(bar, address);
            }
            rig.driver.initialise();
        }
    }
}

#[test]
fn cuts_notifications_when_the_frontend_is_gone_and_keeps_memory() {
    let Some(mut rig) = Rig::start(1) else {
        return;
    };
    rig.driver.move_bar(4, 0xD000_0000);
    let frontend = rig.connect();
    let kick = event(EventfdFlags::empty());
    rig.set_eventfd(&frontend, SET_VRING_KICK, 0, &kick);
    let memory = rig.share(&frontend, memory_file(2 << 20, 0x77), 2 << 20);
    drop(frontend);
    rig.wait("NEEDS_RESET", |rig| rig.driver.status() & NEEDS_RESET != 0);
    signal(&kick);
    assert_eq!(kicks(&mut rig), 0);
    rig.run(&[Op::Load32(memory, Variable(0))]);
    assert_eq!(rig.guest.get(Variable(0)), 0x7777_7777);
    rig.driver.initialise();
    rig.run(&[Op::Load32(memory, Variable(0))]);
    assert_eq!(rig.guest.get(Variable(0)), 0xFFFF_FFFF);
    rig.connect();
}
