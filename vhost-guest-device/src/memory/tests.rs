// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A window in a VMM on paper, and files to put into it.

mod area;
mod extent;
mod failure;
mod hostile;
mod layout;
mod lending;
mod placement;
mod random;
mod shared_pages;
mod table;
mod watch;
mod window;

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vhost_guest_msg::{Inflight, LogArea, LogBase, MemRegion, MemTable, Region, RemMemReg};
use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};

use super::askers::truncated_now;
use super::window::{detach_before, withdraw};
use super::*;
use crate::event_loop::deadline::Deadline;
use crate::fd::{ForeignFd, Launcher};
use crate::memory::layout::Piece;
use crate::sync::Epochs;

/// A change at one go, as if nobody else were there.
impl Memory {
    fn change(
        &mut self,
        change: Change,
        rings: &[RingAddress],
    ) -> Result<(Changed, Ticket), MemoryError> {
        self.begin(change, rings.to_vec())?;
        while !self.is_admitted() {
            self.askers.wait();
        }
        loop {
            if let Some(done) = self.lend(Deadline::of_a_piece())? {
                return Ok(done);
            }
        }
    }

    fn replace(
        &mut self,
        table: MemTable<ForeignFd>,
        rings: &[RingAddress],
    ) -> Result<(MemTable<()>, Ticket), MemoryError> {
        match self.change(Change::Table(table), rings)? {
            (Changed::Table(table), ticket) => Ok((table, ticket)),
            other => panic!("{other:?}"),
        }
    }

    fn add(
        &mut self,
        region: MemRegion<ForeignFd>,
        rings: &[RingAddress],
    ) -> Result<(MemRegion<()>, Ticket), MemoryError> {
        match self.change(Change::Add(region), rings)? {
            (Changed::Added(region), ticket) => Ok((region, ticket)),
            other => panic!("{other:?}"),
        }
    }

    fn remove(
        &mut self,
        message: RemMemReg,
        rings: &[RingAddress],
    ) -> Result<(RemMemReg, Ticket), MemoryError> {
        match self.change(Change::Remove(message), rings)? {
            (Changed::Removed(message), ticket) => Ok((message, ticket)),
            other => panic!("{other:?}"),
        }
    }

    fn settled(&mut self, ticket: Ticket, outcome: Outcome) -> Result<(), MemoryError> {
        self.settle(ticket, outcome);
        while !self.take_back(Deadline::of_a_piece())? {}
        Ok(())
    }
}

const PAGE: u64 = 0x1000;
const MIB: u64 = 1 << 20;
const WINDOW: u64 = 64 * MIB;

/// A file of memory.
struct TestFile {
    fd: OwnedFd,
    name: u64,
}

impl TestFile {
    fn new(name: u64, size: u64) -> Self {
        let fd = memfd_create("memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, size).unwrap();
        Self { fd, name }
    }

    /// Writes into the page at `offset` what names it, and returns that.
    fn tag(&self, offset: u64) -> [u8; 8] {
        let tag = ((self.name << 32) | (offset / PAGE)).to_ne_bytes();
        let file = std::fs::File::from(self.fd.try_clone().unwrap());
        file.write_all_at(&tag, offset).unwrap();
        tag
    }
}

/// What a frontend believes to have shared.
type Shared<'a> = Vec<(Region, &'a TestFile)>;

/// A device's memory with its surroundings.
struct Bench {
    vmm: Arc<TestVmm>,
    epochs: Arc<Epochs>,
    window: Arc<Ordered<Window>>,
    memory: Memory,
    reaper: Reaper,
}

impl Bench {
    fn new() -> Self {
        Self::with_limits(WINDOW, 32)
    }

    fn with_limits(window_size: u64, max_regions: usize) -> Self {
        let vmm = Arc::new(TestVmm::new());
        let limits = MemoryLimits {
            window_size,
            max_regions,
            policy: MemoryPolicy::default(),
        };
        Self::on(Arc::clone(&vmm) as _, vmm, limits)
    }

    /// With a mapper that need not be the test VMM.
    fn on(mapper: Arc<dyn SharedMemoryMapper>, vmm: Arc<TestVmm>, limits: MemoryLimits) -> Self {
        let (epochs, reaper) = (Arc::new(Epochs::default()), Reaper::spawn());
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let askers = Askers::new(Arc::clone(&wake));
        askers.start(&Launcher::start(None).unwrap());
        let window = Window::new(Arc::clone(&mapper), Arc::clone(&epochs), askers);
        let window = Arc::new(Ordered::new("window", crate::sync::BOUND, window));
        let memory = Memory::new(mapper, Arc::clone(&window), reaper.clone(), limits);
        Self {
            vmm,
            epochs,
            window,
            memory,
            reaper,
        }
    }

    /// Takes everything away, as a device does.
    fn revoke(&mut self) -> Result<(), MemoryError> {
        let epoch = self.epochs.raise();
        let detached = detach_before(&self.window, epoch);
        self.memory.renew(epoch);
        detached
    }

    /// What a vCPU does that cannot access memory.
    fn withdraw(&self, missing: Missing) -> Result<bool, MemoryError> {
        withdraw(&self.window, &missing)
    }

    /// Withdraws what files have lost.
    fn withdraw_truncated(&self) -> Result<bool, MemoryError> {
        let truncated = truncated_now(&self.window).expect("nobody keeps the answer");
        self.withdraw(Missing::Truncated(truncated))
    }

    fn attached_bytes(&self) -> u64 {
        self.window.lock().attached_bytes()
    }

