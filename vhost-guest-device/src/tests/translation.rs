// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device's own queues behind a virtual IOMMU.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use vhost_guest_vmm_traits::{Access, AddressTranslator, Translation};

use super::rig::{message, words, Frontend, Rig};
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
}

impl AddressTranslator for Iommu {
    fn translate(&self, iova: u64, length: u64, _: Access) -> io::Result<Translation> {
        self.calls.fetch_add(1, Ordering::Relaxed);
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
