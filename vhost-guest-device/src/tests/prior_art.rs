// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What went wrong in earlier devices of this kind: crosvm's and QEMU's
//! virtio-vhost-user, and Cloud Hypervisor PR #7695. Each test is named after
//! a defect, and proves that it is not here. `docs/defects.md` lists all of
//! them, with the tests that are elsewhere.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vhost_guest_msg::{FrontendRequest, LogBase, ProtocolFeatures};
use vhost_guest_vmm_traits::test_utils::Call;
use vhost_guest_vmm_traits::{IoEventFdRegistrar, MsiMessage};

use super::rig::{
    self, event, memory_file, message, words, Frontend, Rig, BARS, DOORBELLS, STATUS, VRINGS,
};
use super::siege::{signalled, NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use crate::connection::carried;
use crate::event_loop::poller;
use crate::guest::pci::bars::{DEVICE, DRIVER_AUX};
use crate::vmm::services::Services;

/// A table of one region, at guest address 0.
fn share(rig: &mut Rig, frontend: &mut Frontend) -> fs::File {
    let file = memory_file(SIZE);
    let table = words(&[1, 0, SIZE, USER, 0]);
    frontend.send(&message(5, PLAIN, &table), &[file.as_fd()]);
    rig.receive(0).expect("the table");
    file
}

#[test]
fn a_log_in_addition_to_memory_at_address_zero() {
    // The log was kept among the regions, at an address of its own making:
    // it overlapped with memory at 0, and a panic was next.
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::LOG_SHMFD);
    let _memory = share(&mut rig, &mut frontend);
    for round in 1..4 {
        let log = memory_file(0x1000 * round);
        let payload = words(&[0x1000 * round, 0]);
        frontend.send(&message(6, PLAIN, &payload), &[log.as_fd()]);
        let request = rig.request();
        let shared = matches!(
            request,
            Some(FrontendRequest::SetLogBase(LogBase::Shared { .. }))
        );
        assert!(shared, "{request:?}");
        rig.reply(6, &[]);
        assert_eq!(frontend.receive(), Some(message(6, REPLY, &payload)));
        assert_eq!(rig.vmm.mappings().len(), 2);
    }
}

#[test]
fn a_second_table_after_the_first_and_a_slot_after_it() {
    // A check for overlap was in the way of every removal.
    let features = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let file = memory_file(2 * SIZE);
    let table = message(5, NEED_REPLY, &words(&[1, 0, SIZE, USER, 0]));
    let slot = words(&[0, SIZE, SIZE, USER + SIZE, SIZE]);
    for _ in 0..3 {
        for request in [
            &table,
            &message(37, NEED_REPLY, &slot),
            &message(38, NEED_REPLY, &slot),
        ] {
            let code = u32::from(request[0]);
            let fds = [file.as_fd()];
            let fds = if code == 38 { &[][..] } else { &fds };
            frontend.send(request, fds);
            rig.receive(0).expect("a request");
            rig.reply(code, &words(&[0]));
            let done = message(code, REPLY, &words(&[0]));
            assert_eq!(frontend.receive(), Some(done));
        }
        assert_eq!(rig.vmm.mappings().len(), 1);
    }
}

#[test]
fn overlapping_regions_in_a_table_that_replaces_another() {
    // Each region was checked against the table before, not with the others.
    for second in [
        [0x8000, SIZE, 2 * USER, 0],
        [SIZE, SIZE, USER + 0x8000, 0],
        [SIZE, SIZE, USER, 1],
        [0, SIZE, USER, 0],
    ] {
        let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::REPLY_ACK);
        let file = share(&mut rig, &mut frontend);
        let mapped = rig.vmm.mappings();
        let table = [words(&[2, 0, SIZE, USER, 0]), words(&second)].concat();
        let fds = [file.as_fd(), file.as_fd()];
        frontend.send(&message(5, NEED_REPLY, &table), &fds);
        rig.run();
        let refusal = message(5, REPLY, &words(&[1]));
        assert_eq!(frontend.receive(), Some(refusal));
        assert_eq!(rig.vmm.mappings(), mapped);
    }
}

#[test]
fn an_empty_region_is_neither_mapped_nor_unmapped() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::CONFIGURE_MEM_SLOTS);
    let file = memory_file(SIZE);
    let empty = words(&[0, 0, 0, USER, 0]);
    rig.vmm.take_calls();
    frontend.send(&message(37, PLAIN, &empty), &[file.as_fd()]);
    assert!(rig.needs_reset());
    let calls = rig.vmm.take_calls();
    let of_memory = |call: &Call| {
        matches!(
            call,
            Call::Open { .. } | Call::Attach { .. } | Call::Detach { .. }
        )
    };
    assert!(!calls.iter().any(of_memory), "{calls:?}");
}

/// A registrar of a VMM that refuses doorbells, and takes its time.
struct Refuses;

