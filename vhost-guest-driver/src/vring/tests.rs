// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::notify::{NO_INTERRUPT, NO_NOTIFY};
use super::*;
use crate::fake_ring::{Bench, GuestRing, Noise, GPA, INDIRECT, LEN, TURN, USER, WRITE};

const PLAIN: VirtioFeatures = VirtioFeatures::VERSION_1;
const EVENT: VirtioFeatures = PLAIN.union(VirtioFeatures::RING_EVENT_IDX);
const TABLES: VirtioFeatures = PLAIN.union(VirtioFeatures::RING_INDIRECT_DESC);

/// The fault that a chain gives.
fn fault_of(features: VirtioFeatures, prepare: impl FnOnce(&mut GuestRing)) -> Option<RingFault> {
    let mut bench = Bench::new(8, features);
    prepare(&mut bench.guest);
    assert!(bench.drain().is_empty());
    assert_eq!(bench.guest.used(), None);
    if bench.vring.fault().is_some() {
        assert!(!bench.vring.is_active());
    }
    bench.vring.fault()
}

#[test]
fn reads_then_writes_a_chain_of_several_descriptors() {
    let mut bench = Bench::new(8, PLAIN);
    bench.guest.write(GPA + 0x5003, b"hello ");
    bench.guest.write(GPA + 0x6001, b"world");
    let head = bench.guest.add(&[
        (GPA + 0x5003, 6, 0),
        (GPA + 0x6001, 5, 0),
        (GPA + 0x7000, 3, WRITE),
        (GPA + 0x7100, 4, WRITE),
    ]);
    assert_eq!(bench.drain(), [(b"hello world".to_vec(), 7)]);
    assert_eq!(bench.guest.used(), Some((head.into(), 7)));
    assert_eq!(bench.guest.read(GPA + 0x7000, 4), [0xa5, 0xa5, 0xa5, 0]);
    assert_eq!(
        bench.guest.read(GPA + 0x7100, 5),
        [0xa5, 0xa5, 0xa5, 0xa5, 0]
    );
}

#[test]
fn goes_round_the_ring_many_times() {
    let mut bench = Bench::new(8, EVENT);
    for round in 0..70_000u32 {
        bench.guest.write(GPA + 0x5000, &round.to_le_bytes());
        let head = bench
            .guest
            .add(&[(GPA + 0x5000, 4, 0), (GPA + 0x5008, 1, WRITE)]);
        assert_eq!(bench.drain(), [(round.to_le_bytes().to_vec(), 1)]);
        assert_eq!(bench.guest.used(), Some((head.into(), 1)));
    }
}

