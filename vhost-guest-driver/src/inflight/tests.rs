// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::collections::{BTreeMap, BTreeSet};

use vhost_guest_msg::{Inflight, VirtioFeatures};

use super::*;
use crate::crash;
use crate::fake_ring::{Bench, GuestRing, Noise, GPA, WRITE};
use crate::vring::{Chain, Ring, Vring};

pub(super) const NUM: u16 = 8;
/// Where the record is in the window; it is that of the second vring.
const RECORD: u64 = 0x1_0008;
pub(super) const AREA: u64 = RECORD + 192;
/// Requests of two descriptors each that the guest can have at a time.
pub(super) const SLOTS: u16 = NUM / 2;

fn place() -> Place {
    let inflight = Inflight::new(record_len(2, NUM, false), RECORD, 2, NUM).unwrap();
    Place { inflight, index: 1 }
}

/// A guest that survives backends, which crash.
pub(super) struct World {
    pub bench: Bench,
    /// What the guest waits for: tags by heads.
    pub waiting: BTreeMap<u16, u32>,
    next_tag: u32,
    pub completed: BTreeSet<u32>,
}

impl World {
    fn new() -> Self {
        Self::starting_at(0)
    }

    fn starting_at(index: u16) -> Self {
        Self::within(Window::allocate(0x40_0000).unwrap(), index)
    }

    /// In memory that there is; the record is empty.
    pub fn within(window: Window, index: u16) -> Self {
        window.write(AREA, &[0; 144]).unwrap();
        let mut bench = Bench::within(window, NUM, VirtioFeatures::VERSION_1);
        let guest = &mut bench.guest;
        guest.start_at(index);
        let mut this = Self {
            bench,
            waiting: BTreeMap::new(),
            next_tag: 1,
            completed: BTreeSet::new(),
        };
        assert!(this.restart());
        this
    }

    /// A new backend; its frontend does not know what the last one took.
    pub fn restart(&mut self) -> bool {
        let Bench {
            guest,
            vring,
            memory,
        } = &mut self.bench;
        *vring = Vring::default();
        vring.place = Some(place());
        assert!(vring.set_num(NUM) && vring.set_base(guest.used_idx().into()));
        assert!(vring.set_address(guest.address(0), memory));
        vring.enabled = true;
        vring.start(memory, VirtioFeatures::VERSION_1)
    }

    /// The guest makes a request, if it can have one more.
    pub fn request(&mut self, slot: u16) {
        let head = 2 * slot;
        if self.waiting.contains_key(&head) {
            return;
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        let data = GPA + 0x5000 + 8 * u64::from(slot);
        let guest = &mut self.bench.guest;
        guest.write(data, &tag.to_le_bytes());
        guest.write(data + 4, &[0; 4]);
        guest.put(head, data, 4, 1, head + 1);
        guest.put(head + 1, data + 4, 4, WRITE, 0);
        guest.offer(head);
        self.waiting.insert(head, tag);
    }

    /// The guest takes what is complete.
    pub fn collect(&mut self) {
        while let Some((head, len)) = self.bench.guest.used() {
            let tag = self.waiting.remove(&(head as u16));
            let tag = tag.expect("completed twice, or never requested");
            assert_eq!(len, 4);
            let answer = GPA + 0x5004 + 4 * u64::from(head);
            assert_eq!(self.bench.guest.read(answer, 4), tag.to_le_bytes());
            self.completed.insert(tag);
        }
    }

    /// A backend that takes up to `depth` requests at a time and completes
    /// them in the reverse order; appends what it does to `done`.
    pub fn serve(&mut self, depth: usize, done: &mut Vec<u32>) {
        let mut ring = self.bench.ring();
        loop {
            let mut chains = Vec::new();
            while chains.len() < depth {
                let Some(chain) = ring.next_chain() else {
                    break;
                };
                chains.push(chain);
            }
            if chains.is_empty() {
                return;
            }
            for chain in chains.into_iter().rev() {
                answer(&mut ring, chain, done);
            }
        }
    }
}

fn answer<'m>(ring: &mut Ring<'m>, mut chain: Chain<'m>, done: &mut Vec<u32>) {
    let tag = chain.read_array().unwrap_or_default();
    done.push(u32::from_le_bytes(tag));
    chain.write(&tag);
    ring.complete(chain, 4);
}

