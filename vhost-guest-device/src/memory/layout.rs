// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where things are in the window: numbers only, nothing is mapped here.

use std::collections::BTreeMap;

use crate::fd::FileIdentity;

/// Offsets in the window are congruent to file offsets modulo this at least,
/// or huge pages are lost. The window's first 2 MiB stay empty, so that no
/// valid address is 0.
pub(super) const ALIGNMENT: u64 = 2 << 20;

/// A run of bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) file: FileIdentity,
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Extent {
    /// Where it ends in its file. Extents are made within existing files, whose
    /// sizes are far from the end of `u64`.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// An extent that is to be in the window, to the byte: mapped are the pages that
/// have a byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) extent: Extent,
    /// The size of its file's pages: a power of two, the host's or more.
    pub(super) page_size: u64,
    /// The size of its file. No page behind it is ever mapped.
    pub(super) file_size: u64,
    /// Where it should be, because it is or was there.
    pub(super) before: Option<u64>,
    pub(super) space: Space,
}

impl Wanted {
    /// The modulus of its congruence.
    pub(super) fn alignment(&self) -> u64 {
        ALIGNMENT.max(self.page_size)
    }

    /// The pages that it is on, as an extent.
    pub(super) fn pages(&self) -> Extent {
        let (offset, end) = self.round(self.extent.offset, self.extent.end());
        let length = end - offset;
        Extent {
            offset,
            length,
            ..self.extent
        }
    }

    /// A range of its file or of the window, extended to whole pages. Files and
    /// windows are too small for an overflow.
    pub(super) fn round(&self, start: u64, end: u64) -> (u64, u64) {
        let page = self.page_size;
        (
            start - start % page,
            end.saturating_add(page - 1) / page * page,
        )
    }

    /// Where the file offsets are at which it is mapped in pieces: its first and
    /// last page by themselves, if another extent could begin or end on them. So
    /// each can go without the other.
    pub(super) fn seams(&self) -> [Option<u64>; 2] {
        let (pages, end) = (self.pages(), self.extent.end());
        let shares_first = pages.offset < self.extent.offset;
        let shares_last = end < pages.end() && end < self.file_size;
        [
            shares_first.then(|| pages.offset + self.page_size),
            shares_last.then(|| pages.end() - self.page_size),
        ]
    }
}

/// What space a [`Wanted`] extent is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// Space kept for the whole file, if there is room.
    File,
    /// Space of its own, that no other extent of the file is put into.
    Alone,
}

/// Window space that is kept for a part of a file: byte `file_start + n` of
/// the file, if it is mapped at all, is at byte `n` of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arena {
    file: FileIdentity,
    file_start: u64,
    length: u64,
    alone: bool,
}

/// Something that is mapped, in one piece, at some window offset.
pub(super) type Piece = Extent;

/// Which parts of which files are mapped in the window, and for which space is
/// kept.
///
/// The driver's ring addresses are offsets in the window, and backends
/// translate frontend addresses to them only when they are told a ring's
/// address; not again when the memory table changes. So what stays must stay
/// where it is, and what goes and comes back should come back to its place:
/// space is kept for whole files where there is room. (vhost-guest
/// specification, placement.)
#[derive(Clone, Debug)]
pub(super) struct Layout {
    window_size: u64,
    pub(super) max_pieces: usize,
    /// By window offset; they do not overlap.
    pub(super) arenas: BTreeMap<u64, Arena>,
    /// By window offset; each lies in an arena.
    pub(super) pieces: BTreeMap<u64, Piece>,
}

impl Layout {
    /// An empty window.
    pub(super) fn new(window_size: u64, max_pieces: usize) -> Self {
        Self {
            window_size,
            max_pieces,
            arenas: BTreeMap::new(),
            pieces: BTreeMap::new(),
        }
    }