#[test]
fn follows_indirect_tables() {
    let mut bench = Bench::new(8, TABLES);
    // A misaligned table, behind a direct descriptor.
    let table = 0x9004;
    bench.guest.write(GPA + 0x5000, b"abcdef");
    for (i, (address, len, flags, next)) in [
        (GPA + 0x5002, 2, 1, 2),
        (0, 0, 0, 0),
        (GPA + 0x5004, 2, 1, 3),
        (GPA + 0x6000, 9, WRITE, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let mut descriptor = Vec::new();
        descriptor.extend(u64::to_le_bytes(address));
        descriptor.extend(u32::to_le_bytes(len));
        descriptor.extend(u16::to_le_bytes(flags));
        descriptor.extend(u16::to_le_bytes(next));
        bench.guest.write(GPA + table + 16 * i as u64, &descriptor);
    }
    let head = bench
        .guest
        .add(&[(GPA + 0x5000, 2, 0), (GPA + table, 64, INDIRECT)]);
    assert_eq!(bench.drain(), [(b"abcdef".to_vec(), 9)]);
    assert_eq!(bench.guest.used(), Some((head.into(), 9)));
}

#[test]
fn rejects_descriptor_loops() {
    let own = fault_of(PLAIN, |guest| {
        guest.put(0, GPA, 1, 1, 0);
        guest.offer(0);
    });
    assert_eq!(own, Some(RingFault::Loop));
    let pair = fault_of(PLAIN, |guest| {
        guest.put(0, GPA, 1, 1, 1);
        guest.put(1, GPA, 1, 1, 0);
        guest.offer(0);
    });
    assert_eq!(pair, Some(RingFault::Loop));
    let inside = fault_of(TABLES, |guest| {
        guest.put_at(USER + 0x9000, GPA, 1, 1, 1);
        guest.put_at(USER + 0x9010, GPA, 1, 1, 0);
        guest.add(&[(GPA + 0x9000, 32, INDIRECT)]);
    });
    assert_eq!(inside, Some(RingFault::Loop));
}

#[test]
fn rejects_an_available_index_that_jumps() {
    let fault = fault_of(PLAIN, |guest| {
        guest.avail_idx = 8;
        guest.offer(0);
    });
    assert_eq!(fault, Some(RingFault::AvailableIndex(9)));
    let back = fault_of(PLAIN, |guest| {
        guest.avail_idx = u16::MAX - 1;
        guest.offer(0);
    });
    assert_eq!(back, Some(RingFault::AvailableIndex(u16::MAX)));
}

#[test]
fn rejects_descriptors_beyond_their_table() {
    assert_eq!(
        fault_of(PLAIN, |guest| guest.offer(8)),
        Some(RingFault::DescriptorIndex(8))
    );
    let next = fault_of(PLAIN, |guest| {
        guest.put(0, GPA, 1, 1, 0xffff);
        guest.offer(0);
    });
    assert_eq!(next, Some(RingFault::DescriptorIndex(0xffff)));
    let inside = fault_of(TABLES, |guest| {
        guest.put_at(USER + 0x9000, GPA, 1, 1, 2);
        guest.add(&[(GPA + 0x9000, 32, INDIRECT)]);
    });
    assert_eq!(inside, Some(RingFault::DescriptorIndex(2)));
}

#[test]
fn rejects_indirect_descriptors_where_none_may_be() {
    let nested = fault_of(TABLES, |guest| {
        guest.put_at(USER + 0x9000, GPA + 0xa000, 16, INDIRECT, 0);
        guest.add(&[(GPA + 0x9000, 16, INDIRECT)]);
    });
    assert_eq!(nested, Some(RingFault::Indirect));
    let not_negotiated = fault_of(PLAIN, |guest| {
        guest.add(&[(GPA + 0x9000, 16, INDIRECT)]);
    });
    assert_eq!(not_negotiated, Some(RingFault::Indirect));
    let with_next = fault_of(TABLES, |guest| {
        guest.add(&[(GPA + 0x9000, 16, INDIRECT), (GPA, 1, 0)]);
    });
    assert_eq!(with_next, Some(RingFault::Indirect));
}

#[test]
fn rejects_indirect_tables_of_impossible_length() {
    for len in [0, 15, 17, 16 * 1025, u32::MAX] {
        let fault = fault_of(TABLES, |guest| {
            guest.add(&[(GPA, len, INDIRECT)]);
        });
        assert_eq!(fault, Some(RingFault::IndirectLen(len)));
    }
    let end = GPA + LEN - 16;
    let fault = fault_of(TABLES, |guest| {
        guest.add(&[(end, 32, INDIRECT)]);
    });
    assert_eq!(fault, Some(RingFault::Address(end)));
}

#[test]
fn rejects_addresses_outside_the_memory() {
    for (address, len, bad) in [
        (GPA - 1, 1, GPA - 1),
        (GPA + LEN, 1, GPA + LEN),
        (GPA + LEN - 1, 2, GPA + LEN),
        (u64::MAX, 1, u64::MAX),
        (0, u32::MAX, 0),
    ] {
        for flags in [0, WRITE] {
            let fault = fault_of(PLAIN, |guest| {
                guest.add(&[(address, len, flags)]);
            });
            assert_eq!(fault, Some(RingFault::Address(bad)));
        }
    }
}

#[test]
fn rejects_readable_behind_writable_descriptors() {
    let fault = fault_of(PLAIN, |guest| {
        guest.add(&[(GPA, 1, WRITE), (GPA, 1, 0)]);
    });
    assert_eq!(fault, Some(RingFault::Direction));
}

#[test]
fn bounds_the_pieces_of_a_request() {
    let mut bench = Bench::new(16, PLAIN);
    for i in 0..400 {
        // Neighbours for the guest, but not in the window.
        let (guest, user) = (0x1000 + 16 * i, 0x1000 + 32 * i);
        let region = vhost_guest_msg::Region::new(guest, 16, user, 0).unwrap();
        assert!(bench.memory.add(&region));
    }
    let all = (0x1000, 400 * 16, 0);
    bench.guest.add(&[all; 10]);
    assert_eq!(bench.drain().len(), 1);
    bench.guest.add(&[all; 11]);
    assert!(bench.drain().is_empty());
    assert_eq!(bench.vring.fault(), Some(RingFault::TooLong));
}

#[test]
fn splits_buffers_that_go_on_in_the_next_region() {
    let mut bench = Bench::new(8, PLAIN);
    let next = vhost_guest_msg::Region::new(GPA + LEN, 0x1000, 0, 0).unwrap();
    assert!(bench.memory.add(&next));
    bench.guest.write(GPA + LEN - 2, b"ab");
    bench.guest.window.write(0, b"cd").unwrap();
    bench.guest.add(&[(GPA + LEN - 2, 4, 0)]);
    assert_eq!(bench.drain(), [(b"abcd".to_vec(), 0)]);
}

#[test]
fn reads_and_skips_piecewise() {
    let mut bench = Bench::new(8, PLAIN);
    bench.guest.write(GPA + 0x5000, b"0123456789");
    bench.guest.add(&[
        (GPA + 0x5000, 3, 0),
        (GPA + 0x5003, 0, 0),
        (GPA + 0x5003, 7, 0),
        (GPA + 0x6000, 2, WRITE),
        (GPA + 0x6002, 3, WRITE),
    ]);
    let mut ring = bench.ring();
    let mut chain = ring.next_chain().unwrap();
    assert_eq!(chain.read_array(), Some(*b"0123"));
    assert_eq!(chain.read_array::<7>(), None);
    assert_eq!(chain.read_array(), Some(*b"456789"));
    assert_eq!(chain.read(&mut [0; 4]), 0);
    chain.skip_writable(3);
    assert_eq!((chain.write(b"xyz"), chain.writable_len()), (2, 0));
    chain.skip_writable(u32::MAX);
    assert_eq!(chain.write(b"z"), 0);
    ring.complete(chain, 5);
    assert_eq!(bench.guest.read(GPA + 0x6000, 6), b"\0\0\0xy\0");
}

#[test]
fn a_turn_ends_with_its_budget() {
    let mut bench = Bench::new(8, PLAIN);
    for _ in 0..3 {
        bench.guest.add(&[(GPA, 1, 0)]);
    }
    let budget = Budget {
        requests: 2,
        ..TURN
    };
    let mut ring = Ring::new(&mut bench.vring, &bench.memory, budget);
    for _ in 0..2 {
        let chain = ring.next_chain().unwrap();
        ring.complete(chain, 0);
    }
    assert!(ring.next_chain().is_none() && ring.is_exhausted());
    assert_eq!(bench.drain().len(), 1);
}

#[test]
fn a_turn_ends_with_the_request_that_is_too_much_for_it() {
    // Each of 1000 bytes and two descriptors.
    for (bytes, requests) in [(1, 1), (1031, 1), (1032, 1), (1033, 2), (3096, 3)] {
        let mut bench = Bench::new(8, PLAIN);
        for _ in 0..4 {
            bench
                .guest
                .add(&[(GPA, 400, 0), (GPA + 0x6000, 600, WRITE)]);
        }
        let budget = Budget { bytes, ..TURN };
        let mut ring = Ring::new(&mut bench.vring, &bench.memory, budget);
        for _ in 0..requests {
            let chain = ring.next_chain().unwrap();
            ring.complete(chain, 0);
        }
        assert!(ring.next_chain().is_none() && ring.is_exhausted());
        assert_eq!(bench.drain().len(), 4 - requests, "{bytes}");
    }
}

#[test]
fn requests_without_bytes_are_work_too() {
    let mut bench = Bench::new(8, PLAIN);
    for _ in 0..2 {
        bench
            .guest
            .add(&[(GPA, 0, 0), (GPA, 0, 0), (GPA, 0, WRITE)]);
    }
    let budget = Budget { bytes: 48, ..TURN };
    let mut ring = Ring::new(&mut bench.vring, &bench.memory, budget);
    let chain = ring.next_chain().unwrap();
    ring.complete(chain, 0);
    assert!(ring.next_chain().is_none() && ring.is_exhausted());
}

#[test]
fn rejects_vrings_that_are_misaligned_or_outside() {
    let mut bench = Bench::new(8, PLAIN);
    let good = bench.guest.address(0);
    let end = USER + LEN;
    for bad in [
        VringAddr {
            descriptor: good.descriptor + 8,
            ..good
        },
        VringAddr {
            available: good.available + 1,
            ..good
        },
        VringAddr {
            used: good.used + 2,
            ..good
        },
        VringAddr {
            descriptor: end - 112,
            ..good
        },
        VringAddr {
            available: end - 20,
            ..good
        },
        VringAddr {
            used: end - 68,
            ..good
        },
        VringAddr {
            used: u64::MAX - 3,
            ..good
        },
        VringAddr { used: 0, ..good },
    ] {
        assert!(!bench.vring.set_address(bad, &bench.memory), "{bad:?}");
    }
    assert!(bench.vring.is_active(), "the old address stays");
}

#[test]
fn rejects_changes_of_a_running_vring_and_bad_sizes() {
    let mut bench = Bench::new(8, PLAIN);
    assert!(!bench.vring.set_num(16) && !bench.vring.set_base(1));
    assert_eq!(bench.vring.stop(), 0);
    for bad in [0, 3, 6, 100] {
        assert!(!bench.vring.set_num(bad));
    }
    assert!(bench.vring.set_num(16) && bench.vring.set_base(1));
    let mut new = Vring::default();
    assert!(!new.start(&bench.memory, PLAIN));
}

#[test]
fn goes_on_where_it_stopped() {
    let mut bench = Bench::new(8, PLAIN);
    bench.guest.add(&[(GPA, 1, 0)]);
    assert_eq!(bench.drain().len(), 1);
    let base = bench.vring.stop();
    assert_eq!(base, 1);
    assert!(!bench.vring.is_active());
    bench.guest.add(&[(GPA, 2, 0)]);
    assert!(bench.drain().is_empty());
    let mut again = Vring::default();
    assert!(again.set_num(8) && again.set_base(base));
    assert!(again.set_address(bench.guest.address(0), &bench.memory));
    assert!(again.start(&bench.memory, PLAIN));
    again.enabled = true;
    bench.vring = again;
    assert_eq!(bench.drain(), [(vec![0; 2], 0)]);
    assert_eq!(bench.guest.used().unwrap().1, 0);
    assert!(bench.guest.used().is_some());
}

#[test]
fn rests_while_its_memory_is_away() {
    let mut bench = Bench::new(8, PLAIN);
    bench.guest.add(&[(GPA, 1, 0)]);
    let region = bench.memory.regions()[0];
    assert!(bench.memory.remove(&region));
    bench.vring.memory_changed(&bench.memory);
    assert!(!bench.vring.is_active() && bench.drain().is_empty());
    assert!(bench.memory.add(&region));
    bench.vring.memory_changed(&bench.memory);
    assert_eq!(bench.drain().len(), 1);
}

#[test]
fn calls_as_the_flags_say() {
    let mut bench = Bench::new(8, PLAIN);
    bench.guest.add(&[(GPA, 1, 0)]);
    bench.drain();
    assert!(bench.vring.take_call());
    assert!(!bench.vring.take_call(), "nothing new was used");
    bench.guest.avail_flags(NO_INTERRUPT);
    bench.guest.add(&[(GPA, 1, 0)]);
    bench.drain();
    assert!(!bench.vring.take_call());
}

#[test]
fn calls_as_the_event_index_says() {
    let mut bench = Bench::new(8, EVENT);
    assert!(bench.vring.take_call(), "the first time, to be sure");
    for (event, calls) in [(0, true), (0, false), (5, false), (3, true)] {
        bench.guest.used_event(event);
        bench.guest.add(&[(GPA, 1, 0)]);
        bench.drain();
        assert_eq!(bench.vring.take_call(), calls, "{event}");
    }
}

#[test]
fn makes_up_for_calls_that_nobody_could_get() {
    let mut bench = Bench::new(8, EVENT);
    bench.vring.set_call(false);
    bench.guest.add(&[(GPA, 1, 0)]);
    bench.drain();
    assert!(!bench.vring.take_call());
    bench.vring.set_call(true);
    assert!(bench.vring.take_call());
}

#[test]
fn asks_for_kicks_and_sees_what_came_before() {
    for features in [PLAIN, EVENT] {
        let mut bench = Bench::new(8, features);
        bench.vring.suppress_kicks();
        if features == PLAIN {
            assert_eq!(bench.guest.used_flags(), NO_NOTIFY);
        }
        bench.guest.add(&[(GPA, 1, 0)]);
        assert!(bench.vring.request_kicks());
        bench.drain();
        assert!(!bench.vring.request_kicks());
        assert_eq!(bench.guest.used_flags(), 0);
        let event = if features == EVENT { 1 } else { 0 };
        assert_eq!(bench.guest.avail_event(), event);
    }
}

#[test]
fn survives_rings_full_of_noise() {
    let mut noise = Noise::new(1);
    let mut bench = Bench::new(16, TABLES | EVENT);
    for _ in 0..3000 {
        let guest = &mut bench.guest;
        for slot in 0..16 {
            // Mostly addresses in memory, small lengths, known flags.
            let address = match noise.below(16) {
                0 => noise.next(),
                _ => GPA + noise.below(LEN),
            };
            let len = match noise.below(16) {
                0 => noise.next() as u32,
                n => (n * 16) as u32,
            };
            let next = noise.below(18) as u16;
            guest.put(slot, address, len, noise.below(8) as u16, next);
        }
        let ahead = noise.below(18) as u16;
        for _ in 0..ahead {
            let head = noise.below(18) as u16;
            guest.offer(head);
        }
        bench.drain();
        bench.vring.take_call();
        bench.vring.request_kicks();
        let base = bench.vring.stop();
        assert!(bench.vring.set_base(base));
        assert!(bench.vring.start(&bench.memory, TABLES | EVENT));
        // What the drained requests overwrote, the guest sets right again.
        bench.guest = GuestRing::new(bench.guest.window.clone(), 16, 0);
        bench.guest.avail_idx = base as u16;
    }
}
