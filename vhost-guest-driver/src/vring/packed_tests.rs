// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Packed rings.

use super::notify::{ALWAYS, AT_POSITION, NEVER};
use super::*;
use crate::fake_packed::{PackedBench, PackedRing, START};
use crate::fake_ring::{Noise, GPA, INDIRECT, LEN, USER, WRITE};
use crate::log::DirtyLog;

const PLAIN: VirtioFeatures = VirtioFeatures::VERSION_1;
const EVENT: VirtioFeatures = PLAIN.union(VirtioFeatures::RING_EVENT_IDX);
const TABLES: VirtioFeatures = PLAIN.union(VirtioFeatures::RING_INDIRECT_DESC);

/// The fault that a ring of 4 gives.
fn fault_of(features: VirtioFeatures, prepare: impl FnOnce(&mut PackedRing)) -> Option<RingFault> {
    let mut bench = PackedBench::new(4, features);
    prepare(&mut bench.guest);
    bench.drain();
    if bench.vring.fault().is_some() {
        assert!(!bench.vring.is_active());
    }
    bench.vring.fault()
}

#[test]
fn goes_round_the_ring_many_times() {
    for num in [1, 2, 5, 8] {
        let mut bench = PackedBench::new(num, PLAIN);
        for round in 0..5000u32 {
            let count = 1 + round as u16 % num;
            bench.guest.write(GPA + 0x5000, &round.to_le_bytes());
            let mut chain = vec![(GPA + 0x5000, 4, 0)];
            chain.resize(count.into(), (GPA + 0x5008, 1, WRITE));
            bench.guest.add(round as u16, &chain);
            let written = u32::from(count) - 1;
            assert_eq!(bench.drain(), [(round.to_le_bytes().to_vec(), written)]);
            assert_eq!(bench.guest.used(), Some((round as u16, written)));
            assert_eq!(bench.guest.used(), None);
        }
    }
}

#[test]
fn uses_requests_in_any_order() {
    let mut bench = PackedBench::new(6, PLAIN);
    for round in 0..100u16 {
        let ids = [round, 1000 + round, 2000 + round];
        for (count, id) in (1..).zip(ids) {
            bench.guest.add(id, &vec![(GPA + 0x5000, 1, 0); count]);
        }
        let mut ring = bench.ring();
        let mut chains: Vec<_> = core::iter::from_fn(|| ring.next_chain()).collect();
        chains.rotate_left(usize::from(round) % 3);
        for chain in chains {
            ring.complete(chain, 0);
        }
        let mut used = ids.to_vec();
        used.rotate_left(usize::from(round) % 3);
        for id in used {
            assert_eq!(bench.guest.used(), Some((id, 0)));
        }
    }
}

