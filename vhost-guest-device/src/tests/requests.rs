// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What requests and replies do when everybody keeps to the rules.

use std::os::fd::{AsFd, OwnedFd};

use vhost_guest_msg::{FrontendRequest, ProtocolFeatures, VringAddr, VringFd};

use super::rig::{self, event, memory_file, message, words, Frontend, Rig, DOORBELLS, QUEUE_SIZE};
use crate::connection::carried;

const NEED_REPLY: u32 = 0x9;
const PLAIN: u32 = 0x1;
const REPLY: u32 = 0x5;
const MIB: u64 = 1 << 20;
/// The first window offset that is used.
const START: u64 = 2 * MIB;

fn acknowledged() -> (Rig, Frontend) {
    rig::negotiated(ProtocolFeatures::REPLY_ACK | ProtocolFeatures::CONFIGURE_MEM_SLOTS)
}

fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut payload = words(&[regions.len() as u64]);
    payload.extend(words(regions.as_flattened()));
    payload
}

fn region(region: [u64; 4]) -> Vec<u8> {
    words(&[0, region[0], region[1], region[2], region[3]])
}

/// User addresses in the table that the guest gets next.
fn offsets(rig: &mut Rig) -> Vec<u64> {
    match rig.request() {
        Some(FrontendRequest::SetMemTable(table)) => table
            .regions()
            .map(|region| region.user_address())
            .collect(),
        other => panic!("expected a memory table, got {other:?}"),
    }
}

fn ack(rig: &mut Rig, code: u32, value: u64) {
    rig.reply(code, &words(&[value]));
}

fn signalled(eventfd: &OwnedFd) -> bool {
    rustix::io::read(eventfd, &mut [0; 8]).is_ok()
}

#[test]
fn forwards_in_order_and_unchanged() {
    let (mut rig, mut frontend) = rig::connected();
    let sent = [
        message(3, PLAIN, &[]),
        message(8, PLAIN, &words(&[256 << 32])),
        message(10, PLAIN, &words(&[7 << 32])),
    ];
    frontend.send(&sent.concat(), &[]);
    for expected in sent {
        assert_eq!(rig.receive(0), Some(expected));
    }
    assert_eq!(rig.receive(0), None);
    assert_eq!(rig.device.shared.counters.requests.read(), 3);
}

#[test]
fn interrupts_the_guest_for_a_request() {
    let (mut rig, mut frontend) = rig::connected();
    let vector = vhost_guest_vmm_traits::MsiMessage {
        address: 0xFEE0_0000,
        data: 1,
    };
    let source = rig.vmm.armed_with(vector).remove(0);
    assert!(!signalled(&source));
    frontend.send(&message(3, PLAIN, &[]), &[]);
    rig.run();
    assert!(signalled(&source));
}

#[test]
fn reassembles_a_request_that_arrives_byte_by_byte() {
    let (mut rig, mut frontend) = rig::connected();
    let request = message(9, PLAIN, &words(&[0, 0, 0, 0, 0]));
    let eventfd = event();
    let kick = message(12, PLAIN, &words(&[1]));
    frontend.send(&kick[..1], &[eventfd.as_fd()]);
    for byte in &kick[1..] {
        assert_eq!(rig.receive(0), None);
        frontend.send(&[*byte], &[]);
    }
    let expected = VringFd {
        index: 1,
        fd: Some(()),
    };
    assert_eq!(rig.request(), Some(FrontendRequest::SetVringKick(expected)));
    drop(request);
}

#[test]
fn passes_replies_and_clears_only_what_is_not_carried() {
    let (mut rig, mut frontend) = rig::connected();
    frontend.send(&message(1, PLAIN, &[]), &[]);
    assert_eq!(rig.request(), Some(FrontendRequest::GetFeatures));
    rig.reply(1, &words(&[0x1_7000_0000]));
    assert_eq!(
        frontend.receive(),
        Some(message(1, REPLY, &words(&[0x1_7000_0000])))
    );
    frontend.send(&message(15, PLAIN, &[]), &[]);
    rig.request();
    rig.reply(15, &words(&[u64::MAX]));
    let shown = words(&[carried().bits()]);
    assert_eq!(frontend.receive(), Some(message(15, REPLY, &shown)));
}

