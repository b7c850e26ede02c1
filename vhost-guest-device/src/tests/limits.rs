// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Time limits. The tests say when time has passed.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::pipe::pipe;
use vhost_guest_msg::ProtocolFeatures;
use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{memory_file, message, words, Frontend, Rig};
use super::siege::wait_for_turn;
use crate::guest::pci::bars::{COMMON, DEVICE};

const LONG: Duration = Duration::from_secs(100_000);

fn limited() -> Rig {
    Rig::with(|builder| {
        let builder = builder.migration(4096);
        builder.reply_timeout(LONG).orphan_timeout(LONG)
    })
}

fn connect(rig: &mut Rig) -> Frontend {
    let features = ProtocolFeatures::DEVICE_STATE | ProtocolFeatures::REPLY_ACK;
    connect_with(rig, features)
}

fn serving_config() -> (Rig, Frontend) {
    let mut rig = limited();
    rig.initialise();
    let frontend = connect_with(&mut rig, ProtocolFeatures::CONFIG);
    (rig, frontend)
}

fn connect_with(rig: &mut Rig, features: ProtocolFeatures) -> Frontend {
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    rig.negotiate(&mut frontend, features);
    rig.run();
    frontend
}

fn serving() -> (Rig, Frontend) {
    let mut rig = limited();
    rig.initialise();
    let frontend = connect(&mut rig);
    (rig, frontend)
}

fn is_waiting(rig: &Rig) -> bool {
    rig.device.server().reply_limit.is_running()
}

#[test]
fn a_guest_that_never_replies_loses_its_frontend() {
    let (mut rig, mut frontend) = serving();
    assert!(!is_waiting(&rig), "nobody asked anything");
    frontend.send(&message(1, 1, &[]), &[]);
    rig.run();
    assert!(is_waiting(&rig));
    rig.device.server().reply_limit.pass();
    assert!(rig.needs_reset());
    assert!(frontend.is_disconnected());
    assert!(!is_waiting(&rig));
    rig.start();
    connect(&mut rig);
}

#[test]
fn each_answer_starts_the_time_again() {
    let (mut rig, mut frontend) = serving();
    frontend.send(&message(1, 1, &[]), &[]);
    frontend.send(&message(1, 1, &[]), &[]);
    rig.run();
    rig.device.server().reply_limit.pass();
    // The device finds the answer and the end of the time in the same turn.
    rig.reply(1, &words(&[0]));
    assert!(!rig.needs_reset());
    assert!(is_waiting(&rig));
    rig.reply(1, &words(&[0]));
    assert!(!is_waiting(&rig));
}

#[test]
fn what_needs_no_answer_has_no_limit() {
    let (mut rig, mut frontend) = serving();
    frontend.send(&message(3, 1, &[]), &[]);
    rig.run();
    assert!(!is_waiting(&rig));
}

#[test]
fn a_guest_without_buffers_has_as_long_as_nobody_waits() {
    let (mut rig, mut frontend) = serving();
    while !is_waiting(&rig) {
        frontend.send(&message(3, 1, &[]), &[]);
        rig.run();
    }
    rig.device.server().reply_limit.pass();
    assert!(!rig.needs_reset());
    assert!(is_waiting(&rig));
    frontend.send(&message(3, 1, &[]), &[]);
    rig.run();
    assert!(!rig.needs_reset());
    rig.device.server().reply_limit.pass();
    assert!(rig.needs_reset());
}

#[test]
fn a_transfer_that_the_guest_does_not_end_has_a_limit() {
    let (mut rig, mut frontend) = serving();
    let (_reader, writer) = pipe().unwrap();
    frontend.send(&message(42, 1, &words(&[0])), &[writer.as_fd()]);
    rig.receive(0).expect("SET_DEVICE_STATE_FD");
    rig.reply(42, &words(&[0]));
    assert!(!is_waiting(&rig), "the state may take its time");
    frontend.send(&message(43, 1, &[]), &[]);
    rig.run();
    assert!(is_waiting(&rig));
    rig.device.server().reply_limit.pass();
    assert!(rig.needs_reset());
}

