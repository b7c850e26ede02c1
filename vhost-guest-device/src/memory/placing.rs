// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The search for places in the window.

use std::collections::BTreeMap;

use super::layout::{Extent, Layout, Piece, Wanted};

/// Wanted extents on their way to their places.
pub(super) struct Placing<'a> {
    wanted: &'a [Wanted],
    positions: Vec<Option<u64>>,
    /// Ranges of the window that are given to wanted extents: their ends by
    /// their starts. They do not overlap.
    taken: BTreeMap<u64, u64>,
}

impl<'a> Placing<'a> {
    pub(super) fn new(wanted: &'a [Wanted]) -> Self {
        Self {
            wanted,
            positions: vec![None; wanted.len()],
            taken: BTreeMap::new(),
        }
    }

    fn is_free(&self, start: u64, length: u64) -> bool {
        let before = self.taken.range(..start + length).next_back();
        before.is_none_or(|(_, end)| *end <= start)
    }

    /// Gives the extent this place, if it is free.
    fn take(&mut self, index: usize, wanted: &Wanted, position: u64) -> bool {
        let length = wanted.extent.length;
        let free = self.is_free(position, length);
        if free {
            self.taken.insert(position, position + length);
            if let Some(place) = self.positions.get_mut(index) {
                *place = Some(position);
            }
        }
        free
    }

    fn unplaced(&self) -> Vec<(usize, &'a Wanted)> {
        let places = self.positions.iter().zip(self.wanted).enumerate();
        places
            .filter(|(_, (position, _))| position.is_none())
            .map(|(index, (_, wanted))| (index, wanted))
            .collect()
    }

    /// Leaves what was in the window before where it was.
    pub(super) fn keep_places(&mut self, layout: &Layout) {
        for (index, wanted) in self.unplaced() {
            if let Some(position) = wanted.before.filter(|at| layout.has(wanted, *at)) {
                self.take(index, wanted, position);
            }
        }
    }

    /// Puts what has a place in space that is kept for its file there.
    pub(super) fn use_arenas(&mut self, layout: &Layout) {
        for (index, wanted) in self.unplaced() {
            let mut positions = layout.positions(wanted);
            positions.find(|at| self.take(index, wanted, *at));
        }
    }

    /// Takes back places over pieces that would have to be cut.
    ///
    /// Each extent taken back may leave another piece only partly wanted, so
    /// this goes on until nothing changes.
    pub(super) fn leave_cut_pieces(&mut self, pieces: &BTreeMap<u64, Piece>) {
        let mut changed = true;
        while changed {
            changed = false;
            for (&start, piece) in pieces {
                let end = start + piece.length;
                if !self.is_free(start, piece.length) && !self.covers(start, piece.length) {
                    self.leave(start, end);
                    changed = true;
                }
            }
        }
    }

    fn leave(&mut self, start: u64, end: u64) {
        for (place, wanted) in self.positions.iter_mut().zip(self.wanted) {
            let there = |at: u64| at < end && start < at + wanted.extent.length;
            if let Some(position) = place.filter(|at| there(*at)) {
                self.taken.remove(&position);
                *place = None;
            }
        }
    }

    /// Tells whether the whole range is taken, by one extent or several that
    /// follow each other.
    pub(super) fn covers(&self, start: u64, length: u64) -> bool {
        let mut covered = match self.taken.range(..=start).next_back() {
            Some((_, end)) => *end,
            None => return false,
        };
        let end = start + length;
        while start < covered && covered < end {
            match self.taken.get(&covered) {
                Some(end) => covered = *end,
                None => return false,
            }
        }
        start < covered
    }

    /// Finds places where nothing is mapped for what has none yet.
    pub(super) fn place_rest(&mut self, layout: &mut Layout, frugal: bool) -> Option<()> {
        for (index, wanted) in self.unplaced() {
            let length = wanted.extent.length;
            let blank = layout
                .positions(wanted)
                .find(|at| layout.is_blank(*at, length) && self.is_free(*at, length));
            let position = match blank {
                Some(position) => position,
                None => layout.make_arena(wanted, frugal)?,
            };
            self.take(index, wanted, position);
        }
        Some(())
    }

    /// All positions, and what of them is not among the mapped `pieces`.
    ///
    /// `None` if an extent has no place.
    #[allow(clippy::type_complexity)] // two fields of a `Plan`
    pub(super) fn missing(
        &self,
        pieces: &BTreeMap<u64, Piece>,
    ) -> Option<(Vec<u64>, Vec<(usize, u64, Piece)>)> {
        let positions: Vec<u64> = self.positions.iter().copied().collect::<Option<_>>()?;
        let mut missing = Vec::new();
        for (index, (&start, wanted)) in positions.iter().zip(self.wanted).enumerate() {
            let extent = &wanted.extent;
            let end = start + extent.length;
            let mut push = |from: u64, to: u64| {
                if from < to {
                    let offset = extent.offset + (from - start);
                    let length = to - from;
                    missing.push((
                        index,
                        from,
                        Extent {
                            offset,
                            length,
                            ..*extent
                        },
                    ));
                }
            };
            // Pieces of this range, the first of which may start before it.
            let first = pieces
                .range(..=start)
                .next_back()
                .map_or(start, |(at, _)| *at);
            let mut from = start;
            for (&at, piece) in pieces.range(first..end) {
                push(from, at);
                from = from.max(at + piece.length);
            }
            push(from, end);
        }
        Some((positions, missing))
    }
}
