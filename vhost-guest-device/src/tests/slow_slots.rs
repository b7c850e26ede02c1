// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VMM in which each memory slot takes longer than a piece of time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vhost_guest_vmm_traits::test_utils::TestVmm;
use vhost_guest_vmm_traits::{RangeId, SharedMemoryMapper};

use super::rig::{memory_file, message, words, Frontend, Rig, BARS};
use super::siege::{Siege, NEED_REPLY, SIZE, USER};
use crate::connection::carried;
use crate::event_loop::poller;

/// Longer than a piece.
const SLOW: Duration = Duration::from_millis(3);
const REGIONS: u64 = 8;

#[derive(Default)]
struct Slow {
    vmm: TestVmm,
    /// Calls since the last look.
    calls: AtomicUsize,
}

impl Slow {
    fn slot(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        thread::sleep(SLOW);
    }
}

impl SharedMemoryMapper for Slow {
    fn open(&self, fd: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<RangeId> {
        self.vmm.open(fd, offset, length)
    }

    fn attach(&self, range: RangeId, at: u64) -> io::Result<()> {
        self.slot();
        self.vmm.attach(range, at)
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        self.slot();
        self.vmm.detach(range)
    }

    fn close(&self, range: RangeId) {
        self.vmm.close(range);
    }

    fn place(&self, address: Option<u64>) -> io::Result<()> {
        self.vmm.place(address)
    }
}

/// Runs until a request has come, a turn at a time. Tells how many turns had to do
/// with slots.
fn run(siege: &mut Siege, slow: &Slow, until: impl Fn(&mut Rig) -> bool) -> usize {
    let epoll = siege.rig.device.poller_fd().unwrap();
    let mut turns = 0;
    while !until(&mut siege.rig) {
        let ready = poller::wait(epoll.as_fd(), true).unwrap();
        siege.rig.device.turn(&ready);
        let calls = slow.calls.swap(0, Ordering::SeqCst);
        assert!(calls <= 1, "{calls} slots in a turn");
        turns += calls;
        // Whoever wants the window has it.
        assert!(siege.rig.device.shared.memory_fault(Some(BARS[2].1)));
    }
    turns
}

fn replace(frontend: &mut Frontend, regions: u64) {
    let file = memory_file(REGIONS * SIZE);
    let region = |n| [n << 32, SIZE, USER + n * 2 * SIZE, n * SIZE];
    let regions: Vec<_> = (0..regions).map(region).collect();
    let table = [vec![regions.len() as u64], regions.concat()].concat();
    let fds = vec![file.as_fd(); regions.len()];
    frontend.send(&message(5, NEED_REPLY, &words(&table)), &fds);
}

#[test]
fn a_turn_attaches_and_detaches_a_piece_and_no_more() {
    let slow = Arc::new(Slow::default());
    let window = Arc::clone(&slow);
    let mut siege = Siege::of(Rig::lent(|services| services.window = window, |b| b));
    let mut frontend = siege.frontend(carried());
    let used = siege.rig.used(0);
    replace(&mut frontend, REGIONS);
    let turns = run(&mut siege, &slow, |rig| rig.used(0) != used);
    assert_eq!(turns, REGIONS as usize);
    assert_eq!(slow.vmm.mappings().len(), REGIONS as usize);
    siege.rig.receive(0).expect("the table");
    siege.rig.reply(5, &words(&[0]));
    assert!(frontend.receive().is_some());

    // Another table: the frontend hears of it when the first is gone.
    slow.calls.store(0, Ordering::SeqCst);
    let used = siege.rig.used(0);
    replace(&mut frontend, 1);
    assert_eq!(run(&mut siege, &slow, |rig| rig.used(0) != used), 1);
    siege.rig.receive(0).expect("the table");
    assert_eq!(slow.vmm.mappings().len(), REGIONS as usize + 1);
    let turns = siege.rig.device.shared.counters.turns.read();
    siege.rig.reply(5, &words(&[0]));
    assert_eq!(slow.vmm.mappings().len(), 1);
    assert!(frontend.receive().is_some());
    let taken = siege.rig.device.shared.counters.turns.read() - turns;
    assert!(taken >= REGIONS, "in {taken} turns");
}
