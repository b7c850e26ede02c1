// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM may lend, or keep to itself.

use std::os::fd::AsFd;

use vhost_guest_msg::ProtocolFeatures;
use vhost_guest_vmm_traits::MsiMessage;

use super::rig::{self, event, message, words, Rig, VRINGS};
use crate::function::Builder;
use crate::guest::pci::bars::{DRIVER_AUX, MSIX_PENDING, MSIX_TABLE};
use crate::guest::registers::testing::{signal, take, wait};

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
        rig.device.shared.bar_write(2, 0, &[0; 8][..width]);
        assert_eq!(wait(&call), 1);
    }
    assert_eq!(rig.device.shared.counters.userspace_doorbells.read(), 4);
    assert!(rig.vmm.doorbells().is_empty());
    // Moving BARs makes no difference.
    rig.config_write(0x18, &0xD000_0000_u32.to_le_bytes());
    assert!(!rig.needs_reset());
}

/// The vector of the first kick, in the tests below.
const KICK: u16 = 5;

const OF_THE_VMM: MsiMessage = MsiMessage {
    address: 0xFEE0_2000,
    data: 0x77,
};

impl Rig {
    fn set_vector(&mut self, vector: u16, message: Option<MsiMessage>) {
        self.device.shared.set_vector(vector, message);
    }

    fn armed(&self) -> Vec<MsiMessage> {
        let armed = self.vmm.armed().into_iter();
        armed.map(|(_, message)| message).collect()
    }
}

#[test]
fn raises_what_a_vmm_says_that_keeps_the_table_itself() {
    let (mut rig, mut frontend) = rig::connected();
    let kick = event();
    frontend.send(&message(12, 1, &words(&[0])), &[kick.as_fd()]);
    rig.write(DRIVER_AUX, &(u32::from(KICK) << 16).to_le_bytes());
    assert!(rig.request().is_some());
    assert_eq!(rig.device.shared.registers.lock().vectors(), 1 + 6 + VRINGS);

    rig.set_vector(KICK, Some(OF_THE_VMM));
    // The others that the guest had unmasked are not the VMM's.
    assert_eq!(rig.armed(), [OF_THE_VMM]);
    signal(&rig.vmm.armed_with(OF_THE_VMM)[0]);
    assert_eq!(take(&kick), 1);
    // What the guest writes to the table is lost.
    let entry = MSIX_TABLE + 16 * u64::from(KICK);
    rig.write(entry + 12, &[1, 0, 0, 0]);
    rig.write(entry + 16 + 12, &[0; 4]);
    assert_eq!(rig.armed(), [OF_THE_VMM]);
    // Enable, mask and Bus Master are the guest's.
    for (register, off, on) in [(0xD6, 0x0000, 0x8000), (0xD6, 0xC000, 0x8000), (4, 2, 6)] {
        rig.config_write(register, &u16::to_le_bytes(off));
        assert_eq!(rig.armed(), []);
        rig.config_write(register, &u16::to_le_bytes(on));
        assert_eq!(rig.armed(), [OF_THE_VMM]);
    }
    // What comes while it is masked waits, and shows.
    rig.set_vector(KICK, None);
    assert_eq!(rig.armed(), []);
    signal(&kick);
    let [pending] = rig.read(MSIX_PENDING);
    assert_eq!(pending & 1 << KICK, 1 << KICK);
    rig.set_vector(KICK, Some(OF_THE_VMM));
    assert_eq!(rig.armed(), [OF_THE_VMM]);
    // There are no such vectors.
    for vector in [1 + 6 + VRINGS, u16::MAX] {
        rig.set_vector(vector, Some(OF_THE_VMM));
    }
    assert_eq!(rig.armed(), [OF_THE_VMM]);
}

#[test]
fn keeps_the_table_of_a_vmm_through_resets() {
    let resets: [fn(&mut Rig); 3] = [
        |rig| rig.write(rig::STATUS, &[0]),
        |rig| rig.config_write(0xE4, &[1]),
        Rig::function_reset,
    ];
    for reset in resets {
        let mut rig = Rig::new();
        rig.set_vector(0, Some(OF_THE_VMM));
        rig.set_vector(KICK, Some(OF_THE_VMM));
        for _ in 0..2 {
            rig.initialise();
            rig.backend_up();
            let mut frontend = rig.connect();
            frontend.send(&message(12, 1, &words(&[0])), &[event().as_fd()]);
            rig.write(DRIVER_AUX, &(u32::from(KICK) << 16).to_le_bytes());
            assert!(rig.request().is_some());
            assert_eq!(rig.armed(), [OF_THE_VMM; 2]);
            reset(&mut rig);
            rig.run();
            assert_eq!(rig.armed(), []);
        }
    }
}

#[test]
fn needs_as_many_interrupt_sources_as_it_says() {
    let choices: [fn(Builder) -> Builder; 2] =
        [|builder| builder, |builder| builder.migration(4096)];
    for choose in choices {
        let mut said = 0;
        let mut rig = Rig::with(|builder| {
            let builder = choose(builder);
            said = builder.max_sources();
            builder
        });
        rig.initialise();
        rig.write(crate::guest::pci::bars::COMMON + 0x10, &[0, 0]);
        // Whatever the guest maps, and to whatever it maps it.
        for select in 0..2 * VRINGS {
            rig.write(DRIVER_AUX, &u32::from(select).to_le_bytes());
            rig.write(rig::QUEUE_SELECT, &select.to_le_bytes());
            rig.write(crate::guest::pci::bars::COMMON + 0x1A, &[0, 0]);
        }
        assert_eq!(rig.vmm.source_count(), usize::from(said));
    }
}
