// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the log says when a session ends.

use vhost_guest_msg::{
    Config, DeviceState, OnlyFd, ProtocolFeatures, Reply, Transfer, VringNum, VringSelect,
};

use super::fake::Rig;
use super::Request;

/// The line about the end of the session, which is over.
fn end(rig: &mut Rig) -> String {
    rig.next_session();
    let mut lines = rig.logged();
    // That of the next session may be among them.
    lines.retain(|line| line != "a backend is connected");
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

#[test]
fn a_backend_that_leaves_while_a_reply_is_owed_is_told_of() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::CONFIG);
    let config = Config::new(0, 0, vec![0; 8]).unwrap();
    rig.frontend_sends(&Request::GetConfig(config));
    rig.backend_receives();
    rig.backend_ends();
    let expected =
        "the backend is gone; GET_CONFIG was the last message passed on, its reply is owed";
    assert_eq!(end(&mut rig), expected);
}

#[test]
fn a_backend_that_leaves_without_a_debt_is_told_of() {
    let mut rig = Rig::new();
    rig.frontend_sends(&Request::GetVringBase(VringSelect { index: 1 }));
    rig.backend_receives();
    let num = VringNum::new(1, 128).unwrap();
    rig.frontend_sends(&Request::SetVringNum(num));
    rig.backend_receives();
    rig.backend_ends();
    let expected = "the backend is gone; SET_VRING_NUM was the last message passed on, \
                    the reply to GET_VRING_BASE is owed";
    assert_eq!(end(&mut rig), expected);

    rig.frontend_sends(&Request::SetOwner);
    rig.backend_receives();
    rig.backend_ends();
    let expected =
        "the backend is gone; SET_OWNER was the last message passed on, no reply is owed";
    assert_eq!(end(&mut rig), expected);

    rig.backend_ends();
    let expected = "the backend is gone; the frontend had sent nothing";
    assert_eq!(end(&mut rig), expected);
}

#[test]
fn a_frontend_that_leaves_in_the_middle_is_told_of() {
    let mut rig = Rig::new();
    let features = ProtocolFeatures::CONFIG | ProtocolFeatures::REPLY_ACK;
    rig.negotiate(features | ProtocolFeatures::DEVICE_STATE);
    let mut channel = rig.opens_channel();
    std::io::Write::write_all(&mut channel, &[2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    rig.device_takes_backend_request();
    let (direction, fd) = (Transfer::Save, ());
    rig.frontend_sends(&Request::SetDeviceStateFd(DeviceState { direction, fd }));
    let (_, _pipe) = rig.backend_receives();
    rig.frontend_ends();
    assert!(rig.backend_was_left());
    let expected = "the frontend is gone; SET_DEVICE_STATE_FD was the last message passed on, \
                    its reply is owed; the frontend owes the reply to the backend's \
                    CONFIG_CHANGE_MSG; device state was moving";
    assert_eq!(end(&mut rig), expected);
}

#[test]
fn a_backend_that_breaks_the_rules_is_told_of_with_the_rule() {
    let mut rig = Rig::new();
    rig.frontend_sends(&Request::GetFeatures);
    rig.backend_receives();
    rig.backend_replies(15, &Reply::U64(0));
    assert!(rig.backend_was_left());
    let expected = "the backend's fault: reply to GET_PROTOCOL_FEATURES, which is not due; \
                    GET_FEATURES was the last message passed on, its reply is owed";
    assert_eq!(end(&mut rig), expected);
}

#[test]
fn a_frontend_that_breaks_the_rules_is_told_of_with_the_rule() {
    let mut rig = Rig::new();
    rig.frontend_sends(&Request::SetLogFd(OnlyFd { fd: () }));
    rig.backend_receives();
    // POSTCOPY_ADVISE
    rig.frontend_sends_bytes(&[28, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert!(rig.backend_was_left());
    let expected = "the frontend's fault: POSTCOPY_ADVISE: a guest cannot serve a userfaultfd; \
                    SET_LOG_FD was the last message passed on, no reply is owed";
    assert_eq!(end(&mut rig), expected);
}

/// What it has under way may be a write to a disk, of what it has yet to read out
/// of the frontend's memory.
#[test]
fn the_frontends_memory_stays_until_the_backend_has_let_it_go() {
    let mut rig = Rig::new();
    rig.frontend_sends(&Request::SetOwner);
    rig.backend_receives();
    let resets = rig.resets();
    rig.frontend_ends();
    assert!(rig.backend_is_told_to_end());
    // What it still has to say is for nobody.
    rig.backend_replies(3, &Reply::Ack(0));
    assert_eq!(rig.resets(), resets);
    rig.backend_ends();
    rig.next_session();
    assert_eq!(rig.resets(), resets + 1);
}