#[test]
fn a_frontend_that_does_not_read_is_not_waiting() {
    let (mut rig, mut frontend) = serving_config();
    let config = [words(&[4000 << 32]), vec![0; 4004]].concat();
    loop {
        frontend.send(&message(24, 1, &config), &[]);
        rig.receive(0).expect("a request");
        if rig.device.server().connection.as_ref().unwrap().is_behind() {
            break;
        }
        rig.send(1, &message(24, 5, &config));
    }
    assert!(!is_waiting(&rig));
    while frontend.receive().is_some() {}
    rig.run();
    assert!(is_waiting(&rig), "the last one has no answer");
}

#[test]
fn there_are_no_limits_unless_the_vmm_sets_them() {
    let mut rig = Rig::new();
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    frontend.send(&message(1, 1, &[]), &[]);
    rig.run();
    assert!(!is_waiting(&rig));
    drop(frontend);
    assert!(rig.needs_reset());
    assert!(!rig.device.server().memory_limit.is_running());
    assert!(rig.device.server().reply_limit.fd().is_none());
    assert!(rig.device.server().memory_limit.fd().is_none());
}

#[test]
fn a_limit_rings_by_itself() {
    let mut rig = Rig::with(|builder| builder.reply_timeout(Duration::ZERO));
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    frontend.send(&message(1, 1, &[]), &[]);
    while !rig.needs_reset() {
        wait_for_turn(&rig);
    }
}

fn share(rig: &mut Rig, frontend: &mut Frontend) {
    let table = words(&[1, 0, 1 << 20, 0x7000_0000, 0]);
    frontend.send(&message(5, 1, &table), &[memory_file(1 << 20).as_fd()]);
    rig.receive(0).expect("SET_MEM_TABLE");
    assert_eq!(rig.vmm.mappings().len(), 1);
}

#[test]
fn the_memory_of_a_lost_frontend_goes_in_time() {
    let (mut rig, mut frontend) = serving();
    share(&mut rig, &mut frontend);
    assert!(!rig.device.server().memory_limit.is_running());
    drop(frontend);
    assert!(rig.needs_reset());
    assert_eq!(rig.vmm.mappings().len(), 1);
    assert!(rig.device.server().memory_limit.is_running());
    rig.device.server().memory_limit.pass();
    rig.run();
    assert_eq!(rig.vmm.mappings(), []);
    assert!(rig.needs_reset());
    rig.start();
    let mut frontend = connect(&mut rig);
    share(&mut rig, &mut frontend);
}

#[test]
fn a_reset_or_a_revocation_ends_the_limit() {
    for revoke in [true, false] {
        let (mut rig, mut frontend) = serving();
        share(&mut rig, &mut frontend);
        if revoke {
            rig.device.shared.revoke();
            assert_eq!(rig.vmm.mappings(), []);
            rig.run();
        } else {
            // The driver closes; then it resets.
            rig.write(DEVICE + 34, &[0]);
            rig.run();
            assert!(rig.device.server().memory_limit.is_running());
            rig.write(COMMON + 0x14, &[0]);
            rig.run();
        }
        assert_eq!(rig.vmm.mappings(), []);
        assert!(!rig.device.server().memory_limit.is_running());
    }
}

#[test]
fn memory_that_does_not_go_in_time_is_the_end_of_the_device() {
    let (mut rig, mut frontend) = serving();
    share(&mut rig, &mut frontend);
    drop(frontend);
    assert!(rig.needs_reset());
    rig.vmm.fail_nth(0, ErrorKind::Other);
    rig.device.server().memory_limit.pass();
    rig.run();
    assert!(rig.vmm.calls().contains(&Call::Dead));
}

#[test]
fn a_jail_keeps_the_timers() {
    let fds = limited().device.own_fds();
    assert_eq!(
        fds.len(),
        Rig::with(|b| b.migration(4096)).device.own_fds().len() + 2
    );
}
