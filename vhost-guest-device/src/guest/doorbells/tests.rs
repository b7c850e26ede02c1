// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};

use super::*;
use crate::guest::registers::testing::{signal, take, wait, Peer};

const BASE: u64 = 0xE000_0000;

struct Guest {
    vmm: Arc<TestVmm>,
    peer: Peer,
    doorbells: Doorbells,
}

/// Moves a few at a time, until there is no more to do.
fn settle(
    mut some: impl FnMut(Deadline) -> Result<bool, ServiceError>,
) -> Result<(), ServiceError> {
    let mut outcome = Ok(());
    loop {
        match some(Deadline::passed()) {
            Ok(true) => {}
            Ok(false) => return outcome,
            Err(error @ ServiceError::Dead(_)) => return Err(error),
            Err(error) => outcome = Err(error),
        }
    }
}

impl Doorbells {
    fn move_to(&mut self, base: Option<u64>) -> Result<(), ServiceError> {
        self.place(base);
        settle(|until| self.settle_some(until))
    }
}

impl QueueNotify {
    fn move_to(&mut self, base: Option<u64>) -> Result<(), ServiceError> {
        self.place(base);
        settle(|until| self.settle_some(until))
    }
}

impl Guest {
    /// A device for 4 vrings, its doorbells placed.
    fn new() -> Self {
        let vmm = Arc::new(TestVmm::new());
        let peer = Peer::new();
        let registrar = Arc::clone(&vmm) as Arc<dyn IoEventFdRegistrar>;
        let mut doorbells = Doorbells::new(Some(registrar), Arc::clone(&peer.signaller), 4);
        doorbells.move_to(Some(BASE)).unwrap();
        Guest {
            vmm,
            peer,
            doorbells,
        }
    }

    fn connect(&mut self, doorbell: Doorbell) -> EventFd {
        let eventfd = self.peer.eventfd();
        self.doorbells.set(doorbell, Some(eventfd.clone())).unwrap();
        eventfd
    }

    /// Three doorbells connected.
    fn connected() -> (Self, [EventFd; 3]) {
        let mut guest = Self::new();
        let bells = [Doorbell::Call(0), Doorbell::Err(3), Doorbell::Log];
        let eventfds = bells.map(|doorbell| guest.connect(doorbell));
        (guest, eventfds)
    }

    /// Signals the eventfd that the VMM has at `address`, as a store does.
    fn store_in_kernel(&self, address: u64) {
        signal(self.vmm.doorbell(address).unwrap());
    }
}

/// Addresses of the three doorbells of `connected`.
fn addresses(base: u64) -> Vec<u64> {
    vec![base, base + 7 * 4, base + 8 * 4]
}

#[test]
fn puts_each_doorbell_at_its_index() {
    let mut guest = Guest::new();
    let mut expected = Vec::new();
    for vring in 0..4 {
        let call = guest.connect(Doorbell::Call(vring));
        let err = guest.connect(Doorbell::Err(vring));
        let address = BASE + u64::from(vring) * 4;
        guest.store_in_kernel(address);
        assert_eq!((take(&call), take(&err)), (1, 0));
        guest.store_in_kernel(address + 16);
        assert_eq!((take(&call), take(&err)), (0, 1));
        expected.extend([address, address + 16]);
    }
    let log = guest.connect(Doorbell::Log);
    guest.store_in_kernel(BASE + 32);
    assert_eq!(take(&log), 1);
    expected.push(BASE + 32);
    expected.sort_unstable();
    assert_eq!(guest.vmm.doorbells(), expected);
}

#[test]
fn refuses_doorbells_that_do_not_exist() {
    let mut guest = Guest::new();
    for doorbell in [Doorbell::Call(4), Doorbell::Err(4), Doorbell::Err(0xFFFF)] {
        let eventfd = guest.peer.eventfd();
        assert!(guest.doorbells.set(doorbell, Some(eventfd)).is_err());
    }
    assert!(guest.vmm.doorbells().is_empty());
}

