// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM may lend, or keep to itself.

use std::os::fd::AsFd;

use vhost_guest_msg::ProtocolFeatures;

use super::rig::{event, message, words, Rig};
use crate::registers::testing::wait;

#[test]
fn rings_every_doorbell_without_ioeventfds() {
    let mut rig = Rig::lent(|services| services.doorbells = None, |builder| builder);
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    // Notifications of the queues come as stores, and messages get through.
    rig.negotiate(&mut frontend, ProtocolFeatures::empty());
    let call = event();
    frontend.send(&message(13, 1, &words(&[0])), &[call.as_fd()]);
    assert!(rig.request().is_some());
    for width in [1, 2, 4, 8] {
        let effect = rig.device.registers.bar_write(2, 0, &[0; 8][..width]);
        let _ = rig.device.apply(effect);
        assert_eq!(wait(&call), 1);
    }
    assert_eq!(rig.device.statistics.userspace_doorbells, 4);
    assert!(rig.vmm.doorbells().is_empty());
    // Moving BARs makes no difference.
    rig.config_write(0x18, &0xD000_0000_u32.to_le_bytes());
    assert!(!rig.needs_reset());
}
