// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Locks of the kernel's that a peer holds, on what it shares with the device:
//! each is held for as long as a file system does not answer, and nobody waits for
//! it. Each of these tests would hang.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::thread::{self, JoinHandle};

use rustix::fs::{fallocate, FallocateFlags};
use vm_memory::{VolatileMemory, WriteVolatile};

use super::rig::{self, memory_file, message, words};
use super::siege::{NEED_REPLY, PLAIN, SIZE, USER};
use crate::connection::carried;
use crate::fd::fuse_tests::{is_stuck, Mount};

/// An inode whose lock somebody holds, and somebody else waits for.
struct Held {
    threads: [JoinHandle<()>; 2],
}

impl Held {
    /// Writes to a file from memory that the kernel cannot read. It holds the
    /// inode's lock meanwhile.
    fn new(mount: &Mount, file: &File) -> Self {
        let memory = mount.memory();
        let (ours, theirs) = (file.try_clone().unwrap(), file.try_clone().unwrap());
        let before = mount.questions();
        // Both fail or go on when the file system is gone.
        let writer = thread::spawn(move || {
            let _ = (&ours).write_volatile(&memory.get_slice(0, memory.size()).unwrap());
        });
        while mount.questions() == before {
            thread::yield_now();
        }
        let name = format!("wants-{}", file.as_raw_fd());
        let waiter = thread::Builder::new().name(name.clone());
        let waiter = waiter.spawn(move || {
            let _ = fallocate(&theirs, FallocateFlags::KEEP_SIZE, 0, 1);
        });
        while !is_stuck(&name) {
            thread::yield_now();
        }
        let threads = [writer, waiter.unwrap()];
        Self { threads }
    }

    /// The file system is gone, and nobody holds anything.
    fn end(self, mount: Mount) {
        drop(mount);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

#[test]
fn memory_whose_inode_is_locked_holds_up_nobody() {
    let Some(mount) = Mount::new("inode") else {
        return;
    };
    let (mut rig, mut frontend) = rig::connected();
    rig.negotiate(&mut frontend, carried());
    let file = memory_file(SIZE);
    let held = Held::new(&mount, &file);
    let table = message(5, NEED_REPLY, &words(&[1, 0, SIZE, USER, 0]));
    frontend.send(&table, &[file.as_fd()]);
    // It is placed, and taken back.
    rig.receive(0).expect("a table");
    assert_eq!(rig.vmm.mappings().len(), 1);
    drop(frontend);
    assert!(rig.needs_reset());
    rig.start();
    assert_eq!(rig.vmm.mappings(), []);
    held.end(mount);
}

/// A device gives back the memory of a record that its frontend does not need any
/// more, for which it wants the lock.
#[test]
fn a_record_whose_inode_is_locked_is_emptied_by_somebody_else() {
    let Some(mount) = Mount::new("record") else {
        return;
    };
    let (mut rig, mut frontend) = rig::connected();
    rig.negotiate(&mut frontend, carried());
    let make = |rig: &mut rig::Rig, frontend: &mut rig::Frontend| {
        let ask = words(&[0, 0, 2 | 256 << 16]);
        frontend.send(&message(31, PLAIN, &ask), &[]);
        rig.receive(0).expect("a question");
        let answer = [words(&[0x2080]), ask[8..].to_vec()].concat();
        rig.reply(31, &answer);
        let (_, fds) = frontend.receive_with_fds().expect("an answer");
        File::from(fds.into_iter().next().expect("a record"))
    };
    let first = make(&mut rig, &mut frontend);
    let held = Held::new(&mount, &first);
    for _ in 0..3 {
        make(&mut rig, &mut frontend);
    }
    while !is_stuck("vhost-guest-fd") {
        thread::yield_now();
    }
    drop(frontend);
    assert!(rig.needs_reset());
    rig.start();
    assert_eq!(rig.status() & rig::NEEDS_RESET, 0);
    held.end(mount);
}
