// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VMM resets the function, in whatever state it is.

use std::io::ErrorKind;
use std::os::fd::AsFd;

use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{event, memory_file, message, words, Frontend, Rig, STATUS};
use super::session::assert_recovers;
use crate::guest::pci::bars::{DRIVER_AUX, MSIX_TABLE};

/// Configuration space.
fn config(rig: &mut Rig) -> [u8; 256] {
    let mut space = [0; 256];
    rig.device
        .shared
        .registers
        .lock()
        .config_read(0, &mut space);
    space
}

/// A frontend that shares memory and a vring, and begins to say something.
fn share(rig: &mut Rig) -> Frontend {
    let mut frontend = rig.connect();
    rig.run();
    let table = words(&[1, 0, 1 << 20, 0x7000_0000, 0]);
    frontend.send(&message(5, 1, &table), &[memory_file(1 << 20).as_fd()]);
    for code in [12, 13, 14] {
        frontend.send(&message(code, 1, &words(&[0])), &[event().as_fd()]);
    }
    rig.write(DRIVER_AUX, &(5u32 << 16).to_le_bytes());
    rig.run();
    assert_eq!(rig.vmm.mappings().len(), 1);
    assert!(rig.vmm.armed().iter().any(|(_, message)| message.data == 5));
    frontend.send(&[12, 0, 0], &[]);
    rig.run();
    frontend
}

/// How a device came to be in its state; a frontend may be there.
type State = (&'static str, fn(&mut Rig) -> Option<Frontend>);

fn serve(rig: &mut Rig) {
    rig.initialise();
    rig.backend_up();
}

const STATES: [State; 9] = [
    ("power-up", |_| None),
    ("a driver that has just begun", |rig| {
        rig.config_write(0x04, &6u16.to_le_bytes());
        rig.write(STATUS, &[3]);
        None
    }),
    ("BARs in the middle of a size probe", |rig| {
        rig.initialise();
        rig.config_write(0x20, &[0xFF; 4]);
        None
    }),
    ("idle", |rig| {
        rig.initialise();
        None
    }),
    ("listening", |rig| {
        serve(rig);
        Some(rig.connect())
    }),
    ("connected", |rig| {
        serve(rig);
        let frontend = rig.connect();
        rig.run();
        Some(frontend)
    }),
    ("serving", |rig| {
        serve(rig);
        Some(share(rig))
    }),
    ("frontend lost", |rig| {
        serve(rig);
        drop(share(rig));
        assert!(rig.needs_reset());
        assert_eq!(rig.vmm.mappings().len(), 1);
        None
    }),
    ("revoked", |rig| {
        serve(rig);
        let frontend = share(rig);
        rig.device.shared.revoke();
        Some(frontend)
    }),
];

#[test]
fn is_as_after_power_up_whatever_was_before() {
    let new = config(&mut Rig::new());
    for (state, bring_about) in STATES {
        let mut rig = Rig::new();
        let listens = state == "listening";
        let mut frontend = bring_about(&mut rig);
        // Again, with nothing left to do.
        for _ in 0..2 {
            rig.function_reset();
            rig.run();
            assert_eq!(config(&mut rig), new, "{state}");
            assert_eq!(rig.vmm.armed(), [], "{state}");
            assert_eq!(rig.vmm.source_count(), 0, "{state}");
            assert_eq!(rig.vmm.mappings(), [], "{state}");
            assert!(rig.vmm.doorbells().is_empty(), "{state}");
            assert_eq!(rig.vmm.placed(), None, "{state}");
        }
        // One that was not accepted yet waits for the next driver.
        let connected = frontend.as_mut().filter(|_| !listens);
        assert!(connected.is_none_or(Frontend::is_disconnected), "{state}");
        rig.config_write(0x04, &2u16.to_le_bytes());
        assert_eq!(rig.status(), 0, "{state}");
        let mask: [u8; 16] = rig.read(MSIX_TABLE + 16 * 5);
        assert_eq!(mask, u128::to_le_bytes(1 << 96), "{state}");
        drop(frontend);
        assert_recovers(&mut rig, state);
        assert!(!rig.vmm.calls().contains(&Call::Dead), "{state}");
    }
}

#[test]
fn keeps_a_frontend_that_was_not_accepted_yet() {
    let mut rig = Rig::new();
    rig.initialise();
    let _frontend = rig.connect();
    rig.function_reset();
    serve(&mut rig);
    assert_eq!(rig.up(), 3);
}

#[test]
fn leaves_a_dead_device_dead() {
    let mut rig = Rig::new();
    serve(&mut rig);
    let _frontend = share(&mut rig);
    rig.vmm_fails = true;
    rig.vmm.fail_nth(0, ErrorKind::Other);
    rig.function_reset();
    assert!(rig.vmm.calls().contains(&Call::Dead));
    assert_eq!(rig.vmm.mappings(), []);
    rig.function_reset();
    serve(&mut rig);
    let _late = rig.connect();
    rig.run();
    assert!(rig.device.server().connection.is_none());
}
