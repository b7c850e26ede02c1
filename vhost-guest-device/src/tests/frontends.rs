// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How Cloud Hypervisor and crosvm change memory while rings run, and how they
//! stop and start.
//!
//! What was read: cloud-hypervisor ae44c2971c83, in `virtio-devices/src`
//! `vhost_user/vu_common_ctrl.rs` and `vhost_user/mod.rs`; the frontend that it
//! uses, rust-vmm/vhost 4e217d992c57, `vhost/src/vhost_user/frontend.rs`;
//! crosvm f1e797a68dad, `devices/src/virtio/vhost_user_frontend/mod.rs` and
//! `third_party/vmm_vhost`. For QEMU see [`super::qemu`].
//!
//! - Cloud Hypervisor asks for an acknowledgement of every message. Each piece
//!   of memory has a file of its own, and none is ever taken away. What is
//!   plugged comes as a memory slot, or else in a whole table. While it
//!   migrates it hands over a new log in each round.
//! - crosvm asks for none, though it could. All its memory is one file, and it
//!   sends the same table at each start of the device.

use vhost_guest_msg::{frontend, ProtocolFeatures, VirtioFeatures};
use vhost_guest_vmm_traits::test_utils::Call;

use super::rig::{memory_file, message, words};
use super::siege::{assert_closed, REPLY};
use super::stage::{word, Acks, Region, Stage};

const MIB: u64 = 1 << 20;
const USER: u64 = 0x7f00_0000_0000;

/// A region of Cloud Hypervisor's, which is a whole file.
fn whole(file: usize, guest: u64, size: u64) -> Region {
    Region {
        file,
        guest,
        size,
        user: USER + ((file as u64) << 36),
        offset: 0,
    }
}

/// The device is activated.
fn activate(stage: &mut Stage, regions: &[Region], rings: &[u64]) {
    let features = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::VERSION_1;
    stage.say(frontend::SET_FEATURES, &words(&[features.bits()]), &[]);
    stage.replace(regions);
    for index in 0..rings.len() as u64 {
        let size = words(&[index | 64 << 32]);
        stage.say(frontend::SET_VRING_NUM, &size, &[]);
    }
    for user in rings {
        let codes = [
            frontend::SET_VRING_ADDR,
            frontend::SET_VRING_BASE,
            frontend::SET_VRING_CALL,
            frontend::SET_VRING_KICK,
        ];
        stage.start_ring(*user, &codes);
    }
    for index in 0..rings.len() as u64 {
        let on = words(&[index | 1 << 32]);
        stage.say(frontend::SET_VRING_ENABLE, &on, &[]);
    }
}

/// What was done in the window.
fn memory_calls(stage: &Stage) -> Vec<Call> {
    let mut calls = stage.rig.vmm.take_calls();
    calls.retain(|call| matches!(call, Call::Attach { .. } | Call::Detach { .. }));
    calls
}

/// The memory of a guest with more than fits below 4 GiB, and its rings.
fn boot() -> ([Region; 2], [u64; 2]) {
    let low = whole(0, 0, 256 * MIB);
    let high = whole(1, 4 << 30, 128 * MIB);
    ([low, high], [low.user + 100 * MIB, high.user + MIB])
}

#[test]
fn cloud_hypervisor_plugs_slots_under_running_rings() {
    let features = ProtocolFeatures::CONFIGURE_MEM_SLOTS | ProtocolFeatures::LOG_SHMFD;
    let mut stage = Stage::new(Acks::Asked, features, &[256 * MIB, 128 * MIB]);
    let (regions, rings) = boot();
    activate(&mut stage, &regions, &rings);
    let mut guest = regions[1].guest + regions[1].size;
    for _ in 0..6 {
        let file = stage.new_file(128 * MIB);
        memory_calls(&stage);
        stage.add(whole(file, guest, 128 * MIB));
        assert!(matches!(memory_calls(&stage)[..], [Call::Attach { .. }]));
        guest += 128 * MIB;
    }
    stage.finish();
}

