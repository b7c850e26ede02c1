// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;
use crate::fake::{Fake, FakeTransport};
use crate::queue::QUEUE_SIZE;
use crate::transport::InterruptMode;
use std::sync::Arc;

fn open(fake: &Arc<Fake>) -> Result<Device<FakeTransport>, Error> {
    Device::open(FakeTransport(fake.clone()))
}

#[test]
fn initialises_in_the_order_of_the_specification() {
    let fake = Fake::new(3);
    let device = open(&fake).unwrap();
    assert_eq!(device.max_queues(), 3);
    assert_eq!(device.endian(), Endian::Little);
    assert_eq!(device.uuid().unwrap(), [7; 16]);
    let state = fake.state();
    assert_eq!(state.status, 0xf);
    assert_eq!(state.accepted, F_VERSION_1 | F_RING_EVENT_IDX);
    assert_eq!(state.config_vector, 0);
    let vectors: Vec<_> = state.queues.iter().map(|q| q.vector).collect();
    assert_eq!(vectors, [1, 2, 3, 4]);
    assert_eq!(state.kick_vectors, [5, 6, 7]);
    assert!(state
        .queues
        .iter()
        .all(|q| q.enabled && q.size == QUEUE_SIZE));
    // Table entries of the vectors in use, and no others.
    assert_eq!(state.msix_table[4 * 7 + 2], 0x107);
    assert_eq!(state.msix_table[4 * 8 + 2], 0);
}

#[test]
fn needs_version_1_and_features_ok() {
    let fake = Fake::new(1);
    fake.state().offered = F_RING_EVENT_IDX;
    assert_eq!(
        open(&fake).err(),
        Some(Error::FeaturesRefused(F_RING_EVENT_IDX))
    );
    let fake = Fake::new(1);
    fake.state().refuse_features = true;
    assert!(matches!(open(&fake).err(), Some(Error::FeaturesRefused(_))));
    // The device was reset on the way out.
    assert_eq!(fake.state().resets, 2);
}

#[test]
fn needs_a_window_and_memory_for_its_queues() {
    // The transport gives access to a part of what the device has.
    let fake = Fake::with_window(1, Window::allocate(4096).unwrap());
    assert_eq!(open(&fake).err(), Some(Error::NoWindow));
    let fake = Fake::new(1);
    fake.state().dma_used = fake.ram.len();
    assert_eq!(open(&fake).err(), Some(Error::NoDmaMemory));
}

#[test]
fn refuses_a_device_that_goes_past_the_iommu() {
    let fake = Fake::new(1);
    fake.state().behind_iommu = true;
    let error = Device::open(FakeTransport(fake.clone())).err();
    assert_eq!(error, Some(Error::PastIommu));
    // It never learns of addresses.
    assert_eq!(fake.state().accepted, 0);
    assert_eq!(fake.state().queues[0].addresses, [0; 3]);
    fake.state().offered |= F_ACCESS_PLATFORM;
    let _device = Device::open(FakeTransport(fake.clone())).unwrap();
    assert_ne!(fake.state().accepted & F_ACCESS_PLATFORM, 0);
}

#[test]
fn accepts_access_platform_and_big_endian_messages() {
    let fake = Fake::new(1);
    fake.state().offered |= F_ACCESS_PLATFORM | F_BIG_ENDIAN;
    let device = open(&fake).unwrap();
    assert_eq!(device.endian(), Endian::Big);
    let accepted = fake.state().accepted;
    assert_eq!(
        accepted & (F_ACCESS_PLATFORM | F_BIG_ENDIAN),
        F_ACCESS_PLATFORM | F_BIG_ENDIAN
    );
}

