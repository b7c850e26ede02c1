// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One queue at work: requests go out, answers are checked.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use vm_memory::{Bytes, GuestMemoryMmap};
use vmm_sys_util::epoll::EpollEvent;

use super::memory::{DEPTH, REQUEST_BYTES};
use super::pattern::{fill, Model, Random, BLOCK};
use super::ring::Part;
use super::session::{Disk, Queue};
use super::watchdog::LIMIT;
use crate::loopback::failure::{Context, Failure};
use crate::loopback::latency::Histogram;

const BLOCKS_PER_REQUEST: u64 = REQUEST_BYTES / BLOCK as u64;
const SECTORS_PER_BLOCK: u64 = BLOCK as u64 / 512;

/// A virtio-blk request; the blocks are numbers on the whole disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// VIRTIO_BLK_T_IN
    Read { first: u64, blocks: u64 },
    /// VIRTIO_BLK_T_OUT
    Write { first: u64, blocks: u64 },
    /// VIRTIO_BLK_T_FLUSH
    Flush,
    /// VIRTIO_BLK_T_DISCARD
    Discard { first: u64, blocks: u64 },
    /// VIRTIO_BLK_T_WRITE_ZEROES; `unmap` allows a hole.
    WriteZeroes {
        first: u64,
        blocks: u64,
        unmap: bool,
    },
}

impl Request {
    fn kind(self) -> u32 {
        match self {
            Self::Read { .. } => 0,
            Self::Write { .. } => 1,
            Self::Flush => 4,
            Self::Discard { .. } => 11,
            Self::WriteZeroes { .. } => 13,
        }
    }

    fn range(self) -> std::ops::Range<u64> {
        match self {
            Self::Read { first, blocks }
            | Self::Write { first, blocks }
            | Self::Discard { first, blocks }
            | Self::WriteZeroes { first, blocks, .. } => first..first + blocks,
            Self::Flush => 0..0,
        }
    }

    /// What says which blocks are discarded or zeroed (virtio 1.2 §5.2.6).
    fn segment(self) -> Option<[u8; 16]> {
        let unmap = match self {
            Self::Discard { .. } => false,
            Self::WriteZeroes { unmap, .. } => unmap,
            _ => return None,
        };
        let range = self.range();
        let sectors = (range.end - range.start) * SECTORS_PER_BLOCK;
        let mut segment = [0; 16];
        segment[..8].copy_from_slice(&(range.start * SECTORS_PER_BLOCK).to_le_bytes());
        segment[8..12].copy_from_slice(&(sectors as u32).to_le_bytes());
        segment[12..].copy_from_slice(&u32::from(unmap).to_le_bytes());
        Some(segment)
    }

    /// Where it begins, as its header says.
    fn sector(self) -> u64 {
        match self.segment() {
            Some(_) => 0,
            None => self.range().start * SECTORS_PER_BLOCK,
        }
    }
}

/// What a lane does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This request.
    Request(Request),
    /// Nothing before a request has finished.
    Wait,
    /// Nothing any more.
    End,
}

/// What all lanes have done so far, for the progress line.
#[derive(Debug, Default)]
pub struct Counters {
    /// Finished requests.
    pub requests: AtomicU64,
    /// Kicks that were sent.
    pub kicks: AtomicU64,
    /// Calls that were received.
    pub calls: AtomicU64,
}

#[derive(Clone, Copy)]
struct UnderWay {
    request: Request,
    since: Instant,
}

/// A queue, the blocks that only it uses, and what they must hold.
pub struct Lane<'a> {
    /// The number of the queue.
    pub index: u16,
    /// What the blocks must hold.
    pub model: Model,
    /// Times from submission to completion.
    pub latencies: Histogram,
    memory: Arc<GuestMemoryMmap>,
    disk: Disk,
    queue: Queue,
    counters: &'a Counters,
    random: Random,
    slots: [Option<UnderWay>; DEPTH as usize],
    buffer: Vec<u8>,
}

