// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk that is used through the library, one request at a time.

use std::fs::{File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};

use crate::lab::Lab;

/// After this time something hangs. Nothing is expected to come close.
const PATIENCE: Duration = Duration::from_secs(120);

pub const EIO: i32 = 5;

/// A disk that has been started.
pub struct Disk {
    pub queues: Vec<Blkioq>,
    pub blkio: Blkio,
}

/// Memory for data. It is used through its file: others write to it.
pub struct Buffer {
    pub region: MemoryRegion,
    file: File,
}

impl Buffer {
    pub fn new(region: MemoryRegion) -> Self {
        let path = format!("/proc/self/fd/{}", region.fd);
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.unwrap();
        Self { region, file }
    }

    /// Its address at an offset, as the library wants it.
    pub fn at(&self, offset: u64) -> *mut u8 {
        (self.region.addr + offset as usize) as *mut u8
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).unwrap();
    }
}

/// The library, connected.
pub fn connect(lab: &Lab, read_only: bool) -> Blkio {
    let mut blkio = Blkio::new("virtio-blk-vhost-user").unwrap();
    let socket = lab.socket();
    blkio.set_str("path", socket.to_str().unwrap()).unwrap();
    blkio.set_bool("read-only", read_only).unwrap();
    blkio.connect().unwrap();
    blkio
}

/// Waits for `count` completions of a queue.
pub fn complete(queue: &mut Blkioq, count: usize, mut look: impl FnMut(Completion)) {
    let mut left = count;
    while left > 0 {
        let mut done = [const { MaybeUninit::uninit() }; 16];
        let mut patience = PATIENCE;
        let number = queue.do_io(&mut done, 1, Some(&mut patience), None);
        let number = number.expect("an answer");
        assert!(number <= left, "more answers than requests");
        left -= number;
        for done in done.into_iter().take(number) {
            // SAFETY: do_io returns how many of them it has filled in.
            look(unsafe { done.assume_init() });
        }
    }
}

impl Disk {
    pub fn open(lab: &Lab, queues: i32) -> Self {
        let mut blkio = connect(lab, false);
        blkio.set_i32("num-queues", queues).unwrap();
        Self::start(blkio)
    }

    pub fn start(mut blkio: Blkio) -> Self {
        let outcome = blkio.start().unwrap();
        let mut queues = outcome.queues;
        queues.extend(outcome.poll_queues);
        Self { queues, blkio }
    }

    /// Memory that the backend sees.
    pub fn buffer(&mut self, len: usize) -> Buffer {
        let region = self.blkio.alloc_mem_region(len).unwrap();
        self.blkio.map_mem_region(&region).unwrap();
        Buffer::new(region)
    }

    fn one(&mut self, queue: usize, submit: impl FnOnce(&mut Blkioq)) -> i32 {
        let queue = &mut self.queues[queue];
        submit(queue);
        let mut ret = 0;
        complete(queue, 1, |done| ret = done.ret);
        ret
    }

    pub fn read(&mut self, queue: usize, at: u64, to: &Buffer, offset: u64, len: usize) -> i32 {
        let data = to.at(offset);
        self.one(queue, |q| q.read(at, data, len, 0, ReqFlags::empty()))
    }

    pub fn write(
        &mut self,
        queue: usize,
        at: u64,
        from: &Buffer,
        offset: u64,
        len: usize,
        flags: ReqFlags,
    ) -> i32 {
        let data = from.at(offset);
        self.one(queue, |q| q.write(at, data, len, 0, flags))
    }

    pub fn write_zeroes(&mut self, queue: usize, at: u64, len: u64, flags: ReqFlags) -> i32 {
        self.one(queue, |q| q.write_zeroes(at, len, 0, flags))
    }

    pub fn discard(&mut self, queue: usize, at: u64, len: u64) -> i32 {
        self.one(queue, |q| q.discard(at, len, 0, ReqFlags::empty()))
    }

    pub fn flush(&mut self, queue: usize) -> i32 {
        self.one(queue, |q| q.flush(0, ReqFlags::empty()))
    }
}