impl GuestRing {
    fn used_idx(&self) -> u16 {
        self.window.load_le(self.address(0).used + 2).unwrap()
    }
}

#[test]
fn survives_a_crash_before_every_single_store() {
    for depth in [1, 2, 4] {
        for stores in 0.. {
            // Near the end of the indices, too.
            let mut world = World::starting_at(0u16.wrapping_sub(2));
            [2, 0, 3, 1]
                .into_iter()
                .for_each(|slot| world.request(slot));
            let mut done = Vec::new();
            let crashed = crash::after(stores, || world.serve(depth, &mut done)).is_none();
            world.collect();
            let before = world.completed.clone();
            assert!(world.restart());
            let mut again = Vec::new();
            world.serve(1, &mut again);
            world.collect();
            assert!(world.waiting.is_empty(), "lost: {stores} stores");
            let repeated = again.iter().find(|tag| before.contains(tag));
            assert_eq!(repeated, None, "done twice: {stores} stores");
            // In the order in which they were taken.
            assert!(again.is_sorted(), "{again:?}: {stores} stores");
            if !crashed {
                assert!(again.is_empty() && stores > 40);
                break;
            }
        }
    }
}

#[test]
fn survives_crashes_again_and_again() {
    let mut noise = Noise::new(7);
    for _ in 0..20 {
        let mut world = World::new();
        for _ in 0..60 {
            for _ in 0..noise.below(6) {
                world.request(noise.below(SLOTS.into()) as u16);
            }
            let before = world.completed.clone();
            let mut done = Vec::new();
            let depth = 1 + noise.below(4) as usize;
            let stores = noise.below(70) as u32;
            crash::after(stores, || {
                assert!(world.restart());
                world.serve(depth, &mut done);
            });
            assert!(done.iter().all(|tag| !before.contains(tag)));
            // Taken in the order of the tags, again and again.
            assert!(depth > 1 || done.is_sorted(), "{done:?}");
            // Sometimes the guest sees it only later.
            if noise.below(2) == 0 {
                world.collect();
            }
        }
        assert!(world.restart());
        world.serve(1, &mut Vec::new());
        world.collect();
        assert!(world.waiting.is_empty());
        assert_eq!(world.completed.len() as u32, world.next_tag - 1);
    }
}

#[test]
fn without_a_record_what_was_taken_is_lost_on_the_way() {
    // Why all this: the second request completes first, then a crash.
    let mut world = World::new();
    let Bench { vring, memory, .. } = &mut world.bench;
    assert!(vring.set_place(None, memory));
    world.request(0);
    world.request(1);
    let mut done = Vec::new();
    assert!(crash::after(7, || world.serve(2, &mut done)).is_none());
    world.collect();
    assert_eq!(world.completed, [2].into());
    assert_eq!(world.bench.vring.stop(), 2);
    // Where the frontend, which sees the used index, lets it go on.
    assert!(world.bench.vring.set_base(1));
    assert!(world
        .bench
        .vring
        .start(&world.bench.memory, VirtioFeatures::VERSION_1));
    let mut again = Vec::new();
    world.serve(1, &mut again);
    assert_eq!(again, [2], "done twice, and the first one never");
}

#[test]
fn has_the_layout_of_libvhost_user() {
    assert_eq!(record_len(1, 256, false), 4160);
    assert_eq!(record_len(2, 256, false), 0x2080);
    assert_eq!(
        (record_len(1, 128, false), record_len(1, 1, false)),
        (2112, 64)
    );
    assert_eq!((record_len(0, 256, false), record_len(9, 0, false)), (0, 0));
    assert_eq!(record_len(u16::MAX, 32768, false), 65535 * 524_352);

    let mut world = World::starting_at(5);
    world.request(1);
    world.request(3);
    // The first is complete, the second taken.
    assert!(crash::after(15, || world.serve(1, &mut Vec::new())).is_none());
    let mut area = [0; 144];
    world.bench.guest.window.read(AREA, &mut area).unwrap();
    let mut expected = [0; 144];
    expected[8..16].copy_from_slice(&[1, 0, 8, 0, 2, 0, 6, 0]);
    expected[16 + 6 * 16] = 1;
    expected[16 + 6 * 16 + 8] = 1;
    assert_eq!(area, expected);
    // The areas of others are left alone.
    assert_eq!(world.bench.guest.window.load_le::<u64>(RECORD + 8), Ok(0));
}

