// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::collections::{BTreeMap, BTreeSet};

use vhost_guest_msg::VirtioFeatures;

use super::*;
use crate::crash;
use crate::fake_packed::{PackedBench, PackedRing, START};
use crate::fake_ring::{Noise, GPA, USER, WRITE};
use crate::vring::{forward, Vring};

/// Not a power of two, which packed rings need not have.
pub(super) const NUM: u16 = 7;
/// Where the record is in the window; it is that of the second vring.
const RECORD: u64 = 0x1_0008;
pub(super) const AREA: u64 = RECORD + 256;
const PLAIN: VirtioFeatures = VirtioFeatures::VERSION_1;

fn place() -> Place {
    let inflight = Inflight::new(record_len(2, NUM, true), RECORD, 2, NUM).unwrap();
    Place { inflight, index: 1 }
}

/// A guest that survives backends, which crash.
pub(super) struct World {
    pub bench: PackedBench,
    /// What the frontend sends as the base: what it was told when the vring
    /// was stopped last, or first.
    base: u32,
    /// What the guest waits for: tags by buffer IDs.
    pub waiting: BTreeMap<u16, u32>,
    next_tag: u32,
    pub completed: BTreeSet<u32>,
}

impl World {
    fn new() -> Self {
        Self::starting_at(START)
    }

    fn starting_at(position: u16) -> Self {
        Self::within(Window::allocate(0x40_0000).unwrap(), position)
    }

    /// In memory that there is; the record is empty.
    pub fn within(window: Window, position: u16) -> Self {
        window.write(AREA, &[0; 32 + 32 * NUM as usize]).unwrap();
        let mut bench = PackedBench::within(window, NUM, PLAIN);
        bench.guest.start_at(position);
        let mut this = Self {
            bench,
            base: u32::from(position) << 16 | u32::from(position),
            waiting: BTreeMap::new(),
            next_tag: 1,
            completed: BTreeSet::new(),
        };
        assert!(this.restart());
        this
    }

    /// A new backend; its frontend knows nothing of what the last one did.
    pub fn restart(&mut self) -> bool {
        self.bench.vring = Vring::default();
        self.bench.vring.place = Some(place());
        self.bench.start(PLAIN, self.base)
    }

