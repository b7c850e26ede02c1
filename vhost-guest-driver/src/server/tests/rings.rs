// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;
use crate::fake_ring::WRITE;
use crate::vring::RingFault;
use vhost_guest_msg::{MemRegion, RemMemReg};

fn running() -> (Setup, GuestRing) {
    let mut setup = Setup::negotiated();
    setup.share_memory();
    let ring = setup.start_ring(0);
    (setup, ring)
}

#[test]
fn processes_requests_when_kicked_and_calls() {
    let (mut setup, mut ring) = running();
    ring.write(GPA + 0x8_0000, b"request");
    let head = ring.add(&[(GPA + 0x8_0000, 7, 0), (GPA + 0x9_0000, 3, WRITE)]);
    setup.run();
    assert_eq!(ring.used(), None, "nobody kicked");
    setup.kick(0);
    assert_eq!(ring.used(), Some((head.into(), 3)));
    assert_eq!(ring.read(GPA + 0x9_0000, 4), [0x77, 0x77, 0x77, 0]);
    assert_eq!(setup.server.backend().seen, [(0, b"request".to_vec())]);
    assert_eq!(setup.calls(), [0]);
    setup.kick(0);
    assert_eq!(setup.calls(), []);
}

#[test]
fn serves_several_vrings_in_turn() {
    let (mut setup, mut first) = running();
    let mut second = setup.start_ring(3);
    for _ in 0..8 {
        first.add(&[(GPA, 1, 0)]);
        second.add(&[(GPA, 1, 0)]);
    }
    setup.fake.kick(0);
    setup.kick(3);
    let order: Vec<u16> = setup.server.backend().seen.iter().map(|s| s.0).collect();
    assert_eq!(order, [0, 0, 0, 0, 3, 3, 3, 3, 0, 0, 0, 0, 3, 3, 3, 3]);
    assert_eq!(setup.calls(), [0, 3, 0, 3]);
}

#[test]
fn a_kick_before_its_message_is_not_lost() {
    let mut setup = Setup::negotiated();
    setup.share_memory();
    let mut ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert_eq!(ring.used(), None);
    setup.restart_ring(0, &ring, 0);
    assert!(ring.used().is_some());
}

#[test]
fn disabled_vrings_rest() {
    let (mut setup, mut ring) = running();
    let mut enable = VringEnable {
        index: 0,
        enable: false,
    };
    assert!(setup.acked(&Request::SetVringEnable(enable)));
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert_eq!(ring.used(), None);
    enable.enable = true;
    assert!(setup.acked(&Request::SetVringEnable(enable)));
    assert!(ring.used().is_some());
}

/// QEMU's network cards do so.
#[test]
fn a_vring_may_be_enabled_before_features_are_acknowledged() {
    let mut setup = Setup::new();
    setup.ask_u64(&Request::GetFeatures);
    setup.send(&Request::SetVringEnable(VringEnable {
        index: 0,
        enable: true,
    }));
    assert!(!setup.disconnected());
    setup.negotiate();
    setup.share_memory();
    let mut ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
    let (index, fd) = (0, Some(()));
    for request in [
        Request::SetVringNum(VringNum::new(index, ring.num).unwrap()),
        Request::SetVringAddr(ring.address(index)),
        Request::SetVringKick(VringFd { index, fd }),
    ] {
        assert!(setup.acked(&request), "{request:?}");
    }
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert!(ring.used().is_some());
}

#[test]
fn without_protocol_features_vrings_are_enabled() {
    let mut setup = Setup::new();
    setup.send(&Request::SetFeatures(VirtioFeatures::VERSION_1));
    let region = Region::new(GPA, LEN, USER, 0).unwrap();
    setup.send(&Request::SetMemTable(
        MemTable::new(vec![(region, ())]).unwrap(),
    ));
    let mut ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
    setup.send(&Request::SetVringNum(VringNum::new(0, 8).unwrap()));
    setup.send(&Request::SetVringAddr(ring.address(0)));
    setup.send(&Request::SetVringKick(VringFd {
        index: 0,
        fd: Some(()),
    }));
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert!(ring.used().is_some());
    assert_eq!(setup.reply(), None);
}

#[test]
fn looks_at_vrings_without_kicks() {
    let (mut setup, mut ring) = running();
    assert!(!setup.server.session.is_polled());
    assert!(setup.acked(&Request::SetVringKick(VringFd { index: 0, fd: None })));
    assert!(setup.server.session.is_polled());
    ring.add(&[(GPA, 1, 0)]);
    setup.run();
    assert!(ring.used().is_some());
    setup.stop_ring(0);
    assert!(!setup.server.session.is_polled());
}

