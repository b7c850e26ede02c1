// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is forgotten with a reset, by whichever name it comes, and what with
//! messages that are none. DESIGN.md has the rule as a table.

use std::os::fd::{AsFd, BorrowedFd};

use vhost_guest_msg::{frontend, ProtocolFeatures};

use super::rig::{self, memory_file, message, words, Frontend, Rig};
use super::siege::{NEED_REPLY, PLAIN, REPLY, SIZE, USER};

/// What the guest answers with 0.
fn ask(
    rig: &mut Rig,
    frontend: &mut Frontend,
    code: u32,
    body: &[u8],
    fds: &[BorrowedFd<'_>],
) -> bool {
    frontend.send(&message(code, NEED_REPLY, body), fds);
    if rig.receive(0).is_some() {
        rig.reply(code, &words(&[0]));
    }
    frontend.receive() == Some(message(code, REPLY, &words(&[0])))
}

/// Two rings are set up, then comes the request. Whether there may be other
/// memory afterwards.
fn other_memory_may_follow(requests: &[(u32, Vec<u8>)]) -> bool {
    let (mut rig, mut frontend) = rig::negotiated(
        ProtocolFeatures::REPLY_ACK | ProtocolFeatures::STATUS | ProtocolFeatures::RESET_DEVICE,
    );
    let (first, other) = (memory_file(SIZE), memory_file(SIZE));
    let table = words(&[1, 0, SIZE, USER, 0]);
    assert!(ask(&mut rig, &mut frontend, 5, &table, &[first.as_fd()]));
    for ring in 0..2 {
        let address = words(&[ring, USER, USER + 0x800, USER + 0x400, 0]);
        assert!(ask(
            &mut rig,
            &mut frontend,
            8,
            &words(&[ring | 16 << 32]),
            &[]
        ));
        assert!(ask(&mut rig, &mut frontend, 9, &address, &[]));
    }
    for (code, body) in requests {
        assert!(ask(&mut rig, &mut frontend, *code, body, &[]), "{code}");
    }
    let served = ask(&mut rig, &mut frontend, 5, &table, &[other.as_fd()]);
    assert!(!rig.needs_reset());
    served
}

#[test]
fn other_memory_may_come_after_a_reset_by_any_name() {
    assert!(other_memory_may_follow(&[(frontend::RESET_DEVICE, vec![])]));
    for status in [0, 1 << 8] {
        let reset = (frontend::SET_STATUS, words(&[status]));
        assert!(other_memory_may_follow(&[reset]), "{status:#x}");
    }
    let stop = |ring| (frontend::GET_VRING_BASE, words(&[ring]));
    assert!(other_memory_may_follow(&[stop(0), stop(1)]));
}

#[test]
fn other_memory_may_not_come_while_a_ring_is_there() {
    assert!(!other_memory_may_follow(&[]));
    let rest = |ring| (frontend::SET_VRING_ENABLE, words(&[ring]));
    for requests in [
        vec![(frontend::RESET_OWNER, vec![])],
        vec![(frontend::SET_STATUS, words(&[0xf]))],
        vec![(frontend::GET_VRING_BASE, words(&[0]))],
        vec![rest(0), rest(1)],
    ] {
        assert!(!other_memory_may_follow(&requests), "{requests:?}");
    }
}

/// A ring of unknown length is looked up by its first bytes.
#[test]
fn sizes_are_forgotten_with_a_reset() {
    for (code, body) in [
        (frontend::RESET_DEVICE, vec![]),
        (frontend::SET_STATUS, words(&[0])),
    ] {
        let (mut rig, mut frontend) = rig::negotiated(
            ProtocolFeatures::REPLY_ACK | ProtocolFeatures::STATUS | ProtocolFeatures::RESET_DEVICE,
        );
        let file = memory_file(SIZE);
        let table = words(&[1, 0, SIZE, USER, 0]);
        assert!(ask(&mut rig, &mut frontend, 5, &table, &[file.as_fd()]));
        assert!(ask(&mut rig, &mut frontend, 8, &words(&[256 << 32]), &[]));
        let last = USER + SIZE - 0x10;
        let address = words(&[0, last, USER, USER, 0]);
        assert!(
            !ask(&mut rig, &mut frontend, 9, &address, &[]),
            "it is longer"
        );
        frontend.send(&message(code, PLAIN, &body), &[]);
        assert_eq!(rig.receive(0), Some(message(code, PLAIN, &body)));
        assert!(ask(&mut rig, &mut frontend, 9, &address, &[]));
    }
}