#[test]
fn maps_a_table_and_shows_offsets() {
    let (mut rig, mut frontend) = rig::connected();
    let file = memory_file(4 * MIB);
    let regions = [
        [0, MIB, 0x7f00_0000_0000, 0],
        [1 << 32, 2 * MIB, 0x7f10_0000_0000, 2 * MIB],
    ];
    frontend.send(
        &message(5, PLAIN, &table(&regions)),
        &[file.as_fd(), file.as_fd()],
    );
    assert_eq!(offsets(&mut rig), [START, START + 2 * MIB]);
    assert_eq!(
        rig.vmm.mappings(),
        [(START, 0, MIB), (START + 2 * MIB, 2 * MIB, 2 * MIB)]
    );
}

#[test]
fn rewrites_ring_addresses_to_window_offsets() {
    let (mut rig, mut frontend) = rig::connected();
    let file = memory_file(MIB);
    frontend.send(
        &message(5, PLAIN, &table(&[[0, MIB, 0x7000_0000, 0]])),
        &[file.as_fd()],
    );
    offsets(&mut rig);
    let addresses = words(&[0, 0x7000_1000, 0x7000_3000, 0x7000_2000, 0x4242]);
    frontend.send(&message(9, PLAIN, &addresses), &[]);
    let expected = VringAddr {
        index: 0,
        log_used: false,
        descriptor: START + 0x1000,
        used: START + 0x3000,
        available: START + 0x2000,
        log: 0x4242,
    };
    assert_eq!(rig.request(), Some(FrontendRequest::SetVringAddr(expected)));
}

#[test]
fn refuses_a_ring_that_runs_out_of_its_region() {
    let (mut rig, mut frontend) = acknowledged();
    let file = memory_file(MIB);
    frontend.send(
        &message(5, PLAIN, &table(&[[0, MIB, 0x7000_0000, 0]])),
        &[file.as_fd()],
    );
    offsets(&mut rig);
    frontend.send(&message(8, PLAIN, &words(&[256 << 32])), &[]);
    rig.request();
    // 256 descriptors are a page; half of it would be behind the region.
    let addresses = words(&[0, 0x700F_F800, 0x7000_3000, 0x7000_2000, 0]);
    frontend.send(&message(9, NEED_REPLY, &addresses), &[]);
    assert_eq!(rig.receive(0), None);
    assert_eq!(frontend.receive(), Some(message(9, REPLY, &words(&[1]))));
    assert!(!rig.needs_reset());
}

#[test]
fn unmaps_what_a_table_took_away_only_after_the_guests_reply() {
    let (mut rig, mut frontend) = acknowledged();
    let (old, new) = (memory_file(MIB), memory_file(MIB));
    frontend.send(
        &message(5, NEED_REPLY, &table(&[[0, MIB, 0x7000_0000, 0]])),
        &[old.as_fd()],
    );
    offsets(&mut rig);
    ack(&mut rig, 5, 0);
    assert_eq!(frontend.receive(), Some(message(5, REPLY, &words(&[0]))));
    frontend.send(
        &message(5, NEED_REPLY, &table(&[[0, MIB, 0x8000_0000, 0]])),
        &[new.as_fd()],
    );
    offsets(&mut rig);
    assert_eq!(
        rig.vmm.mappings().len(),
        2,
        "the old memory went before the reply"
    );
    assert_eq!(frontend.receive(), None);
    ack(&mut rig, 5, 0);
    assert_eq!(
        rig.vmm.mappings().len(),
        1,
        "the old memory stayed after the reply"
    );
    assert_eq!(frontend.receive(), Some(message(5, REPLY, &words(&[0]))));
}

#[test]
fn asks_for_the_proof_itself_and_swallows_it() {
    let (mut rig, mut frontend) = acknowledged();
    let (old, new) = (memory_file(MIB), memory_file(MIB));
    frontend.send(
        &message(5, PLAIN, &table(&[[0, MIB, 0x7000_0000, 0]])),
        &[old.as_fd()],
    );
    let first = rig.receive(0).unwrap();
    assert_eq!(first[4], 0x1, "nothing is taken away, nothing is asked");
    frontend.send(
        &message(5, PLAIN, &table(&[[0, MIB, 0x8000_0000, 0]])),
        &[new.as_fd()],
    );
    let second = rig.receive(0).unwrap();
    assert_eq!(second[4], 0x9, "the device asks for an acknowledgement");
    ack(&mut rig, 5, 0);
    assert_eq!(rig.vmm.mappings().len(), 1);
    assert_eq!(frontend.receive(), None, "the frontend did not ask");
}

