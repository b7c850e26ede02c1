// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::sync::Arc;

use vhost_guest_vmm_traits::test_utils::TestVmm;

use super::*;
use crate::guest::interrupts::{Event, Interrupts};
use crate::guest::registers::testing::Peer;

struct Driver {
    common: CommonConfig,
    interrupts: Interrupts,
}

impl Driver {
    fn new(offered: u64) -> Self {
        let vmm = Arc::new(TestVmm::new());
        let signaller = Arc::clone(&Peer::new().signaller);
        Driver {
            common: CommonConfig::new(offered, 4, 256),
            interrupts: Interrupts::new(vmm, signaller, 4, 2).unwrap(),
        }
    }

    fn read(&self, offset: u64, length: usize) -> u64 {
        let mut data = [0; 8];
        let queue = Event::Queue(self.common.queue_select());
        let vectors = Vectors {
            config: self.interrupts.vector(Event::Config),
            queue: self.interrupts.vector(queue),
        };
        self.common.read(offset, &mut data[..length], 7, vectors);
        u64::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, length: usize, value: u64) -> Option<Written> {
        let data = value.to_le_bytes();
        let (event, vector) = match self.common.write(offset, &data[..length])? {
            Written::ConfigVector(vector) => (Event::Config, vector),
            Written::QueueVector(queue, vector) => (Event::Queue(queue), vector),
            other => return Some(other),
        };
        self.interrupts.set_vector(event, vector);
        None
    }

    fn accept(&mut self, features: u64) {
        self.write(0x08, 4, 0);
        self.write(0x0C, 4, features & 0xFFFF_FFFF);
        self.write(0x08, 4, 1);
        self.write(0x0C, 4, features >> 32);
    }

    fn status(&mut self, status: u8) -> (Option<Written>, u64) {
        let effect = self.write(0x14, 1, u64::from(status));
        (effect, self.read(0x14, 1))
    }

    fn set_up_queue(&mut self, queue: u64) -> Option<Written> {
        self.write(0x16, 2, queue);
        self.write(0x18, 2, 64);
        self.write(0x20, 4, 0x1000);
        self.write(0x24, 4, 1);
        self.write(0x28, 8, 0x2_0000_0002);
        self.write(0x30, 8, 0x3_0000_0004);
        self.write(0x1C, 2, 1)
    }
}

const OFFERED: u64 = feature::offered(false);

fn running() -> Driver {
    let mut driver = Driver::new(OFFERED);
    driver.accept(OFFERED);
    driver.status(1 | 2 | 8);
    assert!(matches!(driver.status(15), (Some(Written::DriverOk), 15)));
    driver
}

#[test]
fn offers_what_the_device_can_do() {
    let mut driver = Driver::new(OFFERED);
    assert_eq!(driver.read(0x04, 4), OFFERED & 0xFFFF_FFFF);
    driver.write(0x00, 4, 1);
    assert_eq!(driver.read(0x04, 4), OFFERED >> 32);
    assert_eq!(driver.read(0x00, 4), 1);
    driver.write(0x00, 4, 2);
    assert_eq!(driver.read(0x04, 4), 0);
    assert_eq!(feature::offered(true) & !OFFERED, feature::ACCESS_PLATFORM);
    let big = OFFERED & feature::BIG_ENDIAN != 0;
    assert_eq!(big, cfg!(target_endian = "big"));
    assert_eq!(driver.read(0x12, 2), 4);
    assert_eq!(driver.read(0x15, 1), 7);
}

#[test]
fn accepts_features_only_with_version_1_and_only_offered_ones() {
    let refused = [
        0,
        OFFERED & !feature::VERSION_1,
        OFFERED | 2,
        OFFERED | 1 << 63,
    ];
    for features in refused {
        let mut driver = Driver::new(OFFERED);
        driver.accept(features);
        let (effect, status) = driver.status(1 | 2 | 8);
        let fault = Written::Fault(RegisterFault::Version1);
        let old = features & feature::VERSION_1 == 0;
        let expected = old.then(|| format!("{fault:?}"));
        assert_eq!(effect.map(|effect| format!("{effect:?}")), expected);
        assert_eq!((status, driver.common.negotiated()), (3, 0));
        // Not without FEATURES_OK.
        assert!(matches!(driver.status(1 | 2 | 4), (None, 3)));
        assert!(matches!(driver.status(1 | 2 | 4 | 8), (_, 3)));
        // It may try again.
        driver.accept(feature::VERSION_1 | OFFERED & feature::BIG_ENDIAN);
        assert!(matches!(driver.status(1 | 2 | 8), (None, 11)));
    }
}

#[test]
fn insists_on_big_endian_if_it_offers_it() {
    let mut driver = Driver::new(OFFERED | feature::BIG_ENDIAN);
    driver.accept(feature::VERSION_1);
    assert_eq!(driver.status(8).1, 0);
    driver.accept(feature::VERSION_1 | feature::BIG_ENDIAN);
    assert_eq!(driver.status(8).1, 8);
}

