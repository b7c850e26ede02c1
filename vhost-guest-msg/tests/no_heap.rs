// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Messages of fixed size, their replies and descriptors take no heap.

mod common;

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::cell::Cell;

use common::{context, emit, fd_counts, rows, sample};
use vhost_guest_msg::{
    decode_whole, Channel, Endian, Fds, Framer, FrontendRequest, Layout, Limits, Progress, Reply,
    ReplyExpectation, ReplyShape, ReplyTracker,
};

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: All calls go to the system allocator as they come.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: The caller keeps the contract of `alloc`.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, address: *mut u8, block: Block) {
        // SAFETY: The address comes from `alloc` above, that is, from `System`.
        unsafe { System.dealloc(address, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Contents of these are as long as the sender likes.
fn is_variable(layout: Layout) -> bool {
    matches!(layout, Layout::MemTable | Layout::Config | Layout::Opaque)
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn requests_of_fixed_size_take_none() {
    let (limits, context) = (Limits::default(), context());
    let mut buffer = [0; 64];
    for row in rows().filter(|row| row.channel == Channel::Main && !is_variable(row.layout)) {
        let body = emit(&sample(row), Endian::Little);
        let flags = vhost_guest_msg::HeaderFlags::empty();
        let bytes = common::message(row.code, flags, &body, Endian::Little);
        let fd_count = fd_counts(row, 0)[0];
        let mut framer = Framer::new(Endian::Little, &limits);
        let count = allocations(|| {
            // As a relay does it: frame, decode, detach, encode.
            framer.space().copy_from_slice(&bytes[..12]);
            let mut progress = framer.advance(12, (0..fd_count).collect()).unwrap();
            if !body.is_empty() {
                framer.space().copy_from_slice(&body);
                progress = framer.advance(body.len(), Fds::new()).unwrap();
            }
            let Progress::Frame(frame) = progress else {
                panic!("incomplete");
            };
            let message =
                FrontendRequest::decode(frame, Endian::Little, &limits, &context).unwrap();
            let (request, fds) = message.request.detach();
            assert_eq!(fds.len(), fd_count);
            let len = request.encode(false, Endian::Little, &mut buffer).unwrap();
            assert_eq!(buffer[..len], bytes);
            // And as its guest does.
            let frame = decode_whole(&bytes, Endian::Little, &limits).unwrap();
            FrontendRequest::decode(frame, Endian::Little, &limits, &context).unwrap();
        });
        assert_eq!(count, 0, "{}", row.name);
    }
}

#[test]
fn replies_take_none() {
    let limits = Limits::default();
    let mut tracker = ReplyTracker::new(Channel::Main, 4);
    let mut buffer = [0; 64];
    let bytes = common::message(
        2,
        vhost_guest_msg::HeaderFlags::REPLY,
        &[0; 8],
        Endian::Little,
    );
    let count = allocations(|| {
        let due = ReplyExpectation::Due(ReplyShape::Ack);
        tracker.expect(2, due, ()).unwrap();
        tracker.expect_local(3, Reply::Ack(1)).unwrap();
        let frame = decode_whole(&bytes, Endian::Little, &limits).unwrap();
        let accepted = tracker
            .accept(&frame.header, frame.body, Endian::Little, &limits)
            .unwrap();
        let reply = accepted.reply;
        reply.encode(2, false, Endian::Little, &mut buffer).unwrap();
        assert_eq!(tracker.pop_local(), Some((3, Reply::Ack(1))));
    });
    assert_eq!(count, 0);
}