impl<'a> Lane<'a> {
    /// A lane with nothing under way.
    pub fn new(
        index: u16,
        queue: Queue,
        model: Model,
        disk: Disk,
        memory: Arc<GuestMemoryMmap>,
        seed: u64,
        counters: &'a Counters,
    ) -> Self {
        Self {
            index,
            model,
            latencies: Histogram::new(),
            memory,
            disk,
            queue,
            counters,
            random: Random::new(seed, index.into()),
            slots: [None; DEPTH as usize],
            buffer: vec![0; REQUEST_BYTES as usize],
        }
    }

    /// Carries out what `next` says until it says [`Next::End`], and waits for
    /// the answers.
    pub fn run(&mut self, mut next: impl FnMut(&mut Self) -> Next) -> Result<(), Failure> {
        let mut ended = false;
        loop {
            while !ended {
                let Some(slot) = self.slots.iter().position(Option::is_none) else {
                    break;
                };
                match next(self) {
                    Next::Request(request) => self.submit(slot as u16, request)?,
                    Next::Wait => break,
                    Next::End => ended = true,
                }
            }
            if self.queue.ring.publish().map_err(|e| self.broken(e))? {
                self.queue.kick.write(1).context("kick")?;
                self.counters.kicks.fetch_add(1, Ordering::Relaxed);
            }
            if ended && self.slots.iter().all(Option::is_none) {
                return Ok(());
            }
            let mut finished = false;
            while let Some((head, length)) =
                self.queue.ring.take_used().map_err(|e| self.broken(e))?
            {
                self.complete(head, length)?;
                finished = true;
            }
            if !finished && !self.queue.ring.ask_for_call().map_err(|e| self.broken(e))? {
                self.wait()?;
            }
        }
    }

    /// Makes up to `count` requests, which change nothing, and kicks. Nobody
    /// will wait for them.
    pub fn leave_under_way(&mut self, count: u16) -> Result<(), Failure> {
        for slot in 0..count.min(DEPTH) {
            let (first, blocks) = (self.model.first(), self.model.len());
            let first = first + self.random.below(blocks);
            self.submit(slot, Request::Read { first, blocks: 1 })?;
        }
        self.queue.ring.publish().map_err(|e| self.broken(e))?;
        self.queue.kick.write(1).context("kick")
    }

    /// A random request to blocks that no other request is using.
    pub fn random_request(&mut self) -> Next {
        if self.disk.flush && self.random.below(64) == 0 {
            return Next::Request(Request::Flush);
        }
        for _ in 0..8 {
            let blocks = 1 + self.random.below(BLOCKS_PER_REQUEST.min(self.model.len()));
            let offset = self.random.below(self.model.len() - blocks + 1);
            let first = self.model.first() + offset;
            if self.uses(first, blocks) {
                continue;
            }
            let changes = !self.disk.read_only;
            let unmap = self.random.below(2) == 0;
            return Next::Request(match self.random.below(100) {
                0 if changes && self.disk.discard => Request::Discard { first, blocks },
                1 if changes && self.disk.write_zeroes => Request::WriteZeroes {
                    first,
                    blocks,
                    unmap,
                },
                0..40 if changes => Request::Write { first, blocks },
                _ => Request::Read { first, blocks },
            });
        }
        Next::Wait
    }

    /// The request that reads the next blocks with known content, from
    /// `position` on, which it moves.
    pub fn next_known(&self, position: &mut u64) -> Next {
        let end = self.model.first() + self.model.len();
        let Some(first) = (*position..end).find(|block| self.model.knows(*block)) else {
            return Next::End;
        };
        let limit = end.min(first + BLOCKS_PER_REQUEST);
        let stop = (first..limit).find(|block| !self.model.knows(*block));
        *position = stop.unwrap_or(limit);
        let blocks = *position - first;
        Next::Request(Request::Read { first, blocks })
    }

    fn uses(&self, first: u64, blocks: u64) -> bool {
        self.slots.iter().flatten().any(|under_way| {
            let range = under_way.request.range();
            first < range.end && range.start < first + blocks
        })
    }

