// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory files that could lose their pages, or have none to begin with.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{fchmod, fcntl_add_seals, ftruncate, Mode, SealFlags};
use rustix::thread::{capabilities, set_capabilities, CapabilitySet};
use vhost_guest_vmm_traits::test_utils::TestVmm;
use vhost_guest_vmm_traits::{RangeId, SharedMemoryMapper, ThreadHook};

use super::rig::{memory_file, message, words, Frontend, Rig, BARS, WINDOW};
use super::siege::{Siege, NEED_REPLY, PLAIN, SIZE, USER};
use crate::connection::carried;

/// The messages that bring memory, for a file of [`SIZE`] bytes.
fn memory_messages() -> [(u32, Vec<u8>); 4] {
    [
        (5, words(&[1, 0, SIZE, USER, 0])),
        (37, words(&[0, 0, SIZE, USER, 0])),
        (6, words(&[SIZE, 0])),
        (32, words(&[SIZE, 0, 1 | 256 << 16])),
    ]
}

/// The threads of a user who is not allowed what `root` is: capabilities are a
/// thread's.
struct Unprivileged;

impl ThreadHook for Unprivileged {
    fn thread_started(&self, _: &str) -> io::Result<()> {
        let mut sets = capabilities(None)?;
        for set in [&mut sets.effective, &mut sets.permitted] {
            *set -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        }
        Ok(set_capabilities(None, sets)?)
    }
}

/// A device of such a user's.
fn unprivileged() -> Siege {
    let hook = Arc::new(Unprivileged);
    Siege::of(Rig::lent(
        |services| services.thread_hook = Some(hook),
        |b| b,
    ))
}

#[test]
fn memory_that_cannot_be_watched_is_refused() {
    let mut siege = unprivileged();
    for (code, payload) in memory_messages() {
        let file = memory_file(SIZE);
        fchmod(&file, Mode::empty()).unwrap();
        let what = format!("unreadable memory for request {code}");
        siege.refuses(carried(), code, &what, &mut |frontend, flags| {
            frontend.send(&message(code, flags, &payload), &[file.as_fd()]);
        });
    }
    siege.serves_the_next();
}

#[test]
fn memory_that_keeps_its_size_need_not_be_watched() {
    let mut siege = unprivileged();
    let file = memory_file(SIZE);
    fchmod(&file, Mode::empty()).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    let mut frontend = siege.frontend(carried());
    let add = message(37, NEED_REPLY, &words(&[0, 0, SIZE, USER, 0]));
    frontend.send(&add, &[file.as_fd()]);
    assert!(siege.rig.receive(0).is_some());
    assert_eq!(siege.rig.vmm.mappings().len(), 1);
}

/// A window for which it takes a while to open something: long enough for a
/// frontend to make the file smaller.
struct Slow {
    vmm: Arc<TestVmm>,
    file: Arc<Mutex<Option<File>>>,
}

impl SharedMemoryMapper for Slow {
    fn open(&self, fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<RangeId> {
        if let Some(file) = self.file.lock().unwrap().take() {
            ftruncate(file, SIZE - 1)?;
        }
        self.vmm.open(fd, offset, length)
    }

    fn attach(&self, range: RangeId, at: u64) -> io::Result<()> {
        self.vmm.attach(range, at)
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        self.vmm.detach(range)
    }

    fn close(&self, range: RangeId) {
        self.vmm.close(range);
    }

    fn place(&self, address: Option<u64>) -> io::Result<()> {
        self.vmm.place(address)
    }
}

#[test]
fn memory_that_shrinks_while_it_is_mapped_is_refused() {
    let shrinking = Arc::new(Mutex::new(None));
    let slow = Arc::new(Slow {
        vmm: Arc::new(TestVmm::new()),
        file: Arc::clone(&shrinking),
    });
    let window = Arc::clone(&slow);
    let mut siege = Siege::of(Rig::lent(|services| services.window = window, |b| b));
    for (code, payload) in memory_messages() {
        let what = format!("memory that shrinks for request {code}");
        siege.refuses(carried(), code, &what, &mut |frontend, flags| {
            let file = memory_file(SIZE);
            *shrinking.lock().unwrap() = Some(file.try_clone().unwrap());
            frontend.send(&message(code, flags, &payload), &[file.as_fd()]);
        });
        assert_eq!(slow.vmm.mappings(), [], "{what}");
    }
    siege.serves_the_next();
}

/// A frontend that shares two files, of which each is mapped in one piece.
fn two_files() -> (Siege, Frontend, [File; 2]) {
    let mut siege = Siege::new();
    let mut frontend = siege.frontend(carried());
    let files = [memory_file(SIZE), memory_file(SIZE)];
    let regions = [[0, SIZE, USER, 0], [1 << 32, SIZE, 2 * USER, 0]];
    let table = [vec![2], regions.concat()].concat();
    let fds = files.each_ref().map(|file| file.as_fd());
    frontend.send(&message(5, PLAIN, &words(&table)), &fds);
    assert!(siege.rig.receive(0).is_some());
    assert_eq!(siege.rig.vmm.mappings().len(), 2);
    (siege, frontend, files)
}

/// As a guest does it for which no page is left: with the address if KVM says it.
#[test]
fn a_fault_in_the_window_takes_what_is_there_whatever_its_files_size() {
    let (mut siege, frontend, _files) = two_files();
    let mappings = siege.rig.vmm.mappings();
    let window = BARS[2].1;
    for elsewhere in [0, window - 1, window + WINDOW, u64::MAX] {
        assert!(!siege.rig.device.shared.memory_fault(Some(elsewhere)));
    }
    assert_eq!(siege.rig.vmm.mappings(), mappings);
    let (at, _, length) = mappings[0];
    let fault = Some(window + at + length - 1);
    assert!(siege.rig.device.shared.memory_fault(fault));
    assert_eq!(siege.rig.vmm.mappings(), mappings[1..]);
    // A second vCPU that came upon it at the same time.
    assert!(siege.rig.device.shared.memory_fault(fault));
    assert_eq!(siege.rig.vmm.mappings(), mappings[1..]);
    siege.assert_lost(frontend, "a fault at an address");
    siege.serves_the_next();
}

#[test]
fn a_fault_somewhere_takes_everything_if_no_file_has_shrunk() {
    let (mut siege, frontend, _files) = two_files();
    // With another device, whose file it may be, this one is left alone.
    assert!(!siege.rig.device.shared.memory_truncated());
    assert_eq!(siege.rig.vmm.mappings().len(), 2);
    assert!(siege.rig.device.shared.memory_fault(None));
    assert_eq!(siege.rig.vmm.mappings(), []);
    assert!(
        !siege.rig.device.shared.memory_fault(None),
        "it was not this one"
    );
    siege.assert_lost(frontend, "a fault without an address");
    siege.serves_the_next();
}

#[test]
fn a_fault_somewhere_takes_what_has_shrunk_and_no_more() {
    let (mut siege, frontend, files) = two_files();
    ftruncate(&files[1], 0).unwrap();
    assert!(siege.rig.device.shared.memory_fault(None));
    assert_eq!(siege.rig.vmm.mappings().len(), 1);
    siege.assert_lost(frontend, "a truncated file");
    siege.serves_the_next();
}
