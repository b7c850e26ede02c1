// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The arithmetic of places, at its limits.

use super::*;
use crate::fd::FileIdentity;
use crate::memory::layout::{Extent, Layout, Space, Wanted};
use crate::memory::plan::NoPlan;

/// All of what is wanted of a file of 16 MiB.
fn wanted(inode: u64, offset: u64, length: u64) -> Wanted {
    Wanted {
        extent: Extent {
            file: FileIdentity::numbered(inode),
            offset,
            length,
        },
        page_size: PAGE,
        file_size: 16 * MIB,
        before: None,
        space: Space::File,
    }
}

#[test]
fn allows_so_many_pieces_and_not_one_more() {
    let layout = Layout::new(64 * MIB, 2);
    let three = [1, 2, 3].map(|inode| wanted(inode, 0, MIB));
    assert_eq!(layout.plan(&three[..2]).unwrap().map.len(), 2);
    let refused = layout.plan(&three).map(drop);
    assert_eq!(refused, Err(NoPlan::TooManyPieces));
}

#[test]
fn keeps_what_is_mapped_when_it_gives_up_the_space_before_it() {
    let layout = Layout::new(24 * MIB, 8);
    let mut stays = wanted(1, 6 * MIB, 2 * MIB);
    let plan = layout.plan(&[stays]).unwrap();
    assert_eq!(plan.positions, [8 * MIB]);
    // There is no room for this beside a whole file.
    stays.before = Some(8 * MIB);
    let more = wanted(2, 0, 12 * MIB);
    let crowded = plan.layout.plan(&[stays, more]).unwrap();
    assert_eq!(crowded.positions[0], 8 * MIB);
    // What stays is still known by its place in the file.
    let again = crowded.layout.plan(&[stays]).unwrap();
    assert_eq!((again.positions, again.map), (vec![8 * MIB], vec![]));
    let beside = crowded.layout.positions(&stays);
    assert_eq!(beside.collect::<Vec<_>>(), [8 * MIB]);
}

#[test]
fn gives_up_old_space_when_there_is_twice_as_much_as_pieces() {
    let mut layout = Layout::new(1 << 30, 1);
    for (inode, spaces) in [(1, 1), (2, 2), (3, 3), (4, 1)] {
        let plan = layout.plan(&[wanted(inode, 0, MIB)]).unwrap();
        layout = plan.layout;
        assert_eq!(layout.arena_count(), spaces);
        layout.remove(plan.positions[0]);
    }
}

#[test]
fn keeps_no_space_for_a_frontend_that_is_gone() {
    let mut bench = Bench::new();
    let (first, second) = (TestFile::new(1, 4 * MIB), TestFile::new(2, 4 * MIB));
    let places = bench.replaced(&[(region(0, MIB, 0), &first)]);
    bench.revoke().unwrap();
    assert_eq!(bench.memory.layout.arena_count(), 0);
    assert_eq!(bench.replaced(&[(region(0, MIB, 0), &second)]), places);
}

#[test]
fn knows_what_is_blank_before_and_behind_a_piece() {
    let layout = Layout::new(64 * MIB, 8);
    let plan = layout.plan(&[wanted(1, 2 * MIB, MIB)]).unwrap();
    let (layout, at) = (plan.layout, plan.positions[0]);
    let blank = |at, length| layout.is_blank(&wanted(1, 0, length), at);
    assert!(blank(at - MIB, MIB) && blank(at + MIB, MIB));
    assert!(!blank(at - MIB, MIB + 1) && !blank(at + MIB - 1, MIB));
    // Pages count, not bytes.
    assert!(!blank(at + MIB - PAGE + 1, 1) && !blank(at - 1, 2) && blank(at - PAGE + 1, 1));
}

#[test]
fn keeps_space_for_a_whole_file_once_and_not_when_it_is_frugal() {
    let mut layout = Layout::new(64 * MIB, 8);
    let part = |inode| wanted(inode, 6 * MIB, 2 * MIB);
    assert_eq!(layout.make_arena(&part(1), true), Some(2 * MIB));
    // Space of its own is none for the file.
    let alone = Wanted {
        space: Space::Alone,
        ..part(2)
    };
    assert_eq!(layout.make_arena(&alone, false), Some(4 * MIB));
    assert_eq!(layout.make_arena(&part(2), false), Some(6 * MIB + 6 * MIB));
    // What is behind the file's end now gets space of its own, too.
    let behind = wanted(2, 20 * MIB, 2 * MIB);
    assert_eq!(layout.make_arena(&behind, false), Some(22 * MIB));
}

#[test]
fn fills_a_gap_between_what_stays() {
    let small = |inode| Wanted {
        file_size: 2 * MIB,
        ..wanted(inode, 0, 2 * MIB)
    };
    let plan = Layout::new(8 * MIB, 8).plan(&[1, 2, 3].map(small)).unwrap();
    assert_eq!(plan.positions, [2 * MIB, 4 * MIB, 6 * MIB]);
    let mut layout = plan.layout;
    layout.remove(4 * MIB);
    let stays = |inode, at| Wanted {
        before: Some(at),
        ..small(inode)
    };
    let all = [stays(1, 2 * MIB), stays(3, 6 * MIB), small(4)];
    let positions = layout.plan(&all).unwrap().positions;
    assert_eq!(positions, [2 * MIB, 6 * MIB, 4 * MIB]);
}

#[test]
fn a_cut_moves_nothing_that_only_touches_it() {
    let parts = [0, 2, 4].map(|at| wanted(1, at * MIB, 2 * MIB));
    let plan = Layout::new(64 * MIB, 8).plan(&parts).unwrap();
    assert_eq!(plan.positions, [2 * MIB, 4 * MIB, 6 * MIB]);
    let [mut low, mut middle, mut high] = parts;
    low.before = Some(2 * MIB);
    middle.before = Some(4 * MIB);
    high.before = Some(6 * MIB);
    middle.extent.length = MIB;
    let cut = plan.layout.plan(&[low, middle, high]).unwrap();
    assert_eq!([cut.positions[0], cut.positions[2]], [2 * MIB, 6 * MIB]);
    assert_eq!(cut.retire, [4 * MIB]);
    assert_eq!(cut.map, [(1, cut.positions[1], middle.extent)]);
}
