// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;
use crate::fake::{Fake, FakeTransport, MSIX};

fn transport() -> FakeTransport {
    FakeTransport(Fake::new(4))
}

/// Overwrites a byte of configuration space.
fn poke(transport: &FakeTransport, at: usize, value: u8) {
    transport.0.state().config_space[at] = value;
}

#[test]
fn finds_all_structures_and_enables_the_function() {
    let transport = transport();
    let found = Capabilities::find(&transport).unwrap();
    assert_eq!(found.doorbells.multiplier, 4);
    assert_eq!(found.doorbells.location.bar, 2);
    assert_eq!(found.shared_memory.bar, 4);
    assert_eq!(found.msix.unwrap().vectors(), 11);
    let command = config_read16(&transport, COMMAND);
    assert_eq!(command & 0x406, 0x406);
}

#[test]
fn rejects_other_functions() {
    let transport = transport();
    poke(&transport, 2, 0x42);
    assert_eq!(
        Capabilities::find(&transport),
        Err(Error::NotVhostGuest {
            vendor: 0x1af4,
            device: 0x1042
        })
    );
}

#[test]
fn rejects_a_capability_loop() {
    let transport = transport();
    poke(&transport, 0xd5, 0x50);
    assert_eq!(Capabilities::find(&transport), Err(Error::CapabilityLoop));
}

#[test]
fn rejects_a_missing_capability_list() {
    let transport = transport();
    poke(&transport, 6, 0);
    assert_eq!(
        Capabilities::find(&transport),
        Err(Error::MissingCapability("common configuration"))
    );
}

#[test]
fn rejects_each_missing_structure() {
    for at in [0x40, 0x60, 0x70, 0x84, 0x94, 0xa8] {
        let transport = transport();
        poke(&transport, at, 0);
        let result = Capabilities::find(&transport);
        assert!(
            matches!(result, Err(Error::MissingCapability(_))),
            "{at:#x}"
        );
    }
}

#[test]
fn works_without_msix() {
    let transport = transport();
    poke(&transport, 0xd4, 0);
    assert_eq!(Capabilities::find(&transport).unwrap().msix, None);
}

#[test]
fn rejects_structures_outside_their_bar() {
    for at in [0x40, 0x60, 0x70, 0x84, 0x94, 0xa8] {
        // BAR that is not there; the upper half of one; offset, length too
        // large; misaligned.
        for (byte, value) in [(4, 5), (4, 1), (4, 0xff), (11, 0xff), (15, 0xff), (8, 1)] {
            let transport = transport();
            poke(&transport, at + byte, value);
            let result = Capabilities::find(&transport);
            let bad = matches!(result, Err(Error::BadCapability(_)));
            assert!(bad, "{at:#x} {byte} {value}: {result:?}");
        }
    }
}

#[test]
fn rejects_short_structures_and_capabilities() {
    for (at, value) in [
        (0x4c, 55),  // common configuration
        (0x6c, 35),  // device configuration
        (0x7c, 1),   // queue notifications
        (0x90, 3),   // kick vectors
        (0x42, 15),  // any capability
        (0x72, 16),  // without multiplier
        (0xaa, 16),  // without upper halves
        (0xaa, 255), // beyond configuration space
    ] {
        let transport = transport();
        poke(&transport, at, value);
        let result = Capabilities::find(&transport);
        assert!(matches!(result, Err(Error::BadCapability(_))), "{at:#x}");
    }
}

#[test]
fn rejects_an_msix_table_outside_its_bar() {
    for (at, value) in [(0xd8, 1), (0xda, 0xff), (0xd7, 7)] {
        let transport = transport();
        poke(&transport, at, value);
        let result = Capabilities::find(&transport);
        assert_eq!(result, Err(Error::BadCapability("MSI-X table")), "{at:#x}");
    }
}

#[test]
fn survives_any_single_byte_of_configuration_space() {
    let transport = transport();
    let space = transport.0.state().config_space;
    for at in 0x06..0x100 {
        for value in [0, 1, 9, 0x11, 0x40, 0x7f, 0x80, 0xfc, 0xff] {
            transport.0.state().config_space = space;
            poke(&transport, at, value);
            let _ = Capabilities::find(&transport);
        }
    }
}

#[test]
fn takes_the_first_structure_of_a_kind() {
    let transport = transport();
    // The ISR structure becomes a second common configuration.
    poke(&transport, 0x53, 1);
    let found = Capabilities::find(&transport).unwrap();
    assert_eq!(found.common.offset, 0);
}

#[test]
fn programs_the_table_before_it_unmasks() {
    let transport = transport();
    let msix = Capabilities::find(&transport).unwrap().msix.unwrap();
    let messages = (0..3).map(|v| transport.msi_message(v));
    msix.enable(&transport, messages);
    let state = transport.0.state();
    assert_eq!(state.msix_table[..4], [0xfee0_0000, 0, 0x100, 0]);
    assert_eq!(state.msix_table[8..12], [0xfee0_0000, 0, 0x102, 0]);
    assert_eq!(state.msix_table[12..16], [0; 4]);
    assert_eq!(state.config_space[0xd7], 0x80);
    assert_eq!(MSIX, 0x1000);
}

#[test]
fn reads_outside_a_structure_give_all_ones() {
    let transport = transport();
    let found = Capabilities::find(&transport).unwrap();
    assert_eq!(found.kicks.read::<4>(&transport, 2), [0xff; 4]);
    assert_eq!(found.kicks.read::<2>(&transport, u64::MAX), [0xff; 2]);
    found.kicks.write(&transport, 3, [0; 2]);
}
