// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any sequence of messages, replies and failures.

use std::io::ErrorKind;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const FILES: usize = 3;
/// The last page has a few bytes only.
const FILE_SIZE: u64 = 16 * MIB + 0xb10;
/// Small enough to be short of space now and then.
const SMALL_WINDOW: u64 = 48 * MIB;

/// What a region is made of: where in the frontend's guest (of 8 places), which
/// file, which part of it (in units of 256 KiB), how far into the page it begins
/// and how far behind the last one it ends, and whether it is at the same user
/// address as all others with these bytes.
type Sketch = (u64, usize, (u64, u64), (u64, u64), bool);

#[derive(Clone, Debug)]
enum Step {
    Replace(Vec<Sketch>),
    Add(Sketch),
    Remove(usize),
    Area(Area, usize, u64, u64),
    Settle(Outcome),
    /// The n-th call of the VMM's fails.
    Fail(usize),
    Withdraw(usize),
    Revoke,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let odd = || prop_oneof![3 => Just(0), 1 => Just(0xb10), 1 => Just(0x401)];
    let part = (0..64_u64, 1..33_u64);
    let alias = prop::bool::weighted(0.3);
    (0..8_u64, 0..FILES, part, (odd(), odd()), alias)
}

fn step() -> impl Strategy<Value = Step> {
    let area = prop_oneof![Just(Area::Log), Just(Area::Inflight)];
    prop_oneof![
        6 => vec(sketch(), 1..5).prop_map(Step::Replace),
        4 => sketch().prop_map(Step::Add),
        3 => (0..4_usize).prop_map(Step::Remove),
        2 => (area, 0..FILES, 0..FILE_SIZE, 1..3 * PAGE)
            .prop_map(|(area, file, offset, size)| Step::Area(area, file, offset, size)),
        8 => Just(Step::Settle(Outcome::Done)),
        3 => Just(Step::Settle(Outcome::Refused)),
        1 => (0..3_usize).prop_map(Step::Fail),
        1 => (0..SMALL_WINDOW as usize).prop_map(Step::Withdraw),
        1 => Just(Step::Revoke),
    ]
}

/// The region, if it lies in its file.
fn draw((place, file, (offset, length), (lead, tail), alias): Sketch) -> Option<(Region, usize)> {
    const UNIT: u64 = MIB / 4;
    let (offset, end) = (offset * UNIT + lead, (offset + length) * UNIT + tail);
    let size = end - offset;
    // Neighbours touch if the first is as large as regions get.
    let guest = place * 8 * MIB + lead;
    let user = match alias {
        true => ((0x7e00 + file as u64) << 32) + offset,
        false => 0x7f00_0000_0000 + guest,
    };
    let region = Region::new(guest, size, user, offset).unwrap();
    (end <= FILE_SIZE).then_some((region, file))
}

/// An area, and where the driver was told to find it.
#[derive(Clone, Copy)]
struct PlacedArea {
    area: Area,
    place: u64,
    file: usize,
    offset: u64,
    size: u64,
}

/// What the driver was told, in the simplest terms.
#[derive(Clone, Default)]
struct Model {
    /// Regions, their files and places.
    regions: Vec<(Region, usize, u64)>,
    areas: Vec<PlacedArea>,
}

impl Model {
    /// Bytes on the pages that it speaks of.
    fn mapped(&self) -> u64 {
        let regions = self.regions.iter();
        let regions = regions.map(|(region, _, at)| (*at, at + region.size()));
        let areas = self
            .areas
            .iter()
            .map(|area| (area.place, area.place + area.size));
        let pages = regions.chain(areas);
        let pages = pages.map(|(from, to)| (from / PAGE * PAGE, to.next_multiple_of(PAGE)));
        let mut pages: Vec<_> = pages.collect();
        pages.sort_unstable();
        let (mut bytes, mut end) = (0, 0);
        for (from, to) in pages {
            bytes += to.saturating_sub(from.max(end));
            end = end.max(to);
        }
        bytes
    }
}

/// Mapped ranges: window offset, file offset, length.
type Mappings = Vec<(u64, u64, u64)>;

struct Run {
    bench: Bench,
    files: Vec<TestFile>,
    model: Model,
    /// The model and the mappings before the pending change, and its ticket.
    pending: Option<(Model, Mappings, Ticket)>,
    /// Withdrawn or dead: what the model says is not there any more.
    lost: bool,
}

impl Run {
    fn new() -> Self {
        Self {
            bench: Bench::with_limits(SMALL_WINDOW, 8),
            files: (0..FILES as u64)
                .map(|name| TestFile::new(name, FILE_SIZE))
                .collect(),
            model: Model::default(),
            pending: None,
            lost: false,
        }
    }

