// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

const WINDOW: u64 = 1 << 33;
const SHAPE: Shape = Shape {
    virtqueues: 4,
    vrings: 256,
    window_size: WINDOW,
};
const ONES: u32 = 0xFFFF_FFFF;

fn space() -> ConfigSpace {
    ConfigSpace::new(&SHAPE)
}

fn dword(space: &ConfigSpace, offset: u16) -> u32 {
    let mut data = [0; 4];
    space.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn set(space: &mut ConfigSpace, offset: u16, value: u32) -> Written {
    space.write(offset, &value.to_le_bytes())
}

fn set_command(space: &mut ConfigSpace, command: u16) -> Written {
    space.write(0x04, &command.to_le_bytes())
}

/// Writes a 64-bit address to a BAR.
fn set_bar(space: &mut ConfigSpace, bar: u8, address: u64) -> Vec<BarMove> {
    let offset = 0x10 + u16::from(bar) * 4;
    let mut moves = set(space, offset, address as u32).moves;
    moves.extend(set(space, offset + 4, (address >> 32) as u32).moves);
    moves
}

fn moved(bar: u8, address: impl Into<Option<u64>>) -> BarMove {
    let address = address.into();
    BarMove { bar, address }
}

#[test]
fn identifies_itself() {
    let space = space();
    assert_eq!(dword(&space, 0x00), 0x1075_1AF4);
    assert_eq!(dword(&space, 0x04), 0x0010_0000);
    assert_eq!(dword(&space, 0x08), 0x0880_0001);
    assert_eq!(dword(&space, 0x0C), 0);
    assert_eq!(dword(&space, 0x2C), 0x0040_1AF4);
    assert_eq!(dword(&space, 0x30), 0);
    assert_eq!(dword(&space, 0x34), 0x40);
    assert_eq!(dword(&space, 0x3C), 0);
}

#[test]
fn has_each_capability_at_its_place() {
    let space = space();
    let mut found = Vec::new();
    let mut at = dword(&space, 0x34) as u16;
    while at != 0 {
        let head = dword(&space, at);
        found.push((at, head & 0xFF, head >> 16 & 0xFF, head >> 24));
        at = (head >> 8 & 0xFF) as u16;
        assert!(found.len() < 48, "the list has an end");
    }
    // Offset, identifier, length, type; MSI-X has its control word there.
    let expected = [
        (0x40, 0x09, 16, 1),
        (0x50, 0x09, 16, 3),
        (0x60, 0x09, 16, 4),
        (0x70, 0x09, 20, 2),
        (0x84, 0x09, 16, 7),
        (0x94, 0x09, 20, 6),
        (0xA8, 0x09, 24, 8),
        (0xC0, 0x09, 20, 5),
        (0xD4, 0x11, 0x06, 0x01),
        (0xE0, 0x13, 6, 0b11),
    ];
    assert_eq!(found, expected);
}

#[test]
fn points_each_capability_to_its_structure() {
    let space = space();
    // Capability, BAR, offset, length.
    let structures = [
        (0x40, 0, 0x0000, 0x40),
        (0x50, 0, 0x1000, 1),
        (0x60, 0, 0x2000, 36),
        (0x70, 0, 0x3000, 16),
        (0x84, 0, 0x4000, 4),
        (0x94, 2, 0, 513 * 4),
        (0xA8, 4, 0, WINDOW as u32),
    ];
    for (at, bar, offset, length) in structures {
        let found = (dword(&space, at + 4), dword(&space, at + 8));
        assert_eq!((found, dword(&space, at + 12)), ((bar, offset), length));
    }
    assert_eq!(dword(&space, 0x70 + 16), 4);
    assert_eq!(dword(&space, 0x94 + 16), 4);
    let upper = (dword(&space, 0xA8 + 16), dword(&space, 0xA8 + 20));
    assert_eq!(upper, (0, (WINDOW >> 32) as u32));
    assert_eq!(dword(&space, 0xD4) >> 16, 262);
    assert_eq!(dword(&space, 0xD8), 0x8000);
    assert_eq!(dword(&space, 0xDC), 0xC000);
}

#[test]
fn tells_the_sizes_of_its_bars() {
    let mut space = space();
    let sizes = [
        (0, 0x1_0000, 0b0100),
        (2, 0x1_0000, 0b0100),
        (4, WINDOW, 0b1100),
    ];
    for (bar, size, kind) in sizes {
        let offset = 0x10 + bar * 4;
        assert_eq!(dword(&space, offset), kind);
        set(&mut space, offset, ONES);
        set(&mut space, offset + 4, ONES);
        let low = u64::from(dword(&space, offset));
        let probed = low & !0xF | u64::from(dword(&space, offset + 4)) << 32;
        assert_eq!((low & 0xF, !probed + 1), (u64::from(kind), size));
    }
    for none in [0x28, 0x30] {
        set(&mut space, none, ONES);
        assert_eq!(dword(&space, none), 0);
    }
}

#[test]
fn moves_bars_only_while_memory_space_is_on() {
    let mut space = space();
    assert_eq!(set_bar(&mut space, 0, 0xE000_0000), []);
    assert_eq!(set_bar(&mut space, 4, 0x40_0000_0000), []);
    assert_eq!(space.bar_address(0), None);
    let moves = set_command(&mut space, MEMORY_SPACE).moves;
    assert_eq!(moves, [moved(0, 0xE000_0000), moved(4, 0x40_0000_0000)]);
    let moves = set_command(&mut space, 0).moves;
    assert_eq!(moves, [moved(0, None), moved(4, None)]);
    assert_eq!(set_bar(&mut space, 0, 0xE001_0000), []);
    assert_eq!(set_bar(&mut space, 4, 0), []);
    let moves = set_command(&mut space, MEMORY_SPACE).moves;
    assert_eq!(moves, [moved(0, 0xE001_0000)]);
}

#[test]
fn moves_a_bar_that_is_written_while_decoded() {
    let mut space = space();
    set_bar(&mut space, 2, 0xE000_0000);
    set_command(&mut space, MEMORY_SPACE);
    let moves = set_bar(&mut space, 2, 0x1_F000_0000);
    assert_eq!(moves, [moved(2, 0xF000_0000), moved(2, 0x1_F000_0000)]);
    assert_eq!(set_bar(&mut space, 2, 0x1_F000_0000), []);
}

#[test]
fn takes_a_bar_away_while_it_is_probed() {
    let mut space = space();
    let address = 0x1_E000_0000;
    set_bar(&mut space, 2, address);
    set_command(&mut space, MEMORY_SPACE);
    assert_eq!(set(&mut space, 0x18, ONES).moves, [moved(2, None)]);
    assert_eq!(set(&mut space, 0x1C, ONES).moves, []);
    assert_eq!(set(&mut space, 0x18, address as u32).moves, []);
    assert_eq!(set(&mut space, 0x1C, 1).moves, [moved(2, address)]);
}

#[test]
fn takes_an_address_that_only_looks_like_a_probe() {
    let mut space = space();
    set_command(&mut space, MEMORY_SPACE);
    set(&mut space, 0x14, 0x38);
    let moves = set(&mut space, 0x10, 0xFFFF_0000).moves;
    assert_eq!(moves, [moved(0, 0x38_FFFF_0000)]);
}

#[test]
fn decodes_nothing_at_zero_and_at_the_very_end_all() {
    let mut space = space();
    set_command(&mut space, MEMORY_SPACE);
    assert_eq!([0, 2, 4].map(|bar| space.bar_address(bar)), [None; 3]);
    set(&mut space, 0x14, 0xFFFF_FFFE);
    assert_eq!(space.bar_address(0), Some(0xFFFF_FFFE_0000_0000));
    assert_eq!(space.bar_address(1), None);
    assert_eq!(space.bar_address(6), None);
}

#[test]
fn takes_an_address_from_the_vmm() {
    let mut space = space();
    space.set_bar_address(4, 0x40_0000_1234);
    space.set_bar_address(3, 0x1_0000);
    assert_eq!((dword(&space, 0x20), dword(&space, 0x24)), (0b1100, 0x40));
    assert_eq!(space.bar_address(4), None);
    let moves = set_command(&mut space, MEMORY_SPACE).moves;
    assert_eq!(moves, [moved(4, 0x40_0000_0000)]);
}

#[test]
fn takes_writes_of_any_width_and_place() {
    let mut space = space();
    space.write(0x11, &[0x00, 0x12]);
    space.write(0x13, &[0xE0]);
    assert_eq!(dword(&space, 0x10), 0xE012_0004);
    space.write(0x3C, &[9, 9, 9, 9]);
    assert_eq!(dword(&space, 0x3C), 9);
    space.write(0xFE, &[1; 4]);
    space.write(u16::MAX, &[1; 4]);
    space.write(0x12, &[]);
    assert_eq!(dword(&space, 0xFC), 0);
    assert_eq!(dword(&space, 0xFE), 0xFFFF_0000);
    assert_eq!(dword(&space, 0x100), ONES);
    assert_eq!(dword(&space, u16::MAX), ONES);
}

#[test]
fn keeps_what_is_read_only() {
    let mut space = space();
    let before = space.bytes;
    let mut changed = Vec::new();
    for at in 0..0x100 {
        space.write(at, &[before[usize::from(at)] ^ 0xFF]);
        if space.bytes[usize::from(at)] != before[usize::from(at)] {
            changed.push(at);
        }
    }
    let expected = [
        vec![0x04, 0x05, 0x0C],
        (0x12..0x18).collect(),
        (0x1A..0x20).collect(),
        (0x24..0x28).collect(),
        vec![0x3C, 0xC4],
        (0xC8..0xD4).collect(),
        vec![0xD7],
    ];
    assert_eq!(changed, expected.concat());
}

#[test]
fn reports_what_the_command_register_and_msix_control_say() {
    let mut space = space();
    let written = set_command(&mut space, BUS_MASTER | 0x8000);
    assert_eq!(written.bus_master, Some(true));
    assert_eq!(dword(&space, 0x04) & 0xFFFF, u32::from(BUS_MASTER));
    assert_eq!(set_command(&mut space, BUS_MASTER), Written::default());
    assert_eq!(set_command(&mut space, 0).bus_master, Some(false));
    let control = space.write(0xD6, &0xFFFF_u16.to_le_bytes()).msix_control;
    assert_eq!(control, Some(msix::ENABLE | msix::FUNCTION_MASK));
    assert_eq!(dword(&space, 0xD4) >> 16, 0xC000 | 262);
    // As a whole dword, the way some systems write it.
    let control = set(&mut space, 0xD4, 0x8000_0000).msix_control;
    assert_eq!(control, Some(msix::ENABLE));
}

fn set_up_access(space: &mut ConfigSpace, bar: u8, offset: u32, length: u32) {
    space.write(0xC4, &[bar]);
    set(space, 0xC8, offset);
    set(space, 0xCC, length);
}

#[test]
fn stores_to_a_bar_by_way_of_pci_cfg() {
    let mut space = space();
    set_up_access(&mut space, 2, 8, 2);
    let store = set(&mut space, 0xD0, 0xAABB_CCDD).store.unwrap();
    let expected = CfgAccess {
        bar: 2,
        offset: 8,
        length: 2,
        data: [0xDD, 0xCC, 0xBB, 0xAA],
    };
    assert_eq!(store, expected);
    assert_eq!(set(&mut space, 0xCC, 2).store, None);
    assert_eq!(set(&mut space, 0xD4, 2).store, None);
}

#[test]
fn refuses_accesses_by_way_of_pci_cfg_that_are_not_allowed() {
    let mut space = space();
    for (offset, length) in [(0, 0), (0, 3), (0, 8), (1, 2), (2, 4), (0, ONES)] {
        set_up_access(&mut space, 0, offset, length);
        assert_eq!(set(&mut space, 0xD0, 1).store, None);
        assert_eq!(space.cfg_access(), None);
    }
}

#[test]
fn resets_the_function_when_told_to() {
    let mut space = space();
    set_bar(&mut space, 0, 0xE000_0000);
    set_command(&mut space, MEMORY_SPACE | BUS_MASTER);
    set(&mut space, 0xD4, 0x8000_0000);
    assert!(!space.write(0xE4, &[0xFE]).function_reset);
    assert!(space.write(0xE4, &[1]).function_reset);
    assert!(set(&mut space, 0xE2, 0x0001_0000).function_reset);
    assert_eq!(dword(&space, 0xE4), 0);
    assert_eq!(space.reset(), [moved(0, None)]);
    assert_eq!(space.bytes, ConfigSpace::new(&SHAPE).bytes);
}
