// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What has to be agreed on before a message, as far as real frontends agree
//! on anything: what was offered, what was acknowledged, and what a frontend
//! remembers from an earlier connection.

use vhost_guest_msg::{frontend, FrontendRequest, VirtioFeatures, VringEnable};

use super::rig::{self, message, words, Frontend, Rig};
use super::siege::{PLAIN, REPLY};

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