    /// The guest makes a request of `count` descriptors, two at least, if it
    /// can have one more.
    pub fn request(&mut self, id: u16, count: u16) {
        if self.waiting.contains_key(&id) || self.bench.guest.room() < count {
            return;
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        let guest = &mut self.bench.guest;
        let data = data(id);
        guest.write(data, &tag.to_le_bytes());
        guest.write(data + 4, &[0; 4]);
        let mut chain = vec![(data, 4, 0)];
        chain.resize(usize::from(count) - 1, (data, 0, 0));
        chain.push((data + 4, 4, WRITE));
        guest.add(id, &chain);
        self.waiting.insert(id, tag);
    }

    /// The guest takes what is complete.
    pub fn collect(&mut self) {
        while let Some((id, len)) = self.bench.guest.used() {
            let tag = self.waiting.remove(&id);
            let tag = tag.expect("completed twice, or never requested");
            assert_eq!(len, 4);
            assert_eq!(self.bench.guest.read(data(id) + 4, 4), tag.to_le_bytes());
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
            for mut chain in chains.into_iter().rev() {
                let tag = chain.read_array().unwrap_or_default();
                done.push(u32::from_le_bytes(tag));
                chain.write(&tag);
                ring.complete(chain, 4);
            }
        }
    }

    fn area(&self) -> Vec<u8> {
        let mut area = vec![0; 32 + 32 * usize::from(NUM)];
        self.bench.guest.window.read(AREA, &mut area).unwrap();
        area
    }
}

/// Stores of an answer.
const ANSWER: u32 = 4;

/// Stores that record a request of `count` descriptors as taken.
fn take(count: u32) -> u32 {
    4 * count + 5
}

fn data(id: u16) -> u64 {
    GPA + 0x5000 + 8 * u64::from(id)
}

#[test]
fn survives_a_crash_before_every_single_store() {
    // Also where the ring wraps, and where a request takes all of it.
    let requests: [&[u16]; 3] = [&[2, 3, 2], &[3, 2], &[NUM]];
    let starts = [START, START | (NUM - 1), NUM - 2];
    for (requests, start) in requests.iter().flat_map(|r| starts.map(|s| (r, s))) {
        for depth in [1, 3] {
            for stores in 0.. {
                let mut world = World::starting_at(start);
                for (id, count) in (10..).zip(requests.iter()) {
                    world.request(id, *count);
                }
                let mut done = Vec::new();
                let crashed = crash::after(stores, || world.serve(depth, &mut done)).is_none();
                world.collect();
                let before = world.completed.clone();
                // The guest goes on meanwhile, where it has room.
                world.request(20, 2);
                assert!(world.restart());
                let mut again = Vec::new();
                world.serve(1, &mut again);
                world.collect();
                let at = format!("{requests:?} at {start:#x}, {depth} deep, {stores} stores");
                assert!(world.waiting.is_empty(), "lost: {at}");
                let repeated = again.iter().find(|tag| before.contains(tag));
                assert_eq!(repeated, None, "done twice: {at}");
                // In the order in which they were taken.
                assert!(again.is_sorted(), "{again:?}: {at}");
                if !crashed {
                    assert!(stores > 15);
                    break;
                }
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
                let count = 2 + noise.below(u64::from(NUM) - 1) as u16;
                world.request(noise.below(4) as u16, count.min(NUM));
            }
            let before = world.completed.clone();
            let mut done = Vec::new();
            let depth = 1 + noise.below(4) as usize;
            let stores = noise.below(90) as u32;
            crash::after(stores, || {
                assert!(world.restart());
                world.serve(depth, &mut done);
            });
            assert!(done.iter().all(|tag| !before.contains(tag)));
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
fn without_a_record_nobody_knows_where_the_ring_stands() {
    // Why all this: the second request completes first, then a crash.
    let mut world = World::new();
    let PackedBench { vring, memory, .. } = &mut world.bench;
    assert!(vring.set_place(None, memory));
    world.request(0, 2);
    world.request(1, 2);
    assert!(crash::after(ANSWER + 3, || world.serve(2, &mut Vec::new())).is_none());
    world.collect();
    assert_eq!(world.completed, [2].into());
    // Where it stood first: what is there now is used, and in the way.
    world.bench.vring = Vring::default();
    assert!(world.bench.start(PLAIN, world.base));
    world.serve(1, &mut Vec::new());
    world.collect();
    assert_eq!(world.waiting.len(), 1, "lost");
}

#[test]
fn has_the_layout_of_the_specification() {
    assert_eq!(record_len(1, 256, true), 8256);
    assert_eq!(
        (record_len(1, 1, true), record_len(3, 128, true)),
        (64, 12480)
    );
    assert_eq!((record_len(0, 256, true), record_len(9, 0, true)), (0, 0));

    let mut world = World::starting_at(START | 5);
    world.request(8, 2);
    world.request(9, 3);
    // The first is complete, the second taken.
    let stores = take(2) + ANSWER + 3 + 3 + 3 + take(3);
    assert!(crash::after(stores, || world.serve(1, &mut Vec::new())).is_none());
    let area = world.area();
    let mut header = [0; 32];
    header[8..24].copy_from_slice(&[1, 0, 7, 0, 3, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(area[..32], header);
    // 0 and 1 were given back, so that they were the first to be taken again.
    let entry = |i: usize| &area[32 + 32 * i..][..32];
    assert_eq!(
        entry(0)[..16],
        [1, 0, 1, 0, 2, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(entry(1)[2..4], [2, 0]);
    let last = entry(2);
    assert_eq!(
        (&last[..4], &last[16..18]),
        (&[0, 0, 3, 0][..], &[9, 0][..])
    );
    assert_eq!(
        last[18..20],
        (WRITE | PackedRing::available(4)).to_le_bytes()
    );
    assert_eq!(last[20..24], 4u32.to_le_bytes());
    assert_eq!(last[24..], (data(9) + 4).to_le_bytes());
    // The areas of others are left alone.
    assert_eq!(world.bench.guest.window.load_le::<u64>(RECORD + 8), Ok(0));
}

#[test]
fn rejects_records_that_no_backend_has_written() {
    let entry = |i: u64| 32 + 32 * i;
    let cases: [(u64, &[u8]); 14] = [
        (0, &[1]),               // features
        (8, &[2]),               // version
        (10, &[6]),              // desc_num
        (12 + 2, &[8]),          // old_free_head
        (18, &[7]),              // old_used_idx
        (20, &[2]),              // used_wrap_counter
        (21, &[2]),              // old_used_wrap_counter
        (entry(0), &[2]),        // inflight
        (entry(1), &[1]),        // inflight, inside a request
        (entry(0) + 2, &[0]),    // next: a loop
        (entry(3) + 2, &[2]),    // next, of a request
        (entry(5) + 2, &[4]),    // next: a loop of free ones
        (entry(0) + 4, &[1]),    // last
        (entry(0) + 6, &[4, 0]), // num
    ];
    for (at, bytes) in cases {
        let mut world = World::new();
        world.request(2, 3);
        assert!(crash::after(take(3), || world.serve(1, &mut Vec::new())).is_none());
        assert!(world.restart(), "a good one");
        world.bench.guest.window.write(AREA + at, bytes).unwrap();
        assert!(!world.restart(), "{at}: {bytes:?}");
        assert!(!world.bench.vring.is_active());
    }
}

#[test]
fn a_position_that_was_being_stored_does_not_count() {
    // DPDK adds to the index, and then takes away what is too much.
    let mut world = World::new();
    world.request(2, 3);
    assert!(crash::after(take(3), || world.serve(1, &mut Vec::new())).is_none());
    world.bench.guest.window.store_le(AREA + 16, NUM).unwrap();
    assert!(world.restart());
    let mut done = Vec::new();
    world.serve(1, &mut done);
    world.collect();
    assert_eq!(done, [1]);
}

#[test]
fn entries_that_belong_to_nobody_are_free() {
    let mut world = World::new();
    world.request(2, 3);
    world.serve(1, &mut Vec::new());
    world.collect();
    // The list begins behind two that were free.
    let window = world.bench.guest.window.clone();
    window.store_le(AREA + 12, 0x0002_0002_u32).unwrap();
    for round in 0..6 {
        assert!(world.restart());
        world.request(round, NUM);
        world.serve(1, &mut Vec::new());
        world.collect();
        assert!(world.waiting.is_empty());
    }
}

#[test]
fn rejects_rings_that_are_longer_than_the_area() {
    let window = Window::allocate(0x1000).unwrap();
    let inflight = Inflight::new(record_len(1, 4, true), 0, 1, 4).unwrap();
    let short = Place { inflight, index: 0 };
    assert!(Record::new(&window, &Place { index: 1, ..short }, true).is_none());
    let Some(Record::Packed(mut record)) = Record::new(&window, &short, true) else {
        panic!("not of a packed ring");
    };
    assert_eq!(record.open(5, START, false, |_| Ok(0)), Err(Unsound));
    assert_eq!(record.open(4, START | 4, false, |_| Ok(0)), Err(Unsound));
    assert_eq!(record.open(4, START | 3, false, |_| Ok(0)), Ok(None));
}

#[test]
fn begins_anew_when_the_frontend_knows_that_the_ring_does() {
    for reset in [false, true] {
        let mut world = World::new();
        world.request(0, 3);
        world.serve(1, &mut Vec::new());
        world.collect();
        match reset {
            false => assert_eq!(world.bench.vring.stop(), 0x8003_8003),
            true => world.bench.vring.reset(),
        }
        // The guest resets its device, the frontend keeps the record.
        world.bench.guest.start_at(START);
        world.bench.vring.place = Some(place());
        assert!(world.bench.start(PLAIN, world.base));
        world.request(0, 2);
        let mut done = Vec::new();
        world.serve(1, &mut done);
        world.collect();
        assert_eq!((done.len(), world.waiting.len()), (1, 0));
        // And the next one, which nobody tells, goes on from there.
        assert!(world.restart());
        world.request(0, 2);
        world.serve(1, &mut done);
        world.collect();
        assert_eq!((done.len(), world.waiting.len()), (2, 0));
    }
}

#[test]
fn believes_nothing_in_an_area_before_its_first_use() {
    let mut world = World::new();
    let window = world.bench.guest.window.clone();
    window.write(AREA, &[0xff; 32 + 32 * 7]).unwrap();
    window.store_le(AREA + 8, 0u16).unwrap();
    assert!(world.restart());
    world.request(0, 2);
    let mut done = Vec::new();
    world.serve(1, &mut done);
    assert_eq!(done, [1]);
    world.collect();
    assert!(world.restart() && world.waiting.is_empty());
}

#[test]
fn hands_back_only_what_is_first_in_the_ring() {
    for overwritten in [false, true] {
        let mut world = World::new();
        world.request(2, 3);
        world.request(3, 2);
        assert!(crash::after(take(3), || world.serve(1, &mut Vec::new())).is_none());
        assert!(world.restart());
        if overwritten {
            // As by something that was used in another order.
            let at = world.bench.guest.slot(START);
            world.bench.guest.window.store_le(at + 12, 0x77u16).unwrap();
        }
        let next = if overwritten {
            forward(START, 3, NUM)
        } else {
            START
        };
        world.base = u32::from(START) << 16 | u32::from(next);
        assert_eq!(world.bench.vring.stop(), world.base);
        if !overwritten {
            // Whoever goes on without the record.
            world.bench.vring = Vring::default();
            assert!(world.bench.start(PLAIN, world.base));
            let mut done = Vec::new();
            world.serve(1, &mut done);
            assert_eq!(done, [1, 2]);
            world.collect();
            assert!(world.waiting.is_empty());
        }
    }
}

#[test]
fn survives_records_full_of_noise() {
    let mut noise = Noise::new(3);
    let mut sound = 0;
    for _ in 0..800 {
        let mut world = World::new();
        world.request(0, 2);
        let stores = noise.below(40) as u32;
        crash::after(stores, || world.serve(2, &mut Vec::new()));
        let window = world.bench.guest.window.clone();
        for _ in 0..noise.below(4) {
            let at = AREA + noise.below(32 + 32 * u64::from(NUM));
            let value = match noise.below(4) {
                0 => noise.next() as u8,
                _ => noise.below(9) as u8,
            };
            window.store_le(at, value).unwrap();
        }
        if noise.below(4) == 0 {
            // Descriptors from anywhere.
            let at = AREA + 32 + 24 + 32 * noise.below(NUM.into());
            window.store_le(at, noise.below(2 * USER)).unwrap();
        }
        world.request(noise.below(4) as u16, 2);
        if world.restart() {
            sound += 1;
            // As bad as it is, it is bounded.
            world.serve(4, &mut Vec::new());
        }
    }
    assert!((80..780).contains(&sound), "{sound}");
}