#[test]
fn without_reply_ack_a_barrier_proves_it() {
    let (mut rig, mut frontend) = rig::connected();
    let (old, new) = (memory_file(MIB), memory_file(MIB));
    frontend.send(
        &message(5, PLAIN, &table(&[[0, MIB, 0x7000_0000, 0]])),
        &[old.as_fd()],
    );
    offsets(&mut rig);
    frontend.send(
        &message(5, PLAIN, &table(&[[0, MIB, 0x8000_0000, 0]])),
        &[new.as_fd()],
    );
    frontend.send(&message(3, PLAIN, &[]), &[]);
    offsets(&mut rig);
    assert_eq!(
        rig.request(),
        Some(FrontendRequest::GetFeatures),
        "the device's barrier"
    );
    assert_eq!(rig.request(), Some(FrontendRequest::SetOwner));
    assert_eq!(rig.vmm.mappings().len(), 2);
    rig.reply(1, &words(&[0]));
    assert_eq!(rig.vmm.mappings().len(), 1);
    assert_eq!(frontend.receive(), None);
}

#[test]
fn holds_the_next_table_until_the_one_before_is_settled() {
    let (mut rig, mut frontend) = acknowledged();
    let files = [memory_file(MIB), memory_file(MIB), memory_file(MIB)];
    for (step, file) in (7u64..).zip(&files) {
        let regions = table(&[[0, MIB, step << 28, 0]]);
        frontend.send(&message(5, NEED_REPLY, &regions), &[file.as_fd()]);
        frontend.send(&message(3, PLAIN, &[]), &[]);
    }
    for _ in &files {
        offsets(&mut rig);
        assert_eq!(rig.request(), Some(FrontendRequest::SetOwner));
        assert_eq!(rig.receive(0), None, "the next table did not wait");
        ack(&mut rig, 5, 0);
    }
    assert_eq!(rig.vmm.mappings().len(), 1);
}

#[test]
fn slots_come_and_go_and_a_refused_one_is_undone() {
    let (mut rig, mut frontend) = acknowledged();
    let file = memory_file(4 * MIB);
    let one = region([0, MIB, 0x7000_0000, 0]);
    frontend.send(&message(37, NEED_REPLY, &one), &[file.as_fd()]);
    assert!(matches!(rig.request(), Some(FrontendRequest::AddMemReg(_))));
    ack(&mut rig, 37, 0);
    let two = region([2 * MIB, MIB, 0x8000_0000, 2 * MIB]);
    frontend.send(&message(37, NEED_REPLY, &two), &[file.as_fd()]);
    rig.request();
    assert_eq!(rig.vmm.mappings().len(), 2);
    ack(&mut rig, 37, 1);
    assert_eq!(rig.vmm.mappings().len(), 1, "the guest refused it");
    // QEMU sends an mmap offset of 0 when it removes a region.
    frontend.send(&message(38, NEED_REPLY, &one), &[]);
    match rig.request() {
        Some(FrontendRequest::RemMemReg(gone)) => assert_eq!(gone.region.user_address(), START),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.vmm.mappings().len(), 1);
    ack(&mut rig, 38, 0);
    assert_eq!(rig.vmm.mappings(), []);
}

#[test]
fn a_region_that_comes_back_is_where_it_was() {
    let (mut rig, mut frontend) = acknowledged();
    let file = memory_file(8 * MIB);
    let low = [0, MIB, 0x7000_0000, 0];
    let high = [4 * MIB, MIB, 0x8000_0000, 4 * MIB];
    let mut seen = Vec::new();
    for regions in [&[low, high][..], &[low], &[low, high]] {
        let fds = vec![file.as_fd(); regions.len()];
        frontend.send(&message(5, NEED_REPLY, &table(regions)), &fds);
        seen.push(offsets(&mut rig));
        ack(&mut rig, 5, 0);
        frontend.receive();
    }
    assert_eq!(seen[0], seen[2]);
    assert_eq!(seen[0][0], seen[1][0]);
}

