// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What has to be agreed on before a message, as far as real frontends agree
//! on anything: what was offered, what was acknowledged, and what a frontend
//! remembers from an earlier connection.

use vhost_guest_msg::{
    frontend, FrontendRequest, Gate, ProtocolFeatures, Verdict, VirtioFeatures, VringEnable,
    FRONTEND_ROWS,
};

use super::rig::{self, memory_file, message, words, Frontend, Rig};
use super::siege::{sample, sample_fds, send, Siege, NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use crate::connection::carried;

/// What Cloud Hypervisor chooses of what a block device offers.
const REMEMBERED: u64 = 0x1b22b;

fn ask_features(rig: &mut Rig, frontend: &mut Frontend, offer: VirtioFeatures) {
    let offer = words(&[offer.bits()]);
    frontend.send(&message(frontend::GET_FEATURES, PLAIN, &[]), &[]);
    assert_eq!(rig.request(), Some(FrontendRequest::GetFeatures));
    rig.reply(frontend::GET_FEATURES, &offer);
    let reply = message(frontend::GET_FEATURES, REPLY, &offer);
    assert_eq!(frontend.receive(), Some(reply));
}

/// Whether a ring can be enabled.
fn enables(rig: &mut Rig, frontend: &mut Frontend) -> bool {
    let (index, enable) = (1, true);
    let request = FrontendRequest::SetVringEnable(VringEnable { index, enable });
    frontend.send(&message(18, PLAIN, &words(&[1 | 1 << 32])), &[]);
    let passed = rig.request();
    assert!(passed.is_none() || passed == Some(request));
    assert_eq!(rig.needs_reset(), passed.is_none());
    passed.is_some()
}

/// QEMU's `-netdev vhost-user` does so while the card is made, long before its
/// guest has a driver (`net_init_vhost_user`, `vhost_set_vring_enable`).
#[test]
fn a_network_card_enables_rings_before_it_acknowledges_features() {
    let (mut rig, mut frontend) = rig::connected();
    let offer = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::VERSION_1;
    ask_features(&mut rig, &mut frontend, offer);
    assert!(enables(&mut rig, &mut frontend));
}

#[test]
fn a_frontend_that_remembers_the_offer_enables_rings() {
    let (mut rig, mut frontend) = rig::connected();
    assert!(enables(&mut rig, &mut frontend));
}

#[test]
fn what_was_acknowledged_counts_as_offered() {
    let (mut rig, mut frontend) = rig::connected();
    ask_features(&mut rig, &mut frontend, VirtioFeatures::VERSION_1);
    let chosen = VirtioFeatures::PROTOCOL_FEATURES;
    frontend.send(&message(2, PLAIN, &words(&[chosen.bits()])), &[]);
    assert_eq!(rig.request(), Some(FrontendRequest::SetFeatures(chosen)));
    assert!(enables(&mut rig, &mut frontend));
}

#[test]
fn rings_cannot_be_enabled_where_protocol_features_were_not_offered() {
    let (mut rig, mut frontend) = rig::connected();
    ask_features(&mut rig, &mut frontend, VirtioFeatures::VERSION_1);
    assert!(!enables(&mut rig, &mut frontend));
}

/// Everything that was remembered and acknowledged opens its gate, in any
/// order of the two negotiations.
#[test]
fn a_gate_asks_for_what_was_acknowledged_and_not_for_what_was_shown() {
    let mut siege = Siege::with_migration();
    for row in FRONTEND_ROWS {
        let (Gate::Protocol(feature), Verdict::Forward | Verdict::Handle) = (row.gate, row.verdict)
        else {
            continue;
        };
        let mut frontend = siege.frontend(ProtocolFeatures::empty());
        let chosen = message(16, PLAIN, &words(&[feature.bits()]));
        frontend.send(&chosen, &[]);
        assert_eq!(siege.rig.receive(0), Some(chosen), "{}", row.name);
        if row.code == frontend::REM_MEM_REG {
            let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
            send(&mut frontend, &table, &[memory_file(SIZE).into()]);
            siege.rig.receive(0).expect("the table");
        }
        let request = message(row.code, PLAIN, &sample(row));
        send(&mut frontend, &request, &sample_fds(row));
        let passed = siege.rig.receive(0).expect(row.name);
        assert_eq!(passed[..4], row.code.to_ne_bytes(), "{}", row.name);
        assert!(!siege.rig.needs_reset(), "{}", row.name);
    }
    siege.serves_the_next();
}

/// Cloud Hypervisor after the loss of its backend, after a restore, and as the
/// target of a migration (rust-vmm/vhost#290, cloud-hypervisor#8313).
#[test]
fn a_frontend_that_remembers_the_protocol_features_is_served() {
    let (mut rig, mut frontend) = rig::connected();
    let pass = |rig: &mut Rig, frontend: &mut Frontend, code, body: &[u8]| {
        let request = message(code, PLAIN, body);
        frontend.send(&request, &[]);
        assert_eq!(rig.receive(0), Some(request));
    };
    pass(&mut rig, &mut frontend, frontend::SET_OWNER, &[]);
    let offer = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::VERSION_1;
    ask_features(&mut rig, &mut frontend, offer);
    // It was lost in the middle of a migration.
    let chosen = words(&[(offer | VirtioFeatures::LOG_ALL).bits()]);
    pass(&mut rig, &mut frontend, frontend::SET_FEATURES, &chosen);
    let features = words(&[REMEMBERED]);
    pass(
        &mut rig,
        &mut frontend,
        frontend::SET_PROTOCOL_FEATURES,
        &features,
    );
    frontend.send(&message(frontend::SET_OWNER, NEED_REPLY, &[]), &[]);
    let asked = rig.receive(0);
    assert_eq!(asked, Some(message(frontend::SET_OWNER, NEED_REPLY, &[])));
    rig.reply(frontend::SET_OWNER, &words(&[0]));
    let done = message(frontend::SET_OWNER, REPLY, &words(&[0]));
    assert_eq!(frontend.receive(), Some(done), "REPLY_ACK holds");
}

#[test]
fn what_is_remembered_is_carried_or_disconnects() {
    let mut siege = Siege::new();
    for bit in 0..64 {
        let feature = ProtocolFeatures::from_bits_retain(1 << bit);
        let request = message(frontend::SET_PROTOCOL_FEATURES, PLAIN, &words(&[1 << bit]));
        if carried().contains(feature) {
            let mut frontend = siege.frontend(ProtocolFeatures::empty());
            frontend.send(&request, &[]);
            assert_eq!(siege.rig.receive(0), Some(request), "bit {bit}");
        } else {
            let what = format!("bit {bit}");
            siege.costs_the_connection(ProtocolFeatures::empty(), &what, |_, frontend| {
                frontend.send(&request, &[]);
            });
        }
    }
}
