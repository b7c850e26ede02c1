// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The crate `blkio`, libblkio's implementation, as a user of the disk. It
//! shares its virtqueues in a file of just their length, and buffers in
//! others.

mod disk;
mod regions;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;

use blkio::ReqFlags;
use disk::{Disk, EIO};

use crate::lab::{nameless, Lab};

const MIB: u64 = 1 << 20;
const FLAGS: ReqFlags = ReqFlags::empty();

/// Bytes that say where they are.
fn content(at: u64, len: usize) -> Vec<u8> {
    let byte = |i| (i / 512 + i / 7) as u8;
    (at..).take(len).map(byte).collect()
}

/// An image of so many bytes, with content.
fn image(len: u64) -> File {
    let image = nameless();
    image.write_all_at(&content(0, len as usize), 0).unwrap();
    image
}

fn on_image(image: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    image.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn reads_and_writes_what_is_on_the_image() {
    let image = image(2 * MIB);
    let lab = Lab::with_disk(&image, 1);
    let mut disk = Disk::open(&lab, 1);
    assert_eq!(disk.blkio.get_u64("capacity").unwrap(), 2 * MIB);
    let buffer = disk.buffer(0x1_0000);
    for (at, len) in [(0, 512), (512, 4096), (MIB - 512, 0x1_0000)] {
        assert_eq!(disk.read(0, at, &buffer, 0, len), 0);
        assert!(buffer.read(0, len) == content(at, len), "at {at}");
    }
    buffer.write(0, &content(77, 0x8000));
    assert_eq!(disk.write(0, 4096, &buffer, 0, 0x8000, FLAGS), 0);
    assert_eq!(disk.flush(0), 0);
    assert!(on_image(&image, 4096, 0x8000) == content(77, 0x8000));
    // And with a flush of the library's own behind it.
    assert_eq!(disk.write(0, 0, &buffer, 512, 512, ReqFlags::FUA), 0);
    assert!(on_image(&image, 0, 512) == content(77 + 512, 512));
    // What is behind the end is nobody's.
    assert_eq!(disk.read(0, 2 * MIB, &buffer, 0, 512), -EIO);
    assert_eq!(disk.read(0, 2 * MIB - 512, &buffer, 0, 1024), -EIO);
    assert_eq!(disk.read(0, 0, &buffer, 0, 512), 0);
}

#[test]
fn zeroes_and_discards() {
    let image = image(4 * MIB);
    let lab = Lab::with_disk(&image, 1);
    let mut disk = Disk::open(&lab, 1);
    assert!(disk.blkio.get_u64("max-write-zeroes-len").unwrap() >= MIB);
    assert!(disk.blkio.get_u64("max-discard-len").unwrap() >= MIB);

    let blocks = || image.metadata().unwrap().blocks();
    let full = blocks();
    let keep = ReqFlags::NO_UNMAP;
    assert_eq!(disk.write_zeroes(0, 512, 1024, keep), 0);
    assert_eq!(disk.write_zeroes(0, MIB, MIB, keep), 0);
    assert_eq!(blocks(), full, "a hole that must not be");
    assert_eq!(disk.write_zeroes(0, 2 * MIB, MIB, FLAGS), 0);
    assert_eq!(disk.discard(0, 3 * MIB, MIB / 2), 0);
    assert!(blocks() < full, "no hole");
    assert_eq!(disk.discard(0, 4 * MIB, 512), -EIO);

    let mut expected = content(0, 4 * MIB as usize);
    for zeroes in [512..1536, 1 << 20..3 << 20, 3 << 20..7 << 19] {
        expected[zeroes].fill(0);
    }
    assert!(on_image(&image, 0, 4 * MIB as usize) == expected);
    let buffer = disk.buffer(4096);
    assert_eq!(disk.read(0, 0, &buffer, 0, 4096), 0);
    assert!(buffer.read(0, 4096) == expected[..4096]);
}

/// Several threads, each with a vring of its own and many requests under way;
/// one of them without calls.
#[test]
fn serves_several_queues_at_once() {
    const QUEUES: u64 = 4;
    let image = image(QUEUES * MIB);
    let lab = Lab::with_disk(&image, QUEUES as u16);
    let mut blkio = disk::connect(&lab, false);
    assert_eq!(blkio.get_i32("max-queues").unwrap(), QUEUES as i32);
    blkio.set_i32("num-queues", QUEUES as i32 - 1).unwrap();
    blkio.set_i32("num-poll-queues", 1).unwrap();
    blkio.set_i32("queue-size", 64).unwrap();
    let mut disk = Disk::start(blkio);
    let buffers: Vec<_> = (0..QUEUES).map(|_| disk.buffer(MIB as usize)).collect();
    let queues = std::mem::take(&mut disk.queues);
    thread::scope(|scope| {
        for ((mut queue, buffer), number) in queues.into_iter().zip(&buffers).zip(0..) {
            scope.spawn(move || {
                let at = number * MIB;
                buffer.write(0, &content(at + 1, MIB as usize));
                let parts = (0..MIB).step_by(8192);
                for part in parts.clone() {
                    let (data, len) = (buffer.at(part), 8192);
                    queue.write(at + part, data, len, part as usize, FLAGS);
                }
                disk::complete(&mut queue, parts.count(), |done| assert_eq!(done.ret, 0));
            });
        }
    });
    for at in (0..QUEUES).map(|number| number * MIB) {
        let right = content(at + 1, MIB as usize);
        assert!(on_image(&image, at, MIB as usize) == right);
    }
}

/// Nobody says good-bye: the socket is closed with requests under way.
#[test]
fn comes_back_after_it_has_left_in_the_middle() {
    let image = image(MIB);
    let lab = Lab::with_disk(&image, 2);
    for round in 0..6 {
        let mut disk = Disk::open(&lab, 2);
        let buffer = disk.buffer(0x1_0000);
        let right = content(round, 4096);
        buffer.write(0, &right);
        assert_eq!(disk.write(1, 4096, &buffer, 0, 4096, FLAGS), 0);
        assert!(on_image(&image, 4096, 4096) == right);
        for slot in 0..16 {
            let (data, at) = (buffer.at(slot * 4096), slot * 4096);
            disk.queues[0].read(at, data, 4096, 0, FLAGS);
        }
        // Sent, and not waited for.
        disk.queues[0].do_io(&mut [], 0, None, None).unwrap();
    }
}

#[test]
fn cannot_write_to_a_read_only_disk() {
    let image = image(MIB);
    let lab = Lab::with_read_only_disk(&image);
    let mut refused = disk::connect(&lab, false);
    assert!(refused.start().is_err(), "would write");
    drop(refused);
    let mut disk = Disk::start(disk::connect(&lab, true));
    let buffer = disk.buffer(4096);
    assert_eq!(disk.read(0, 4096, &buffer, 0, 4096), 0);
    assert!(buffer.read(0, 4096) == content(4096, 4096));
}

/// The image changes its length while it is used.
#[test]
fn sees_that_the_disk_is_resized() {
    let image = image(MIB);
    let lab = Lab::with_disk(&image, 1);
    let mut disk = Disk::open(&lab, 1);
    let buffer = disk.buffer(4096);
    assert_eq!(disk.read(0, MIB, &buffer, 0, 4096), -EIO);
    image.set_len(2 * MIB).unwrap();
    assert_eq!(disk.blkio.get_u64("capacity").unwrap(), 2 * MIB);
    buffer.write(0, &content(3, 4096));
    assert_eq!(disk.write(0, 2 * MIB - 4096, &buffer, 0, 4096, FLAGS), 0);
    assert!(on_image(&image, 2 * MIB - 4096, 4096) == content(3, 4096));
    image.set_len(MIB / 2).unwrap();
    assert_eq!(disk.read(0, MIB, &buffer, 0, 4096), -EIO);
    assert_eq!(disk.blkio.get_u64("capacity").unwrap(), MIB / 2);
    assert_eq!(disk.read(0, 4096, &buffer, 0, 4096), 0);
    assert!(buffer.read(0, 4096) == content(4096, 4096));
}
