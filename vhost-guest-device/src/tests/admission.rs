// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory files that keep whoever has to do with them waiting.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rustix::fs::ftruncate;
use vhost_guest_vmm_traits::test_utils::TestVmm;
use vhost_guest_vmm_traits::{RangeId, SharedMemoryMapper};

use super::rig::{memory_file, message, words, Frontend, Rig, BARS};
use super::siege::{wait_for_turn, Siege, NEED_REPLY, SIZE, USER};
use crate::connection::carried;
use crate::function::Builder;
use crate::vmm::threads::FILES;

/// A call that may take as long as a file's owner likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Open,
    Close,
}

/// A window for whose files somebody holds the locks.
struct Held {
    vmm: Arc<TestVmm>,
    /// Calls that wait until they are let go, and how often that has happened.
    held: Mutex<(BTreeSet<Call>, u64)>,
    let_go: Condvar,
    /// Threads in such calls, and in the others.
    waiters: Mutex<BTreeSet<String>>,
    others: Mutex<Vec<ThreadId>>,
}

impl Held {
    fn new(held: &[Call]) -> Arc<Self> {
        Arc::new(Self {
            vmm: Arc::new(TestVmm::new()),
            held: Mutex::new((held.iter().copied().collect(), 0)),
            let_go: Condvar::new(),
            waiters: Mutex::default(),
            others: Mutex::default(),
        })
    }

    fn hold(&self, call: Call) {
        self.held.lock().unwrap().0.insert(call);
    }

    /// Those that wait go on waiting, and no other does.
    fn hold_no_more(&self) {
        self.held.lock().unwrap().0.clear();
    }

    fn let_go(&self) {
        let mut held = self.held.lock().unwrap();
        held.0.clear();
        held.1 += 1;
        self.let_go.notify_all();
    }

    /// Waits until somebody waits.
    fn is_waited_for(&self) {
        while self.waiters.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        self.waiters.lock().unwrap().clear();
    }

    fn wait(&self, call: Call) {
        let name = thread::current().name().unwrap_or_default().to_owned();
        let mut held = self.held.lock().unwrap();
        let before = held.1;
        if held.0.contains(&call) {
            self.waiters.lock().unwrap().insert(name);
            while held.1 == before {
                held = self.let_go.wait(held).unwrap();
            }
        }
    }

    fn note(&self) {
        self.others.lock().unwrap().push(thread::current().id());
    }
}