impl IoEventFdRegistrar for Refuses {
    fn register(&self, _: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        if address < DOORBELLS {
            return Ok(());
        }
        // At least; so there are no more than three to a piece of 2 ms.
        thread::sleep(Duration::from_millis(1));
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn unregister(&self, _: BorrowedFd<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_chatty_frontend_gets_bounded_turns() {
    // A handler that went on as long as there was something to do was never
    // told to pause or to stop.
    let lend = |services: &mut Services<_>| services.doorbells = Some(Arc::new(Refuses));
    let mut rig = Rig::lent(lend, |builder| builder);
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    rig.negotiate(&mut frontend, carried());
    // The device itself answers these, so that no guest sets the pace.
    let call = event();
    for _ in 0..50 {
        let request = message(13, NEED_REPLY, &words(&[0]));
        frontend.send(&request, &[call.as_fd()]);
    }
    let epoll = rig.device.poller_fd().unwrap();
    let mut answers = 0;
    while answers < 50 {
        let ready = poller::wait(epoll.as_fd(), false).unwrap();
        assert!(!ready.is_empty(), "{answers} answers");
        rig.device.turn(&ready);
        let now = frontend.receive().map_or(0, |bytes| bytes.len() / 20);
        assert!(now <= 3, "{now} messages in a turn");
        answers += now;
    }
}

#[test]
fn half_a_message_holds_up_nobody_else() {
    // The socket was a blocking one.
    let (mut rig, mut frontend) = rig::connected();
    let next = message(3, PLAIN, &[]);
    frontend.send(&[message(1, PLAIN, &[]), next[..5].to_vec()].concat(), &[]);
    assert_eq!(rig.receive(0), Some(message(1, PLAIN, &[])));
    rig.reply(1, &words(&[7]));
    let reply = message(1, REPLY, &words(&[7]));
    assert_eq!(frontend.receive(), Some(reply));
    rig.write(STATUS, &[0]);
    rig.run();
    assert_eq!(rig.status(), 0);
    assert!(frontend.is_disconnected());
}

#[test]
fn a_notification_wakes_the_worker_once() {
    // Events were level-triggered and never read.
    let mut rig = rig::serving();
    let turns = rig.device.shared.counters.turns.read();
    for queue in 0..4 {
        rig.notify(queue);
    }
    rig.run();
    assert!(rig.device.shared.counters.turns.read() <= turns + 2);
    let epoll = rig.device.poller_fd().unwrap();
    assert!(poller::wait(epoll.as_fd(), false).unwrap().is_empty());
}

#[test]
fn each_queue_interrupts_by_its_own_vector() {
    // Queue 0 raised the interrupt of queue 1.
    let (mut rig, mut frontend) = rig::connected();
    let vector = |data| MsiMessage {
        address: 0xFEE0_0000,
        data,
    };
    let sources: Vec<_> = (0..5)
        .map(|data| rig.vmm.armed_with(vector(data)).remove(0))
        .collect();
    let raised = |_: &mut Rig| sources.iter().map(signalled).collect::<Vec<_>>();
    assert_eq!(raised(&mut rig), [true, false, false, false, false]);
    frontend.send(&message(1, PLAIN, &[]), &[]);
    rig.run();
    assert_eq!(raised(&mut rig), [false, true, false, false, false]);
    rig.receive(0).expect("the request");
    rig.reply(1, &words(&[0]));
    assert_eq!(raised(&mut rig), [false, false, true, false, false]);
}

#[test]
fn the_last_of_256_vrings_is_one_like_the_others() {
    // The bits of the index were one short, or the limit one less.
    let mut rig = Rig::with(|builder| builder.queues(256));
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    for code in [12, 13, 14] {
        let eventfd = event();
        frontend.send(&message(code, PLAIN, &words(&[255])), &[eventfd.as_fd()]);
        rig.receive(0).expect("a vring of 256");
    }
    assert!(rig.vmm.doorbell(DOORBELLS + 4 * 255).is_some());
    assert!(rig.vmm.doorbell(DOORBELLS + 4 * 511).is_some());
    rig.write(DRIVER_AUX, &(5u32 << 16 | 255).to_le_bytes());
    assert!(rig.vmm.armed().iter().any(|(_, m)| m.data == 5));
    for code in [12, 13, 14] {
        frontend.send(&message(code, PLAIN, &words(&[0x1FF])), &[]);
        rig.receive(0).expect("no descriptor for it");
    }
    assert!(rig.vmm.doorbell(DOORBELLS + 4 * 255).is_none());
    assert!(rig.vmm.doorbell(DOORBELLS + 4 * 511).is_none());
    assert!(!rig.vmm.armed().iter().any(|(_, m)| m.data == 5));
}

#[test]
fn a_ring_without_descriptors_is_polled() {
    // "No descriptor" was taken for a missing descriptor.
    let (mut rig, mut frontend) = rig::connected();
    for code in [12, 13, 14] {
        for index in 0..u64::from(VRINGS) {
            let polled = message(code, PLAIN, &words(&[0x100 | index]));
            frontend.send(&polled, &[]);
            assert_eq!(rig.receive(0), Some(polled));
        }
    }
    assert!(!rig.needs_reset());
}

#[test]
fn a_device_reset_by_the_frontend_takes_no_descriptors() {
    // Frontends do not send them again after RESET_DEVICE.
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::RESET_DEVICE);
    let _file = share(&mut rig, &mut frontend);
    let (kick, call) = (event(), event());
    for (code, eventfd) in [(12, &kick), (13, &call)] {
        frontend.send(&message(code, PLAIN, &words(&[0])), &[eventfd.as_fd()]);
        rig.receive(0).expect("a vring");
    }
    rig.write(DRIVER_AUX, &(5u32 << 16).to_le_bytes());
    let (mapped, armed) = (rig.vmm.mappings(), rig.vmm.armed());
    frontend.send(&message(34, PLAIN, &[]), &[]);
    assert_eq!(rig.receive(0), Some(message(34, PLAIN, &[])));
    assert_eq!((rig.vmm.mappings(), rig.vmm.armed()), (mapped, armed));
    assert!(rig.vmm.doorbells().contains(&DOORBELLS));
}

#[test]
fn the_announced_message_size_is_the_one_that_holds() {
    // 1024 was announced, and more was accepted one way than the other.
    let announced = |rig: &mut Rig| u32::from_le_bytes(rig.read(DEVICE + 4)) as usize;
    let config = |size: usize| {
        let body = size - 24;
        let head = [0, body as u32, 0].map(u32::to_ne_bytes).concat();
        [head, vec![0x5A; body]].concat()
    };
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::CONFIG);
    let size = announced(&mut rig);
    let largest = config(size);
    frontend.send(&message(24, PLAIN, &largest), &[]);
    let request = rig.receive(0).expect("the largest message");
    assert_eq!(request.len(), size);
    rig.reply(24, &largest);
    assert_eq!(frontend.receive().map(|reply| reply.len()), Some(size));
    frontend.send(&message(24, PLAIN, &config(size + 1)), &[]);
    assert!(rig.needs_reset());
}

#[test]
fn a_received_descriptor_is_not_inherited() {
    // Without MSG_CMSG_CLOEXEC every program that the VMM starts has it.
    let (mut rig, mut frontend) = rig::connected();
    let eventfd = event();
    frontend.send(&message(13, PLAIN, &words(&[0])), &[eventfd.as_fd()]);
    rig.receive(0).expect("a call");
    let Some(Call::Register { eventfd: fd, .. }) = rig.vmm.calls().pop() else {
        panic!("no doorbell");
    };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
    assert_ne!(flags & 0o2_000_000, 0, "{info}");
}

#[test]
fn doorbells_are_where_the_bar_is_and_nowhere_else() {
    // They were registered at 0, 4, 8 …, whatever was there.
    let mut rig = Rig::new();
    rig.config_write(0x04, &6u16.to_le_bytes());
    rig.start();
    rig.backend_up();
    let mut frontend = rig.connect();
    let call = event();
    frontend.send(&message(13, PLAIN, &words(&[0])), &[call.as_fd()]);
    rig.receive(0).expect("a call");
    assert!(rig.vmm.doorbells().is_empty());
    for (bar, address) in BARS {
        let register = 0x10 + 4 * u16::from(bar);
        rig.config_write(register, &(address as u32).to_le_bytes());
        rig.config_write(register + 4, &((address >> 32) as u32).to_le_bytes());
    }
    assert!(rig.vmm.doorbells().iter().all(|at| *at >= BARS[0].1));
    assert!(rig.vmm.doorbells().contains(&DOORBELLS));
}

#[test]
fn a_table_is_sent_on_with_offsets_for_user_addresses_only() {
    // The three earlier layouts disagreed on what of a region says where it
    // is: here it is the user address, and nothing else is touched.
    let (mut rig, mut frontend) = rig::connected();
    let file = memory_file(4 * SIZE);
    let region = [3 * SIZE, SIZE, USER, 2 * SIZE];
    let table = [words(&[1]), words(&region)].concat();
    frontend.send(&message(5, PLAIN, &table), &[file.as_fd()]);
    let seen = rig.receive(0).expect("the table");
    let (offset, fd_offset, length) = rig.vmm.mappings()[0];
    assert_eq!((fd_offset, length), (2 * SIZE, SIZE));
    let shown = [3 * SIZE, SIZE, offset, 2 * SIZE];
    let expected = [words(&[1]), words(&shown)].concat();
    assert_eq!(seen[12..], expected);
    assert_eq!(offset % (2 << 20), (2 * SIZE) % (2 << 20));
}
