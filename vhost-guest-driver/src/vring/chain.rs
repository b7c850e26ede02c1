// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptor chains (virtio 1.2 §2.7.5, §2.8.6).

use alloc::vec::Vec;

use vhost_guest_msg::{Permission, VirtioFeatures};

use super::descriptor::{DESCRIPTOR_LEN, INDIRECT, NEXT, WRITE};
use super::{Descriptor, Halt, Request, RingFault, Vring};
use crate::log::DirtyLog;
use crate::memory::Memory;
use crate::window::Window;

/// Entries of an indirect table, however small the vring is: Linux fills
/// tables up to the device's own limit of segments.
const MAX_INDIRECT: u64 = 1024;
/// Pieces of memory that a request may consist of.
const MAX_SEGMENTS: usize = 4096;

/// A piece of the window, and the guest physical address of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    offset: u64,
    address: u64,
    len: u64,
}

/// A request: a descriptor chain of the frontend's guest, first what the
/// backend may read, then what it may write.
///
/// All of it is memory of the frontend's at the time of the call of
/// [`Backend::process`](crate::Backend::process), and its guest may still
/// write to it: read once, then decide.
///
/// Give it back with [`Ring::complete`](crate::Ring::complete).
#[derive(Debug)]
#[must_use = "a request that is not completed is lost for the frontend's guest"]
pub struct Chain<'m> {
    window: &'m Window,
    log: Option<&'m DirtyLog>,
    pub(super) request: Request,
    pub(super) segments: Vec<Segment>,
    /// How many of the segments are readable.
    readable: usize,
    to_read: u64,
    to_write: u64,
    /// Descriptors that it consists of.
    descriptors: u64,
    /// Segment and offset in it of the next read, and of the next write.
    reader: (usize, u64),
    writer: (usize, u64),
}

enum Start {
    Window(u64),
    /// At an I/O virtual address, not in one piece in the window.
    Scattered(u64),
}

/// A table of descriptors.
struct Table {
    start: Start,
    entries: u64,
    packed: bool,
}

impl Table {
    fn load(&self, memory: &Memory, index: u16) -> Result<Descriptor, Halt> {
        if u64::from(index) >= self.entries {
            return Err(RingFault::DescriptorIndex(index).into());
        }
        let into = DESCRIPTOR_LEN * u64::from(index);
        let mut bytes = [0; DESCRIPTOR_LEN as usize];
        match self.start {
            // Indirect tables need not be aligned.
            Start::Window(offset) => memory.window().read(offset + into, &mut bytes)?,
            Start::Scattered(address) => {
                for (at, byte) in (address + into..).zip(&mut bytes) {
                    let place = memory.place(at, Permission::Read);
                    let place = place.map_err(|lost| Halt::new(lost, at))?;
                    *byte = memory.window().load_le(place.offset)?;
                }
            }
        }
        Ok(if self.packed {
            Descriptor::packed(bytes)
        } else {
            Descriptor::split(bytes)
        })
    }

    /// The table that `descriptor`, in a table that is itself `indirect` or
    /// not, refers to.
    fn indirect(
        vring: &Vring,
        memory: &Memory,
        descriptor: Descriptor,
        indirect: bool,
    ) -> Result<Self, Halt> {
        let negotiated = vring.features.contains(VirtioFeatures::RING_INDIRECT_DESC);
        if indirect || !negotiated || descriptor.flags & NEXT != 0 {
            return Err(RingFault::Indirect.into());
        }
        let len = u64::from(descriptor.len);
        let entries = len / DESCRIPTOR_LEN;
        let limit = MAX_INDIRECT.max(vring.num.into());
        if entries == 0 || entries > limit || !len.is_multiple_of(DESCRIPTOR_LEN) {
            return Err(RingFault::IndirectLen(descriptor.len).into());
        }
        let address = descriptor.address;
        let place = memory.place(address, Permission::Read);
        let place = place.map_err(|lost| Halt::new(lost, address))?;
        let start = if place.len >= len {
            Start::Window(place.offset)
        } else if memory.translates() && address.checked_add(len).is_some() {
            Start::Scattered(address)
        } else {
            return Err(RingFault::Address(address).into());
        };
        Ok(Self {
            start,
            entries,
            packed: vring.packed,
        })
    }
}

impl<'m> Chain<'m> {
    /// Finds the memory of `request`, which becomes the chain's later.
    pub(super) fn walk(
        vring: &mut Vring,
        memory: &'m Memory,
        request: &Request,
    ) -> Result<Self, Halt> {
        let mut segments = core::mem::take(&mut vring.spare);
        segments.clear();
        let mut this = Self {
            window: memory.window(),
            log: memory.log(),
            request: Request::default(),
            segments,
            readable: 0,
            to_read: 0,
            to_write: 0,
            descriptors: 0,
            reader: (0, 0),
            writer: (0, 0),
        };
        if vring.packed {
            this.append_packed(vring, memory, &request.descriptors)?;
        } else {
            this.append_split(vring, memory, request.id)?;
        }
        this.writer = (this.readable, 0);
        Ok(this)
    }