    fn submit(&mut self, slot: u16, request: Request) -> Result<(), Failure> {
        let layout = self.queue.layout;
        let range = request.range();
        let segment = request.segment();
        let length = match segment {
            Some(segment) => segment.len(),
            None => (range.end - range.start) as usize * BLOCK,
        };
        let data = self.buffer.get_mut(..length).unwrap_or_default();
        if let Some(segment) = segment {
            data.copy_from_slice(&segment);
        }
        match request {
            Request::Write { .. } => {
                for (block, number) in data.chunks_exact_mut(BLOCK).zip(range.clone()) {
                    fill(block, number, &mut self.random);
                    self.model.written(number, block);
                }
            }
            // Not what is expected, should the backend write nothing.
            Request::Read { .. } => data.fill(0xEE),
            Request::Flush => {}
            // Anything may be there then.
            Request::Discard { .. } => range.clone().for_each(|block| self.model.forget(block)),
            Request::WriteZeroes { .. } => {
                range.for_each(|block| self.model.written(block, &[0; BLOCK]));
            }
        }
        let mut header = [0; 16];
        header[..4].copy_from_slice(&request.kind().to_le_bytes());
        header[8..].copy_from_slice(&request.sector().to_le_bytes());
        self.memory
            .write_slice(&header, layout.header(slot))
            .and_then(|()| self.memory.write_slice(&[0xFF], layout.status(slot)))
            .and_then(|()| self.memory.write_slice(data, layout.data(slot)))
            .map_err(|e| self.broken(e))?;

        let part = |address, length, writable| Part {
            address,
            length,
            writable,
        };
        let read = matches!(request, Request::Read { .. });
        let parts = [
            part(layout.header(slot), 16, false),
            part(layout.data(slot), length as u32, read),
            part(layout.status(slot), 1, true),
        ];
        let flush = [parts[0], parts[2]];
        let parts = if length == 0 { &flush[..] } else { &parts[..] };
        let added = self.queue.ring.add(3 * slot, parts);
        added.map_err(|e| self.broken(e))?;
        let since = Instant::now();
        self.slots[usize::from(slot)] = Some(UnderWay { request, since });
        Ok(())
    }

    fn complete(&mut self, head: u16, length: u32) -> Result<(), Failure> {
        let slot = head / 3;
        let under_way = self.slots.get_mut(usize::from(slot)).and_then(Option::take);
        let Some(UnderWay { request, since }) = under_way.filter(|_| head.is_multiple_of(3)) else {
            return Err(self.broken(format!("used descriptor {head} is not in use")));
        };
        self.latencies.record(since.elapsed());
        self.counters.requests.fetch_add(1, Ordering::Relaxed);

        let layout = self.queue.layout;
        let mut status = [0];
        let read = self.memory.read_slice(&mut status, layout.status(slot));
        read.map_err(|e| self.broken(e))?;
        if status != [0] {
            return Err(self.broken(format!("{request:?} ends with status {}", status[0])));
        }
        let Request::Read { first, blocks } = request else {
            return Ok(());
        };
        let expected = blocks as usize * BLOCK;
        if length as usize != expected + 1 {
            return Err(self.broken(format!("{request:?} returned {length} bytes")));
        }
        let data = self.buffer.get_mut(..expected).unwrap_or_default();
        let read = self.memory.read_slice(data, layout.data(slot));
        read.map_err(|e| Failure::Backend(e.to_string()))?;
        for (block, number) in data.chunks_exact(BLOCK).zip(first..) {
            self.model.verify(number, block)?;
        }
        Ok(())
    }

    /// Sleeps until the backend calls.
    fn wait(&mut self) -> Result<(), Failure> {
        let mut events = [EpollEvent::default(); 2];
        let ready = match self.queue.wake.wait(LIMIT.as_millis() as i32, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome.context("waiting for a call")?,
        };
        if ready == 0 {
            let under_way = self.slots.iter().flatten().count();
            let (queue, seconds) = (self.index, LIMIT.as_secs());
            return Err(Failure::Hang(format!(
                "queue {queue}: {under_way} requests under way, none finished for {seconds} s"
            )));
        }
        if self.queue.error.read().is_ok() {
            return Err(self.broken("the backend reports a broken ring"));
        }
        // Another call may have been taken with an earlier one.
        let _ = self.queue.call.read();
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn broken(&self, what: impl std::fmt::Display) -> Failure {
        Failure::Backend(format!("queue {}: {what}", self.index))
    }
}