#[test]
fn takes_indirect_tables_as_a_whole() {
    let mut bench = PackedBench::new(4, TABLES);
    bench.guest.write(GPA + 0x5000, b"abcdef");
    // Links and IDs in there have no meaning (virtio 1.2 §2.8.7).
    let table = [
        (GPA + 0x5002, 2u32, 9u16, 0u16),
        (GPA + 0x5004, 2, 9, 1),
        (GPA + 0x6000, 9, 9, WRITE),
    ];
    for (i, (address, len, id, flags)) in (0..).zip(table) {
        let mut descriptor = address.to_le_bytes().to_vec();
        descriptor.extend(len.to_le_bytes());
        descriptor.extend(id.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        bench.guest.write(GPA + 0x9004 + 16 * i, &descriptor);
    }
    let chain = [(GPA + 0x5000, 2, 0), (GPA + 0x9004, 48, INDIRECT)];
    bench.guest.add(3, &chain);
    assert_eq!(bench.drain(), [(b"abcdef".to_vec(), 9)]);
    assert_eq!(bench.guest.used(), Some((3, 9)));
}

#[test]
fn rejects_indirect_descriptors_where_none_may_be() {
    let not_negotiated = fault_of(PLAIN, |guest| {
        guest.add(1, &[(GPA + 0x9000, 16, INDIRECT)]);
    });
    assert_eq!(not_negotiated, Some(RingFault::Indirect));
    let with_next = fault_of(TABLES, |guest| {
        guest.add(1, &[(GPA + 0x9000, 16, INDIRECT), (GPA, 1, 0)]);
    });
    assert_eq!(with_next, Some(RingFault::Indirect));
    let nested = fault_of(TABLES, |guest| {
        let window = &guest.window;
        window.store_le(USER + 0x9000, GPA + 0xa000).unwrap();
        window.store_le(USER + 0x9008, 16u32).unwrap();
        window.store_le(USER + 0x900e, INDIRECT).unwrap();
        guest.add(1, &[(GPA + 0x9000, 16, INDIRECT)]);
    });
    assert_eq!(nested, Some(RingFault::Indirect));
    for len in [0, 15, 17, 16 * 1025, u32::MAX] {
        let fault = fault_of(TABLES, |guest| guest.add(1, &[(GPA, len, INDIRECT)]));
        assert_eq!(fault, Some(RingFault::IndirectLen(len)));
    }
}

#[test]
fn rejects_chains_without_an_end_and_too_many() {
    let endless = fault_of(PLAIN, |guest| {
        for i in 0..4 {
            guest.put(i, GPA, 1, 0, 1 | PackedRing::available(START));
        }
    });
    assert_eq!(endless, Some(RingFault::Loop));
    // More and more, while the backend takes without completing.
    let mut bench = PackedBench::new(4, PLAIN);
    for i in 0..4 {
        bench.guest.put(i, GPA, 1, 0, PackedRing::available(START));
    }
    let mut ring = bench.ring();
    let chains: Vec<_> = core::iter::from_fn(|| ring.next_chain()).collect();
    assert_eq!(chains.len(), 4);
    bench.guest.put(0, GPA, 1, 0, PackedRing::available(0));
    assert!(bench.ring().next_chain().is_none());
    assert_eq!(bench.vring.fault(), Some(RingFault::TooManyAvailable));
}

#[test]
fn rejects_addresses_outside_the_memory() {
    for (address, len, bad) in [
        (GPA - 1, 1, GPA - 1),
        (GPA + LEN - 1, 2, GPA + LEN),
        (u64::MAX, 1, u64::MAX),
    ] {
        for flags in [0, WRITE] {
            let fault = fault_of(PLAIN, |guest| guest.add(1, &[(address, len, flags)]));
            assert_eq!(fault, Some(RingFault::Address(bad)));
        }
    }
    let back = fault_of(PLAIN, |guest| {
        guest.add(1, &[(GPA, 1, WRITE), (GPA, 1, 0)]);
    });
    assert_eq!(back, Some(RingFault::Direction));
}

#[test]
fn rejects_bases_and_sizes_that_no_packed_ring_has() {
    for (base, good) in [
        (0, true),
        (0x8003_8003, true),
        (0x8003_0000, true),
        (0x8004_8003, false),
        (0x8003_0004, false),
        (0x7fff_7fff, false),
    ] {
        let mut bench = PackedBench::new(4, PLAIN);
        bench.vring.stop();
        assert_eq!(bench.start(PLAIN, base), good, "{base:#x}");
    }
    let mut vring = Vring::default();
    vring.set_features(VirtioFeatures::RING_PACKED);
    assert!(!vring.set_num(0) && !vring.set_num(32769));
    assert!(vring.set_num(32768) && vring.set_num(3));
    // Nor does a split one have what this had.
    let memory = PackedBench::new(4, PLAIN).memory;
    assert!(vring.set_base(0x8000_8000));
    assert!(!vring.start(&memory, PLAIN));
}

#[test]
fn begins_with_both_wrap_counters_at_1_and_goes_on_where_it_stopped() {
    let mut bench = PackedBench::new(4, PLAIN);
    bench.vring = Vring::default();
    let features = PLAIN | VirtioFeatures::RING_PACKED;
    bench.vring.set_features(features);
    assert!(bench.vring.set_num(4));
    assert!(bench
        .vring
        .set_address(bench.guest.address(0), &bench.memory));
    bench.vring.enabled = true;
    assert!(bench.vring.start(&bench.memory, features));
    bench.guest.add(1, &[(GPA, 1, 0); 3]);
    assert_eq!(bench.drain().len(), 1);
    let base = bench.vring.stop();
    assert_eq!(base, 0x8003_8003);
    assert!(bench.guest.used().is_some());
    bench.guest.add(2, &[(GPA, 2, 0); 2]);
    assert!(bench.drain().is_empty());
    bench.vring = Vring::default();
    assert!(bench.start(PLAIN, base));
    assert_eq!(bench.drain(), [(vec![0; 4], 0)]);
    assert_eq!(bench.guest.used(), Some((2, 0)));
    assert_eq!(bench.vring.stop(), 0x0001_0001);
}

#[test]
fn keeps_its_kind_while_it_runs() {
    let mut bench = PackedBench::new(4, PLAIN);
    bench.vring.set_features(PLAIN);
    bench.vring.memory_changed(&bench.memory);
    bench.guest.add(1, &[(GPA, 1, 0)]);
    assert_eq!(bench.drain().len(), 1);
    assert_eq!(bench.guest.used(), Some((1, 0)));
}

#[test]
fn calls_as_the_event_area_says() {
    let mut bench = PackedBench::new(4, EVENT);
    assert!(bench.vring.take_call(), "the first time, to be sure");
    assert!(!bench.vring.take_call(), "nothing new was used");
    // One is used at each of these positions.
    for (at, wanted, calls) in [
        (START, (START, ALWAYS), true),
        (START | 1, (START | 1, NEVER), false),
        (START | 2, (START | 2, AT_POSITION), true),
        (START | 3, (START | 2, AT_POSITION), false),
        (0, (START | 3, AT_POSITION), false),
        (1, (1, AT_POSITION), true),
        (2, (START | 2, AT_POSITION), false),
        (3, (0x7fff, AT_POSITION), false),
    ] {
        assert_eq!(bench.guest.next, at);
        bench.guest.want(wanted.0, wanted.1);
        bench.guest.add(1, &[(GPA, 1, 0)]);
        bench.drain();
        assert!(bench.guest.used().is_some());
        assert_eq!(bench.vring.take_call(), calls, "{at:#x}");
    }
}

#[test]
fn calls_after_whole_rounds() {
    let mut bench = PackedBench::new(2, EVENT);
    bench.vring.take_call();
    bench.guest.want(START, AT_POSITION);
    // Where it stood before, and yet it has moved.
    for id in 0..4 {
        bench.guest.add(id, &[(GPA, 1, 0)]);
        bench.drain();
        assert!(bench.guest.used().is_some());
    }
    assert_eq!(bench.guest.seen, START);
    assert!(bench.vring.take_call());
    // One request that takes all of the ring.
    bench.guest.want(START | 1, AT_POSITION);
    bench.guest.add(1, &[(GPA, 1, 0); 2]);
    bench.drain();
    assert!(bench.vring.take_call());
}

#[test]
fn asks_for_kicks_and_sees_what_came_before() {
    for features in [PLAIN, EVENT] {
        let mut bench = PackedBench::new(4, features);
        bench.vring.suppress_kicks();
        assert_eq!(bench.guest.wanted().1, NEVER);
        bench.guest.add(1, &[(GPA, 1, 0); 3]);
        assert!(bench.vring.request_kicks());
        bench.drain();
        assert!(!bench.vring.request_kicks());
        let wanted = match features == EVENT {
            true => (START | 3, AT_POSITION),
            false => (0, ALWAYS),
        };
        assert_eq!(bench.guest.wanted(), wanted);
    }
}

#[test]
fn logs_the_ring_where_it_is() {
    let mut bench = PackedBench::new(4, PLAIN);
    let (size, at) = (1 << 17, 0x38_0000);
    let area = vhost_guest_msg::LogArea::new(size, at).unwrap();
    let log = DirtyLog::new(bench.memory.window(), area).unwrap();
    bench.memory.set_logging(true);
    bench.memory.set_log(log);
    bench.vring.stop();
    let address = VringAddr {
        log_used: true,
        ..bench.guest.address(0)
    };
    assert!(bench.vring.set_address(address, &bench.memory));
    let features = PLAIN | VirtioFeatures::RING_PACKED;
    assert!(bench.vring.start(&bench.memory, features));
    bench.guest.add(1, &[(GPA + 0x5000, 1, WRITE)]);
    bench.vring.suppress_kicks();
    assert_eq!(bench.drain().len(), 1);
    let mut dirty = Vec::new();
    for byte in 0..size {
        let bits: u8 = bench.guest.window.load_le(at + byte).unwrap();
        for bit in (0..8).filter(|bit| bits >> bit & 1 == 1) {
            dirty.push((8 * byte + bit) << 12);
        }
    }
    // The ring, the device's event area, the buffer.
    assert_eq!(dirty, [GPA, GPA + 0x3000, GPA + 0x5000]);
}

#[test]
fn survives_rings_full_of_noise() {
    let mut noise = Noise::new(1);
    let mut bench = PackedBench::new(9, TABLES | EVENT);
    let mut served = 0;
    for _ in 0..5000 {
        for slot in 0..9 {
            let address = match noise.below(16) {
                0 => noise.next(),
                _ => GPA + noise.below(LEN),
            };
            let len = match noise.below(16) {
                0 => noise.next() as u32,
                n => (n * 16) as u32,
            };
            let flags = (noise.next() as u16) & 0x8087;
            bench
                .guest
                .put(slot, address, len, noise.next() as u16, flags);
        }
        bench.guest.want(noise.next() as u16, noise.below(4) as u16);
        served += bench.drain().len();
        bench.vring.take_call();
        bench.vring.request_kicks();
        let next = bench.vring.stop() & 0xffff;
        assert!(bench.start(TABLES | EVENT, next << 16 | next));
    }
    assert!(served > 500, "{served}");
}