impl SharedMemoryMapper for Held {
    fn open(&self, fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<RangeId> {
        assert_ne!(
            self.others.lock().unwrap().first(),
            Some(&thread::current().id())
        );
        self.wait(Call::Open);
        self.vmm.open(fd, offset, length)
    }

    fn attach(&self, range: RangeId, at: u64) -> io::Result<()> {
        self.note();
        self.vmm.attach(range, at)
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        self.note();
        self.vmm.detach(range)
    }

    fn close(&self, range: RangeId) {
        self.wait(Call::Close);
        self.vmm.close(range);
    }

    fn place(&self, address: Option<u64>) -> io::Result<()> {
        self.note();
        self.vmm.place(address)
    }
}

fn siege(held: &Arc<Held>) -> Siege {
    let window = Arc::clone(held);
    Siege::of(Rig::lent(|services| services.window = window, |b| b))
}

/// A frontend that shares a file, and what the device makes of it.
fn share(siege: &mut Siege) -> Frontend {
    let mut frontend = siege.frontend(carried());
    let add = message(37, NEED_REPLY, &words(&[0, 0, SIZE, USER, 0]));
    frontend.send(&add, &[memory_file(SIZE).as_fd()]);
    siege.rig.run_without_files();
    frontend
}

/// All that the VMM and its vCPUs do, none of which may wait.
fn everybody_else(siege: &mut Siege) {
    let rig = &mut siege.rig;
    assert_eq!(rig.read::<4>(0)[..], rig.read::<4>(0)[..]);
    let shared = &rig.device.shared;
    assert!(!shared.memory_truncated());
    assert!(!shared.memory_fault(None), "nothing is lent yet");
    assert!(shared.memory_fault(Some(BARS[2].1)));
    rig.config_write(0x24, &2_u32.to_le_bytes());
    rig.config_write(0x24, &((BARS[2].1 >> 32) as u32).to_le_bytes());
    rig.device.pause();
    rig.device.resume();
}

#[test]
fn a_file_that_cannot_be_opened_in_time_costs_nobody_else_anything() {
    let held = Held::new(&[Call::Open]);
    let mut siege = siege(&held);
    let frontend = share(&mut siege);
    held.is_waited_for();
    everybody_else(&mut siege);
    siege.rig.device.shared.revoke();
    siege.rig.run_without_files();
    assert!(siege.rig.was_told());
    drop(frontend);
    // The next one does not wait for it, nor its memory.
    held.let_go();
    held.hold(Call::Open);
    let second = share(&mut siege);
    held.is_waited_for();
    drop(second);
    siege.rig.run_without_files();
    assert!(siege.rig.was_told(), "a hang-up is noticed meanwhile");
    held.let_go();
    siege.serves_the_next();
    while held.vmm.open_ranges() > held.vmm.mappings().len() {
        thread::yield_now();
    }
}

#[test]
fn frontends_wait_for_their_own_files_only() {
    let held = Held::new(&[Call::Open]);
    let mut siege = siege(&held);
    let first = share(&mut siege);
    held.is_waited_for();
    drop(first);
    siege.rig.run_without_files();
    held.hold_no_more();
    let mut second = share(&mut siege);
    assert!(siege.rig.receive(0).is_some());
    siege.rig.reply(37, &0_u64.to_le_bytes());
    siege.rig.run();
    assert!(second.receive().is_some());
    assert_eq!(held.vmm.mappings().len(), 1);
    held.let_go();
    drop(second);
    siege.rig.run();
    siege.serves_the_next();
}

#[test]
fn a_range_that_cannot_be_closed_in_time_costs_nobody_anything() {
    let held = Held::new(&[]);
    let mut siege = siege(&held);
    let frontend = share(&mut siege);
    assert!(siege.rig.receive(0).is_some());
    held.hold(Call::Close);
    siege.rig.device.shared.revoke();
    assert_eq!(held.vmm.mappings(), [], "off the guest all the same");
    held.is_waited_for();
    siege.rig.run();
    drop(frontend);
    for _ in 0..3 {
        let frontend = share(&mut siege);
        assert!(siege.rig.receive(0).is_some());
        assert_eq!(held.vmm.mappings().len(), 1);
        drop(frontend);
        assert!(siege.rig.needs_reset());
    }
    held.let_go();
    siege.serves_the_next();
    while held.vmm.open_ranges() > held.vmm.mappings().len() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A frontend with two files in the window.
fn two_files(siege: &mut Siege) -> (Frontend, [File; 2]) {
    let mut frontend = siege.frontend(carried());
    let files = [memory_file(SIZE), memory_file(SIZE)];
    let regions = [[0, SIZE, USER, 0], [1 << 32, SIZE, 2 * USER, 0]];
    let table = [vec![2], regions.concat()].concat();
    let fds = files.each_ref().map(|file| file.as_fd());
    frontend.send(&message(5, NEED_REPLY, &words(&table)), &fds);
    assert!(siege.rig.receive(0).is_some());
    assert_eq!(siege.rig.vmm.mappings().len(), 2);
    (frontend, files)
}

#[test]
fn a_file_that_does_not_say_how_large_it_is_keeps_no_vcpu_waiting() {
    let mut siege = Siege::new();
    let (frontend, _files) = two_files(&mut siege);
    let held = siege.rig.device.server().memory.hold_sizes();
    let shared = &siege.rig.device.shared;
    // Nobody knows: nothing is taken from who may be innocent,
    assert!(!shared.memory_truncated());
    assert!(!shared.memory_fault(Some(0)));
    assert_eq!(siege.rig.vmm.mappings().len(), 2);
    // unless a vCPU would never get on.
    assert!(shared.memory_fault(None));
    assert_eq!(siege.rig.vmm.mappings(), []);
    siege.assert_lost(frontend, "no size");
    siege.serves_the_next();
    drop(held);
}

#[test]
fn where_the_fault_is_no_file_is_asked() {
    let mut siege = Siege::new();
    let (frontend, _files) = two_files(&mut siege);
    let held = siege.rig.device.server().memory.hold_sizes();
    let window = siege.rig.vmm.placed().unwrap();
    let (at, ..) = siege.rig.vmm.mappings()[1];
    assert!(siege.rig.device.shared.memory_fault(Some(window + at)));
    assert_eq!(siege.rig.vmm.mappings().len(), 1, "and no more than that");
    siege.assert_lost(frontend, "a fault");
    drop(held);
    siege.serves_the_next();
}

#[test]
fn a_file_that_shrinks_and_does_not_say_so_is_taken_in_time() {
    let mut siege = Siege::new();
    let (frontend, files) = two_files(&mut siege);
    let held = siege.rig.device.server().memory.hold_sizes();
    ftruncate(&files[0], 0).unwrap();
    siege.rig.run_without_files();
    assert_eq!(
        siege.rig.vmm.mappings().len(),
        2,
        "nobody waits for the answer"
    );
    assert!(!siege.rig.was_told());
    thread::sleep(Duration::from_millis(1100));
    siege.rig.device.shared.wake();
    siege.rig.run_without_files();
    assert_eq!(siege.rig.vmm.mappings(), []);
    siege.assert_lost(frontend, "no answer");
    drop(held);
    siege.serves_the_next();
}

#[test]
fn so_many_threads_wait_for_files_and_no_more() {
    let held = Held::new(&[Call::Open]);
    let mut siege = siege(&held);
    for _ in 0..FILES.count - 3 {
        let frontend = share(&mut siege);
        held.is_waited_for();
        drop(frontend);
        siege.rig.run_without_files();
        assert!(siege.rig.was_told());
    }
    // The next one would not have as many as it may need: it waits.
    siege.rig.start();
    siege.rig.backend_up();
    let _next = siege.rig.connect();
    siege.rig.run_without_files();
    assert!(siege.rig.device.server().connection.is_none());
    held.let_go();
    while siege.rig.device.server().connection.is_none() {
        wait_for_turn(&siege.rig);
        siege.rig.run_without_files();
    }
}

#[test]
fn a_file_that_cannot_be_opened_in_time_ends_the_connection_if_the_vmm_wants_that() {
    let held = Held::new(&[Call::Open]);
    let window = Arc::clone(&held);
    let limit = |builder: Builder| builder.reply_timeout(Duration::from_secs(3600));
    let rig = Rig::lent(|services| services.window = window, limit);
    let mut siege = Siege::of(rig);
    let mut frontend = share(&mut siege);
    held.is_waited_for();
    siege.rig.device.server().reply_limit.pass();
    siege.rig.run_without_files();
    assert!(siege.rig.was_told());
    assert!(frontend.is_disconnected());
    held.let_go();
    siege.serves_the_next();
}
