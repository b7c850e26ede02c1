// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rules of arming, on a VMM that keeps books and one that acts like KVM.

mod delivery;
mod failure;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

use vhost_guest_vmm_traits::test_utils::TestVmm;
use vhost_guest_vmm_traits::{Arming, SourceId};

use super::*;
use crate::guest::pci::msix::{ENABLE, ENTRY_SIZE, FUNCTION_MASK};
use crate::guest::registers::testing::{signal, take, wait, Peer};

impl Interrupts {
    /// Makes all lines what they should be.
    fn sync_all(&mut self) -> Vec<ArmFailure> {
        let mut all = Vec::new();
        loop {
            let (failures, more) = self.sync_some();
            all.extend(failures);
            if !more {
                return all;
            }
        }
    }

    fn control(&mut self, control: u16) -> Vec<ArmFailure> {
        self.set_control(control);
        self.sync_all()
    }

    fn master(&mut self, bus_master: bool) -> Vec<ArmFailure> {
        self.set_bus_master(bus_master);
        self.sync_all()
    }
}

/// An interrupt controller that acts like KVM: an armed eventfd raises its
/// message when it becomes readable, arming a readable one raises at once,
/// disarming drains, and no eventfd is armed twice.
///
/// Instead of being woken it is polled, by each of its methods.
#[derive(Default)]
struct Kvm {
    state: Mutex<KvmState>,
}

#[derive(Default)]
struct KvmState {
    next: u32,
    sources: BTreeMap<SourceId, Option<(OwnedFd, MsiMessage)>>,
    raised: BTreeMap<u32, u64>,
}

/// The kernel's number of an eventfd, the same for all its duplicates.
fn identity(fd: BorrowedFd<'_>) -> String {
    let info = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let info = std::fs::read_to_string(info).unwrap();
    let id = info.lines().find(|line| line.starts_with("eventfd-id"));
    id.unwrap().to_owned()
}

impl KvmState {
    fn run(&mut self) {
        for (eventfd, message) in self.sources.values().flatten() {
            if take(eventfd) > 0 {
                *self.raised.entry(message.data).or_default() += 1;
            }
        }
    }

    fn is_armed(&self, eventfd: BorrowedFd<'_>) -> bool {
        let armed = self.sources.values().flatten();
        let eventfd = identity(eventfd);
        armed
            .map(|(fd, _)| identity(fd.as_fd()))
            .any(|fd| fd == eventfd)
    }

    fn arm(&mut self, arming: &Arming<'_>) -> io::Result<()> {
        if self.is_armed(arming.eventfd) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let armed = Some((arming.eventfd.try_clone_to_owned()?, arming.message));
        let before = self.sources.insert(arming.source, armed);
        assert!(before.unwrap().is_none());
        self.run();
        Ok(())
    }
}

impl Kvm {
    fn state(&self) -> MutexGuard<'_, KvmState> {
        self.state.lock().unwrap()
    }

    /// How often messages with this data were raised since the last time.
    fn raised(&self, data: u32) -> u64 {
        let mut state = self.state();
        state.run();
        state.raised.remove(&data).unwrap_or(0)
    }

    /// How often any message was raised since the last time.
    fn raised_any(&self) -> u64 {
        let mut state = self.state();
        state.run();
        std::mem::take(&mut state.raised).values().sum()
    }
}

impl InterruptManager for Kvm {
    fn create_source(&self) -> io::Result<SourceId> {
        let mut state = self.state();
        let source = SourceId(state.next);
        state.next += 1;
        state.sources.insert(source, None);
        Ok(source)
    }

    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut state = self.state();
        sources.iter().try_for_each(|arming| state.arm(arming))
    }

    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut state = self.state();
        state.run();
        for arming in sources {
            state.sources.insert(arming.source, None);
        }
        Ok(())
    }

    fn destroy_source(&self, source: SourceId) {
        assert!(self.state().sources.remove(&source).unwrap().is_none());
    }
}

const QUEUES: u16 = 4;
const VRINGS: u16 = 256;

/// A guest that can reach the interrupts of its device.
struct Guest<V> {
    vmm: Arc<V>,
    peer: Peer,
    interrupts: Interrupts,
}