#[test]
fn settles_features_once() {
    let mut driver = running();
    driver.accept(feature::VERSION_1);
    assert_eq!(driver.common.negotiated(), OFFERED);
    driver.write(0x08, 4, 2);
    assert_eq!(driver.read(0x0C, 4), 0);
}

#[test]
fn starts_once() {
    let mut driver = running();
    assert!(driver.status(15).0.is_none());
    assert!(matches!(driver.status(4), (None, 15)));
}

#[test]
fn keeps_needs_reset_until_reset() {
    let mut driver = running();
    assert!(driver.common.set_needs_reset());
    assert!(!driver.common.set_needs_reset());
    for status in [15, 1, 0x80 | 15] {
        assert_ne!(driver.status(status).1 & 0x40, 0);
    }
    assert!(matches!(driver.status(0).0, Some(Written::Reset)));
    driver.common.reset();
    assert_eq!(driver.read(0x14, 1), 0);
    // The bit is not the driver's to set.
    assert_eq!(driver.status(0x41).1, 1);
}

#[test]
fn does_not_start_out_of_order() {
    let mut driver = Driver::new(OFFERED);
    driver.accept(OFFERED);
    driver.status(11);
    driver.common.set_needs_reset();
    assert!(driver.status(15).0.is_none());
}

#[test]
fn shows_a_reset_until_it_is_done() {
    let mut driver = running();
    assert!(matches!(driver.status(0), (Some(Written::Reset), 15)));
    assert!(matches!(driver.status(0), (None, 15)));
    assert!(matches!(driver.status(1), (None, 15)));
    driver.common.reset();
    assert!(matches!(driver.status(1), (None, 1)));

    let mut fresh = Driver::new(OFFERED);
    assert!(matches!(fresh.status(0).0, Some(Written::Reset)));
    assert_ne!(fresh.read(0x14, 1), 0);
}

#[test]
fn takes_the_setup_of_a_queue() {
    let mut driver = running();
    assert_eq!(driver.common.enabled_queue(2), None);
    assert!(matches!(
        driver.set_up_queue(2),
        Some(Written::QueueEnabled)
    ));
    let setup = QueueSetup {
        size: 64,
        descriptors: 0x1_0000_1000,
        avail: 0x2_0000_0002,
        used: 0x3_0000_0004,
    };
    assert_eq!(driver.common.enabled_queue(2), Some(setup));
    assert_eq!(driver.read(0x18, 2), 64);
    assert_eq!(driver.read(0x1C, 2), 1);
    assert_eq!(driver.read(0x1E, 2), 2);
    assert_eq!(driver.read(0x20, 8), setup.descriptors);
    assert_eq!(driver.read(0x28, 4), 2);
    assert_eq!(driver.read(0x2C, 4), 2);
    assert_eq!(driver.read(0x30, 8), setup.used);
    assert_eq!(driver.common.enabled_queue(1), None);
    assert_eq!(driver.common.enabled_queue(4), None);
}

#[test]
fn keeps_the_other_half_of_an_address() {
    let mut driver = running();
    for register in [0x20, 0x28, 0x30] {
        driver.write(register, 8, 0x1111_2222_3333_4444);
        driver.write(register, 4, 0x5555_6666);
        assert_eq!(driver.read(register, 8), 0x1111_2222_5555_6666);
        driver.write(register + 4, 4, 0x7777_8888);
        assert_eq!(driver.read(register, 8), 0x7777_8888_5555_6666);
    }
}

#[test]
fn keeps_the_setup_of_a_queue_in_use() {
    let mut driver = running();
    driver.set_up_queue(0);
    let setup = driver.common.enabled_queue(0);
    driver.write(0x18, 2, 32);
    for offset in (0x20..0x38).step_by(4) {
        driver.write(offset, 4, 0x5000);
    }
    assert!(driver.write(0x1C, 2, 1).is_none());
    assert!(driver.write(0x1C, 2, 0).is_none());
    assert_eq!(driver.common.enabled_queue(0), setup);
}

#[test]
fn refuses_queue_sizes_that_are_none() {
    let mut driver = running();
    for size in [0, 3, 512, 0x8000, 0xFFFF] {
        driver.write(0x18, 2, size);
        assert_eq!(driver.read(0x18, 2), 256);
    }
    driver.write(0x18, 2, 1);
    assert_eq!(driver.read(0x18, 2), 1);
}

#[test]
fn refuses_rings_that_cannot_be() {
    let bad = [
        (0x20, 0x1008),
        (0x28, 0x1001),
        (0x30, 0x1002),
        (0x20, u64::MAX - 15),
        (0x28, u64::MAX - 1),
        (0x30, u64::MAX - 3),
    ];
    for (register, address) in bad {
        let mut driver = running();
        driver.write(register, 8, address);
        let fault = RegisterFault::QueueAddress(0);
        assert!(matches!(driver.write(0x1C, 2, 1), Some(Written::Fault(f)) if f == fault));
        assert_eq!(driver.read(0x1C, 2), 0);
    }
}

