// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! From one layout of the window to the next.

use super::layout::{Layout, Piece, Wanted};
use super::placing::Placing;

/// What has to be done to get from one layout to the next.
#[derive(Debug)]
pub(super) struct Plan {
    /// The layout when all is mapped that has to be, and nothing unmapped yet.
    pub(super) layout: Layout,
    /// Where each wanted extent is, in their order.
    pub(super) positions: Vec<u64>,
    /// What has to be mapped: for which wanted extent, and where.
    pub(super) map: Vec<(usize, u64, Piece)>,
    /// Window offsets of the pieces that are not needed any more.
    pub(super) retire: Vec<u64>,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlan {
    /// The window is too small, or too crowded.
    NoRoom,
    /// More pieces than allowed.
    TooManyPieces,
}

impl Layout {
    /// Finds places for `wanted`, all of which are in the window afterwards,
    /// and nothing else but the rest of their pages.
    ///
    /// No two overlap, whatever they do in their files; two that share a page of
    /// their file may share it in the window. What is mapped stays where it is
    /// as long as there is something on each page that is wanted; a piece with
    /// other pages cannot be cut while the guest uses it, so what is wanted of
    /// it gets another place.
    pub(super) fn plan(&self, wanted: &[Wanted]) -> Result<Plan, NoPlan> {
        // Space that is kept without need is given up only if need be.
        let generous = if self.arenas.len() > self.max_pieces.saturating_mul(2) {
            Err(NoPlan::NoRoom)
        } else {
            self.plan_in(self.clone(), wanted, false)
        };
        generous.or_else(|_| {
            let mut trimmed = self.clone();
            trimmed.trim();
            self.plan_in(trimmed, wanted, true)
        })
    }

    fn plan_in(&self, mut next: Self, wanted: &[Wanted], frugal: bool) -> Result<Plan, NoPlan> {
        let mut placing = Placing::new(wanted);
        placing.keep_places(&next);
        placing.use_arenas(&next);
        placing.leave_cut_pieces(&self.pieces);
        placing
            .place_rest(&mut next, frugal)
            .ok_or(NoPlan::NoRoom)?;
        let retire: Vec<_> = self
            .pieces
            .iter()
            .filter(|(at, piece)| !placing.covers(**at, piece.length))
            .map(|(at, _)| *at)
            .collect();
        let (positions, map) = placing.missing(&mut next.pieces).ok_or(NoPlan::NoRoom)?;
        if next.pieces.len() > self.max_pieces {
            return Err(NoPlan::TooManyPieces);
        }
        Ok(Plan {
            layout: next,
            positions,
            map,
            retire,
        })
    }
}