#[test]
fn cloud_hypervisor_sends_larger_tables_under_running_rings() {
    let mut stage = Stage::new(Acks::Asked, ProtocolFeatures::MQ, &[256 * MIB, 128 * MIB]);
    let (regions, rings) = boot();
    activate(&mut stage, &regions, &rings);
    let mut table = regions.to_vec();
    let mut guest = regions[1].guest + regions[1].size;
    for _ in 0..6 {
        let file = stage.new_file(128 * MIB);
        table.push(whole(file, guest, 128 * MIB));
        let places: Vec<_> = regions.iter().map(|region| stage.place(region)).collect();
        memory_calls(&stage);
        stage.replace(&table);
        assert!(matches!(memory_calls(&stage)[..], [Call::Attach { .. }]));
        for (region, place) in regions.iter().zip(places) {
            assert_eq!(stage.place(region), place);
        }
        guest += 128 * MIB;
    }
    stage.finish();
}

/// It stops a device by switching its rings off and asking where they are, to
/// reset or to save it; when it goes on, everything is sent again.
#[test]
fn cloud_hypervisor_sends_everything_again_when_it_goes_on() {
    let mut stage = Stage::new(Acks::Asked, ProtocolFeatures::MQ, &[256 * MIB, 128 * MIB]);
    let (regions, rings) = boot();
    activate(&mut stage, &regions, &rings);
    for _ in 0..3 {
        memory_calls(&stage);
        stage.stop_rings();
        activate(&mut stage, &regions, &rings);
        assert_eq!(memory_calls(&stage), [], "nothing has changed");
    }
    stage.finish();
}

#[test]
fn cloud_hypervisor_takes_a_log_per_round_and_plugs_memory_meanwhile() {
    let features = ProtocolFeatures::CONFIGURE_MEM_SLOTS | ProtocolFeatures::LOG_SHMFD;
    let mut stage = Stage::new(Acks::Asked, features, &[256 * MIB, 128 * MIB]);
    let (regions, rings) = boot();
    activate(&mut stage, &regions, &rings);
    let places = regions.map(|region| stage.place(&region));
    let mut old = Vec::new();
    let mut end = regions[1].guest + regions[1].size;
    for round in 0..4 {
        // One bit for each page, and one byte more.
        let size = end / 0x8000 + 1;
        let file = memory_file(size);
        let fd = file.try_clone().unwrap().into();
        let seen = stage.tell(frontend::SET_LOG_BASE, &words(&[size, 0]), &[fd]);
        let at = word(&seen, 1);
        stage.rig.reply(frontend::SET_LOG_BASE, &words(&[size, at]));
        let echo = message(frontend::SET_LOG_BASE, REPLY, &words(&[size, 0]));
        assert_eq!(stage.frontend.receive(), Some(echo));
        assert_eq!(stage.rig.vmm.write_window(at + size - 1, &[1]), Some(()));
        old.push(file);
        if round == 0 {
            let features = VirtioFeatures::LOG_ALL | VirtioFeatures::PROTOCOL_FEATURES;
            stage.say(frontend::SET_FEATURES, &words(&[features.bits()]), &[]);
            for (index, (user, region)) in (0..).zip(rings.iter().zip(&regions)) {
                let guest = region.guest + (user - region.user) + 0x2000;
                let parts = [index | 1 << 32, *user, user + 0x2000, user + 0x1000, guest];
                let seen = stage.say(frontend::SET_VRING_ADDR, &words(&parts), &[]);
                let moved = places[index as usize] + (user - region.user);
                let parts = [
                    index | 1 << 32,
                    moved,
                    moved + 0x2000,
                    moved + 0x1000,
                    guest,
                ];
                assert_eq!(seen[12..], words(&parts));
            }
        }
        let file = stage.new_file(128 * MIB);
        let plugged = whole(file, end, 128 * MIB);
        let payload = words(&[0, plugged.guest, plugged.size, plugged.user, 0]);
        let fds = [stage.fd(file)];
        stage.tell(frontend::ADD_MEM_REG, &payload, &fds);
        stage.settle(frontend::ADD_MEM_REG, false);
        end += 128 * MIB;
        let mapped = stage.rig.vmm.mappings();
        assert_eq!(mapped.len(), 2 + round + 1 + 1, "one log");
    }
    let last = old.pop().unwrap();
    old.into_iter()
        .for_each(|file| assert_closed(file, "a log"));
    stage.finish();
    assert_closed(last, "the last log");
}

