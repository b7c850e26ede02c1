// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Decode, rewrite, encode: what a relay does with each message, in this
//! family's crate and with the types of the `vhost` crate.
//!
//! Both get the same bytes and the same number of descriptors (numbers here:
//! no system calls), move user addresses into a window in the same way, and
//! write the bytes for the guest into a buffer.

mod ours;
mod theirs;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use vhost_guest_msg::{
    frontend, Endian, FrontendRequest, MemRegion, MemTable, Region, VringAddr, VringFd, VringNum,
};

use crate::ratio::ratio;

/// Stands for a descriptor.
type Fd = i32;

/// Distance from the frontend's user addresses to the window's.
const DISTANCE: u64 = 0x7f00_0000_0000 - (2 << 20);
const REGION: u64 = 1 << 30;

/// Where a user address of the frontend's is in the window.
fn place(address: u64) -> u64 {
    address.wrapping_sub(DISTANCE)
}

/// A message as it arrives.
struct Sample {
    name: &'static str,
    bytes: Vec<u8>,
    fds: Vec<Fd>,
}

impl Sample {
    fn new(name: &'static str, request: FrontendRequest<Fd>) -> Self {
        let (request, fds) = request.detach();
        Self {
            name,
            bytes: request.to_vec(false, Endian::NATIVE),
            fds: fds.into_iter().collect(),
        }
    }
}

fn region(number: u64) -> Region {
    let user_address = DISTANCE + (2 << 20) + number * REGION;
    Region::new(number * REGION, REGION, user_address, number * REGION).expect("it has an end")
}

fn samples() -> Vec<Sample> {
    let table = (0..8)
        .map(|number| (region(number), number as Fd))
        .collect();
    let table = MemTable::new(table).expect("regions side by side");
    let addr = VringAddr {
        index: 1,
        log_used: false,
        descriptor: DISTANCE + (3 << 20),
        used: DISTANCE + (3 << 20) + 0x2000,
        available: DISTANCE + (3 << 20) + 0x1000,
        log: 0,
    };
    let kick = VringFd {
        index: 1,
        fd: Some(7),
    };
    let num = VringNum::new(1, 256).expect("a size that rings have");
    let region = MemRegion {
        region: region(3),
        fd: 7,
    };
    vec![
        Sample::new("SET_MEM_TABLE of 8", FrontendRequest::SetMemTable(table)),
        Sample::new("ADD_MEM_REG", FrontendRequest::AddMemReg(region)),
        Sample::new("SET_VRING_ADDR", FrontendRequest::SetVringAddr(addr)),
        Sample::new("SET_VRING_KICK", FrontendRequest::SetVringKick(kick)),
        Sample::new("SET_VRING_NUM", FrontendRequest::SetVringNum(num)),
    ]
}

/// Criterion's figures for both.
pub fn bench(criterion: &mut Criterion) {
    for sample in samples() {
        check(&sample);
        let mut group = criterion.benchmark_group(sample.name);
        group.throughput(Throughput::Bytes(sample.bytes.len() as u64));
        let mut buffer = [0; 4096];
        group.bench_function("vhost-guest-msg", |bencher| {
            bencher.iter(|| ours::relay(black_box(&sample), &mut buffer));
        });
        group.bench_function("vhost", |bencher| {
            bencher.iter(|| theirs::relay(black_box(&sample), &mut buffer));
        });
        group.finish();
    }
}

/// Prints how they compare.
pub fn compare() {
    for sample in samples() {
        let (mut buffer, mut other) = ([0; 4096], [0; 4096]);
        let ratio = ratio(
            || {
                black_box(ours::relay(black_box(&sample), &mut buffer));
            },
            || {
                black_box(theirs::relay(black_box(&sample), &mut other));
            },
        );
        println!("    {:<20} {ratio:.2}", sample.name);
    }
}

/// Both must come to the same result, or the figures mean nothing.
fn check(sample: &Sample) {
    let (mut buffer, mut other) = ([0; 4096], [0; 4096]);
    let length = ours::relay(sample, &mut buffer).expect("a good message");
    let again = theirs::relay(sample, &mut other).expect("a good message");
    assert_eq!(buffer[..length], other[..again], "{}", sample.name);
    let moved = matches!(
        sample.bytes[0].into(),
        frontend::SET_MEM_TABLE | frontend::ADD_MEM_REG | frontend::SET_VRING_ADDR
    );
    assert_eq!(buffer[..length] != sample.bytes, moved, "{}", sample.name);
}
