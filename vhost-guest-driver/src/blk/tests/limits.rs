// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a disk says of itself, and that it keeps to it.

use super::*;
use crate::blk::config::{CONFIG_LEN, MAX_DISCARD_SECTORS, SEG_MAX, SIZE_MAX};
use crate::blk::request::MAX_DATA_LEN;

fn config(blk: &mut Blk) -> Vec<u8> {
    let mut config = vec![0; CONFIG_LEN];
    assert!(blk.config_read(0, &mut config));
    config
}

#[test]
fn describes_itself() {
    let blk = Disk::new(false).blk.with_queues(3);
    let platform = VirtioFeatures::ACCESS_PLATFORM;
    assert!(!blk.features().contains(platform));
    let mut blk = blk.with_access_platform();
    let offered = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_MQ;
    let offered = offered | F_DISCARD | F_WRITE_ZEROES | platform.bits();
    assert_eq!(blk.features().bits(), offered);
    assert_eq!(
        (blk.sectors(), blk.queues(), blk.device_type()),
        (SECTORS, 3, 2)
    );
    let config = config(&mut blk);
    assert_eq!(config[..8], SECTORS.to_le_bytes());
    assert_eq!(config[8..12], SIZE_MAX.to_le_bytes());
    assert_eq!(config[12..16], 126u32.to_le_bytes());
    assert_eq!(config[16..20], [0; 4], "no geometry");
    assert_eq!(config[20..24], 512u32.to_le_bytes());
    // Eight blocks in a page, which requests should be made of.
    assert_eq!(config[24..34], [3, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(config[34..36], 3u16.to_le_bytes());
    let numbers = [MAX_DISCARD_SECTORS, 1, 8, MAX_WRITE_ZEROES_SECTORS, 1, 1];
    assert_eq!(config[36..60], numbers.map(u32::to_le_bytes).concat());
}

#[test]
fn says_nothing_of_what_is_no_configuration() {
    let mut blk = Disk::new(false).blk.with_queues(3);
    for (offset, len, there) in [
        (34, 2, true),
        (59, 1, true),
        // Fields of later versions of virtio are zero.
        (0, 96, true),
        (59, 4096 - 59, true),
        (60, 1, false),
        // Where virtio-mmio has it, as some frontends have asked for it.
        (0x100, 60, false),
        (u32::MAX, 4, false),
    ] {
        let mut data = vec![0; len];
        assert_eq!(blk.config_read(offset, &mut data), there, "{offset}");
        let known = config(&mut blk);
        let known = known.get(offset as usize..).unwrap_or(&[]);
        let known: Vec<_> = known.iter().copied().chain([0].repeat(len)).collect();
        assert_eq!(data, known[..len], "{offset}");
    }
    // Nothing of it can be written.
    for offset in 0..=60 {
        assert!(!blk.config_write(offset, &[1]), "{offset}");
    }
}

#[test]
fn has_as_many_queues_as_the_device_carries() {
    let mut blk = Disk::new(false).blk.with_queues(4);
    blk.limit_queues(8);
    assert_eq!(blk.queues(), 4);
    blk.limit_queues(2);
    assert_eq!(blk.queues(), 2);
    assert_eq!(config(&mut blk)[34..36], 2u16.to_le_bytes());
    let blk = Blk::new(temporary_file(), false).unwrap();
    assert_eq!(blk.with_queues(0).queues(), 1);
}

#[test]
fn counts_whole_blocks_only() {
    for (len, block_size, sectors) in [
        (1025, 512, 2),
        (511, 512, 0),
        (3 * 4096 - 1, 4096, 16),
        (1 << 20, 2 << 20, 0),
    ] {
        let file = temporary_file();
        file.set_len(len).unwrap();
        let blk = Blk::new(file, false).unwrap();
        let mut blk = blk.with_block_size(block_size).unwrap();
        assert_eq!(blk.sectors(), sectors);
        assert_eq!(config(&mut blk)[20..24], block_size.to_le_bytes());
    }
    for block_size in [0, 1, 256, 513, 1536, 4 << 20, u32::MAX] {
        let blk = Blk::new(temporary_file(), false).unwrap();
        let error = blk.with_block_size(block_size).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn says_how_many_blocks_are_a_page() {
    for (block_size, exponent, min_io_size, alignment) in [
        (512, 3, 8u16, 8u32),
        (2048, 1, 2, 8),
        (4096, 0, 1, 8),
        (65536, 0, 1, 128),
    ] {
        let blk = Disk::new(false).blk;
        let config = config(&mut blk.with_block_size(block_size).unwrap());
        assert_eq!(config[24..26], [exponent, 0]);
        assert_eq!(config[26..28], min_io_size.to_le_bytes());
        assert_eq!(config[44..48], alignment.to_le_bytes());
    }
}

/// It is what requests should be made of (virtio 1.2 §5.2.5), no more.
#[test]
fn serves_sectors_whatever_a_block_is() {
    let mut disk = Disk::new(false);
    disk.blk = disk.blk.with_block_size(4096).unwrap();
    assert_eq!(disk.request(IN, 3, &[(DATA, 512, WRITE)]), OK);
    assert_eq!(disk.bench.guest.read(DATA, 512), [4; 512]);
    assert_eq!(disk.request(OUT, 9, &[(DATA, 512, 0)]), OK);
    assert_eq!(disk.sector(9), [4; 512]);
}

#[test]
fn moves_no_more_than_segments_of_the_announced_size_hold() {
    let mut disk = Disk::new(false);
    // Sparse, and the same memory over and over.
    disk.file.set_len(4 << 30).unwrap();
    disk.blk = Blk::new(disk.file.try_clone().unwrap(), false).unwrap();
    let table = crate::fake_ring::USER + 0x9000;
    let piece = 0x8_0000_u32;
    let pieces = MAX_DATA_LEN / u64::from(piece);
    assert!(MAX_DATA_LEN == u64::from(SEG_MAX) * (1 << 20) && pieces == 252);
    for (kind, flags) in [(IN, WRITE), (OUT, 0)] {
        disk.header(kind, 0);
        let data = (0..pieces).map(|_| (DATA, piece, flags));
        let chain: Vec<_> = std::iter::once((HEADER, 16, 0))
            .chain(data)
            .chain([(DATA, 512, flags), (STATUS, 1, WRITE)])
            .collect();
        for (at, (address, len, flags)) in (0..).zip(&chain) {
            let next = u16::from(at + 1 < chain.len() as u64);
            let guest = &mut disk.bench.guest;
            guest.put_at(table + 16 * at, *address, *len, flags | next, at as u16 + 1);
        }
        disk.process(&[(GPA + 0x9000, 16 * chain.len() as u32, INDIRECT)]);
        assert_eq!(disk.status(), IOERR);
    }
    assert_eq!(disk.sector(0), [1; 512]);
    assert!(disk.blk.position_of_data(0, MAX_DATA_LEN).is_ok());
    // As much as that is, no driver need know how it is cut.
    assert_eq!(disk.request(IN, 0, &[(DATA, 3 << 18, WRITE)]), OK);
}

#[test]
fn a_turn_is_over_when_much_was_discarded_or_zeroed() {
    for (kind, most) in [
        (DISCARD, MAX_DISCARD_SECTORS),
        (WRITE_ZEROES, MAX_WRITE_ZEROES_SECTORS),
    ] {
        let mut disk = disk_with_holes();
        disk.file.set_len(u64::from(most) * SECTOR_SIZE).unwrap();
        disk.blk = Blk::new(disk.file.try_clone().unwrap(), false).unwrap();
        disk.header(kind, 0);
        disk.bench.guest.write(DATA, &segment(0, most, 0));
        let chain = [(HEADER, 16, 0), (DATA, 16, 0), (STATUS, 1, WRITE)];
        for _ in 0..3 {
            disk.bench.guest.add(&chain);
        }
        for left in (0..3).rev() {
            disk.blk.process(0, &mut disk.bench.ring());
            assert!(disk.bench.guest.used().is_some());
            assert_eq!(disk.bench.guest.used(), None, "{kind}, {left} left");
        }
    }
}

#[test]
fn discards_no_more_than_announced() {
    let mut disk = disk_with_holes();
    let sectors = u64::from(MAX_DISCARD_SECTORS);
    disk.file.set_len(2 * sectors * SECTOR_SIZE).unwrap();
    disk.blk = Blk::new(disk.file.try_clone().unwrap(), false).unwrap();
    for (sectors, status) in [
        (MAX_DISCARD_SECTORS + 1, IOERR),
        (u32::MAX, IOERR),
        (MAX_DISCARD_SECTORS, OK),
    ] {
        disk.bench.guest.write(DATA, &segment(8, sectors, 0));
        assert_eq!(disk.request(DISCARD, 0, &[(DATA, 16, 0)]), status);
        let kept = if status == OK { 0 } else { 7 };
        assert_eq!(disk.sector(8), [kept; 512]);
    }
    assert_eq!(disk.sector(7), [7; 512]);
}