    /// Takes the result of a change whose success makes the model `after`.
    fn change(
        &mut self,
        after: Model,
        (before, table): (Mappings, String),
        result: Result<Ticket, MemoryError>,
    ) {
        let mapped = self.bench.vmm.mappings();
        match result {
            Ok(ticket) => {
                assert!(self.pending.is_none() && !self.lost);
                assert!(
                    before.iter().all(|m| mapped.contains(m)),
                    "it may be in use"
                );
                let before_model = std::mem::replace(&mut self.model, after);
                self.pending = Some((before_model, before, ticket));
            }
            Err(error) if error.is_fatal() => self.lost = true,
            Err(_) => {
                assert_eq!(mapped, before, "all or nothing");
                assert_eq!(self.table(), table, "all or nothing");
            }
        }
    }

    /// What the device remembers of the frontend's messages.
    fn table(&self) -> String {
        format!("{:?}", self.bench.memory.table)
    }

    fn step(&mut self, step: Step) {
        let before = (self.bench.vmm.mappings(), self.table());
        let mut after = self.model.clone();
        match step {
            Step::Replace(sketches) => {
                let regions: Vec<_> = sketches.into_iter().filter_map(draw).collect();
                let send = |(region, file): &(Region, usize)| {
                    (*region, self.bench.send(&self.files[*file]))
                };
                let Ok(table) = MemTable::new(regions.iter().map(send).collect()) else {
                    return; // the message crate rejects an empty one
                };
                let result = self.bench.memory.replace(table, &[]);
                if let Ok((moved, _)) = &result {
                    let places = moved.regions().map(Region::user_address);
                    let placed = regions.into_iter().zip(places);
                    after.regions = placed
                        .map(|((region, file), at)| (region, file, at))
                        .collect();
                }
                self.change(after, before, result.map(|(_, ticket)| ticket));
            }
            Step::Add(sketch) => {
                let Some((region, file)) = draw(sketch) else {
                    return;
                };
                let result = self.bench.add(region, &self.files[file]);
                if let Ok((place, _)) = result {
                    after.regions.push((region, file, place));
                }
                self.change(after, before, result.map(|(_, ticket)| ticket));
            }
            Step::Remove(index) => {
                let Some((region, ..)) = after.regions.get(index).copied() else {
                    return;
                };
                after.regions.remove(index);
                let result = self
                    .bench
                    .memory
                    .remove(RemMemReg { region }, &[])
                    .map(|(_, ticket)| ticket);
                self.change(after, before, result);
            }
            Step::Area(area, file, offset, size) => {
                let result = self.bench.area(area, &self.files[file], offset, size);
                after.areas.retain(|other| other.area != area);
                if let Ok((place, _)) = result {
                    after.areas.push(PlacedArea {
                        area,
                        place,
                        file,
                        offset,
                        size,
                    });
                }
                self.change(after, before, result.map(|(_, ticket)| ticket));
            }
            Step::Settle(outcome) => self.settle(outcome),
            Step::Fail(n) => self.bench.vmm.fail_nth(n, ErrorKind::Other),
            Step::Withdraw(offset) => {
                let found = self.bench.withdraw(Missing::At(offset as u64));
                self.lost |= found.unwrap_or(true);
            }
            Step::Revoke => self.revoke(),
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let Some((model, mapped, ticket)) = self.pending.take() else {
            return;
        };
        if outcome == Outcome::Refused {
            self.model = model;
        }
        let result = self.bench.memory.settled(ticket, outcome);
        self.lost |= result.is_err();
        if self.lost {
            return;
        }
        if outcome == Outcome::Refused {
            assert_eq!(self.bench.vmm.mappings(), mapped, "as if nothing had been");
        }
        let mapped = self.bench.attached_bytes();
        assert_eq!(mapped, self.model.mapped(), "no more, no less");
    }

    fn revoke(&mut self) {
        self.model = Model::default();
        let stale = self.pending.take();
        if self.bench.revoke().is_err() {
            self.bench.revoke().expect("the VMM fails once at a time");
        }
        assert_eq!(self.bench.vmm.mappings(), []);
        self.lost = self.bench.is_dead();
        if let Some((_, _, ticket)) = stale {
            self.bench.memory.settled(ticket, Outcome::Refused).unwrap();
        }
    }

    fn check(&self) {
        self.bench.check_books();
        if !self.lost {
            let regions = self.model.regions.iter();
            let regions = regions.map(|(region, file, _)| (*region, &self.files[*file]));
            self.bench.check(&regions.collect::<Vec<_>>());
            for (region, _, place) in &self.model.regions {
                let mut placed = self.bench.memory.table.regions.iter();
                let stays = placed.any(|p| p.region == *region && p.window_offset() == *place);
                assert!(stays, "{region:?} is elsewhere");
            }
            for area in &self.model.areas {
                let within = area.offset % PAGE;
                let tag = self.files[area.file].tag(area.offset - within);
                let mut bytes = [0; 8];
                let vmm = &self.bench.vmm;
                vmm.read_window(area.place - within, &mut bytes)
                    .expect("it is mapped");
                assert_eq!(bytes, tag);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_sequence_keeps_every_promise(steps in vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.check();
        }
        run.bench.vmm.clear_failure();
        run.revoke();
        run.check();
    }
}
