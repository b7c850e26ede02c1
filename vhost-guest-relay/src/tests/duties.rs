// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a backend on the driver need not know, and an unmodified one cannot.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use vhost_guest_driver::module::Notification;
use vhost_guest_msg::{
    Config, DeviceState, ProtocolFeatures, Reply, Transfer, VringBase, VringEnable, VringFd,
    VringSelect,
};

use super::fake::{count_of, is_same_eventfd, Rig};
use super::Request;

const ENABLE: VringEnable = VringEnable {
    index: 3,
    enable: true,
};

/// A vring with a kick that the backend has looked at, and dropped.
fn kicked(rig: &mut Rig) -> std::os::fd::OwnedFd {
    let (index, fd) = (3, Some(()));
    rig.frontend_sends(&Request::SetVringKick(VringFd { index, fd }));
    let kick = rig.backend_receives().1.remove(0);
    rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(count_of(&kick), 1);
    kick
}

#[test]
fn kicks_once_more_when_the_backend_has_enabled_a_vring() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::REPLY_ACK);
    let kick = kicked(&mut rig);
    rig.frontend_sends(&Request::SetVringEnable(ENABLE));
    // The frontend did not ask, but the relay has to know.
    let (request, need_reply) = rig.backend_receives_flagged();
    assert_eq!(
        (request, need_reply),
        (Request::SetVringEnable(ENABLE), true)
    );
    assert_eq!(count_of(&kick), 0);
    rig.backend_replies(18, &Reply::Ack(0));
    rig.frontend_sends(&Request::GetFeatures);
    rig.backend_receives();
    rig.backend_replies(1, &Reply::U64(7));
    // The acknowledgement was not for the frontend.
    assert_eq!(rig.frontend_receives(1), Reply::U64(7));
    assert_eq!(count_of(&kick), 1);
}

#[test]
fn kicks_when_the_acknowledgement_is_for_the_frontend_or_there_is_none() {
    let mut rig = Rig::new();
    let kick = kicked(&mut rig);
    rig.frontend_sends(&Request::SetVringEnable(ENABLE));
    let (_, need_reply) = rig.backend_receives_flagged();
    assert!(!need_reply, "without REPLY_ACK there is nothing to ask for");
    rig.frontend_sends(&Request::SetOwner);
    rig.backend_receives();
    assert_eq!(count_of(&kick), 1);

    rig.negotiate(ProtocolFeatures::REPLY_ACK);
    for (reply, kicks) in [(0, 1), (1, 0)] {
        let enable = Request::SetVringEnable(ENABLE);
        rig.frontend_sends_bytes(&enable.to_vec(true, vhost_guest_msg::Endian::NATIVE));
        rig.backend_receives();
        rig.backend_replies(18, &Reply::Ack(reply));
        assert_eq!(rig.frontend_receives(18), Reply::U64(reply));
        assert_eq!(count_of(&kick), kicks);
    }
}

#[test]
fn a_transfer_that_begins_before_the_other_is_over_spoils_both() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::DEVICE_STATE);
    let (direction, fd) = (Transfer::Load, ());
    let begin = Request::SetDeviceStateFd(DeviceState { direction, fd });
    rig.frontend_sends(&begin);
    let (_, _pipe) = rig.backend_receives();
    rig.backend_replies(42, &Reply::U64(0));
    assert_eq!(rig.frontend_receives(42), Reply::U64(0x100));
    rig.device_gives_state(b"of the first");
    for _ in 0..2 {
        rig.frontend_sends(&begin);
        assert_eq!(rig.frontend_receives(42), Reply::U64(0x101));
        rig.frontend_sends(&Request::CheckDeviceState);
        assert_eq!(rig.frontend_receives(43), Reply::U64(1));
    }
    rig.frontend_sends(&Request::SetOwner);
    assert_eq!(rig.backend_receives().0, Request::SetOwner);
}

#[test]
fn a_backend_without_configuration_says_so_in_its_own_way() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::CONFIG);
    let none = Config::new(0, 0, Vec::new()).unwrap();
    for reply in [Reply::NoConfig, Reply::Config(none)] {
        let config = Config::new(0, 0, vec![0; 8]).unwrap();
        rig.frontend_sends(&Request::GetConfig(config));
        rig.backend_receives();
        rig.backend_replies(24, &reply);
        assert_eq!(rig.frontend_receives_config(8), reply);
    }
}

#[test]
fn vrings_are_polled_and_stopped_without_descriptors() {
    let mut rig = Rig::new();
    let (index, fd) = (3, None);
    let kick = Request::SetVringKick(VringFd { index, fd });
    rig.frontend_sends(&kick);
    let (received, fds) = rig.backend_receives();
    assert_eq!((received, fds.len()), (kick, 0));
    let stop = Request::GetVringBase(VringSelect { index });
    rig.frontend_sends(&stop);
    assert_eq!(rig.backend_receives().0, stop);
}

