// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What frontends send, in their order, that is in no document.

use super::*;
use vhost_guest_msg::OnlyFd;

fn enable(index: u8, enable: bool) -> Request {
    Request::SetVringEnable(VringEnable { index, enable })
}

fn call(index: u8) -> Request {
    let fd = Some(());
    Request::SetVringCall(VringFd { index, fd })
}

fn kick(index: u8) -> Request {
    let fd = Some(());
    Request::SetVringKick(VringFd { index, fd })
}

/// QEMU's network card with two queue pairs: the guest's firmware does not use
/// the second one, which is switched off before any feature is acknowledged.
#[test]
fn a_network_card_of_qemu_is_served() {
    let mut setup = Setup::new();
    setup.ask_u64(&Request::GetFeatures);
    setup.ask_u64(&Request::GetProtocolFeatures);
    let acked = ProtocolFeatures::MQ
        | ProtocolFeatures::REPLY_ACK
        | ProtocolFeatures::BACKEND_REQ
        | ProtocolFeatures::CONFIGURE_MEM_SLOTS
        | ProtocolFeatures::LOG_SHMFD;
    setup.send(&Request::SetProtocolFeatures(acked));
    assert_eq!(setup.ask_u64(&Request::GetQueueNum), 4);
    assert_eq!(setup.ask_u64(&Request::GetMaxMemSlots), 509);
    assert!(setup.acked(&Request::SetBackendReqFd(OnlyFd { fd: () })));
    // A device for each queue pair, on one connection.
    for pair in [0, 2] {
        setup.send(&Request::SetOwner);
        setup.ask_u64(&Request::GetFeatures);
        for index in [pair, pair + 1] {
            let fd = Some(());
            setup.send(&call(index));
            setup.send(&Request::SetVringErr(VringFd { index, fd }));
        }
    }
    for index in 0..4 {
        assert!(setup.acked(&enable(index, index < 2)));
    }
    // The guest's driver is ready.
    let features = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES | F_OWN;
    setup.send(&Request::SetFeatures(features));
    let region = Region::new(GPA, LEN, USER, 0).unwrap();
    let add = vhost_guest_msg::MemRegion { region, fd: () };
    assert!(setup.acked(&Request::AddMemReg(add)));
    let mut rings = [0, 1].map(|index| {
        let base = 0x4000 * u64::from(index);
        let ring = GuestRing::new(setup.fake.window.clone(), 8, base);
        for request in [
            Request::SetVringNum(VringNum::new(index, 8).unwrap()),
            Request::SetVringBase(VringBase { index, base: 0 }),
            Request::SetVringAddr(ring.address(index)),
            kick(index),
            call(index),
        ] {
            setup.send(&request);
        }
        ring
    });
    setup.calls();
    for (index, ring) in (0..).zip(&mut rings) {
        ring.add(&[(GPA, 1, 0)]);
        setup.kick(index);
        assert!(ring.used().is_some());
    }
    assert_eq!(setup.calls(), [0, 1]);
    assert_eq!(setup.reply(), None);
    assert!(!setup.disconnected());
}

/// Cloud Hypervisor that connects again, restores, or is migrated to.
#[test]
fn a_frontend_that_remembers_what_was_offered_need_not_ask() {
    let mut setup = Setup::new();
    setup.send(&Request::SetOwner);
    setup.ask_u64(&Request::GetFeatures);
    let features = VirtioFeatures::VERSION_1 | VirtioFeatures::PROTOCOL_FEATURES;
    setup.send(&Request::SetFeatures(features));
    let acked = ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK | ProtocolFeatures::CONFIG;
    setup.send(&Request::SetProtocolFeatures(acked));
    setup.share_memory();
    let mut ring = setup.start_ring(0);
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert!(ring.used().is_some());
    // What is not offered is still refused.
    let xen = acked | ProtocolFeatures::XEN_MMAP;
    assert!(!setup.acked(&Request::SetProtocolFeatures(xen)));
}

#[test]
fn what_makes_a_vring_may_come_in_any_order() {
    let mut setup = Setup::new();
    setup.negotiate_protocol(ProtocolFeatures::empty());
    let ring = GuestRing::new(setup.fake.window.clone(), 6, 0);
    setup.share_memory();
    let index = 0;
    let base = 0x8000_8000;
    // Before it is known that the ring is a packed one, and how long it is.
    assert!(setup.acked(&Request::SetVringAddr(ring.address(index))));
    assert!(setup.acked(&Request::SetVringBase(VringBase { index, base })));
    assert!(setup.acked(&Request::SetVringNum(VringNum::new(index, 6).unwrap())));
    let packed = VirtioFeatures::VERSION_1 | VirtioFeatures::RING_PACKED;
    let split = VirtioFeatures::VERSION_1;
    for (features, fits) in [(split, false), (packed, true)] {
        assert!(setup.acked(&Request::SetFeatures(features)));
        assert_eq!(setup.acked(&kick(index)), fits, "{features:?}");
    }
    assert_eq!(setup.stop_ring(0), base);
}

#[test]
fn an_address_without_a_size_is_checked_when_the_vring_starts() {
    let mut setup = Setup::negotiated();
    setup.share_memory();
    let ring = GuestRing::new(setup.fake.window.clone(), 8, 0);
    let outside = vhost_guest_msg::VringAddr {
        descriptor: USER + LEN - 64,
        ..ring.address(0)
    };
    for (address, fits) in [(outside, false), (ring.address(0), true)] {
        assert!(setup.acked(&Request::ResetDevice));
        assert!(setup.acked(&Request::SetVringAddr(address)));
        assert!(setup.acked(&Request::SetVringNum(VringNum::new(0, 8).unwrap())));
        assert_eq!(setup.acked(&kick(0)), fits);
        assert_eq!(setup.acked(&Request::SetVringAddr(address)), fits);
    }
}

/// Frontends that acknowledge all that there is: no log can come, and none is
/// waited for.
#[test]
fn logging_without_a_shared_log_keeps_nobody_waiting() {
    let mut setup = Setup::new();
    setup.send(&Request::SetProtocolFeatures(ProtocolFeatures::REPLY_ACK));
    let features = VirtioFeatures::VERSION_1 | VirtioFeatures::LOG_ALL;
    assert!(setup.acked(&Request::SetFeatures(features)));
    setup.share_memory();
    let mut ring = setup.start_ring(0);
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert!(ring.used().is_some());
    // Once one can, it is waited for.
    let acked = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::LOG_SHMFD;
    assert!(setup.acked(&Request::SetProtocolFeatures(acked)));
    ring.add(&[(GPA, 1, 0)]);
    setup.kick(0);
    assert!(ring.used().is_none());
}
