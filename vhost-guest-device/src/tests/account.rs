// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the log says when a side leaves in the middle of something.

use vhost_guest_msg::{backend, frontend, ProtocolFeatures};

use super::rig::{self, message, words};
use super::siege::{send, NEED_REPLY, PLAIN};
use crate::error::Fault;

const HUNG_UP: &str = "the frontend hung up";

#[test]
fn names_the_last_request_and_the_reply_that_is_owed() {
    let (mut rig, mut frontend) = rig::connected();
    let told = |rig: &rig::Rig| rig.device.server().told(&Fault::HungUp);
    assert_eq!(told(&rig), format!("{HUNG_UP}; nothing was passed on"));
    rig.negotiate(&mut frontend, ProtocolFeatures::CONFIG);
    let last = format!("{HUNG_UP}; SET_FEATURES was the last request passed on, ");
    assert_eq!(told(&rig), format!("{last}the guest owes no reply"));

    let config = [words(&[4 << 32]), vec![0; 8]].concat();
    frontend.send(&message(frontend::GET_CONFIG, PLAIN, &config), &[]);
    rig.receive(0).expect("a question");
    let last = format!("{HUNG_UP}; GET_CONFIG was the last request passed on, ");
    assert_eq!(told(&rig), format!("{last}the guest owes its reply"));

    frontend.send(&message(frontend::SET_OWNER, PLAIN, &[]), &[]);
    rig.receive(0).expect("a request");
    let last = format!("{HUNG_UP}; SET_OWNER was the last request passed on, ");
    let owed = format!("{last}the guest owes the reply to GET_CONFIG");
    assert_eq!(told(&rig), owed);

    // What was refused was not passed on.
    frontend.send(&message(frontend::GPU_SET_SOCKET, PLAIN, &[]), &[]);
    assert!(rig.needs_reset());
    assert_eq!(told(&rig), HUNG_UP);
}

#[test]
fn names_the_guests_request_that_waits_for_the_frontend() {
    let features = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::CONFIG;
    let (mut rig, mut frontend) = rig::negotiated(features | ProtocolFeatures::REPLY_ACK);
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let request = message(frontend::SET_BACKEND_REQ_FD, PLAIN, &[]);
    send(&mut frontend, &request, &[theirs.into()]);
    rig.receive(0).expect("the channel");
    rig.send(3, &message(backend::CONFIG_CHANGE_MSG, NEED_REPLY, &[]));
    assert_eq!(
        rig.device.server().told(&"the guest took its backend down"),
        "the guest took its backend down; SET_BACKEND_REQ_FD was the last request passed on, \
         the guest owes no reply; the frontend owes the reply to the guest's CONFIG_CHANGE_MSG"
    );
}
