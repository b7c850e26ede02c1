// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The adapter by itself: what the traits promise, and what KVM refuses.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::EventfdFlags;
use rustix::fs::{fcntl_add_seals, memfd_create, MemfdFlags, SealFlags};
use vhost_guest_examples::kvm::adapter::{Doorbells, Interrupts, Window};
use vhost_guest_examples::kvm::vcpu::Vcpu;
use vhost_guest_examples::kvm::Machine;
use vhost_guest_vmm_traits::{
    Arming, InterruptManager, IoEventFdRegistrar, MsiMessage, SharedMemoryMapper, SourceId,
};

use crate::frontend::{event, memory_file, signal, take};
use crate::guest::Guest;
use crate::rig::{machine, settle};

const VECTOR: u8 = 0x60;
const MESSAGE: MsiMessage = MsiMessage {
    address: 0xFEE0_0000,
    data: VECTOR as u32,
};
const SIZE: u64 = 2 << 20;

/// A guest, and an interrupt manager with sources that are not armed.
struct Sources<const N: usize> {
    machine: Machine,
    guest: Guest,
    vcpu: Vcpu,
    interrupts: Interrupts,
    sources: [SourceId; N],
    eventfds: [OwnedFd; N],
}

impl<const N: usize> Sources<N> {
    fn new() -> Option<Self> {
        let machine = machine()?;
        let (guest, vcpu) = Guest::start(&machine);
        let interrupts = Interrupts::new(Arc::clone(machine.vm()), Vec::new(), 24);
        Some(Self {
            sources: [(); N].map(|()| interrupts.create_source().unwrap()),
            eventfds: [(); N].map(|()| event(EventfdFlags::empty())),
            machine,
            guest,
            vcpu,
            interrupts,
        })
    }

    fn arming(&self, at: usize) -> Arming<'_> {
        Arming {
            source: self.sources[at],
            eventfd: self.eventfds[at].as_fd(),
            message: MESSAGE,
        }
    }

    /// Interrupts so far.
    fn raised(&self) -> u64 {
        self.guest.give(&self.machine, &[], 1);
        settle("the guest", || self.guest.is_done());
        self.guest.interrupts(VECTOR)
    }

    fn end(self) {
        self.vcpu.stop().unwrap();
    }
}

#[test]
fn raises_one_message_from_many_sources() {
    let Some(rig) = Sources::<3>::new() else {
        return;
    };
    let all = [0, 1, 2].map(|at| rig.arming(at));
    rig.interrupts.arm(&all).unwrap();
    for (at, eventfd) in rig.eventfds.iter().enumerate() {
        signal(eventfd);
        settle("the interrupt", || rig.raised() == at as u64 + 1);
    }
    rig.interrupts.disarm(&[rig.arming(1)]).unwrap();
    signal(&rig.eventfds[1]);
    assert_eq!(rig.raised(), 3);
    assert_eq!(take(&rig.eventfds[1]), 1);
    signal(&rig.eventfds[2]);
    settle("the interrupt", || rig.raised() == 4);
    rig.end();
}

#[test]
fn can_disarm_what_it_could_not_arm() {
    let Some(rig) = Sources::<2>::new() else {
        return;
    };
    let file = memory_file(4096, 0);
    let wrong = Arming {
        source: rig.sources[1],
        eventfd: file.as_fd(),
        message: MESSAGE,
    };
    let both = [rig.arming(0), wrong];
    let error = rig.interrupts.arm(&both).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // The contract: who could not arm all disarms all.
    rig.interrupts.disarm(&both).unwrap();
    signal(&rig.eventfds[0]);
    assert_eq!(rig.raised(), 0);
    // The same eventfd in two sources.
    let twice = Arming {
        source: rig.sources[1],
        eventfd: rig.eventfds[0].as_fd(),
        message: MESSAGE,
    };
    let both = [rig.arming(0), twice];
    let error = rig.interrupts.arm(&both).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    rig.interrupts.disarm(&both).unwrap();
    // What waits is raised at once, by the one that is armed.
    rig.interrupts.arm(&[rig.arming(0)]).unwrap();
    settle("the interrupts", || rig.raised() >= 1);
    rig.interrupts.disarm(&[rig.arming(0)]).unwrap();
    assert_eq!(take(&rig.eventfds[0]), 0, "not drained");
    rig.end();
}

#[test]
fn moves_an_eventfd_from_one_source_to_another() {
    let Some(rig) = Sources::<2>::new() else {
        return;
    };
    rig.interrupts.arm(&[rig.arming(0)]).unwrap();
    let other = Arming {
        source: rig.sources[1],
        eventfd: rig.eventfds[0].as_fd(),
        message: MESSAGE,
    };
    rig.interrupts.disarm(&[rig.arming(0)]).unwrap();
    rig.interrupts.arm(&[other]).unwrap();
    signal(&rig.eventfds[0]);
    settle("the interrupt", || rig.raised() == 1);
    rig.end();
}