#[test]
fn rings_for_stores_of_every_width_at_the_exact_address() {
    let (mut guest, [call, err, log]) = Guest::connected();
    for width in [1, 2, 4, 8] {
        assert!(guest.doorbells.store(0, width));
        assert_eq!(wait(&call), 1);
        assert!(guest.doorbells.store(28, width));
        assert_eq!(wait(&err), 1);
        assert!(guest.doorbells.store(32, width));
        assert_eq!(wait(&log), 1);
    }
    for width in [0, 3, 5, 6, 7, 9, 16] {
        assert!(!guest.doorbells.store(0, width));
    }
    // In between, not connected, behind the end.
    for offset in [
        1,
        2,
        3,
        29,
        30,
        31,
        33,
        4,
        8,
        16,
        36,
        0x1_0000,
        u64::MAX - 3,
        u64::MAX,
    ] {
        for width in [1, 2, 4, 8] {
            assert!(!guest.doorbells.store(offset, width));
        }
    }
    assert_eq!([call, err, log].map(|fd| take(&fd)), [0; 3]);
}

#[test]
fn replaces_an_eventfd() {
    let (mut guest, [old, ..]) = Guest::connected();
    guest.vmm.take_calls();
    let new = guest.connect(Doorbell::Call(0));
    let calls = guest.vmm.take_calls();
    // The address takes one at a time.
    assert!(matches!(
        calls[..],
        [
            Call::Unregister { address: BASE, .. },
            Call::Register { address: BASE, .. }
        ]
    ));
    guest.store_in_kernel(BASE);
    assert_eq!((take(&old), take(&new)), (0, 1));
    guest.doorbells.set(Doorbell::Call(0), None).unwrap();
    assert_eq!(guest.vmm.doorbells(), addresses(BASE)[1..]);
    assert!(!guest.doorbells.store(0, 2));
}

#[test]
fn leaves_a_ring_that_has_arrived_where_it_is() {
    let (mut guest, [old, ..]) = Guest::connected();
    guest.doorbells.store(0, 2);
    assert_eq!(wait(&old), 1);
    while guest.peer.signaller.backlog() > 0 {
        std::thread::yield_now();
    }
    let new = guest.connect(Doorbell::Call(0));
    assert_eq!(take(&new), 0);
}

#[test]
fn moves_all_together() {
    let (mut guest, _) = Guest::connected();
    guest.doorbells.move_to(Some(BASE * 2)).unwrap();
    assert_eq!(guest.vmm.doorbells(), addresses(BASE * 2));
    guest.doorbells.move_to(None).unwrap();
    assert!(guest.vmm.doorbells().is_empty());
    guest.connect(Doorbell::Call(1));
    assert!(guest.vmm.doorbells().is_empty());
    assert!(guest.doorbells.store(4, 4));
    guest.doorbells.move_to(Some(BASE)).unwrap();
    assert_eq!(guest.vmm.doorbells().len(), 4);
    guest.vmm.take_calls();
    guest.doorbells.move_to(Some(BASE)).unwrap();
    assert!(guest.vmm.calls().is_empty());
}

#[test]
fn connects_what_comes_in_the_middle_of_a_move_when_all_are_gone() {
    let (mut guest, _) = Guest::connected();
    // One doorbell further: each address was another's.
    guest.doorbells.place(Some(BASE + 4));
    assert!(guest.doorbells.settle_some(Deadline::passed()).unwrap());
    assert_eq!(guest.vmm.doorbells().len(), 2);
    guest.connect(Doorbell::Call(0));
    guest.connect(Doorbell::Call(1));
    assert_eq!(guest.vmm.doorbells().len(), 2);
    guest.doorbells.move_to(Some(BASE + 4)).unwrap();
    assert_eq!(guest.vmm.doorbells().len(), 4);
}

