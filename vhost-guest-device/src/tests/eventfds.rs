// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One eventfd for several purposes. KVM takes each once for an interrupt; a
//! kick that will never arrive must not be a secret.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{eventfd, EventfdFlags};
use vhost_guest_msg::{frontend, ProtocolFeatures};
use vhost_guest_vmm_traits::{Arming, InterruptManager, MsiMessage};

use super::rig::{self, event, message, words, Frontend, Rig, DOORBELLS, FIRST_KICK};
use super::siege::{assert_closed, assert_nothing_connected, signalled, NEED_REPLY, PLAIN, REPLY};
use crate::guest::pci::bars::{DRIVER_AUX, MSIX_TABLE};

/// A frontend, and a guest that has a vector for each kick.
fn mapped() -> (Rig, Frontend) {
    let (mut rig, frontend) = rig::negotiated(ProtocolFeatures::REPLY_ACK);
    map(&mut rig, 0);
    map(&mut rig, 1);
    (rig, frontend)
}

/// The driver gives a kick its vector.
fn map(rig: &mut Rig, vring: u16) {
    let both = [vring, FIRST_KICK + vring].map(u16::to_le_bytes).concat();
    rig.write(DRIVER_AUX, &both);
}

/// The driver masks the vector of a kick, or unmasks it.
fn mask(rig: &mut Rig, vring: u16, masked: bool) {
    let entry = MSIX_TABLE + 16 * u64::from(FIRST_KICK + vring);
    rig.write(entry + 12, &u32::from(masked).to_le_bytes());
}

fn kick_message(vring: u16) -> MsiMessage {
    MsiMessage {
        address: 0xFEE0_0000,
        data: (FIRST_KICK + vring).into(),
    }
}

/// Whether a kick arrives as the interrupt of this vring.
fn arrives(rig: &Rig, kick: &OwnedFd, vring: u16) -> bool {
    rustix::io::write(kick, &1u64.to_ne_bytes()).unwrap();
    rig.vmm
        .armed_with(kick_message(vring))
        .iter()
        .any(signalled)
}

/// Sends a descriptor of a vring; whether it was passed on and acknowledged.
fn send(rig: &mut Rig, frontend: &mut Frontend, code: u32, vring: u64, fd: &OwnedFd) -> bool {
    frontend.send(&message(code, NEED_REPLY, &words(&[vring])), &[fd.as_fd()]);
    if rig.receive(0).is_some() {
        rig.reply(code, &words(&[0]));
    }
    let reply = frontend.receive();
    reply == Some(message(code, REPLY, &words(&[0])))
}

#[test]
fn one_kick_for_two_vrings_is_refused_at_the_second() {
    let (mut rig, mut frontend) = mapped();
    let kick = event();
    assert!(send(
        &mut rig,
        &mut frontend,
        frontend::SET_VRING_KICK,
        0,
        &kick
    ));
    assert!(!send(
        &mut rig,
        &mut frontend,
        frontend::SET_VRING_KICK,
        1,
        &kick
    ));
    assert!(!rig.needs_reset());
    assert!(arrives(&rig, &kick, 0));
    // Who does not ask is disconnected.
    let again = message(frontend::SET_VRING_KICK, PLAIN, &words(&[1]));
    frontend.send(&again, &[kick.as_fd()]);
    assert!(rig.needs_reset());
    assert_nothing_connected(&rig, "one kick");
    assert_closed(kick, "one kick");
}

#[test]
fn one_kick_for_two_vrings_is_noticed_when_the_driver_listens() {
    // By a mask, or by a vector that comes late.
    let listens: [fn(&mut Rig); 2] = [|rig| mask(rig, 1, false), |rig| map(rig, 1)];
    for (late, listen) in listens.into_iter().enumerate() {
        let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::REPLY_ACK);
        map(&mut rig, 0);
        if late == 0 {
            map(&mut rig, 1);
            mask(&mut rig, 1, true);
        }
        let kick = event();
        for vring in 0..2 {
            assert!(send(
                &mut rig,
                &mut frontend,
                frontend::SET_VRING_KICK,
                vring,
                &kick
            ));
        }
        assert!(!rig.needs_reset());
        listen(&mut rig);
        assert!(rig.needs_reset(), "a kick is dead, and nobody knows");
        assert!(frontend.is_disconnected());
        assert_nothing_connected(&rig, "one kick");
        assert_closed(kick, "one kick");
    }
}

/// Frontends do so when they start a ring again.
#[test]
fn the_same_kick_may_come_again_for_its_vring() {
    let (mut rig, mut frontend) = mapped();
    let kick = event();
    for masked in [false, true] {
        mask(&mut rig, 0, masked);
        for _ in 0..2 {
            assert!(send(
                &mut rig,
                &mut frontend,
                frontend::SET_VRING_KICK,
                0,
                &kick
            ));
        }
        mask(&mut rig, 0, false);
        assert!(arrives(&rig, &kick, 0));
    }
}

/// A vector that is shared by all queues is one eventfd for all calls.
#[test]
fn one_eventfd_may_be_every_call_and_a_kick_as_well() {
    let (mut rig, mut frontend) = mapped();
    let eventfd = event();
    for (code, vring) in [
        (frontend::SET_VRING_CALL, 0),
        (frontend::SET_VRING_CALL, 1),
        (frontend::SET_VRING_ERR, 0),
        (frontend::SET_VRING_KICK, 0),
    ] {
        assert!(
            send(&mut rig, &mut frontend, code, vring, &eventfd),
            "{code}"
        );
    }
    let doorbells = rig.vmm.doorbells();
    assert!([0, 4]
        .iter()
        .all(|bell| doorbells.contains(&(DOORBELLS + bell))));
    assert!(arrives(&rig, &eventfd, 0));
    assert!(!rig.needs_reset());
}

#[test]
fn a_kick_that_is_a_semaphore_arrives() {
    let (mut rig, mut frontend) = mapped();
    let flags = EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK;
    let kick = eventfd(0, flags).unwrap();
    assert!(send(
        &mut rig,
        &mut frontend,
        frontend::SET_VRING_KICK,
        0,
        &kick
    ));
    assert!(arrives(&rig, &kick, 0));
}

#[test]
fn a_kick_that_another_device_has_is_the_frontends_fault() {
    for masked in [false, true] {
        let (mut rig, mut frontend) = mapped();
        mask(&mut rig, 0, masked);
        let kick = event();
        let others = rig.vmm.create_source().unwrap();
        let arming = Arming {
            source: others,
            eventfd: kick.as_fd(),
            message: MsiMessage {
                address: 0xFEE0_1000,
                data: 1,
            },
        };
        rig.vmm.arm(&[arming]).unwrap();
        let accepted = send(&mut rig, &mut frontend, frontend::SET_VRING_KICK, 0, &kick);
        assert_eq!(accepted, masked);
        mask(&mut rig, 0, false);
        assert_eq!(rig.needs_reset(), masked);
        assert!(rig.vmm.armed().iter().any(|(source, _)| *source == others));
    }
}
