// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that comes and goes while requests run. Regions are as long as what
//! they are for, not as pages are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::disk::{complete, Buffer, Disk};
use super::{content, image, FLAGS, MIB};
use crate::lab::Lab;

/// Lengths around pages, and far from them.
const LENGTHS: [usize; 8] = [512, 4095, 4096, 4097, 0x1345, 0x3b10, 0x1_0200, 0x12_1200];

#[test]
fn regions_of_any_length_reach_to_their_last_byte() {
    let image = image(2 * MIB);
    let lab = Lab::with_disk(&image, 1);
    let mut disk = Disk::open(&lab, 1);
    for len in LENGTHS {
        let buffer = disk.buffer(len);
        let end = len as u64 - 512;
        assert_eq!(disk.read(0, MIB, &buffer, end, 512), 0, "{len:#x}");
        assert!(buffer.read(end, 512) == content(MIB, 512), "{len:#x}");
        disk.blkio.unmap_mem_region(&buffer.region);
        disk.blkio.free_mem_region(&buffer.region);
    }
}

/// As many at a time as the device takes, gone in another order.
#[test]
fn all_slots_can_be_used() {
    let image = image(MIB);
    let lab = Lab::with_disk(&image, 1);
    let mut disk = Disk::open(&lab, 1);
    let most = disk.blkio.get_u64("max-mem-regions").unwrap().min(200);
    // The virtqueues take one.
    let count = most as usize - 1;
    for _ in 0..2 {
        let lengths = LENGTHS.iter().cycle().take(count);
        let buffers: Vec<Buffer> = lengths.map(|len| disk.buffer(*len)).collect();
        for buffer in &buffers {
            let end = buffer.region.len as u64 - 512;
            assert_eq!(disk.read(0, 4096, buffer, end, 512), 0);
            assert!(buffer.read(end, 512) == content(4096, 512));
        }
        let (even, odd): (Vec<_>, Vec<_>) =
            buffers.iter().enumerate().partition(|(i, _)| i % 2 == 0);
        for (_, buffer) in odd.into_iter().chain(even) {
            disk.blkio.unmap_mem_region(&buffer.region);
            disk.blkio.free_mem_region(&buffer.region);
        }
    }
}

/// Ends the other thread's work, whatever happens to this one.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One thread keeps a vring busy, while the other maps memory, uses it on a
/// vring of its own, and takes it away.
#[test]
fn regions_come_and_go_while_requests_run() {
    let image = image(3 * MIB);
    let lab = Lab::with_disk(&image, 2);
    let mut disk = Disk::open(&lab, 2);
    let steady = disk.buffer(16 * 4096);
    let mut busy = disk.queues.remove(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) || rounds < 20 {
                for slot in 0..16 {
                    busy.read(slot * 4096, steady.at(slot * 4096), 4096, 0, FLAGS);
                }
                complete(&mut busy, 16, |done| assert_eq!(done.ret, 0));
                assert!(steady.read(0, 16 * 4096) == content(0, 16 * 4096));
                rounds += 1;
            }
        });
        for _ in 0..10 {
            for len in LENGTHS {
                let buffer = disk.buffer(len);
                let len = len as u64 / 512 * 512;
                let queue = &mut disk.queues[0];
                for at in (0..len).step_by(512) {
                    queue.read(MIB + at, buffer.at(at), 512, 0, FLAGS);
                }
                complete(queue, len as usize / 512, |done| assert_eq!(done.ret, 0));
                assert!(buffer.read(0, len as usize) == content(MIB, len as usize));
                disk.blkio.unmap_mem_region(&buffer.region);
                disk.blkio.free_mem_region(&buffer.region);
            }
        }
    });
}