#[test]
fn finishes_the_batch_of_a_backend_that_has_larger_ones() {
    let mut world = World::new();
    (0..SLOTS).for_each(|slot| world.request(slot));
    // All taken, three of them used: 4, 0, 6 is the batch.
    let window = world.bench.guest.window.clone();
    for (head, inflight, next, counter) in [(0, 1, 6, 9), (2, 1, 9, 7), (4, 1, 0, 8), (6, 0, 0, 6)]
    {
        let entry = AREA + 16 + 16 * head;
        window.store_le(entry, inflight as u8).unwrap();
        window.store_le(entry + 6, next as u16).unwrap();
        window.store_le(entry + 8, counter as u64).unwrap();
    }
    window.store_le(AREA + 12, 4u16).unwrap();
    let address = world.bench.guest.address(0);
    window.store_le(address.used + 2, 3u16).unwrap();
    assert!(world.restart());
    assert!(
        world.bench.vring.request_kicks(),
        "there is something to do"
    );
    let mut done = Vec::new();
    world.serve(1, &mut done);
    assert_eq!(done, [2]);
    assert!(!world.bench.vring.request_kicks());
    assert_eq!(world.bench.guest.used_idx(), 4);
}

#[test]
fn rejects_records_that_no_backend_has_written() {
    let entry = |head: u64| 16 + 16 * head;
    let cases: [(u64, &[u8]); 7] = [
        (0, &[1]),           // features
        (8, &[2]),           // version
        (8, &[0xff, 0xff]),  // version
        (10, &[7]),          // desc_num
        (10, &[9]),          // desc_num
        (entry(0), &[2]),    // inflight
        (entry(7), &[0xff]), // inflight
    ];
    for (at, bytes) in cases {
        let mut world = World::new();
        world.request(2);
        assert!(crash::after(5, || world.serve(1, &mut Vec::new())).is_none());
        assert!(world.restart(), "a good one");
        world.bench.guest.window.write(AREA + at, bytes).unwrap();
        assert!(!world.restart(), "{at}: {bytes:?}");
        assert!(!world.bench.vring.is_active());
    }
}

#[test]
fn what_is_no_batch_completes_nothing() {
    // last_batch_head, used_idx, and what is next to the heads 0 and 2.
    for (last, used_idx, next) in [
        (8u16, NUM - 1, [0, 0u16]),
        (2, NUM - 2, [0, 8]),
        (2, NUM - 2, [0, 2]),
        (0, NUM - 3, [2, 0]),
        (0, 0x8000, [0, 0]),
    ] {
        let mut world = World::starting_at(NUM);
        world.request(0);
        world.request(1);
        assert!(crash::after(4, || world.serve(2, &mut Vec::new())).is_none());
        let window = world.bench.guest.window.clone();
        window.store_le(AREA + 12, last).unwrap();
        window.store_le(AREA + 14, used_idx).unwrap();
        for (head, next) in [0, 2].into_iter().zip(next) {
            let at = AREA + 16 + 16 * head + 6;
            window.store_le(at, next).unwrap();
        }
        assert!(world.restart());
        let mut done = Vec::new();
        world.serve(1, &mut done);
        assert_eq!(done, [1, 2], "{last} {used_idx} {next:?}");
        world.collect();
    }
}

