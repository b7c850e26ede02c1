// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frontends that live and die, and what the process and KVM have left of
//! them.
//!
//! KVM does not show what is registered with it, but it does not take the same
//! twice: an eventfd that raises an interrupt already (`EBUSY`), an address that
//! signals one (`EEXIST`).

use std::collections::VecDeque;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::process::Command;

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vhost_guest_examples::cycles::held::Held;
use vmm_sys_util::eventfd::EventFd;

use crate::driver::kick_vector;
use crate::frontend::{memory_file, message, signal, take, words, Frontend, SET_MEM_TABLE};
use crate::guest::{Op, Variable};
use crate::rig::{settle, Rig};

const VRINGS: u16 = 2;
/// Frontends before the first count, and after it.
const WARM_UP: u64 = 10;
const CYCLES: u64 = 100;
/// Kicks of the last frontends that are looked at in the end.
const KICKS: usize = 20;
/// What a frontend shares.
const SIZE: u64 = 1 << 20;
/// Below 4 GiB, where the guest can reach it.
const WINDOW: u64 = 0xD000_0000;
const NEEDS_RESET: u8 = 0x40;
/// Set in the process that runs this test and no other.
const ALONE: &str = "VHOST_GUEST_TEST_ALONE";

#[test]
fn leaves_nothing_of_frontends_that_have_died() {
    // What other tests hold at the same time must not be counted.
    if std::env::var_os(ALONE).is_some() {
        return alone();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "cycles::leaves_nothing_of_frontends_that_have_died";
    command
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1");
    let status = command.status().unwrap();
    assert!(status.success(), "{status}");
}

fn alone() {
    let Some(mut rig) = Rig::start(VRINGS) else {
        return;
    };
    rig.driver.move_bar(4, WINDOW);
    let mut kicks = VecDeque::new();
    let mut cycle = |rig: &mut Rig, number| {
        live_and_die(rig, number, &mut kicks);
        kicks.truncate(KICKS);
    };
    (0..WARM_UP).for_each(|number| cycle(&mut rig, number));
    let before = at_rest();
    (0..CYCLES).for_each(|number| cycle(&mut rig, number));
    // Descriptors are closed by a thread that nobody waits for.
    let mut left = Vec::new();
    settle_or(|| {
        left = before.growth(&Held::by_process().unwrap());
        left.is_empty()
    });
    // The kicks that are kept here are the frontends' own: as many as before.
    assert_eq!(left, [""; 0]);
    for kick in &kicks {
        assert!(!raises(&rig, kick), "an eventfd is connected");
    }
    let bells = 4 * (2 * u64::from(VRINGS) + 1);
    for offset in (0..bells).step_by(4) {
        let address = rig.driver.bar(2) + offset;
        assert!(!signals(&rig, address), "doorbell {offset:#x} is connected");
    }
}

/// What the process holds when its threads have nothing to do.
fn at_rest() -> Held {
    let mut held = Held::by_process().unwrap();
    settle("the device comes to rest", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let before = std::mem::replace(&mut held, Held::by_process().unwrap());
        before == held
    });
    held
}

/// Waits for a while.
fn settle_or(mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Whether KVM has this eventfd raise an interrupt.
fn raises(rig: &Rig, kick: &OwnedFd) -> bool {
    // An interrupt that nothing is routed to.
    const NOWHERE: u32 = 4000;
    let kick = eventfd(kick);
    let taken = rig.machine.vm().register_irqfd(&kick, NOWHERE);
    match taken {
        Ok(()) => rig.machine.vm().unregister_irqfd(&kick, NOWHERE).unwrap(),
        Err(error) => assert_eq!(error.errno(), libc::EBUSY),
    }
    taken.is_err()
}

/// Whether KVM signals an eventfd for stores at this address.
fn signals(rig: &Rig, address: u64) -> bool {
    let (fd, at) = (EventFd::new(0).unwrap(), IoEventAddress::Mmio(address));
    let taken = rig.machine.vm().register_ioevent(&fd, &at, NoDatamatch);
    match taken {
        Ok(()) => rig
            .machine
            .vm()
            .unregister_ioevent(&fd, &at, NoDatamatch)
            .unwrap(),
        Err(error) => assert_eq!(error.errno(), libc::EEXIST),
    }
    taken.is_err()
}

fn eventfd(fd: &OwnedFd) -> EventFd {
    let duplicate = fd.try_clone().unwrap().into_raw_fd();
    // SAFETY: the duplicate is nobody else's.
    unsafe { EventFd::from_raw_fd(duplicate) }
}

/// A frontend shares memory, kicks, is called, and dies in one of four ways;
/// the driver resets the device.
fn live_and_die(rig: &mut Rig, number: u64, kicks: &mut VecDeque<OwnedFd>) {
    let frontend = rig.connect();
    let file = memory_file(SIZE, number as u8);
    let at = rig.share(&frontend, &file, SIZE);
    let interrupts = rig.guest.interrupts(kick_vector(1));
    let vrings = [0, 1].map(|vring| rig.set_vring(&frontend, vring));
    signal(&vrings[1].kick);
    rig.run(&[
        Op::Load32(at + SIZE - 4, Variable(0)),
        Op::Store16(rig.call_doorbell(0), 1),
    ]);
    rig.wait("the kick", |rig| {
        rig.guest.interrupts(kick_vector(1)) == interrupts + 1
    });
    assert_eq!(take(&vrings[0].call), 1);
    let seen = u32::from_le_bytes([number as u8; 4]);
    assert_eq!(rig.guest.get(Variable(0)), u64::from(seen));
    // While it lives, what is looked for in the end is there.
    assert!(raises(rig, &vrings[1].kick));
    assert!(signals(rig, rig.call_doorbell(1)));
    match number % 4 {
        0 => {}
        1 => die_in_a_message(&frontend),
        2 => {
            // The device notices, whoever touches the memory or not.
            file.set_len(0).unwrap();
            rig.wait("the loss", |rig| rig.driver.status() & NEEDS_RESET != 0);
        }
        _ => {
            let table = words(&[1, 0, SIZE, 0x7000_0000_0000, 0]);
            let other = memory_file(SIZE, 0);
            frontend.send(&message(SET_MEM_TABLE, 9, &table), &[other.as_fd()]);
        }
    }
    drop(frontend);
    rig.wait("the loss", |rig| rig.driver.status() & NEEDS_RESET != 0);
    rig.driver.initialise();
    for vring in vrings {
        kicks.push_front(vring.kick);
    }
}

fn die_in_a_message(frontend: &Frontend) {
    let whole = message(37, 1, &words(&[0; 5]));
    let file = memory_file(SIZE, 0);
    frontend.send(&whole[..20], &[file.as_fd()]);
}