#[test]
fn runs_out_of_sources_and_takes_them_back() {
    let Some(machine) = machine() else {
        return;
    };
    let interrupts = Interrupts::new(Arc::clone(machine.vm()), Vec::new(), 24);
    let sources: Vec<_> = (24..4096)
        .map(|_| interrupts.create_source().unwrap())
        .collect();
    let error = interrupts.create_source().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    interrupts.destroy_source(sources[1000]);
    assert_eq!(interrupts.create_source().unwrap(), sources[1000]);
    // All of them at the same time, as many as KVM takes.
    let eventfd = event(EventfdFlags::empty());
    let last = Arming {
        source: sources[4071],
        eventfd: eventfd.as_fd(),
        message: MESSAGE,
    };
    interrupts.arm(&[last]).unwrap();
}

#[test]
fn has_one_eventfd_at_a_doorbell() {
    let Some(machine) = machine() else {
        return;
    };
    let doorbells = Doorbells(Arc::clone(machine.vm()));
    let [one, other] = [(); 2].map(|()| event(EventfdFlags::empty()));
    let at = 0xC000_0000;
    doorbells.register(one.as_fd(), at).unwrap();
    let error = doorbells.register(other.as_fd(), at).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    doorbells.unregister(other.as_fd(), at).unwrap_err();
    doorbells.unregister(one.as_fd(), at).unwrap();
    doorbells.unregister(one.as_fd(), at).unwrap_err();
    let file = memory_file(4096, 0);
    let error = doorbells.register(file.as_fd(), at).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// Whether this process has any of a file mapped.
fn is_mapped(name: &str) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.contains(&format!("/memfd:{name} "))
}

fn named_file(name: &str) -> File {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, SIZE).unwrap();
    File::from(fd)
}

#[test]
fn leaves_nothing_of_a_file_behind() {
    let Some(machine) = machine() else {
        return;
    };
    let window = Window::new(Arc::clone(machine.vm()), 16 * SIZE, 100..102);
    window.place(Some(0xD000_0000)).unwrap();
    let file = named_file("kvm-window-1");
    let open = || window.open(file.as_fd(), 0, SIZE).unwrap();
    let [first, second, third] = [open(), open(), open()];
    assert!(is_mapped("kvm-window-1"));
    window.attach(first, SIZE).unwrap();
    window.attach(second, 2 * SIZE).unwrap();
    window.attach(second, 4 * SIZE).unwrap_err();
    // There are two slots only.
    let error = window.attach(third, 3 * SIZE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    window.detach(third).unwrap_err();
    window.detach(first).unwrap();
    window.detach(first).unwrap_err();
    window.attach(third, 3 * SIZE).unwrap();
    window.close(first);
    window.attach(first, SIZE).unwrap_err();
    for range in [second, third] {
        window.detach(range).unwrap();
        assert!(is_mapped("kvm-window-1"), "its end is to close it");
        window.close(range);
    }
    assert!(!is_mapped("kvm-window-1"));
}

#[test]
fn shows_nothing_that_it_cannot_show_whole() {
    let Some(machine) = machine() else {
        return;
    };
    let window = Window::new(Arc::clone(machine.vm()), 16 * SIZE, 100..110);
    let sealed = named_file("kvm-window-2");
    fcntl_add_seals(&sealed, SealFlags::FUTURE_WRITE).unwrap();
    let error = window.open(sealed.as_fd(), 0, SIZE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let file = named_file("kvm-window-3");
    let [first, second] = [(); 2].map(|()| window.open(file.as_fd(), 0, SIZE).unwrap());
    for outside in [16 * SIZE, u64::MAX - SIZE + 1] {
        window.attach(first, outside).unwrap_err();
    }
    // In the middle of RAM there is no place for the window. It is nowhere
    // then, and not lost.
    window.attach(first, SIZE).unwrap();
    window.attach(second, 2 * SIZE).unwrap();
    let error = window.place(Some(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    window.place(Some(0xD000_0000)).unwrap();
    let third = window.open(file.as_fd(), 0, SIZE).unwrap();
    window.attach(third, SIZE).unwrap_err();
    window.attach(third, 3 * SIZE).unwrap();
    let error = window.place(Some(u64::MAX - 3 * SIZE + 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    window.place(None).unwrap();
    drop(window);
    assert!(!is_mapped("kvm-window-2") && !is_mapped("kvm-window-3"));
}
