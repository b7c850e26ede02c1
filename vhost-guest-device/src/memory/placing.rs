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
    /// Ranges of the window that are given to wanted extents, by where they
    /// start. They do not overlap; their pages may, as they do in their file.
    taken: BTreeMap<u64, &'a Wanted>,
}

impl<'a> Placing<'a> {
    pub(super) fn new(wanted: &'a [Wanted]) -> Self {
        Self {
            wanted,
            positions: vec![None; wanted.len()],
            taken: BTreeMap::new(),
        }
    }

    fn is_free(&self, wanted: &Wanted, position: u64) -> bool {
        let before = self.taken.range(..position + wanted.extent.length);
        let end = |(at, before): (&u64, &&Wanted)| at + before.extent.length;
        before
            .map(end)
            .next_back()
            .is_none_or(|end| end <= position)
    }

    /// Gives the extent this place, if it is free.
    fn take(&mut self, index: usize, wanted: &'a Wanted, position: u64) -> bool {
        let free = self.is_free(wanted, position);
        if free {
            self.taken.insert(position, wanted);
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
                if !self.covers(start, piece.length) {
                    changed |= self.leave(start, end);
                }
            }
        }
    }

    /// Takes back places on pages of a range. Tells whether there were any.
    fn leave(&mut self, start: u64, end: u64) -> bool {
        let before = self.taken.len();
        for (place, wanted) in self.positions.iter_mut().zip(self.wanted) {
            let there = |at: u64| {
                let (from, to) = wanted.round(at, at + wanted.extent.length);
                from < end && start < to
            };
            if let Some(position) = place.filter(|at| there(*at)) {
                self.taken.remove(&position);
                *place = None;
            }
        }
        self.taken.len() < before
    }

    /// Tells whether each page of a range has something that is wanted on it.
    pub(super) fn covers(&self, start: u64, length: u64) -> bool {
        // The first may start before the range.
        let first = self.taken.range(..=start).next_back();
        let first = first.map_or(start, |(at, _)| *at);
        let (mut covered, end) = (start, start + length);
        for (at, wanted) in self.taken.range(first..end) {
            let (from, to) = wanted.round(*at, at + wanted.extent.length);
            if from > covered {
                return false;
            }
            covered = covered.max(to);
        }
        covered >= end
    }

    /// Finds places where nothing is mapped for what has none yet.
    pub(super) fn place_rest(&mut self, layout: &mut Layout, frugal: bool) -> Option<()> {
        for (index, wanted) in self.unplaced() {
            let blank = layout
                .positions(wanted)
                .find(|at| layout.is_blank(wanted, *at) && self.is_free(wanted, *at));
            let position = match blank {
                Some(position) => position,
                None => layout.make_arena(wanted, frugal)?,
            };
            self.take(index, wanted, position);
        }
        Some(())
    }

    /// All positions, and what of their pages is not among the mapped `pieces`,
    /// where it is then.
    ///
    /// `None` if an extent has no place.
    #[allow(clippy::type_complexity)] // two fields of a `Plan`
    pub(super) fn missing(
        &self,
        pieces: &mut BTreeMap<u64, Piece>,
    ) -> Option<(Vec<u64>, Vec<(usize, u64, Piece)>)> {
        let positions: Vec<u64> = self.positions.iter().copied().collect::<Option<_>>()?;
        let mut missing = Vec::new();
        for (index, (&position, wanted)) in positions.iter().zip(self.wanted).enumerate() {
            let pages = wanted.pages();
            let start = position - (wanted.extent.offset - pages.offset);
            let seams = wanted.seams().into_iter().flatten();
            let seams = seams.map(|seam| start + (seam - pages.offset));
            for (from, to) in holes(pieces, start, start + pages.length, seams) {
                let piece = Extent {
                    offset: pages.offset + (from - start),
                    length: to - from,
                    ..pages
                };
                pieces.insert(from, piece);
                missing.push((index, from, piece));
            }
        }
        Some((positions, missing))
    }
}

/// The parts of a range of the window that no piece is on, divided at `seams`.
fn holes(
    pieces: &BTreeMap<u64, Piece>,
    start: u64,
    end: u64,
    seams: impl Iterator<Item = u64>,
) -> Vec<(u64, u64)> {
    // The first piece may start before the range.
    let first = pieces.range(..=start).next_back();
    let first = first.map_or(start, |(at, _)| *at);
    let mapped = pieces.range(first..end);
    let mut borders: Vec<_> = mapped.map(|(at, piece)| (*at, at + piece.length)).collect();
    borders.extend(seams.map(|seam| (seam, seam)));
    borders.push((end, end));
    borders.sort_unstable();
    let mut holes = Vec::new();
    let mut from = start;
    for (at, behind) in borders {
        if from < at {
            holes.push((from, at));
        }
        from = from.max(behind);
    }
    holes
}
