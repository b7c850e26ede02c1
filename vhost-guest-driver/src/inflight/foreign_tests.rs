// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Records of every backend that writes them, at every point of a crash: each
//! request is completed once.

use proptest::collection::vec;
use proptest::prelude::*;

use super::foreign::{Packed, PackedBackend, Split, SplitBackend};
use super::{packed_tests, tests};
use crate::crash;
use crate::fake_packed::START;
use crate::fake_ring::TURN;
use crate::vring::{Chain, Ring, Vring};
use crate::window::Window;

/// What guest and backend do.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The guest makes a request, in one of four places, of so many
    /// descriptors if it has a packed ring.
    Request(u16, u16),
    /// The guest takes what is complete.
    Collect,
    Take,
    Complete(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u16, 2..5_u16).prop_map(|(place, count)| Step::Request(place, count)),
        1 => Just(Step::Collect),
        4 => Just(Step::Take),
        3 => (0..4_usize).prop_map(Step::Complete),
    ];
    vec(step, 1..20)
}

/// What the guest asks for when the backend is gone.
fn more() -> impl Strategy<Value = Vec<Step>> {
    let request = (0..4_u16, 2..5_u16).prop_map(|(place, count)| Step::Request(place, count));
    vec(request, 0..3)
}

trait Backend {
    fn take(&mut self);
    fn complete(&mut self, which: usize);
}

impl Backend for SplitBackend {
    fn take(&mut self) {
        self.take();
    }

    fn complete(&mut self, which: usize) {
        self.complete(which);
    }
}

impl Backend for PackedBackend {
    fn take(&mut self) {
        self.take();
    }

    fn complete(&mut self, which: usize) {
        self.complete(which);
    }
}

/// Our own.
struct Ours<'m>(Ring<'m>, Vec<Chain<'m>>);

impl Backend for Ours<'_> {
    fn take(&mut self) {
        self.1.extend(self.0.next_chain());
    }

    fn complete(&mut self, which: usize) {
        if !self.1.is_empty() {
            let mut chain = self.1.remove(which % self.1.len());
            let tag: [u8; 4] = chain.read_array().unwrap();
            chain.write(&tag);
            self.0.complete(chain, 4);
        }
    }
}

/// None.
struct Nobody;

impl Backend for Nobody {
    fn take(&mut self) {}

    fn complete(&mut self, _which: usize) {}
}

/// A guest, with either kind of ring.
trait Guest {
    fn step(&mut self, step: Step, backend: &mut dyn Backend);
    /// The next of our backends serves all there is; what it did, in order.
    fn recover(&mut self) -> Vec<u32>;
    fn collect(&mut self);
    fn completed(&self) -> Vec<u32>;
    fn waits(&self) -> bool;
}

macro_rules! guest {
    ($world:ty, |$this:ident, $place:ident, $count:ident| $request:expr) => {
        impl Guest for $world {
            fn step(&mut self, step: Step, backend: &mut dyn Backend) {
                let $this = self;
                match step {
                    Step::Request($place, $count) => crash::aside(|| $request),
                    Step::Collect => crash::aside(|| $this.collect()),
                    Step::Take => backend.take(),
                    Step::Complete(which) => backend.complete(which),
                }
            }

            fn recover(&mut self) -> Vec<u32> {
                let mut done = Vec::new();
                assert!(self.restart());
                self.serve(1, &mut done);
                done
            }

            fn collect(&mut self) {
                self.collect();
            }

            fn completed(&self) -> Vec<u32> {
                self.completed.iter().copied().collect()
            }

            fn waits(&self) -> bool {
                !self.waiting.is_empty()
            }
        }
    };
}

guest!(tests::World, |this, place, _count| this.request(place));
guest!(packed_tests::World, |this, place, count| this
    .request(place, count));

/// The backend crashes after so many stores, the next one, which is ours,
/// after `again`; then one that does not. Whether the first one crashed.
fn crash_and_recover<G: Guest>(
    guest: &mut G,
    stores: u32,
    script: impl FnOnce(&mut G),
    (more, again): (&[Step], u32),
) -> bool {
    let crashed = crash::after(stores, || script(guest)).is_none();
    guest.collect();
    more.iter().for_each(|step| guest.step(*step, &mut Nobody));
    let before = guest.completed();
    let done = crash::after(again, || guest.recover()).unwrap_or_default();
    assert!(done.iter().all(|tag| !before.contains(tag)), "done twice");
    guest.collect();
    let before = guest.completed();
    let done = guest.recover();
    assert!(done.iter().all(|tag| !before.contains(tag)), "done twice");
    // Requests are taken in the order in which they are made.
    assert!(done.is_sorted(), "{done:?}");
    guest.collect();
    assert!(!guest.waits(), "lost");
    crashed
}

fn check_split(writer: Option<Split>, start: u16, steps: &[Step], after: (&[Step], u32)) {
    let window = Window::allocate(0x40_0000).unwrap();
    for stores in 0.. {
        let mut world = tests::World::within(window.clone(), start);
        let memory = world.bench.memory.clone();
        window.write(tests::AREA, &[0; 144]).unwrap();
        let mut vring = Vring::default();
        let script = |world: &mut tests::World| {
            let mut backend: Box<dyn Backend> = match writer {
                Some(writer) => {
                    let (area, num) = (tests::AREA, tests::NUM);
                    Box::new(SplitBackend::new(writer, window.clone(), area, num, start))
                }
                None => {
                    assert!(world.restart());
                    vring = core::mem::take(&mut world.bench.vring);
                    Box::new(Ours(Ring::new(&mut vring, &memory, TURN), Vec::new()))
                }
            };
            for step in steps {
                world.step(*step, &mut *backend);
            }
        };
        if !crash_and_recover(&mut world, stores, script, after) {
            return;
        }
    }
}

