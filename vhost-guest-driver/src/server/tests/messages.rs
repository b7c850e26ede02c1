// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;
use vhost_guest_msg::{frontend, Config, MemRegion, OnlyFd, RemMemReg};

#[test]
fn answers_the_questions_of_a_frontend() {
    let mut setup = Setup::new();
    let features = setup.ask_u64(&Request::GetFeatures);
    assert_eq!(
        features,
        1 << 3 | 1 << 26 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32 | 1 << 34
    );
    let bits = [0, 1, 3, 5, 9, 12, 13, 15, 16, 20, 23];
    let expected = bits.iter().fold(0, |mask, bit| mask | 1 << bit);
    assert_eq!(setup.ask_u64(&Request::GetProtocolFeatures), expected);
    setup.negotiate();
    // The backend has more than the device carries.
    assert_eq!(setup.ask_u64(&Request::GetQueueNum), 4);
    assert_eq!(setup.ask_u64(&Request::GetMaxMemSlots), 509);
    assert!(setup.acked(&Request::SetStatus(0x0f)));
    assert_eq!(setup.ask_u64(&Request::GetStatus), 0x0f);
    assert!(setup.acked(&Request::SetOwner));
    assert!(setup.acked(&Request::ResetOwner));
    assert!(setup.acked(&Request::SetBackendReqFd(OnlyFd { fd: () })));
    assert!(!setup.disconnected());
}

#[test]
fn acknowledges_only_what_asks_for_it() {
    let mut setup = Setup::new();
    setup.send_bytes(&Request::SetOwner.to_vec(true, Endian::Little));
    assert_eq!(setup.reply(), None, "REPLY_ACK is not negotiated");
    setup.negotiate();
    setup.send(&Request::SetOwner);
    assert_eq!(setup.reply(), None);
    assert!(setup.acked(&Request::SetOwner));
}

#[test]
fn speaks_big_endian_when_that_is_offered() {
    let fake = Fake::new(1);
    fake.state().offered |= 1;
    let mut setup = Setup::with(fake);
    setup.send_bytes(&Request::GetFeatures.to_vec(false, Endian::Big));
    let reply = setup.fake.take(1).unwrap();
    assert_eq!(reply[..12], [0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 8]);
}