    /// The descriptor as a frontend sends it.
    fn send(&self, file: &TestFile) -> ForeignFd {
        ForeignFd::new(file.fd.try_clone().unwrap(), &self.reaper)
    }

    fn table(&self, regions: &[(Region, &TestFile)]) -> MemTable<ForeignFd> {
        let entries = regions
            .iter()
            .map(|(region, file)| (*region, self.send(file)));
        MemTable::new(entries.collect()).unwrap()
    }

    fn replace(
        &mut self,
        regions: &[(Region, &TestFile)],
    ) -> Result<(Vec<u64>, Ticket), MemoryError> {
        let replaced = self.replace_blindly(regions)?;
        self.check(regions);
        Ok(replaced)
    }

    /// The same without a look at what the guest has then.
    fn replace_blindly(
        &mut self,
        regions: &[(Region, &TestFile)],
    ) -> Result<(Vec<u64>, Ticket), MemoryError> {
        let table = self.table(regions);
        let (moved, ticket) = self.memory.replace(table, &[])?;
        let places = moved.regions().map(Region::user_address).collect();
        Ok((places, ticket))
    }

    /// A replacement that the driver acknowledges.
    fn replaced(&mut self, regions: &[(Region, &TestFile)]) -> Vec<u64> {
        let (places, ticket) = self.replace(regions).unwrap();
        self.memory.settled(ticket, Outcome::Done).unwrap();
        self.check(regions);
        places
    }

    fn add(&mut self, region: Region, file: &TestFile) -> Result<(u64, Ticket), MemoryError> {
        let fd = self.send(file);
        let (moved, ticket) = self.memory.add(MemRegion { region, fd }, &[])?;
        Ok((moved.region.user_address(), ticket))
    }

    fn added(&mut self, region: Region, file: &TestFile) -> u64 {
        let (place, ticket) = self.add(region, file).unwrap();
        self.memory.settled(ticket, Outcome::Done).unwrap();
        place
    }

    fn area(
        &mut self,
        area: Area,
        file: &TestFile,
        offset: u64,
        size: u64,
    ) -> Result<(u64, Ticket), MemoryError> {
        let fd = self.send(file);
        let change = match area {
            Area::Log => LogArea::new(size, offset).map(|log| Change::Log(log, fd)),
            Area::Inflight => Inflight::new(size, offset, 1, 1).map(|r| Change::Inflight(r, fd)),
        };
        match self.memory.change(change.unwrap(), &[])? {
            (Changed::Log(LogBase::Shared { area, .. }, _), ticket) => Ok((area.offset(), ticket)),
            (Changed::Inflight(record), ticket) => Ok((record.inflight().mmap_offset(), ticket)),
            other => panic!("{other:?}"),
        }
    }

    /// Makes sure that the table is `regions`, and that the guest finds the
    /// right bytes where the table says.
    fn check(&self, regions: &[(Region, &TestFile)]) {
        self.check_books();
        assert_eq!(self.memory.region_count(), regions.len());
        let mut places = Vec::new();
        for (region, file) in regions {
            let mut placed = self.memory.table.regions.iter();
            let placed = placed.find(|placed| placed.region == *region);
            let place = placed.expect("a region has its place").window_offset();
            let (user, size) = (region.user_address(), region.size());
            let mut found = self.memory.table.places(user, size);
            assert!(found.any(|at| at == place));
            let last = region.size() - 8;
            for offset in [0, (last / 2) & !(PAGE - 1), last] {
                let tag = file.tag(region.mmap_offset() + offset);
                let mut bytes = [0; 8];
                self.vmm
                    .read_window(place + offset, &mut bytes)
                    .expect("it is mapped");
                assert_eq!(bytes, tag);
            }
            assert_eq!(place % (2 * MIB), region.mmap_offset() % (2 * MIB));
            places.push((place, place + region.size()));
        }
        places.sort_unstable();
        assert!(
            places.windows(2).all(|two| two[0].1 <= two[1].0),
            "overlap: {places:x?}"
        );
    }

    fn is_dead(&self) -> bool {
        let checked = self.window.lock().check(self.epochs.current());
        matches!(checked, Err(MemoryError::Dead))
    }

    /// What the VMM was asked since the last time. Ranges are closed elsewhere,
    /// some time.
    fn calls(&self) -> Vec<Call> {
        let mut calls = self.vmm.take_calls();
        calls.retain(|call| !matches!(call, Call::Close { .. }));
        calls
    }

    /// Makes sure that the books agree with what the guest has.
    fn check_books(&self) {
        let window = self.window.lock();
        let mapped = self.vmm.mappings();
        assert_eq!(window.ranges(), mapped);
        let pieces = self.memory.layout.pieces();
        let piece = |(at, p): (&u64, &Piece)| (*at, p.offset, p.length);
        let planned: Vec<_> = pieces.iter().map(piece).collect();
        if window.check(self.memory.epoch).is_ok() {
            assert_eq!(planned, mapped);
        }
        for (at, _, length) in mapped {
            assert!(at >= 2 * MIB && at + length <= self.memory.limits.window_size);
        }
        let used: Vec<_> = self.memory.files.keys().copied().collect();
        assert!(used.iter().all(|file| self.memory.layout.uses(*file)));
        assert!(pieces.values().all(|piece| used.contains(&piece.file)));
    }
}

/// A region at `guest_address`, whose user address is as far up as usual.
fn region(guest_address: u64, size: u64, mmap_offset: u64) -> Region {
    let user_address = 0x7f00_0000_0000 + guest_address;
    Region::new(guest_address, size, user_address, mmap_offset).unwrap()
}