#[test]
fn keeps_the_old_eventfd_when_the_new_one_fails() {
    let (mut guest, [old, ..]) = Guest::connected();
    let new = guest.peer.eventfd();
    guest.vmm.fail_nth(1, io::ErrorKind::OutOfMemory);
    let outcome = guest.doorbells.set(Doorbell::Call(0), Some(new));
    assert!(matches!(outcome, Err(ServiceError::Refused(_))));
    assert_eq!(guest.vmm.doorbells(), addresses(BASE));
    guest.store_in_kernel(BASE);
    assert_eq!(take(&old), 1);
    guest.doorbells.store(0, 2);
    assert_eq!(wait(&old), 1);
}

#[test]
fn passes_a_ring_on_from_one_eventfd_to_the_next() {
    let (mut guest, _) = Guest::connected();
    // The signaller has no thread to spare.
    let full = [guest.peer.full_eventfd(), guest.peer.full_eventfd()];
    for eventfd in &full {
        guest.peer.signaller.block_on(eventfd);
    }
    assert!(guest.doorbells.store(0, 2));
    guest.connect(Doorbell::Call(0));
    guest.connect(Doorbell::Call(0));
    let last = guest.connect(Doorbell::Call(0));
    for eventfd in &full {
        take(eventfd);
    }
    assert_eq!(wait(&last), 1);
}

#[test]
fn is_dead_when_an_eventfd_cannot_be_taken_back() {
    let (mut guest, [old, ..]) = Guest::connected();
    for new in [None, Some(guest.peer.eventfd())] {
        guest.vmm.fail_nth(0, io::ErrorKind::Other);
        let outcome = guest.doorbells.set(Doorbell::Call(0), new);
        assert!(matches!(outcome, Err(ServiceError::Dead(_))));
        assert_eq!(guest.vmm.doorbells(), addresses(BASE));
    }
    guest.store_in_kernel(BASE);
    assert_eq!(take(&old), 1);
}

#[test]
fn is_nowhere_or_dead_when_moving_fails() {
    let mut dead = 0;
    for n in 0..6 {
        let (mut guest, [call, ..]) = Guest::connected();
        guest.vmm.fail_nth(n, io::ErrorKind::OutOfMemory);
        match guest.doorbells.move_to(Some(BASE * 2)) {
            Err(ServiceError::Refused(_)) => assert!(guest.vmm.doorbells().is_empty()),
            Err(ServiceError::Dead(_)) => {
                dead += 1;
                // Only the one that the VMM kept.
                assert_eq!(guest.vmm.doorbells(), addresses(BASE)[n..=n]);
            }
            Ok(()) => panic!("call {n} has failed"),
        }
        // Stores are heard in any case, and another place may do.
        guest.doorbells.store(0, 2);
        assert_eq!(wait(&call), 1);
        guest.doorbells.move_to(Some(BASE * 3)).unwrap();
        assert_eq!(guest.vmm.doorbells(), addresses(BASE * 3));
    }
    assert_eq!(dead, 3);
}

#[test]
fn stays_nowhere_after_a_failed_move_until_the_next() {
    let (mut guest, _) = Guest::connected();
    guest.vmm.fail_nth(5, io::ErrorKind::OutOfMemory);
    assert!(guest.doorbells.move_to(Some(BASE * 2)).is_err());
    guest.connect(Doorbell::Call(0));
    assert!(guest.vmm.doorbells().is_empty());
    guest.doorbells.move_to(Some(BASE * 2)).unwrap();
    assert_eq!(guest.vmm.doorbells(), addresses(BASE * 2));
}