#[test]
fn reads_and_writes_the_configuration() {
    let mut setup = Setup::negotiated();
    let write = Config::new(2, 0, vec![7, 8]).unwrap();
    assert!(setup.acked(&Request::SetConfig(write)));
    let read = Request::GetConfig(Config::new(1, 1, vec![0xee; 12]).unwrap());
    let body = setup.ask(&read);
    assert_eq!(body[..12], [1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(body[12..], [0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let outside = Request::GetConfig(Config::new(64, 0, vec![0]).unwrap());
    assert_eq!(setup.ask(&outside), []);
    let write = Config::new(7, 0, vec![7, 8]).unwrap();
    assert!(!setup.acked(&Request::SetConfig(write)));
    assert!(!setup.disconnected());
}

#[test]
fn tells_of_configuration_changes_once_there_is_a_channel() {
    let mut setup = Setup::negotiated();
    setup.server.backend.changed = true;
    setup.run();
    assert_eq!(setup.fake.take(3), None);
    setup.send(&Request::SetBackendReqFd(OnlyFd { fd: () }));
    assert_eq!(
        setup.fake.take(3).unwrap(),
        [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    );
    setup.run();
    assert_eq!(setup.fake.take(3), None);
    // A reply that nobody asked for does no harm.
    setup.fake.give(2, &[0xff; 40]);
    setup.run();
    assert!(!setup.disconnected());
}

#[test]
fn tells_of_configuration_changes_only_who_has_negotiated_both_features() {
    let (channel, config) = (ProtocolFeatures::BACKEND_REQ, ProtocolFeatures::CONFIG);
    for (features, told) in [
        (channel | config, true),
        (channel, false),
        (config, false),
        (ProtocolFeatures::empty(), false),
    ] {
        let mut setup = Setup::negotiated();
        setup.send(&Request::SetBackendReqFd(OnlyFd { fd: () }));
        setup.send(&Request::SetProtocolFeatures(features));
        setup.server.backend.changed = true;
        setup.run();
        assert_eq!(setup.fake.take(3).is_some(), told, "{features:?}");
    }
}

#[test]
fn nacks_what_it_cannot_do_if_that_is_asked_for() {
    let region = |guest, size, user| Region::new(guest, size, user, 0).unwrap();
    let mut setup = Setup::negotiated();
    let outside = region(0, 0x1000, 1 << 40);
    for request in [
        Request::SetFeatures(VirtioFeatures::ACCESS_PLATFORM),
        Request::SetProtocolFeatures(ProtocolFeatures::REPLY_ACK | ProtocolFeatures::SHMEM),
        Request::AddMemReg(MemRegion {
            region: outside,
            fd: (),
        }),
        Request::RemMemReg(RemMemReg { region: outside }),
        Request::SetMemTable(MemTable::new(vec![(outside, ())]).unwrap()),
        Request::SetVringNum(VringNum::new(0, 100).unwrap()),
        Request::SetVringBase(VringBase {
            index: 0,
            base: 0x1_0000,
        }),
        Request::SetVringKick(VringFd {
            index: 0,
            fd: Some(()),
        }),
        Request::NetSetMtu(1500),
    ] {
        assert!(!setup.acked(&request), "{request:?}");
    }
    assert!(!setup.disconnected());
    assert_eq!(setup.server.statistics().faults, 0);
}

#[test]
fn refuses_what_no_backend_here_can_do() {
    use vhost_guest_msg::{row, Channel, Layout, ReplyRule, Verdict};
    let message = |code: u32, flags: u32, size: u32| {
        let head = [code, flags, size].map(u32::to_le_bytes).concat();
        [head, vec![0; size as usize]].concat()
    };
    let mut refused = 0;
    for code in 1..60 {
        let row = row(Channel::Main, code);
        if row.is_some_and(|row| !matches!(row.verdict, Verdict::Refuse(_))) {
            continue;
        }
        refused += 1;
        let mut setup = Setup::negotiated();
        let acks = row.is_none_or(|row| row.reply == ReplyRule::Ack);
        let size = match row.map(|row| row.layout) {
            Some(Layout::VringState) => 8,
            _ => 0,
        };
        setup.send_bytes(&message(code, 9, size));
        match setup.reply() {
            Some((header, body)) => {
                assert!(acks, "{code} has another reply");
                assert_eq!((header.code, body), (code, 1u64.to_le_bytes().to_vec()));
                assert!(!setup.disconnected());
                setup.send_bytes(&message(code, 1, size));
            }
            None => assert!(!acks, "{code}"),
        }
        assert!(setup.disconnected(), "{code}");
    }
    assert_eq!(refused, 9 + 14);
}

#[test]
fn refuses_impossible_messages_and_disconnects_at_malformed_ones() {
    // A memory table that is cut off.
    let table = [5, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    let mut setup = Setup::negotiated();
    setup.send_bytes(&table);
    assert_eq!(setup.reply(), None);
    assert!(setup.disconnected());
    // Vring 4 of 4; an unknown request.
    let enable = [18, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0];
    let unknown = [99, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    for bytes in [&enable[..], &unknown] {
        let mut setup = Setup::negotiated();
        setup.send_bytes(bytes);
        let (header, body) = setup.reply().unwrap();
        assert_eq!((header.code, body[0]), (bytes[0].into(), 1));
        let resets = setup.fake.state().resets;
        let mut without = bytes.to_vec();
        without[4] = 1;
        setup.send_bytes(&without);
        assert_eq!(setup.fake.state().resets, resets + 1);
        assert_eq!(setup.server.statistics().faults, 1);
        assert!(setup.server.last_fault().is_some());
        assert!(setup.disconnected(), "and ready for the next");
    }
}

#[test]
fn disconnects_on_frames_that_are_no_message() {
    let get = Request::GetFeatures.to_vec(false, Endian::Little);
    let mut version = get.clone();
    version[4] = 2;
    let mut reply = get.clone();
    reply[4] = 5;
    let mut size = get.clone();
    size[10] = 0xff;
    let trailing = [&get[..], &[0]].concat();
    for bytes in [&get[..11], &[], &version, &reply, &size, &trailing] {
        let mut setup = Setup::negotiated();
        setup.send_bytes(bytes);
        assert_eq!(setup.reply(), None);
        assert!(setup.disconnected());
    }
}

#[test]
fn survives_every_request_number_with_every_payload_length() {
    const LENGTHS: [usize; 11] = [0, 4, 8, 12, 16, 24, 32, 40, 72, 2056, 4084];
    let mut setup = Setup::negotiated();
    for code in 0..50u32 {
        for (len, fill) in LENGTHS.iter().flat_map(|l| [0, 1, 0xff].map(|f| (*l, f))) {
            for need_reply in [1, 9] {
                let mut bytes = code.to_le_bytes().to_vec();
                bytes.extend([need_reply, 0, 0, 0]);
                bytes.extend((len as u32).to_le_bytes());
                bytes.extend(vec![fill; len]);
                setup.send_bytes(&bytes);
                while setup.reply().is_some() {}
                // Nothing that the next frontend would notice.
                if setup.disconnected() {
                    setup.fake.connect();
                    setup.negotiate();
                }
                setup.send(&Request::GetFeatures);
                assert_eq!(setup.reply().unwrap().0.code, frontend::GET_FEATURES);
            }
        }
    }
}

#[test]
fn holds_messages_back_while_replies_have_no_room() {
    let mut setup = Setup::negotiated();
    let get = Request::GetFeatures.to_vec(false, Endian::Little);
    for _ in 0..40 {
        setup.send_bytes(&get);
        if setup.fake.state().raised.is_empty() && setup.server.session.reply().is_some() {
            break;
        }
    }
    let given = setup.server.statistics().messages;
    assert!(setup.server.session.reply().is_some());
    setup.send_bytes(&get);
    assert_eq!(setup.server.statistics().messages, given, "not taken");
    for _ in 0..20 {
        while setup.reply().is_some() {}
        setup.run();
    }
    assert_eq!(setup.server.statistics().messages, given + 1);
    assert!(!setup.disconnected());
}