#[test]
fn a_vring_that_has_stopped_has_no_kick_and_no_call() {
    let mut rig = Rig::new();
    let (index, fd) = (3, Some(()));
    let vring = VringFd { index, fd };
    let sent = [
        Request::SetVringKick(vring),
        Request::SetVringCall(vring),
        Request::SetVringErr(vring),
    ];
    for request in &sent {
        rig.frontend_sends(request);
        rig.backend_receives();
    }
    let connected = |rig: &Rig| {
        [Notification::Kick, Notification::Call, Notification::Err]
            .map(|what| rig.connected(what(3)).is_some())
    };
    rig.frontend_sends(&Request::GetVringBase(VringSelect { index }));
    rig.backend_receives();
    assert_eq!(connected(&rig), [true; 3]);
    let (index, base) = (3, 7);
    rig.backend_replies(11, &Reply::VringBase(VringBase { index, base }));
    rig.frontend_receives_base();
    assert_eq!(connected(&rig), [false, false, true]);
    // What restarts it is as new.
    rig.frontend_sends(&sent[0]);
    let (_, fds) = rig.backend_receives();
    let connected = rig.connected(Notification::Kick(3)).unwrap();
    assert!(is_same_eventfd(&fds[0], &connected));
}

#[test]
fn a_reset_of_the_backends_device_leaves_eventfds_and_the_channel() {
    let mut rig = Rig::new();
    rig.negotiate(ProtocolFeatures::RESET_DEVICE | ProtocolFeatures::STATUS);
    let mut channel = rig.opens_channel();
    channel.set_nonblocking(true).unwrap();
    let kick = kicked(&mut rig);
    for reset in [
        Request::ResetDevice,
        Request::SetStatus(0),
        Request::ResetOwner,
    ] {
        rig.frontend_sends(&reset);
        assert_eq!(rig.backend_receives().0, reset);
        let connected = rig.connected(Notification::Kick(3)).unwrap();
        assert!(is_same_eventfd(&kick, &connected));
        let open = channel.read(&mut [0]).unwrap_err();
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
    }
}

const CONFIG_CHANGE: [u8; 12] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
const NEED_REPLY: u8 = 8;

fn channel(rig: &mut Rig, features: ProtocolFeatures) -> UnixStream {
    rig.negotiate(features | ProtocolFeatures::REPLY_ACK);
    rig.opens_channel()
}

#[test]
fn refuses_what_the_device_does_not_carry_and_keeps_the_session() {
    let mut rig = Rig::new();
    let mut channel = channel(&mut rig, ProtocolFeatures::empty());
    for code in [
        // VRING_HOST_NOTIFIER_MSG, SHMEM_MAP, what nobody knows, and what was not
        // negotiated.
        3, 9, 77, 2,
    ] {
        let mut request = CONFIG_CHANGE;
        request[0] = code;
        channel.write_all(&request).unwrap();
        request[4] |= NEED_REPLY;
        channel.write_all(&request).unwrap();
        let mut reply = [0; 20];
        channel.read_exact(&mut reply).unwrap();
        assert_eq!((reply[0], reply[4], reply[12]), (code, 5, 1));
    }
    // IOTLB_MSG without a translation.
    let mut request = CONFIG_CHANGE;
    (request[0], request[4]) = (1, request[4] | NEED_REPLY);
    channel.write_all(&request).unwrap();
    let mut reply = [0; 20];
    channel.read_exact(&mut reply).unwrap();
    assert_eq!((reply[0], reply[12]), (1, 1));
    let mut lines = rig.logged();
    let malformed = "the backend's IOTLB_MSG is refused: it is malformed";
    assert_eq!(lines.pop().unwrap(), malformed);
    let expected = "the backend's CONFIG_CHANGE_MSG is refused: its feature was not negotiated";
    assert_eq!(lines.pop().unwrap(), expected);
    rig.frontend_sends(&Request::SetOwner);
    assert_eq!(rig.backend_receives().0, Request::SetOwner);
}

#[test]
fn refuses_in_turn() {
    let mut rig = Rig::new();
    let mut channel = channel(&mut rig, ProtocolFeatures::CONFIG);
    let mut request = CONFIG_CHANGE;
    request[4] |= NEED_REPLY;
    channel.write_all(&request).unwrap();
    rig.device_takes_backend_request();
    let mut unknown = request;
    unknown[0] = 77;
    channel.write_all(&unknown).unwrap();
    let mut reply = vec![2, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0];
    reply.extend([0; 8]);
    rig.device_answers_backend(&reply);
    let mut received = [0; 40];
    channel.read_exact(&mut received).unwrap();
    assert_eq!((received[0], received[20], received[32]), (2, 77, 1));
}

#[test]
fn a_channel_that_makes_no_sense_is_closed_and_another_can_be_opened() {
    let mut rig = Rig::new();
    let mut channel = channel(&mut rig, ProtocolFeatures::CONFIG);
    let mut request = CONFIG_CHANGE;
    request[4] |= NEED_REPLY;
    channel.write_all(&request).unwrap();
    rig.device_takes_backend_request();
    // Version 0.
    channel.write_all(&[0; 12]).unwrap();
    assert_eq!(channel.read(&mut [0]).unwrap(), 0);

    let mut another = rig.opens_channel();
    let mut reply = vec![2, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0];
    reply.extend([0; 8]);
    another.write_all(&request).unwrap();
    rig.device_takes_backend_request();
    // What the first channel's request is answered is not for the second.
    reply[12] = 1;
    rig.device_answers_backend(&reply);
    reply[12] = 0;
    rig.device_answers_backend(&reply);
    let mut received = [0; 20];
    another.read_exact(&mut received).unwrap();
    assert_eq!(received[..], reply);
}