#[test]
fn rejects_impossible_configurations() {
    for (at, value) in [(0, 0u32), (0, 257), (0, u32::MAX), (4, 511)] {
        let fake = Fake::new(1);
        fake.state().device[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let result = open(&fake).err();
        assert!(matches!(result, Some(Error::BadConfiguration { .. })));
    }
}

#[test]
fn rejects_too_few_doorbells_and_queues() {
    let fake = Fake::new(1);
    // Room for notifications 0 and 1, but not for the log's.
    fake.state().config_space[0xa0..0xa4].copy_from_slice(&8u32.to_le_bytes());
    assert_eq!(open(&fake).err(), Some(Error::BadCapability("doorbells")));
    let fake = Fake::new(1);
    fake.state().queues.truncate(3);
    assert_eq!(open(&fake).err(), Some(Error::BadQueue { queue: 3 }));
    let fake = Fake::new(1);
    fake.state().queues[2].max_size = 0;
    assert_eq!(open(&fake).err(), Some(Error::BadQueue { queue: 2 }));
    let fake = Fake::new(1);
    fake.state().config_space[0x7c] = 8;
    assert_eq!(open(&fake).err(), Some(Error::BadQueue { queue: 2 }));
}

#[test]
fn gives_up_on_a_reset_that_does_not_end() {
    let fake = Fake::new(1);
    fake.state().reset_hangs = true;
    assert_eq!(open(&fake).err(), Some(Error::ResetTimeout));
}

#[test]
fn shares_vectors_when_there_are_few() {
    let fake = Fake::new(3);
    fake.state().mode = Some(InterruptMode::Platform { vectors: 2 });
    let device = open(&fake).unwrap();
    assert!(!device.is_polling());
    assert_eq!(fake.state().kick_vectors, [1, 1, 1]);
    fake.kick(2);
    let events = device.wait(None);
    assert!(events.messages && !events.config);
    assert!(device.kicked(&events, 0) && device.kicked(&events, 2));
}

#[test]
fn tells_events_apart() {
    let fake = Fake::new(3);
    let device = open(&fake).unwrap();
    fake.kick(1);
    let events = device.wait(None);
    assert!(!events.messages && !events.config);
    assert!(device.kicked(&events, 1));
    assert!(!device.kicked(&events, 0) && !device.kicked(&events, 300));
    fake.disconnect();
    assert!(device.wait(None).config);
    assert!(!device.wait(None).config);
}

#[test]
fn polls_the_status_less_often_than_memory() {
    let fake = Fake::new(1);
    fake.state().mode = Some(InterruptMode::Unheard { vectors: 9 });
    let device = open(&fake).unwrap();
    assert!(device.is_polling());
    assert_eq!(fake.state().kick_vectors, [5]);
    let looks = (0..320).map(|_| device.wait(Some(Duration::ZERO)));
    let looks: Vec<_> = looks.collect();
    assert!(looks
        .iter()
        .all(|events| events.messages && device.kicked(events, 0)));
    assert_eq!(looks.iter().filter(|events| events.config).count(), 10);
}

#[test]
fn polls_when_interrupts_are_refused_or_missing() {
    let refusing = Fake::new(1);
    refusing.state().refuse_vectors = true;
    let without = Fake::new(1);
    without.state().mode = Some(InterruptMode::Polling);
    for fake in [refusing, without] {
        let device = open(&fake).unwrap();
        assert!(device.is_polling());
        let events = device.wait(None);
        assert!(events.config && events.messages && device.kicked(&events, 0));
    }
}

#[test]
fn rings_the_doorbells_of_the_specification() {
    let fake = Fake::new(3);
    let device = open(&fake).unwrap();
    device.call(2);
    device.signal_error(0);
    device.call(3);
    device.signal_error(u16::MAX);
    assert_eq!(fake.state().doorbells, [2, 3]);
}

#[test]
fn exchanges_messages_on_the_right_queues() {
    let fake = Fake::new(1);
    let mut device = open(&fake).unwrap();
    let mut message = Vec::new();
    assert!(!device.receive(Inbound::Requests, &mut message).unwrap());
    for round in 0..100u8 {
        fake.give(0, &[round; 12]);
        fake.give(2, &[round; 20]);
        assert!(device.receive(Inbound::Requests, &mut message).unwrap());
        assert_eq!(message, [round; 12]);
        assert!(device.receive(Inbound::Replies, &mut message).unwrap());
        assert_eq!(message, [round; 20]);
        assert!(device.send(Outbound::Replies, &[round; 13]).unwrap());
        assert!(device.send(Outbound::Requests, &[round; 14]).unwrap());
        assert_eq!(fake.take(1).unwrap(), [round; 13]);
        assert_eq!(fake.take(3).unwrap(), [round; 14]);
    }
}

#[test]
fn keeps_to_the_message_size_of_the_device() {
    let fake = Fake::new(1);
    fake.state().device[4..8].copy_from_slice(&512u32.to_le_bytes());
    let mut device = open(&fake).unwrap();
    assert!(device.send(Outbound::Replies, &[0; 512]).unwrap());
    let result = device.send(Outbound::Replies, &[0; 513]);
    assert_eq!(result, Err(Error::MessageTooLarge(513)));
}

#[test]
fn states_its_type_and_follows_the_status() {
    let fake = Fake::new(1);
    let mut device = open(&fake).unwrap();
    device.set_device_type(2).unwrap();
    assert_eq!(
        device.set_device_type(1),
        Err(Error::WrongDeviceType {
            device: 2,
            backend: 1
        })
    );
    assert!(device.set_backend_up(true));
    fake.connect();
    let status = device.status();
    assert!(status.backend_up && status.frontend_up && !status.needs_reset);
    fake.disconnect();
    assert!(device.status().needs_reset);
    device.reset().unwrap();
    assert_eq!(device.status(), Status::default());
    assert_eq!(device.device_type(), 0);
    fake.state().backend_up_sticks = false;
    assert!(!device.set_backend_up(true));
}

#[test]
fn works_again_after_a_reset_in_the_middle() {
    let fake = Fake::new(1);
    let mut device = open(&fake).unwrap();
    let used = fake.state().dma_used;
    fake.give(0, b"one");
    device.send(Outbound::Replies, b"two").unwrap();
    device.reset().unwrap();
    let mut message = Vec::new();
    assert!(!device.receive(Inbound::Requests, &mut message).unwrap());
    assert_eq!(fake.take(1), None);
    fake.give(0, b"three");
    assert!(device.receive(Inbound::Requests, &mut message).unwrap());
    assert_eq!(message, b"three");
    assert_eq!(fake.state().dma_used, used, "a reset costs no memory");
}

#[test]
fn resets_the_device_when_dropped() {
    let fake = Fake::new(1);
    drop(open(&fake).unwrap());
    let state = fake.state();
    assert_eq!((state.status, state.resets), (0, 2));
}
