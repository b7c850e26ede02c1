// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device's own queues behind a virtual IOMMU.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost_guest_vmm_traits::{Access, AddressTranslator, Translation};
use vm_memory::{Bytes, GuestAddress};

use super::rig::{message, place, words, Frontend, Rig, QUEUE_SIZE};
use crate::event_loop::poller;
use crate::guest::pci::bars::COMMON;
use crate::guest::virtio::feature;

/// What guest physical address 0 is called by the driver.
pub(crate) const IOVA: u64 = 0x4000_0000_0000;
/// Bytes that are translated at a time.
const PIECE: u64 = 0x200;

#[derive(Default)]
pub(crate) struct Iommu {
    calls: AtomicUsize,
    pub(crate) unmapped: AtomicBool,
    /// Each translation takes a microsecond at least.
    slow: AtomicBool,
}

impl AddressTranslator for Iommu {
    fn translate(&self, iova: u64, length: u64, _: Access) -> io::Result<Translation> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let begin = Instant::now();
        while self.slow.load(Ordering::Relaxed) && begin.elapsed() < Duration::from_micros(1) {
            std::hint::spin_loop();
        }
        let address = iova.checked_sub(IOVA).ok_or(io::ErrorKind::NotFound)?;
        if self.unmapped.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Translation {
            guest_address: address,
            length: length.min(PIECE - address % PIECE),
        })
    }
}

fn rig(accepts: bool) -> (Rig, Arc<Iommu>) {
    let iommu = Arc::new(Iommu::default());
    let mut rig = Rig::translated(Some(Arc::clone(&iommu) as _), |builder| builder);
    if accepts {
        rig.features |= feature::ACCESS_PLATFORM;
        rig.iova = IOVA;
    }
    rig.initialise();
    (rig, iommu)
}

fn exchange(rig: &mut Rig, frontend: &mut Frontend) {
    let mut config = words(&[64 << 32]);
    config.extend([0; 4 + 64]);
    frontend.send(&message(24, 1, &config), &[]);
    assert_eq!(rig.receive(0), Some(message(24, 1, &config)));
    rig.send(1, &message(24, 5, &config));
    assert_eq!(frontend.receive(), Some(message(24, 5, &config)));
}

fn connect(rig: &mut Rig) -> Frontend {
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    let features = vhost_guest_msg::ProtocolFeatures::CONFIG;
    rig.negotiate(&mut frontend, features);
    frontend
}

#[test]
fn is_offered_with_a_translator_only() {
    let (with, _) = rig(false);
    for (mut rig, offered) in [(with, true), (Rig::new(), false)] {
        rig.initialise();
        rig.write(COMMON, &1u32.to_le_bytes());
        let high = u32::from_le_bytes(rig.read(COMMON + 4));
        assert_eq!(high & 2 != 0, offered);
    }
}

#[test]
fn messages_pass_and_a_reset_changes_nothing() {
    let (mut rig, iommu) = rig(true);
    for _ in 0..3 {
        let mut frontend = connect(&mut rig);
        exchange(&mut rig, &mut frontend);
        drop(frontend);
        assert!(rig.needs_reset());
        rig.start();
    }
    assert!(iommu.calls.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_driver_without_the_feature_gives_physical_addresses() {
    let (mut rig, iommu) = rig(false);
    let mut frontend = connect(&mut rig);
    exchange(&mut rig, &mut frontend);
    assert_eq!(iommu.calls.load(Ordering::Relaxed), 0);
}

#[test]
fn a_failing_translation_is_the_guests_fault() {
    let (mut rig, iommu) = rig(true);
    let mut frontend = connect(&mut rig);
    iommu.unmapped.store(true, Ordering::Relaxed);
    frontend.send(&message(1, 1, &[]), &[]);
    assert!(rig.needs_reset());
    // Of the rings too, when they are set up.
    rig.start();
    assert!(rig.needs_reset());
    iommu.unmapped.store(false, Ordering::Relaxed);
    rig.start();
    let mut frontend = connect(&mut rig);
    exchange(&mut rig, &mut frontend);
}

#[test]
fn a_buffer_at_a_physical_address_is_the_guests_fault() {
    let (mut rig, _) = rig(true);
    rig.posts = [0; 4];
    rig.start();
    rig.backend_up();
    let _frontend = rig.connect();
    rig.run();
    rig.iova = 0;
    rig.post(0);
    assert!(rig.needs_reset());
}

/// Long chains of long buffers, of which each page has to be translated.
#[test]
fn a_turn_has_an_end_however_much_there_is_to_translate() {
    const CHAIN: u64 = 16;
    let (mut rig, iommu) = rig(true);
    iommu.slow.store(true, Ordering::Relaxed);
    rig.posts = [0; 4];
    rig.start();
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    // All buffers are one chain: no message is looked at.
    let table = place(0).descriptors;
    for n in 0..CHAIN {
        let mut descriptor = words(&[IOVA + (1 << 20)]);
        descriptor.extend((512u32 << 10).to_le_bytes());
        let flags: u16 = if n + 1 < CHAIN { 3 } else { 2 };
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend((n as u16 + 1).to_le_bytes());
        let entry = GuestAddress(table + 16 * n);
        rig.memory.write_slice(&descriptor, entry).unwrap();
    }
    // Every element of the available ring is 0, the chain's head.
    let avail = place(0).avail;
    let buffers = QUEUE_SIZE;
    for slot in 0..u64::from(buffers) {
        let element = GuestAddress(avail + 4 + 2 * slot);
        rig.memory.write_obj(0u16, element).unwrap();
    }
    rig.memory
        .write_obj(buffers, GuestAddress(avail + 2))
        .unwrap();
    for _ in 0..buffers {
        frontend.send(&message(3, 1, &[]), &[]);
    }
    rig.notify(0);
    let epoll = rig.device.poller_fd().unwrap();
    let mut turns = 0;
    while rig.used(0) < buffers {
        let ready = poller::wait(epoll.as_fd(), false).unwrap();
        assert!(!ready.is_empty(), "stopped after {} messages", rig.used(0));
        let before = iommu.calls.load(Ordering::Relaxed);
        rig.device.turn(&ready);
        let translations = iommu.calls.load(Ordering::Relaxed) - before;
        assert!(translations < 16_384, "{translations} in a turn");
        turns += 1;
    }
    assert!(turns > 1, "they are not so many");
}