    /// Follows the chain that begins with descriptor `head`.
    fn append_split(&mut self, vring: &Vring, memory: &Memory, head: u16) -> Result<(), Halt> {
        let Some((_, parts)) = vring.memory() else {
            return Err(RingFault::DescriptorIndex(head).into());
        };
        let mut table = Table {
            start: Start::Window(parts.descriptors),
            entries: vring.num.into(),
            packed: false,
        };
        let (mut index, mut steps, mut indirect) = (head, 0, false);
        loop {
            steps += 1;
            if steps > table.entries {
                return Err(RingFault::Loop.into());
            }
            let descriptor = table.load(memory, index)?;
            if descriptor.flags & INDIRECT != 0 {
                table = Table::indirect(vring, memory, descriptor, indirect)?;
                (index, steps, indirect) = (0, 0, true);
                continue;
            }
            self.append(memory, descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.tag;
        }
    }

    /// Takes the descriptors of a packed ring; an indirect table there has no
    /// links, and is used as a whole (virtio 1.2 §2.8.7).
    fn append_packed(
        &mut self,
        vring: &Vring,
        memory: &Memory,
        descriptors: &[Descriptor],
    ) -> Result<(), Halt> {
        for descriptor in descriptors {
            if descriptor.flags & INDIRECT == 0 {
                self.append(memory, *descriptor)?;
                continue;
            }
            let table = Table::indirect(vring, memory, *descriptor, false)?;
            // At most as many as a ring has, 16 bits.
            for index in 0..table.entries as u16 {
                let descriptor = table.load(memory, index)?;
                if descriptor.flags & INDIRECT != 0 {
                    return Err(RingFault::Indirect.into());
                }
                self.append(memory, descriptor)?;
            }
        }
        Ok(())
    }

    fn append(&mut self, memory: &Memory, descriptor: Descriptor) -> Result<(), Halt> {
        self.descriptors += 1;
        let writable = descriptor.flags & WRITE != 0;
        let total = if writable {
            &mut self.to_write
        } else {
            &mut self.to_read
        };
        *total += u64::from(descriptor.len);
        if *total > u32::MAX.into() {
            return Err(RingFault::TooLong.into());
        }
        if !writable && self.segments.len() > self.readable {
            return Err(RingFault::Direction.into());
        }
        let permission = if writable {
            Permission::Write
        } else {
            Permission::Read
        };
        let (mut address, mut rest) = (descriptor.address, u64::from(descriptor.len));
        while rest > 0 {
            let place = memory.place(address, permission);
            let place = place.map_err(|lost| Halt::new(lost, address))?;
            let len = place.len.min(rest);
            if self.segments.len() == MAX_SEGMENTS {
                return Err(RingFault::TooLong.into());
            }
            let logged = |log: &DirtyLog| log.covers(place.address, len);
            if writable && !self.log.is_none_or(logged) {
                return Err(RingFault::Log(place.address).into());
            }
            self.segments.push(Segment {
                offset: place.offset,
                address: place.address,
                len,
            });
            rest -= len;
            if rest > 0 {
                // The buffer goes on in the next piece.
                let end = address.checked_add(len);
                address = end.ok_or(RingFault::Address(address))?;
            }
        }
        if !writable {
            self.readable = self.segments.len();
        }
        Ok(())
    }

    /// How much there is to do, in bytes: also where there is nothing to read
    /// or to write, descriptors are looked at.
    pub(super) fn work(&self) -> u64 {
        self.to_read + self.to_write + DESCRIPTOR_LEN * self.descriptors
    }

    /// Bytes that are left to read.
    pub fn readable_len(&self) -> u32 {
        self.to_read as u32
    }

    /// Bytes that are left to write.
    pub fn writable_len(&self) -> u32 {
        self.to_write as u32
    }

    /// Reads on into `data`; returns how much there was, up to its length.
    pub fn read(&mut self, data: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let (offset, len) = match self.segments.get(self.reader.0) {
                Some(segment) if self.reader.0 < self.readable => {
                    piece(segment, self.reader.1, rest.len())
                }
                _ => break,
            };
            if let Some(part) = rest.get_mut(..len) {
                // Segments are inside the window: `Memory` sees to that.
                let _ = self.window.read(offset, part);
            }
            self.reader = advance(&self.segments, self.reader, len);
            self.to_read = self.to_read.saturating_sub(len as u64);
            done += len;
        }
        done
    }

    /// Reads the next `N` bytes, or `None` if there are fewer left.
    pub fn read_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.to_read < N as u64 {
            return None;
        }
        let mut data = [0; N];
        self.read(&mut data);
        Some(data)
    }

    /// Writes on from `data`; returns how much fitted.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let Some(segment) = self.segments.get(self.writer.0) else {
                break;
            };
            let (offset, len) = piece(segment, self.writer.1, rest.len());
            if let Some(part) = rest.get(..len) {
                // Segments are inside the window: `Memory` sees to that.
                let _ = self.window.write(offset, part);
            }
            if let Some(log) = self.log {
                // Inside the log: `append` sees to that.
                log.mark(segment.address + self.writer.1, len as u64);
            }
            self.writer = advance(&self.segments, self.writer, len);
            self.to_write = self.to_write.saturating_sub(len as u64);
            done += len;
        }
        done
    }

    /// Leaves the next `len` writable bytes as they are.
    pub fn skip_writable(&mut self, len: u32) {
        let mut rest = u64::from(len);
        while let Some(segment) = self.segments.get(self.writer.0).filter(|_| rest > 0) {
            let step = (segment.len - self.writer.1).min(rest);
            // Lengths of segments are those of descriptors, 32 bits.
            self.writer = advance(&self.segments, self.writer, step as usize);
            self.to_write = self.to_write.saturating_sub(step);
            rest -= step;
        }
    }
}

/// What is left of `segment` behind `at`: its offset and length, at most `max`.
fn piece(segment: &Segment, at: u64, max: usize) -> (u64, usize) {
    let len = (segment.len - at).min(max as u64);
    (segment.offset + at, len as usize)
}

fn advance(segments: &[Segment], (index, at): (usize, u64), len: usize) -> (usize, u64) {
    let at = at + len as u64;
    match segments.get(index) {
        Some(segment) if at < segment.len => (index, at),
        _ => (index + 1, 0),
    }
}