impl<V: InterruptManager + Default + 'static> Guest<V> {
    /// Everything off and masked.
    fn new() -> Self {
        let vmm = Arc::new(V::default());
        let peer = Peer::new();
        let manager = Arc::clone(&vmm) as Arc<dyn InterruptManager>;
        let signaller = Arc::clone(&peer.signaller);
        let interrupts = Interrupts::new(manager, signaller, QUEUES, VRINGS).unwrap();
        Guest {
            vmm,
            peer,
            interrupts,
        }
    }

    /// Bus master and MSI-X on; each vector unmasked, with its number as data.
    fn ready() -> Self {
        let mut guest = Self::new();
        for vector in 0..263 {
            let at = u64::from(vector) * ENTRY_SIZE;
            guest.write(at, 0xFEE0_0000);
            guest.write(at + 8, vector);
            guest.write(at + 12, 0);
        }
        assert!(guest.interrupts.master(true).is_empty());
        assert!(guest.interrupts.control(ENABLE).is_empty());
        guest
    }

    fn write(&mut self, at: u64, value: u32) {
        self.interrupts.write_table(at, &value.to_le_bytes());
        assert!(self.interrupts.sync_all().is_empty());
    }

    fn mask(&mut self, vector: u16, masked: bool) {
        let at = u64::from(vector) * ENTRY_SIZE + 12;
        self.write(at, u32::from(masked));
    }

    fn map(&mut self, event: Event, vector: u16) {
        assert_eq!(self.interrupts.set_vector(event, vector), vector);
        assert_eq!(self.interrupts.vector(event), vector);
    }

    fn attach(&mut self, vring: u16) -> EventFd {
        let kick = self.peer.eventfd();
        self.interrupts
            .attach_kick(vring, Some(kick.clone()))
            .unwrap();
        kick
    }

    /// The vectors whose pending bits are set.
    fn pending(&self) -> Vec<u16> {
        let mut bits = [0; 40];
        self.interrupts.read_pending(0, &mut bits);
        let is_set = |vector: &u16| bits[usize::from(vector / 8)] >> (vector % 8) & 1 != 0;
        (0..320).filter(is_set).collect()
    }
}

impl Guest<TestVmm> {
    /// The data of the messages that are armed, ascending.
    fn armed(&self) -> Vec<u32> {
        let mut armed: Vec<u32> = self.vmm.armed().iter().map(|(_, m)| m.data).collect();
        armed.sort_unstable();
        armed
    }
}

#[test]
fn arms_when_the_last_condition_holds() {
    type Step = fn(&mut Guest<TestVmm>);
    let conditions: [(Step, Step); 6] = [
        (
            |g| assert!(g.interrupts.master(true).is_empty()),
            |g| assert!(g.interrupts.master(false).is_empty()),
        ),
        (
            |g| assert!(g.interrupts.control(ENABLE).is_empty()),
            |g| assert!(g.interrupts.control(0).is_empty()),
        ),
        (
            |g| assert!(g.interrupts.control(ENABLE).is_empty()),
            |g| assert!(g.interrupts.control(ENABLE | FUNCTION_MASK).is_empty()),
        ),
        (|g| g.mask(9, false), |g| g.mask(9, true)),
        (
            |g| g.map(Event::Kick(1), 9),
            |g| g.map(Event::Kick(1), NO_VECTOR),
        ),
        (
            |g| drop(g.attach(1)),
            |g| g.interrupts.attach_kick(1, None).unwrap(),
        ),
    ];
    let mut guest = Guest::<TestVmm>::ready();
    guest.map(Event::Kick(1), 9);
    guest.attach(1);
    assert_eq!(guest.armed(), [9]);
    for (make, break_it) in conditions {
        break_it(&mut guest);
        assert!(guest.armed().is_empty());
        make(&mut guest);
        assert_eq!(guest.armed(), [9]);
    }
}