/// and last batch head 0 until a first request is complete, wherever the ring
/// is. Nothing of it is a batch that was completed.
#[test]
fn a_record_begun_by_another_backend_in_the_middle_of_a_ring_loses_nothing() {
    let mut world = World::starting_at(4);
    world.request(0);
    world.request(1);
    let window = world.bench.memory.window().clone();
    // version 1, desc_num, last_batch_head 0, used_idx 0
    for (at, value) in [(8, 1u16), (10, NUM), (12, 0), (14, 0)] {
        window.store_le(AREA + at, value).unwrap();
    }
    for (head, counter) in [(0u64, 0u64), (2, 1)] {
        window.store_le(AREA + 16 + 16 * head, 1u8).unwrap();
        window.store_le(AREA + 24 + 16 * head, counter).unwrap();
    }
    assert!(world.restart());
    let mut done = Vec::new();
    world.serve(1, &mut done);
    assert_eq!(done, [1, 2]);
    world.collect();
}

#[test]
fn begins_anew_when_the_vring_does() {
    let mut world = World::starting_at(1000);
    world.request(0);
    world.serve(1, &mut Vec::new());
    world.collect();
    // The guest resets its device, the frontend keeps the record.
    world.bench.guest.start_at(0);
    assert!(world.restart());
    world.request(0);
    let mut done = Vec::new();
    world.serve(1, &mut done);
    world.collect();
    assert_eq!((done.len(), world.waiting.len()), (1, 0));
}

#[test]
fn believes_nothing_in_an_area_before_its_first_use() {
    let mut world = World::new();
    let window = world.bench.guest.window.clone();
    window.write(AREA, &[0xff; 144]).unwrap();
    window.store_le(AREA + 8, 0u16).unwrap();
    assert!(world.restart());
    world.request(0);
    let mut done = Vec::new();
    world.serve(1, &mut done);
    assert_eq!(done, [1]);
    world.collect();
    assert!(world.restart() && world.waiting.is_empty());
}

#[test]
fn survives_records_full_of_noise() {
    let mut noise = Noise::new(3);
    let mut sound = 0;
    for _ in 0..2000 {
        let mut world = World::new();
        let window = world.bench.guest.window.clone();
        for at in (0..144).step_by(8) {
            match noise.below(4) {
                0 => window.store_le(AREA + at, noise.next()).unwrap(),
                1 => window.store_le(AREA + at, noise.below(3)).unwrap(),
                _ => {}
            }
        }
        if noise.below(2) == 0 {
            let header = [1, 0, NUM, noise.below(8) as u16];
            for (at, value) in (AREA + 8..).step_by(2).zip(header) {
                window.store_le(at, value).unwrap();
            }
            window.store_le(AREA, 0u64).unwrap();
        }
        world.request(noise.below(4) as u16);
        if world.restart() {
            sound += 1;
            // As bad as it is, it is bounded.
            world.serve(4, &mut Vec::new());
            assert!(world.bench.guest.used_idx() <= 2 * NUM);
        }
    }
    assert!((50..1900).contains(&sound), "{sound}");
}

#[test]
fn rejects_areas_that_are_misaligned_or_outside() {
    let window = Window::allocate(0x1000).unwrap();
    for (size, offset, num_queues, queue_size) in [
        (191, 0, 1, 8),
        (192, 4, 1, 8),
        (192, 0x1000 - 184, 1, 8),
        (192, u64::MAX - 192, 1, 8),
        (64, 0, 1, 0),
        (u64::MAX, 0, u16::MAX, 32768),
    ] {
        let inflight = Inflight::new(size, offset, num_queues, queue_size).unwrap();
        let index = num_queues - 1;
        let record = Record::new(&window, &Place { inflight, index }, false);
        assert!(record.is_none(), "{inflight:?}");
    }
    let inflight = Inflight::new(192, 0x1000 - 192, 1, 8).unwrap();
    let good = Place { inflight, index: 0 };
    assert!(Record::new(&window, &good, false).is_some());
    assert!(Record::new(&window, &Place { index: 1, ..good }, false).is_none());
    // A vring that is longer than the area has entries.
    let Some(Record::Split(mut record)) = Record::new(&window, &good, false) else {
        panic!("not of a split ring");
    };
    let available = Available {
        index: 0,
        num: 9,
        head: |_| Ok(0),
    };
    assert_eq!(record.open(0, &available), Err(Unsound));
}