#[test]
fn does_not_call_without_a_call_descriptor() {
    let (mut setup, mut ring) = running();
    let call = |fd| Request::SetVringCall(VringFd { index: 0, fd });
    assert!(setup.acked(&call(None)));
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert!(ring.used().is_some());
    assert_eq!(setup.calls(), []);
    assert!(setup.acked(&call(Some(()))));
    assert_eq!(setup.calls(), [0], "made up for");
}

#[test]
fn stops_and_goes_on_at_the_same_request() {
    let (mut setup, mut ring) = running();
    for _ in 0..3 {
        ring.add(&[(GPA, 1, 0)]);
    }
    setup.kick(0);
    assert_eq!(setup.stop_ring(0), 3);
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert_eq!(setup.server.backend().seen.len(), 3);
    setup.restart_ring(0, &ring, 3);
    assert_eq!(setup.server.backend().seen.len(), 4);
    assert_eq!(setup.stop_ring(0), 4);
}

#[test]
fn a_broken_vring_signals_an_error_and_others_go_on() {
    let (mut setup, mut broken) = running();
    let mut good = setup.start_ring(1);
    let err = VringFd {
        index: 0,
        fd: Some(()),
    };
    assert!(setup.acked(&Request::SetVringErr(err)));
    broken.offer(100);
    good.add(&[(GPA, 1, 0)]);
    setup.fake.kick(0);
    setup.kick(1);
    // Doorbell 4 is the error of vring 0.
    assert_eq!(setup.calls(), [4, 1]);
    assert_eq!(setup.server.statistics().ring_faults, 1);
    let fault = RingFault::DescriptorIndex(100);
    assert_eq!(setup.server.last_fault(), Some(&Disconnect::Ring(fault)));
    setup.kick(0);
    assert_eq!(setup.server.statistics().ring_faults, 1);
    // A new start mends it.
    setup.stop_ring(0);
    let mut again = setup.start_ring(0);
    again.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert!(again.used().is_some());
}

#[test]
fn follows_memory_that_comes_and_goes() {
    let (mut setup, mut ring) = running();
    let far = Region::new(1 << 40, 0x1000, 0, 0).unwrap();
    let add = MemRegion {
        region: far,
        fd: (),
    };
    assert!(setup.acked(&Request::AddMemReg(add)));
    ring.add(&[(1 << 40, 16, WRITE)]);
    setup.kick(0);
    assert_eq!(ring.used(), Some((0, 16)));
    assert!(setup.acked(&Request::RemMemReg(RemMemReg { region: far })));
    assert!(!setup.acked(&Request::RemMemReg(RemMemReg { region: far })));
    ring.add(&[(1 << 40, 16, WRITE)]);
    setup.kick(0);
    assert_eq!(ring.used(), None);
    assert_eq!(setup.server.statistics().ring_faults, 1);
}

#[test]
fn a_reset_of_the_device_keeps_memory_and_connection() {
    for reset in [Request::ResetDevice, Request::SetStatus(0)] {
        let (mut setup, mut ring) = running();
        let resets = setup.server.backend().resets;
        assert!(setup.acked(&reset));
        assert_eq!(setup.server.backend().resets, resets + 1);
        assert!(setup.server.backend().features.contains(F_OWN));
        ring.add(&[(GPA, 1, 0)]);
        setup.kick(0);
        assert_eq!(ring.used(), None);
        let mut ring = setup.start_ring(0);
        ring.add(&[(GPA, 1, 0)]);
        setup.kick(0);
        assert!(ring.used().is_some());
        assert!(!setup.disconnected());
    }
}

#[test]
fn tells_after_a_reset_where_a_vring_stood() {
    // QEMU before 8.0 stops a device with SET_STATUS 0 and then asks, and a guest
    // that is migrated goes on from there.
    for reset in [Request::ResetDevice, Request::SetStatus(0)] {
        let (mut setup, mut ring) = running();
        for _ in 0..3 {
            ring.add(&[(GPA, 1, 0)]);
            setup.kick(0);
            assert!(ring.used().is_some());
        }
        assert!(setup.acked(&reset) && setup.acked(&reset));
        ring.add(&[(GPA, 1, 0)]);
        setup.kick(0);
        assert_eq!(setup.stop_ring(0), 3);
        setup.restart_ring(0, &ring, 3);
        assert!(ring.used().is_some());
        assert_eq!(setup.stop_ring(0), 4);
        // The vring itself is as new.
        assert!(setup.acked(&reset));
        let ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
        assert!(setup.acked(&Request::SetVringNum(VringNum::new(0, 8).unwrap())));
        assert!(setup.acked(&Request::SetVringAddr(ring.address(0))));
        let kick = VringFd {
            index: 0,
            fd: Some(()),
        };
        assert!(setup.acked(&Request::SetVringKick(kick)));
        assert_eq!(setup.stop_ring(0), 0);
    }
}