    /// What is mapped, by window offset.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> &BTreeMap<u64, Piece> {
        &self.pieces
    }

    #[cfg(test)]
    pub(super) fn arena_count(&self) -> usize {
        self.arenas.len()
    }

    /// Takes note that a piece is not mapped any more.
    pub(super) fn remove(&mut self, window_offset: u64) {
        self.pieces.remove(&window_offset);
    }

    /// Tells whether a piece of this file is mapped.
    pub(super) fn uses(&self, file: FileIdentity) -> bool {
        self.pieces.values().any(|piece| piece.file == file)
    }

    /// Gives up all space in which nothing is mapped, but between pieces.
    pub(super) fn trim(&mut self) {
        let arenas = std::mem::take(&mut self.arenas);
        for (start, arena) in arenas {
            let inside = || self.pieces.range(start..start + arena.length);
            let (Some((&first, _)), Some((&last, end))) = (inside().next(), inside().next_back())
            else {
                continue;
            };
            let trimmed = Arena {
                file_start: arena.file_start + (first - start),
                length: last + end.length - first,
                ..arena
            };
            self.arenas.insert(first, trimmed);
        }
    }

    /// Where an arena that starts at `start` has the extent, if it has it.
    fn position_in(start: u64, arena: &Arena, wanted: &Wanted) -> Option<u64> {
        let extent = &wanted.extent;
        let offset = extent.offset.checked_sub(arena.file_start)?;
        let fits = arena.file == extent.file
            && arena.alone == (wanted.space == Space::Alone)
            && offset <= arena.length
            && extent.length <= arena.length - offset;
        fits.then_some(start + offset)
    }

    /// Where the arenas have the extent.
    pub(super) fn positions<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = u64> + 'a {
        self.arenas
            .iter()
            .filter_map(|(start, arena)| Self::position_in(*start, arena, wanted))
    }

    /// Tells whether an arena has the extent at `position`.
    pub(super) fn has(&self, wanted: &Wanted, position: u64) -> bool {
        let arena = self.arenas.range(..=position).next_back();
        arena.is_some_and(|(start, arena)| {
            Self::position_in(*start, arena, wanted) == Some(position)
        })
    }

    /// Tells whether nothing is mapped on the pages of the extent, if it is put
    /// there.
    pub(super) fn is_blank(&self, wanted: &Wanted, position: u64) -> bool {
        let (start, end) = wanted.round(position, position + wanted.extent.length);
        let before = self.pieces.range(..end).next_back();
        before.is_none_or(|(at, piece)| at + piece.length <= start)
    }

    /// Makes an arena for the extent, for the whole of its file if that was
    /// asked for, is allowed, and there is room. Returns the extent's position.
    pub(super) fn make_arena(&mut self, wanted: &Wanted, frugal: bool) -> Option<u64> {
        let (extent, pages) = (&wanted.extent, wanted.pages());
        let just_it = (pages.offset, pages.length);
        let whole = match wanted.space {
            Space::File if !frugal => self
                .arenas
                .values()
                .all(|arena| arena.file != extent.file || arena.alone)
                .then(|| wanted.round(0, wanted.file_size.max(extent.end()))),
            Space::File | Space::Alone => None,
        };
        let choices = whole.into_iter().chain([just_it]);
        let (start, (file_start, length)) = choices
            .filter_map(|choice| Some((self.gap(choice.0, choice.1, wanted.alignment())?, choice)))
            .next()?;
        let arena = Arena {
            file: extent.file,
            file_start,
            length,
            alone: wanted.space == Space::Alone,
        };
        self.arenas.insert(start, arena);
        Some(start + (extent.offset - file_start))
    }

    /// The lowest free range of `length` bytes that is congruent to
    /// `file_start`.
    fn gap(&self, file_start: u64, length: u64, alignment: u64) -> Option<u64> {
        let residue = file_start % alignment;
        let mut from = ALIGNMENT;
        let mut arenas = self.arenas.iter();
        loop {
            // The next offset from `from` on that has the residue.
            let ahead = residue.wrapping_sub(from) % alignment;
            let start = from.checked_add(ahead)?;
            let end = start.checked_add(length)?;
            match arenas.next() {
                Some((&next, arena)) if next < end => from = from.max(next + arena.length),
                Some(_) => return Some(start),
                None => return (end <= self.window_size).then_some(start),
            }
        }
    }
}