#[test]
fn refuses_vectors_and_events_that_do_not_exist() {
    let mut guest = Guest::<TestVmm>::ready();
    for vector in [263, 0x8000, 0xFFFE, NO_VECTOR] {
        guest.map(Event::Config, 262);
        assert_eq!(
            guest.interrupts.set_vector(Event::Config, vector),
            NO_VECTOR
        );
        assert_eq!(guest.interrupts.vector(Event::Config), NO_VECTOR);
        assert_eq!(guest.vmm.source_count(), 0);
    }
    for event in [
        Event::Queue(4),
        Event::Queue(0xFFFF),
        Event::Kick(256),
        Event::Kick(0xFFFF),
    ] {
        assert_eq!(guest.interrupts.set_vector(event, 1), NO_VECTOR);
        assert_eq!(guest.interrupts.vector(event), NO_VECTOR);
        guest.interrupts.signal(event);
    }
    let kick = guest.peer.eventfd();
    assert!(guest.interrupts.attach_kick(256, Some(kick)).is_err());
    assert_eq!(guest.vmm.source_count(), 0);
}

#[test]
fn maps_many_events_in_batches() {
    let mut guest = Guest::<TestVmm>::ready();
    guest.interrupts.control(ENABLE | FUNCTION_MASK);
    for vring in 0..VRINGS {
        guest.attach(vring);
        guest.map(Event::Kick(vring), 7 + vring);
    }
    guest.map(Event::Config, 0);
    assert_eq!((guest.armed().len(), guest.vmm.source_count()), (0, 257));
    // One call to the VMM for each batch: one more would fail.
    guest
        .vmm
        .fail_nth(257_usize.div_ceil(BATCH), io::ErrorKind::Other);
    assert!(guest.interrupts.control(ENABLE).is_empty());
    assert_eq!(guest.armed().len(), 257);
    assert!(guest.vmm.clear_failure());
}

#[test]
fn arms_the_new_message_when_it_changes_unmasked() {
    let mut guest = Guest::<TestVmm>::ready();
    guest.map(Event::Config, 3);
    guest.write(3 * ENTRY_SIZE + 8, 99);
    assert_eq!(guest.armed(), [99]);
    guest.write(3 * ENTRY_SIZE + 4, 1);
    assert_eq!(guest.vmm.armed()[0].1.address, 0x1_FEE0_0000);
}

#[test]
fn gives_everything_back_at_reset() {
    let mut guest = Guest::<TestVmm>::ready();
    guest.map(Event::Config, 0);
    guest.map(Event::Queue(2), 1);
    guest.map(Event::Kick(255), 2);
    guest.attach(255);
    assert_eq!(guest.armed(), [0, 1, 2]);
    guest.interrupts.reset();
    assert_eq!((guest.armed().len(), guest.vmm.source_count()), (0, 0));
    for event in [Event::Config, Event::Queue(2), Event::Kick(255)] {
        assert_eq!(guest.interrupts.vector(event), NO_VECTOR);
    }
    // The kick is gone, the table is not.
    guest.map(Event::Kick(255), 2);
    assert!(guest.armed().is_empty());
    guest.map(Event::Config, 1);
    assert_eq!(guest.armed(), [1]);

    guest.interrupts.function_reset();
    assert!(guest.interrupts.sync_all().is_empty());
    guest.map(Event::Config, 1);
    assert!(guest.armed().is_empty());
    let vmm = Arc::clone(&guest.vmm);
    drop(guest);
    assert_eq!(vmm.source_count(), 0);
}

#[test]
fn shows_events_in_the_isr_without_msix() {
    let mut guest = Guest::<TestVmm>::new();
    guest.interrupts.signal(Event::Queue(1));
    guest.interrupts.signal(Event::Kick(1));
    assert_eq!(guest.interrupts.take_isr(), 1);
    guest.interrupts.signal(Event::Config);
    guest.interrupts.signal(Event::Queue(0));
    assert_eq!(
        (guest.interrupts.take_isr(), guest.interrupts.take_isr()),
        (3, 0)
    );
    guest.interrupts.signal(Event::Config);
    guest.interrupts.reset();
    assert_eq!(guest.interrupts.take_isr(), 0);
}

/// virtio 1.2 §4.1.4.5.1 wants this for configuration changes only.
#[test]
fn shows_configuration_changes_in_the_isr_with_msix_as_well() {
    let mut guest = Guest::<TestVmm>::new();
    guest.interrupts.control(ENABLE);
    guest.interrupts.signal(Event::Queue(1));
    assert_eq!(guest.interrupts.take_isr(), 0);
    guest.interrupts.signal(Event::Config);
    assert_eq!(guest.interrupts.take_isr(), 2);
}
