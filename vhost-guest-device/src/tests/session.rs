// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Peers that try to have a session whatever happens to them, for tests that
//! break something in the middle of it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use vhost_guest_msg::{frontend, HeaderFlags, ProtocolFeatures};

use super::rig::{message, words, Frontend, Rig};
use super::siege::REPLY;
use crate::connection::carried;

/// Sends what can be sent; the connection may be gone, or full.
pub(crate) fn try_send(frontend: &Frontend, bytes: &[u8], fds: &[OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let _ = sendmsg(
        &frontend.stream,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    );
}

/// A number in a message.
fn number(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at + 4).and_then(|f| f.try_into().ok());
    field.map_or(0, u32::from_ne_bytes)
}

/// The reply that a guest in its right mind gives to a request, if any.
pub(crate) fn right_reply(request: &[u8]) -> Option<Vec<u8>> {
    let (code, flags) = (number(request, 0), number(request, 4));
    let payload = match code {
        frontend::GET_FEATURES => words(&[0x1_4000_0000]),
        frontend::GET_PROTOCOL_FEATURES => words(&[ProtocolFeatures::forwardable().bits()]),
        frontend::GET_QUEUE_NUM => words(&[2]),
        frontend::GET_MAX_MEM_SLOTS => words(&[509]),
        frontend::GET_STATUS => words(&[0]),
        frontend::GET_VRING_BASE | frontend::GET_VRING_BASE_SKIP_DRAIN => {
            request.get(12..)?.to_vec()
        }
        frontend::GET_CONFIG => request.get(12..)?.to_vec(),
        frontend::SET_LOG_BASE => request.get(12..)?.to_vec(),
        // How much memory that takes.
        frontend::GET_INFLIGHT_FD => [words(&[0x2080]), request.get(20..)?.to_vec()].concat(),
        frontend::SET_DEVICE_STATE_FD => words(&[0x100]),
        frontend::CHECK_DEVICE_STATE => words(&[0]),
        _ if flags & HeaderFlags::NEED_REPLY.bits() != 0 => words(&[0]),
        _ => return None,
    };
    Some(message(code, REPLY, &payload))
}

/// Answers all requests that are there. Returns how many there were.
pub(crate) fn answer_all(rig: &mut Rig) -> usize {
    let mut count = 0;
    while let Some(request) = rig.receive(0) {
        count += 1;
        if let Some(reply) = right_reply(&request) {
            rig.send(1, &reply);
        }
    }
    count
}

/// Sends a request, has the guest answer it, and reads what comes back.
pub(crate) fn exchange(rig: &mut Rig, frontend: &mut Frontend, bytes: &[u8], fds: &[OwnedFd]) {
    try_send(frontend, bytes, fds);
    rig.run();
    answer_all(rig);
    while frontend.receive().is_some_and(|bytes| !bytes.is_empty()) {}
}

/// A frontend connects and negotiates, as far as it gets.
pub(crate) fn introduce(rig: &mut Rig) -> Frontend {
    let mut frontend = rig.connect();
    rig.run();
    let mut features = carried();
    if rig.device.server().pump.is_some() {
        features = ProtocolFeatures::forwardable();
    }
    let features = words(&[features.bits()]);
    for bytes in [
        message(frontend::GET_FEATURES, 1, &[]),
        message(frontend::GET_PROTOCOL_FEATURES, 1, &[]),
        message(frontend::SET_PROTOCOL_FEATURES, 1, &features),
        message(frontend::SET_FEATURES, 1, &words(&[0x1_4000_0000])),
    ] {
        exchange(rig, &mut frontend, &bytes, &[]);
    }
    frontend
}

/// Frontends and drivers are served again, after a reset or two: frontends
/// that gave up while they waited are found out one by one, and the device may
/// have to rest.
pub(crate) fn assert_recovers(rig: &mut Rig, what: &str) {
    rig.posts = [8, 0, 8, 0];
    let mut frontend = rig.connect();
    try_send(&frontend, &message(frontend::GET_FEATURES, 1, &[]), &[]);
    let reply = right_reply(&message(frontend::GET_FEATURES, 1, &[]));
    for _ in 0..100 {
        rig.initialise();
        assert_eq!(rig.vmm.mappings(), [], "{what}: memory after a reset");
        rig.backend_up();
        answer_all(rig);
        if frontend.receive() == reply {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}: nobody is served any more");
}
