// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What ends vrings, and how they begin again. DESIGN.md has the rule as a
//! table.

use super::*;

const VRING_BASE: Request = Request::GetVringBase(VringSelect { index: 0 });

/// A frontend with or without bit 30, with memory.
fn setup(bit_30: bool) -> Setup {
    let mut setup = Setup::negotiated();
    if !bit_30 {
        setup.send(&Request::SetFeatures(VirtioFeatures::VERSION_1));
    }
    setup.share_memory();
    setup
}

/// Sets vring 0 up from the first message to the kick, and not more; whether
/// it serves a request.
fn serves(setup: &mut Setup) -> bool {
    let mut ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
    let (index, fd) = (0, Some(()));
    for request in [
        Request::SetVringNum(VringNum::new(index, ring.num).unwrap()),
        Request::SetVringBase(VringBase { index, base: 0 }),
        Request::SetVringAddr(ring.address(index)),
        Request::SetVringKick(VringFd { index, fd }),
    ] {
        assert!(setup.acked(&request), "{request:?}");
    }
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    ring.used().is_some()
}

fn enable(setup: &mut Setup, enable: bool) {
    let index = 0;
    let request = Request::SetVringEnable(VringEnable { index, enable });
    assert!(setup.acked(&request));
}

#[test]
fn without_protocol_features_vrings_are_enabled_after_a_reset_too() {
    for reset in [Request::ResetDevice, Request::SetStatus(0), VRING_BASE] {
        let mut setup = setup(false);
        for _ in 0..3 {
            assert!(serves(&mut setup), "{reset:?}");
            setup.send(&reset);
            setup.reply();
        }
        assert!(!setup.disconnected());
    }
}

#[test]
fn with_protocol_features_a_reset_disables_vrings_and_a_stop_does_not() {
    for (reset, enabled) in [
        (Request::ResetDevice, false),
        (Request::SetStatus(0), false),
        (VRING_BASE, true),
    ] {
        let mut setup = setup(true);
        assert!(!serves(&mut setup));
        enable(&mut setup, true);
        setup.send(&reset);
        setup.reply();
        assert_eq!(serves(&mut setup), enabled, "{reset:?}");
        setup.stop_ring(0);
        enable(&mut setup, true);
        assert!(serves(&mut setup));
    }
}

#[test]
fn vrings_of_a_frontend_that_negotiates_anew_are_disabled() {
    let mut setup = setup(false);
    assert!(serves(&mut setup));
    assert!(setup.acked(&Request::ResetDevice));
    let features = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES;
    assert!(setup.acked(&Request::SetFeatures(features)));
    assert!(!serves(&mut setup));
}

#[test]
fn a_reset_by_either_name_is_the_same() {
    for reset in [
        Request::ResetDevice,
        Request::SetStatus(0),
        Request::SetStatus(1 << 8),
    ] {
        let mut setup = setup(true);
        enable(&mut setup, true);
        assert!(serves(&mut setup) && setup.acked(&Request::SetStatus(0xf)));
        let resets = setup.server.backend().resets;
        assert!(setup.acked(&reset));
        assert_eq!(setup.server.backend().resets, resets + 1);
        assert_eq!(setup.ask_u64(&Request::GetStatus), 0, "{reset:?}");
        // Nothing of the vring is left, its size and address neither.
        let (index, fd) = (0, Some(()));
        let kick = Request::SetVringKick(VringFd { index, fd });
        assert!(!setup.acked(&kick));
        // Memory may go elsewhere now, with what was negotiated as it was.
        let region = Region::new(GPA, LEN, 0, 0).unwrap();
        let table = MemTable::new(vec![(region, ())]).unwrap();
        assert!(setup.acked(&Request::SetMemTable(table)));
        assert!(!setup.disconnected());
    }
}

#[test]
fn giving_up_ownership_changes_nothing() {
    let mut setup = setup(true);
    enable(&mut setup, true);
    assert!(serves(&mut setup) && setup.acked(&Request::SetStatus(0xf)));
    assert!(setup.acked(&Request::ResetOwner));
    assert_eq!(setup.ask_u64(&Request::GetStatus), 0xf);
    assert!(setup.server.session.vrings[0].is_started());
    assert_eq!(setup.server.backend().resets, 0);
}

#[test]
fn a_vring_that_was_stopped_is_looked_up_anew() {
    let mut setup = setup(true);
    enable(&mut setup, true);
    assert!(serves(&mut setup));
    setup.stop_ring(0);
    let elsewhere = Region::new(GPA, LEN, 0, 0).unwrap();
    for (region, found) in [
        (elsewhere, false),
        (Region::new(GPA, LEN, USER, 0).unwrap(), true),
    ] {
        let table = MemTable::new(vec![(region, ())]).unwrap();
        assert!(setup.acked(&Request::SetMemTable(table)));
        let (index, fd) = (0, Some(()));
        let kick = Request::SetVringKick(VringFd { index, fd });
        assert_eq!(setup.acked(&kick), found);
    }
}

#[test]
fn a_new_connection_knows_nothing_of_the_last() {
    let mut setup = setup(true);
    enable(&mut setup, true);
    assert!(serves(&mut setup) && setup.acked(&Request::SetStatus(0xf)));
    setup.fake.disconnect();
    setup.run();
    setup.fake.connect();
    setup.negotiate();
    assert_eq!(setup.ask_u64(&Request::GetStatus), 0);
    setup.share_memory();
    assert!(!serves(&mut setup), "it was enabled on the last one");
}