#[test]
fn reads_no_vector_and_ignores_writes_with_an_invalid_select() {
    let mut driver = running();
    for select in [4, 5, 0x8000, 0xFFFF] {
        driver.write(0x16, 2, select);
        assert_eq!(driver.read(0x16, 2), select);
        assert!(driver.set_up_queue(select).is_none());
        driver.write(0x1A, 2, 0);
        assert!(driver.write(0x3A, 2, 1).is_none());
        assert_eq!(driver.read(0x1A, 2), 0xFFFF);
        for (offset, length) in [(0x18, 2), (0x1C, 2), (0x1E, 2), (0x20, 8), (0x3A, 2)] {
            assert_eq!(driver.read(offset, length), 0);
        }
    }
}

#[test]
fn maps_vectors() {
    let mut driver = running();
    assert_eq!(driver.read(0x10, 2), 0xFFFF);
    driver.write(0x10, 2, 3);
    driver.write(0x16, 2, 1);
    driver.write(0x1A, 2, 8);
    assert_eq!((driver.read(0x10, 2), driver.read(0x1A, 2)), (3, 8));
    // There are 1 + 6 + 2 vectors.
    driver.write(0x10, 2, 9);
    driver.write(0x1A, 2, 0xFFFF);
    assert_eq!(
        (driver.read(0x10, 2), driver.read(0x1A, 2)),
        (0xFFFF, 0xFFFF)
    );
}

#[test]
fn resets_one_queue() {
    let mut driver = running();
    driver.set_up_queue(1);
    driver.write(0x1A, 2, 2);
    assert!(driver.write(0x3A, 2, 0).is_none());
    assert!(matches!(
        driver.write(0x3A, 2, 1),
        Some(Written::QueueReset)
    ));
    assert!(driver.write(0x3A, 2, 1).is_none());
    assert_eq!((driver.read(0x3A, 2), driver.read(0x1C, 2)), (1, 1));
    assert_eq!(driver.common.enabled_queue(1), None);

    let Driver { common, interrupts } = &mut driver;
    for queue in [1, 0, 9] {
        if common.queue_reset_done(queue) {
            interrupts.set_vector(Event::Queue(queue), NO_VECTOR);
        }
    }
    assert_eq!((driver.read(0x3A, 2), driver.read(0x1C, 2)), (0, 0));
    assert_eq!((driver.read(0x18, 2), driver.read(0x20, 8)), (256, 0));
    assert_eq!(driver.read(0x1A, 2), 0xFFFF);
    assert!(driver.set_up_queue(1).is_some());
}

#[test]
fn resets_no_queue_unless_that_was_negotiated() {
    let mut driver = Driver::new(OFFERED);
    driver.accept(OFFERED & !feature::RING_RESET);
    driver.status(15);
    driver.set_up_queue(1);
    assert!(driver.write(0x3A, 2, 1).is_none());
    let mut driver = running();
    assert!(driver.write(0x3A, 2, 1).is_none());
}

#[test]
fn takes_registers_by_their_own_width_only() {
    let mut driver = running();
    let before: Vec<u64> = (0..0x40).map(|at| driver.read(at, 1)).collect();
    let widths = [
        (0x00, 4),
        (0x08, 4),
        (0x0C, 4),
        (0x10, 2),
        (0x14, 1),
        (0x16, 2),
    ];
    let queue = [(0x18, 2), (0x1A, 2), (0x1C, 2), (0x3A, 2)];
    let halves = (0x20..0x38).step_by(4).map(|at| (at, 4));
    let wholes = (0x20..0x38).step_by(8).map(|at| (at, 8));
    let legal: Vec<(u64, usize)> = widths
        .into_iter()
        .chain(queue)
        .chain(halves)
        .chain(wholes)
        .collect();
    for offset in 0..0x48 {
        for length in [1, 2, 4, 8] {
            if !legal.contains(&(offset, length)) {
                assert!(driver.write(offset, length, u64::MAX).is_none());
            }
        }
    }
    assert!(driver.common.write(0x16, &[1, 0, 0]).is_none());
    assert!(driver.common.write(0x16, &[]).is_none());
    let after: Vec<u64> = (0..0x40).map(|at| driver.read(at, 1)).collect();
    assert_eq!(before, after);
}

#[test]
fn takes_rings_up_to_the_end_of_the_address_space() {
    let low = QueueSetup {
        size: 64,
        descriptors: 0,
        avail: 0,
        used: 0,
    };
    assert!(low.is_valid());
    let before_end = |bytes: u64| bytes.wrapping_neg();
    // Each in two places, one step apart, of which only the lower one will do.
    for (lower, step) in [(16 * 64 + 16, 16), (6 + 2 * 64 + 2, 2), (6 + 8 * 64 + 2, 4)] {
        for (address, fits) in [(before_end(lower), true), (before_end(lower - step), false)] {
            let setup = match step {
                16 => QueueSetup {
                    descriptors: address,
                    ..low
                },
                2 => QueueSetup {
                    avail: address,
                    ..low
                },
                _ => QueueSetup {
                    used: address,
                    ..low
                },
            };
            assert_eq!(setup.is_valid(), fits, "{setup:?}");
        }
    }
}