#[test]
fn connects_call_and_err_and_replaces_them() {
    let (mut rig, mut frontend) = rig::connected();
    let n = u64::from(rig::VRINGS);
    for (code, doorbell) in [(13, DOORBELLS + 4), (14, DOORBELLS + 4 * (n + 1))] {
        let (first, second) = (event(), event());
        for eventfd in [&first, &second] {
            frontend.send(&message(code, PLAIN, &words(&[1])), &[eventfd.as_fd()]);
            rig.run();
        }
        let registered = rig.vmm.doorbell(doorbell).unwrap();
        rustix::io::write(&registered, &1u64.to_ne_bytes()).unwrap();
        assert!(signalled(&second) && !signalled(&first));
        frontend.send(&message(code, PLAIN, &words(&[0x101])), &[]);
        rig.run();
        assert!(rig.vmm.doorbell(doorbell).is_none(), "bit 8 takes it away");
    }
}

#[test]
fn a_stopped_ring_has_neither_kick_nor_call() {
    let (mut rig, mut frontend) = rig::connected();
    let (kick, call, err) = (event(), event(), event());
    rig.write(
        crate::guest::pci::bars::DRIVER_AUX,
        &(5u32 << 16).to_le_bytes(),
    );
    for (code, eventfd) in [(12, &kick), (13, &call), (14, &err)] {
        frontend.send(&message(code, PLAIN, &words(&[0])), &[eventfd.as_fd()]);
        rig.request();
    }
    frontend.send(&message(11, PLAIN, &words(&[0])), &[]);
    assert!(matches!(
        rig.request(),
        Some(FrontendRequest::GetVringBase(_))
    ));
    assert!(
        rig.vmm.doorbells().contains(&DOORBELLS),
        "not before the reply"
    );
    rig.reply(11, &words(&[3 << 32]));
    assert_eq!(
        frontend.receive(),
        Some(message(11, REPLY, &words(&[3 << 32])))
    );
    assert!(!rig.vmm.doorbells().contains(&DOORBELLS));
    assert!(rig.vmm.doorbells().contains(&(DOORBELLS + 16)), "err stays");
    assert!(!rig.vmm.armed().iter().any(|(_, message)| message.data == 5));
}

#[test]
fn a_guest_without_buffers_holds_the_frontend_and_nothing_else() {
    let (mut rig, mut frontend) = rig::connected();
    let posted = usize::from(QUEUE_SIZE) / 2;
    let sent: Vec<_> = (0..3 * posted as u64).collect();
    for base in &sent {
        frontend.send(&message(10, PLAIN, &words(&[base << 32])), &[]);
    }
    rig.run();
    assert_eq!(rig.device.shared.counters.requests.read(), posted as u64);
    for base in &sent {
        assert_eq!(
            rig.receive(0),
            Some(message(10, PLAIN, &words(&[base << 32])))
        );
    }
}

#[test]
fn negative_acknowledgements_wait_for_their_turn() {
    let (mut rig, mut frontend) = acknowledged();
    let small = memory_file(4096);
    frontend.send(&message(3, NEED_REPLY, &[]), &[]);
    let beyond = table(&[[0, MIB, 0x7000_0000, 0]]);
    frontend.send(&message(5, NEED_REPLY, &beyond), &[small.as_fd()]);
    frontend.send(&message(4, NEED_REPLY, &[]), &[]);
    assert_eq!(rig.request(), Some(FrontendRequest::SetOwner));
    assert_eq!(rig.request(), Some(FrontendRequest::ResetOwner));
    assert_eq!(frontend.receive(), None);
    ack(&mut rig, 3, 0);
    ack(&mut rig, 4, 0);
    let expected = [
        message(3, REPLY, &words(&[0])),
        message(5, REPLY, &words(&[1])),
        message(4, REPLY, &words(&[0])),
    ];
    assert_eq!(frontend.receive(), Some(expected.concat()));
}

#[test]
fn configuration_space_goes_through() {
    let (mut rig, mut frontend) = rig::negotiated(ProtocolFeatures::CONFIG);
    let mut get = [0u32, 8, 0].map(u32::to_ne_bytes).concat();
    get.extend([0; 8]);
    frontend.send(&message(24, PLAIN, &get), &[]);
    assert!(matches!(rig.request(), Some(FrontendRequest::GetConfig(_))));
    let mut reply = get.clone();
    reply[12..].copy_from_slice(b"capacity");
    rig.reply(24, &reply);
    assert_eq!(frontend.receive(), Some(message(24, REPLY, &reply)));
    // The two ways to say that there is none.
    for error in [&[][..], &[0; 12]] {
        frontend.send(&message(24, PLAIN, &get), &[]);
        rig.request();
        rig.reply(24, error);
        assert_eq!(frontend.receive(), Some(message(24, REPLY, error)));
    }
}