#[test]
fn is_dead_when_taking_back_half_a_move_fails() {
    /// Fails from the second registration on.
    #[derive(Default)]
    struct Stuck(std::sync::Mutex<usize>);
    impl IoEventFdRegistrar for Stuck {
        fn register(&self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
            let mut count = self.0.lock().unwrap();
            *count += 1;
            match *count {
                1 => Ok(()),
                _ => Err(io::ErrorKind::OutOfMemory.into()),
            }
        }
        fn unregister(&self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Other.into())
        }
    }
    let peer = Peer::new();
    let signaller = Arc::clone(&peer.signaller);
    let mut doorbells = Doorbells::new(Some(Arc::new(Stuck::default())), signaller, 2);
    doorbells.set(Doorbell::Log, Some(peer.eventfd())).unwrap();
    doorbells
        .set(Doorbell::Call(1), Some(peer.eventfd()))
        .unwrap();
    let outcome = doorbells.move_to(Some(BASE));
    assert!(matches!(outcome, Err(ServiceError::Dead(_))));
}

#[test]
fn disconnects_as_many_as_it_can() {
    for n in 0..3 {
        let (mut guest, _) = Guest::connected();
        guest.vmm.fail_nth(n, io::ErrorKind::Other);
        let outcome = guest.doorbells.clear();
        assert!(matches!(outcome, Err(ServiceError::Dead(_))));
        assert_eq!(guest.vmm.doorbells(), addresses(BASE)[n..=n]);
        assert!(!guest.doorbells.store(0, 2) && !guest.doorbells.store(32, 2));
        // It is tried again.
        guest.doorbells.clear().unwrap();
        assert!(guest.vmm.doorbells().is_empty());
    }
}

#[test]
fn gives_everything_back_when_dropped() {
    let (guest, _) = Guest::connected();
    let vmm = Arc::clone(&guest.vmm);
    drop(guest);
    assert!(vmm.doorbells().is_empty());
}

#[test]
fn notifies_queues_at_their_addresses() {
    let vmm = Arc::new(TestVmm::new());
    let registrar = Arc::clone(&vmm) as Arc<dyn IoEventFdRegistrar>;
    let mut notify = QueueNotify::new(Some(registrar), 4).unwrap();
    assert!(vmm.doorbells().is_empty());
    notify.move_to(Some(BASE)).unwrap();
    assert_eq!(vmm.doorbells(), [BASE, BASE + 4, BASE + 8, BASE + 12]);
    signal(vmm.doorbell(BASE + 8).unwrap());
    assert_eq!(
        notify.eventfds().iter().map(take).collect::<Vec<_>>(),
        [0, 0, 1, 0]
    );
    notify.signal(3);
    notify.signal(4);
    assert_eq!(take(notify.eventfd(3).unwrap()), 1);
    assert!(notify.eventfd(4).is_none());

    vmm.fail_nth(6, io::ErrorKind::OutOfMemory);
    let outcome = notify.move_to(Some(BASE * 2));
    assert!(matches!(outcome, Err(ServiceError::Refused(_))));
    assert!(vmm.doorbells().is_empty());
    notify.move_to(Some(BASE)).unwrap();
    drop(notify);
    assert!(vmm.doorbells().is_empty());
}

#[test]
fn leaves_every_store_to_userspace_without_a_registrar() {
    let peer = Peer::new();
    let mut doorbells = Doorbells::new(None, Arc::clone(&peer.signaller), 1);
    doorbells.move_to(Some(BASE)).unwrap();
    let (old, new) = (peer.eventfd(), peer.eventfd());
    doorbells.set(Doorbell::Call(0), Some(old.clone())).unwrap();
    assert!(doorbells.store(0, 4));
    assert_eq!(wait(&old), 1);
    doorbells.set(Doorbell::Call(0), Some(new.clone())).unwrap();
    doorbells.move_to(Some(2 * BASE)).unwrap();
    assert!(doorbells.store(0, 4));
    assert_eq!((wait(&new), take(&old)), (1, 0));
    doorbells.clear().unwrap();
    assert!(!doorbells.store(0, 4));

    let mut notify = QueueNotify::new(None, 1).unwrap();
    notify.move_to(Some(BASE)).unwrap();
    notify.signal(0);
    assert_eq!(take(notify.eventfd(0).unwrap()), 1);
}
