// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Messages for devices on a network, and others that few backends have.

use super::*;
use vhost_guest_msg::{Rarp, VringEndian};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

fn on_a_network() -> Setup {
    let backend = Echo {
        network: Some(Vec::new()),
        ..Echo::default()
    };
    Setup::with_backend(Fake::new(4), backend)
}

#[test]
fn offers_what_the_backend_can_do() {
    let mut setup = Setup::new();
    let without = setup.ask_u64(&Request::GetProtocolFeatures);
    let mut setup = on_a_network();
    let with = setup.ask_u64(&Request::GetProtocolFeatures);
    assert_eq!(with & !without, 1 << 2 | 1 << 4);
}

#[test]
fn tells_the_backend_of_its_network() {
    let mut setup = on_a_network();
    setup.negotiate_with(ProtocolFeatures::RARP | ProtocolFeatures::MTU);
    assert!(setup.acked(&Request::SendRarp(Rarp { mac: MAC })));
    assert!(setup.acked(&Request::NetSetMtu(1500)));
    // It is the backend that knows what is too much.
    assert!(!setup.acked(&Request::NetSetMtu(9000)));
    assert!(!setup.acked(&Request::NetSetMtu(u64::MAX)));
    let told = setup.server.backend().network.clone();
    assert_eq!(told, Some(vec![Told::Rarp(MAC), Told::Mtu(1500)]));
    assert!(!setup.disconnected());
}

#[test]
fn refuses_what_the_backend_has_not_offered() {
    for request in [
        Request::SendRarp(Rarp { mac: MAC }),
        Request::NetSetMtu(1500),
        // Rings of old devices; those of new ones are little-endian.
        Request::SetVringEndian(VringEndian {
            index: 0,
            endian: Endian::Big,
        }),
    ] {
        let mut setup = Setup::negotiated();
        assert!(!setup.acked(&request), "{request:?}");
        assert!(!setup.disconnected());
        // Whoever does not ask is not left to believe in it.
        setup.send(&request);
        assert!(setup.disconnected(), "{request:?}");
    }
    for feature in [
        ProtocolFeatures::RARP,
        ProtocolFeatures::MTU,
        ProtocolFeatures::CROSS_ENDIAN,
        ProtocolFeatures::DEVICE_STATE,
    ] {
        let mut setup = Setup::new();
        setup.send(&Request::SetProtocolFeatures(feature));
        assert!(setup.disconnected(), "{feature:?}");
    }
}

#[test]
fn serves_256_vrings() {
    let backend = Echo {
        vrings: 300,
        ..Echo::default()
    };
    let mut setup = Setup::with_backend(Fake::new(256), backend);
    setup.negotiate();
    assert_eq!(setup.ask_u64(&Request::GetQueueNum), 256);
    setup.share_memory();
    let mut rings: Vec<_> = [0u8, 63, 255]
        .into_iter()
        .zip(0..)
        .map(|(index, place)| {
            let base = 0x4000 * place;
            let ring = GuestRing::new(setup.fake.window.clone(), 8, base);
            setup.restart_ring(index, &ring, 0);
            (index, ring)
        })
        .collect();
    for (index, ring) in &mut rings {
        ring.add(&[(GPA + 0x8_0000, 1, 0)]);
        setup.kick((*index).into());
        assert!(ring.used().is_some());
        assert_eq!(setup.calls(), [u16::from(*index)]);
    }
    let seen: Vec<u16> = setup.server.backend().seen.iter().map(|s| s.0).collect();
    assert_eq!(seen, [0, 63, 255]);
}