fn check_packed(writer: Option<Packed>, steps: &[Step], after: (&[Step], u32)) {
    let window = Window::allocate(0x40_0000).unwrap();
    for stores in 0.. {
        let mut world = packed_tests::World::within(window.clone(), START);
        let memory = world.bench.memory.clone();
        let area = packed_tests::AREA;
        window.write(area, &[0; 32 + 32 * 7]).unwrap();
        let mut vring = Vring::default();
        let script = |world: &mut packed_tests::World| {
            let mut backend: Box<dyn Backend> = match writer {
                Some(writer) => {
                    let num = packed_tests::NUM;
                    Box::new(PackedBackend::new(writer, window.clone(), area, num))
                }
                None => {
                    assert!(world.restart());
                    vring = core::mem::take(&mut world.bench.vring);
                    Box::new(Ours(Ring::new(&mut vring, &memory, TURN), Vec::new()))
                }
            };
            for step in steps {
                world.step(*step, &mut *backend);
            }
        };
        if !crash_and_recover(&mut world, stores, script, after) {
            return;
        }
    }
}

/// libvhost-user and DPDK record a used index of 0 until a first request is
/// complete. If the ring stood at 1, two seem to be; the other one would be
/// that with head 0, which is in flight.
#[test]
fn a_first_request_that_is_complete_completes_no_other() {
    for (start, count, which) in [
        (0, 3, 0),
        (1, 3, 0),
        (1, 3, 1),
        (2, 3, 1),
        (1, 3, 2),
        (1, 2, 1),
        (u16::MAX, 2, 1),
    ] {
        let mut steps: Vec<Step> = (0..count).map(|place| Step::Request(place, 2)).collect();
        steps.extend((0..count).map(|_| Step::Take));
        steps.extend([Step::Complete(which), Step::Complete(0)]);
        for writer in [Split::LibvhostUser, Split::Dpdk] {
            for (again, more) in [(0, &[][..]), (2, &[Step::Request(0, 2)]), (100, &[])] {
                check_split(Some(writer), start, &steps, (more, again));
            }
        }
    }
}

/// Where rings stand when their record begins.
fn start() -> impl Strategy<Value = u16> {
    prop_oneof![0..3_u16, Just(tests::NUM), Just(1000), 0xfffd..=u16::MAX]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn completes_each_request_of_a_split_ring_once_whoever_recorded_it(
        start in start(),
        steps in steps(),
        more in more(),
        again in 0..40_u32,
    ) {
        let writers = [Split::LibvhostUser, Split::Dpdk, Split::Document];
        for writer in writers.map(Some).into_iter().chain([None]) {
            check_split(writer, start, &steps, (&more, again));
        }
    }

    #[test]
    fn completes_each_request_of_a_packed_ring_once_whoever_recorded_it(
        steps in steps(),
        more in more(),
        again in 0..60_u32,
    ) {
        for writer in [Some(Packed::Dpdk), Some(Packed::Spdk), None] {
            check_packed(writer, &steps, (&more, again));
        }
    }

    #[test]
    fn any_bytes_in_a_record_of_a_split_ring_come_to_an_end(
        bytes in vec(any::<u8>(), 144),
        small in any::<bool>(),
        used_idx in 0..20_u16,
    ) {
        let mut world = tests::World::within(Window::allocate(0x40_0000).unwrap(), used_idx);
        (0..tests::SLOTS).for_each(|slot| world.request(slot));
        let window = world.bench.memory.window().clone();
        let bytes: Vec<u8> = bytes.iter().map(|byte| if small { byte % 9 } else { *byte }).collect();
        window.write(tests::AREA, &bytes).unwrap();
        for (at, value) in [(0, 0), (2, 0), (4, 0), (6, 0), (8, 1), (10, tests::NUM)] {
            window.store_le(tests::AREA + at, value).unwrap();
        }
        for head in 0..u64::from(tests::NUM) {
            let at = tests::AREA + 16 + 16 * head;
            let inflight: u8 = window.load_le(at).unwrap();
            window.store_le(at, inflight % 2).unwrap();
        }
        if world.restart() {
            let mut done = Vec::new();
            world.serve(4, &mut done);
            prop_assert!(done.len() <= 2 * usize::from(tests::NUM));
        }
    }

    #[test]
    fn any_bytes_in_a_record_of_a_packed_ring_come_to_an_end(
        bytes in vec(any::<u8>(), 32 + 32 * 7),
        keep in vec(any::<bool>(), 32 + 32 * 7),
    ) {
        let mut world = packed_tests::World::within(Window::allocate(0x40_0000).unwrap(), START);
        world.request(0, 2);
        world.request(1, 3);
        crash::after(60, || world.serve(2, &mut Vec::new()));
        let window = world.bench.memory.window().clone();
        for (at, (byte, keep)) in (packed_tests::AREA..).zip(bytes.iter().zip(keep)) {
            if !keep {
                window.store_le(at, byte % 8).unwrap();
            }
        }
        window.store_le(packed_tests::AREA, 0u64).unwrap();
        window.store_le(packed_tests::AREA + 8, 1u16).unwrap();
        window.store_le(packed_tests::AREA + 10, packed_tests::NUM).unwrap();
        if world.restart() {
            let mut done = Vec::new();
            world.serve(4, &mut done);
            prop_assert!(done.len() <= 2 * usize::from(packed_tests::NUM));
        }
    }
}
