// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The backend channel.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vhost_guest_msg::{FrontendRequest, OnlyFd, ProtocolFeatures};

use super::rig::{self, message, words, Frontend, Rig};

const CONFIG_CHANGE: u32 = 2;

/// A rig with an open backend channel, whose frontend end is returned.
fn open() -> (Rig, Frontend, Frontend) {
    let features =
        ProtocolFeatures::REPLY_ACK | ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::CONFIG;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let channel = give_channel(&mut rig, &mut frontend);
    (rig, frontend, channel)
}

fn give_channel(rig: &mut Rig, frontend: &mut Frontend) -> Frontend {
    let (ours, theirs) = UnixStream::pair().unwrap();
    frontend.send(&message(21, 1, &[]), &[theirs.as_fd()]);
    assert_eq!(
        rig.request(),
        Some(FrontendRequest::SetBackendReqFd(OnlyFd { fd: () }))
    );
    Frontend { stream: ours }
}

#[test]
fn carries_requests_and_replies() {
    let (mut rig, _frontend, mut channel) = open();
    let request = message(CONFIG_CHANGE, 0x9, &[]);
    rig.send(3, &request);
    assert_eq!(channel.receive(), Some(request));
    let reply = message(CONFIG_CHANGE, 0x5, &words(&[0]));
    channel.send(&reply, &[]);
    assert_eq!(rig.receive(2), Some(reply));
    assert_eq!(rig.device.shared.counters.backend_requests.read(), 1);
    assert_eq!(rig.device.shared.counters.backend_replies.read(), 1);
}

#[test]
fn early_requests_wait_for_the_channel() {
    let features = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::CONFIG;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let request = message(CONFIG_CHANGE, 0x1, &[]);
    rig.send(3, &request);
    assert!(!rig.needs_reset());
    let mut channel = give_channel(&mut rig, &mut frontend);
    rig.run();
    assert_eq!(channel.receive(), Some(request));
}

#[test]
fn a_second_channel_takes_the_place_of_the_first() {
    let (mut rig, mut frontend, mut first) = open();
    rig.send(3, &message(CONFIG_CHANGE, 0x9, &[]));
    let mut second = give_channel(&mut rig, &mut frontend);
    assert!(first.is_disconnected());
    let failure = message(CONFIG_CHANGE, 0x5, &words(&[1]));
    assert_eq!(rig.receive(2), Some(failure), "nobody answers it any more");
    let request = message(CONFIG_CHANGE, 0x9, &[]);
    rig.send(3, &request);
    assert_eq!(second.receive(), Some(request));
}

#[test]
fn requests_fail_when_the_frontend_has_closed_the_channel() {
    let (mut rig, _frontend, channel) = open();
    let failure = message(CONFIG_CHANGE, 0x5, &words(&[1]));
    rig.send(3, &message(CONFIG_CHANGE, 0x9, &[]));
    drop(channel);
    assert_eq!(rig.receive(2), Some(failure.clone()), "open requests fail");
    rig.send(3, &message(CONFIG_CHANGE, 0x9, &[]));
    assert_eq!(rig.receive(2), Some(failure), "later requests fail");
    rig.send(3, &message(CONFIG_CHANGE, 0x1, &[]));
    assert_eq!(rig.receive(2), None);
    assert!(!rig.needs_reset(), "the main connection goes on");
}

#[test]
fn refuses_requests_that_are_not_carried() {
    let (mut rig, _frontend, mut channel) = open();
    rig.send(3, &message(9, 0x9, &[0; 40]));
    assert_eq!(rig.receive(2), Some(message(9, 0x5, &words(&[1]))));
    assert_eq!(channel.receive(), None);
    assert!(!rig.needs_reset());
    rig.send(3, &message(9, 0x1, &[0; 40]));
    assert!(
        rig.needs_reset(),
        "without NEED_REPLY it is the guest's fault"
    );
}

#[test]
fn the_frontend_may_not_answer_what_was_not_asked() {
    let (mut rig, _frontend, mut channel) = open();
    channel.send(&message(CONFIG_CHANGE, 0x5, &words(&[0])), &[]);
    assert!(rig.needs_reset());
}

#[test]
fn refuses_a_socket_that_is_no_channel() {
    let features = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::BACKEND_REQ;
    let (mut rig, mut frontend) = rig::negotiated(features);
    let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    frontend.send(&message(21, 0x9, &[]), &[datagram.as_fd()]);
    assert_eq!(rig.receive(0), None);
    assert_eq!(frontend.receive(), Some(message(21, 0x5, &words(&[1]))));
    frontend.send(&message(21, 0x1, &[]), &[datagram.as_fd()]);
    assert!(rig.needs_reset());
}