/// With RESET_DEVICE its rings are gone, too; their addresses come again.
#[test]
fn a_device_reset_lets_rings_move() {
    let features = ProtocolFeatures::RESET_DEVICE;
    let mut stage = Stage::new(Acks::Asked, features, &[256 * MIB, 128 * MIB]);
    let (regions, rings) = boot();
    activate(&mut stage, &regions, &rings);
    stage.say(frontend::RESET_DEVICE, &[], &[]);
    stage.check();
    // The guest behind it is another one, with other memory at this address.
    let file = stage.new_file(256 * MIB);
    let other = Region { file, ..regions[0] };
    let before = stage.place(&regions[0]);
    stage.forget_rings();
    stage.replace(&[other]);
    assert_ne!(stage.place(&other), before);
    stage.finish();
}

/// A backend that comes back finds a frontend that tells it everything.
#[test]
fn cloud_hypervisor_reconnects() {
    let features = ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    let (regions, rings) = boot();
    let mut stage = Stage::new(Acks::Asked, features, &[256 * MIB, 128 * MIB]);
    activate(&mut stage, &regions, &rings);
    let places = regions.map(|region| stage.place(&region));
    for _ in 0..3 {
        // The backend's guest starts again.
        stage.rig.start();
        assert_eq!(stage.rig.vmm.mappings(), []);
        stage.reconnect(features);
        activate(&mut stage, &regions, &rings);
        assert_eq!(regions.map(|region| stage.place(&region)), places);
    }
    stage.finish();
}

/// A region of crosvm's, in its one file.
fn part(guest: u64, offset: u64, size: u64) -> Region {
    Region {
        file: 0,
        guest,
        size,
        user: USER + guest,
        offset,
    }
}

#[test]
fn crosvm_sends_the_same_table_at_each_start() {
    let mut stage = Stage::new(Acks::Offered, ProtocolFeatures::MQ, &[384 * MIB]);
    let regions = [part(0, 0, 256 * MIB), part(4 << 30, 256 * MIB, 128 * MIB)];
    let codes = [
        frontend::SET_VRING_NUM,
        frontend::SET_VRING_ADDR,
        frontend::SET_VRING_BASE,
        frontend::SET_VRING_CALL,
        frontend::SET_VRING_KICK,
        frontend::SET_VRING_ENABLE,
    ];
    for start in 0..4 {
        memory_calls(&stage);
        if start == 0 {
            let features = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::VERSION_1;
            stage.say(frontend::SET_FEATURES, &words(&[features.bits()]), &[]);
        }
        stage.replace(&regions);
        stage.start_ring(USER + 16 * MIB, &codes);
        stage.start_ring(USER + (4 << 30) + MIB, &codes);
        let mapped = if start == 0 { 2 } else { 0 };
        assert_eq!(memory_calls(&stage).len(), mapped);
        // Reset, or sleep.
        stage.stop_rings();
    }
    stage.finish();
}

/// Nobody waits for an acknowledgement here, so the device does: memory that
/// one start had and the next one has not.
#[test]
fn crosvm_that_starts_with_less_memory_is_waited_for_by_nobody() {
    let mut stage = Stage::new(Acks::Offered, ProtocolFeatures::MQ, &[384 * MIB]);
    let regions = [part(0, 0, 256 * MIB), part(4 << 30, 256 * MIB, 128 * MIB)];
    stage.replace(&regions);
    stage.replace(&regions[..1]);
    stage.replace(&regions);
    stage.finish();
}

#[test]
fn rust_vmm_tells_the_offset_of_what_it_removes() {
    let features = ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    let mut stage = Stage::new(Acks::Asked, features, &[256 * MIB]);
    for offset in [0, 64 * MIB, 192 * MIB] {
        let region = part(offset, offset, 64 * MIB);
        stage.add(region);
        stage.remove_with(region, offset, &[]);
    }
    stage.finish();
}
