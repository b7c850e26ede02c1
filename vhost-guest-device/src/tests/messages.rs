// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Messages that are none of the device's affair: they and their replies pass
//! as they are. `docs/messages.md` says where each message is tested.

use std::os::fd::{AsFd, OwnedFd};

use vhost_guest_msg::{frontend, FrontendRequest, Gate, ProtocolFeatures, ReplyRule, Row};
use vhost_guest_msg::{Verdict, VirtioFeatures, BACKEND_ROWS, FRONTEND_ROWS};

use super::rig::{event, memory_file, message, words, Frontend, Rig, DOORBELLS, FIRST_KICK};
use super::siege::{sample, signalled, NEED_REPLY, PLAIN, REPLY, SIZE, USER};
use crate::connection::carried;
use crate::guest::pci::bars::{DRIVER_AUX, MSIX_TABLE};

/// A device that carries all that one can, and a frontend that has negotiated
/// all of it.
fn everything() -> (Rig, Frontend) {
    let mut rig = Rig::with(|builder| builder.migration(4096));
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    rig.negotiate(&mut frontend, ProtocolFeatures::forwardable());
    (rig, frontend)
}

/// The requests that have nothing to do with the device.
fn passed_on() -> impl Iterator<Item = &'static Row> {
    let rows = FRONTEND_ROWS.iter();
    rows.filter(|row| row.verdict == Verdict::Forward)
}

/// The request arrives as it was sent.
fn passes(rig: &mut Rig, frontend: &mut Frontend, request: &[u8], what: &str) {
    frontend.send(request, &[]);
    assert_eq!(rig.receive(0).as_deref(), Some(request), "{what}");
}

/// The guest's reply arrives as it was sent.
fn comes_back(rig: &mut Rig, frontend: &mut Frontend, reply: &[u8], what: &str) {
    rig.send(1, reply);
    assert_eq!(frontend.receive().as_deref(), Some(reply), "{what}");
}

#[test]
fn passes_on_what_is_not_its_affair() {
    assert_eq!(passed_on().count(), 11);
    for row in passed_on() {
        let (mut rig, mut frontend) = everything();
        rig.vmm.take_calls();
        for flags in [PLAIN, NEED_REPLY] {
            let request = message(row.code, flags, &sample(row));
            passes(&mut rig, &mut frontend, &request, row.name);
            let payload = match (row.reply, flags) {
                (ReplyRule::Ack, PLAIN) => None,
                (ReplyRule::Config, _) => Some(sample(row)),
                // A number, and none that promises too much.
                _ => Some(words(&[0])),
            };
            if let Some(payload) = payload {
                let reply = message(row.code, REPLY, &payload);
                comes_back(&mut rig, &mut frontend, &reply, row.name);
            }
            assert_eq!(frontend.receive(), None, "{}", row.name);
        }
        assert_eq!(rig.vmm.take_calls(), [], "{}", row.name);
        assert!(!rig.needs_reset(), "{}", row.name);
    }
}

#[test]
fn acknowledgements_of_every_kind_pass() {
    // Success; what DPDK and rust-vmm answer; an error number, negated.
    for value in [0, 1, 22u64.wrapping_neg(), u64::MAX] {
        let acknowledged = passed_on().filter(|row| row.reply == ReplyRule::Ack);
        for row in acknowledged {
            let (mut rig, mut frontend) = everything();
            let request = message(row.code, NEED_REPLY, &sample(row));
            passes(&mut rig, &mut frontend, &request, row.name);
            let reply = message(row.code, REPLY, &words(&[value]));
            comes_back(&mut rig, &mut frontend, &reply, row.name);
        }
    }
}

#[test]
fn a_reply_that_repeats_need_reply_passes_as_it_is() {
    // libvhost-user does that in replies that come in any case.
    let (mut rig, mut frontend) = everything();
    for (code, payload) in [(1, words(&[5])), (17, words(&[2])), (40, words(&[0xF]))] {
        let request = message(code, NEED_REPLY, &[]);
        passes(&mut rig, &mut frontend, &request, "asked");
        let reply = message(code, REPLY | NEED_REPLY, &payload);
        comes_back(&mut rig, &mut frontend, &reply, "repeated");
    }
}

/// What numbers mean is the affair of guest and frontend.
#[test]
fn values_pass_as_they_are() {
    let (mut rig, mut frontend) = everything();
    let state = |index: u64, num: u64| words(&[index | num << 32]);
    let config = |flags: u32| {
        let head = [0u32, 4, flags].map(u32::to_ne_bytes).concat();
        [head, b"disk".to_vec()].concat()
    };
    let address = [0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0].to_vec();
    let cases = [
        (frontend::SET_VRING_NUM, state(3, 32768)),
        (frontend::SET_VRING_NUM, state(3, 1)),
        // Of a packed ring: two indices and two wrap counters.
        (frontend::SET_VRING_BASE, state(2, 0x8003_8005)),
        (frontend::SET_VRING_BASE, state(2, 0xFFFF_FFFF)),
        (frontend::SET_VRING_ENABLE, state(3, 1)),
        (frontend::SET_VRING_ENABLE, state(3, 0)),
        (frontend::SET_VRING_ENDIAN, state(1, 0)),
        (frontend::SET_VRING_ENDIAN, state(1, 1)),
        (frontend::SEND_RARP, address),
        (frontend::NET_SET_MTU, words(&[1500])),
        (frontend::NET_SET_MTU, words(&[65535])),
        (frontend::SET_STATUS, words(&[0])),
        (frontend::SET_STATUS, words(&[0x8F])),
        // Frontends do not agree on what these flags are.
        (frontend::SET_CONFIG, config(0)),
        (frontend::SET_CONFIG, config(1)),
        (frontend::SET_CONFIG, config(0x8000_0002)),
    ];
    for (code, payload) in cases {
        let what = format!("request {code} with {payload:x?}");
        let request = message(code, PLAIN, &payload);
        passes(&mut rig, &mut frontend, &request, &what);
    }
    for flags in [0, 1, 2, 0x8000_0000] {
        let request = message(frontend::GET_CONFIG, PLAIN, &config(flags));
        passes(&mut rig, &mut frontend, &request, "GET_CONFIG");
        let reply = message(frontend::GET_CONFIG, REPLY, &config(flags));
        comes_back(&mut rig, &mut frontend, &reply, "GET_CONFIG");
    }
    for status in [0, 0xF, 0xFF] {
        let request = message(frontend::GET_STATUS, PLAIN, &[]);
        passes(&mut rig, &mut frontend, &request, "GET_STATUS");
        let reply = message(frontend::GET_STATUS, REPLY, &words(&[status]));
        comes_back(&mut rig, &mut frontend, &reply, "GET_STATUS");
    }
    // Where a packed ring was stopped.
    for base in [0x8003_8005u64, 0xFFFF] {
        let request = message(frontend::GET_VRING_BASE, PLAIN, &state(1, 0));
        passes(&mut rig, &mut frontend, &request, "GET_VRING_BASE");
        let reply = message(frontend::GET_VRING_BASE, REPLY, &state(1, base));
        comes_back(&mut rig, &mut frontend, &reply, "GET_VRING_BASE");
    }
}

#[test]
fn giving_up_ownership_changes_nothing() {
    let (mut rig, mut frontend) = everything();
    let (memory, call, kick) = (memory_file(SIZE), event(), event());
    let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
    frontend.send(&table, &[memory.as_fd()]);
    for (code, fd) in [(12, &kick), (13, &call)] {
        frontend.send(&message(code, PLAIN, &words(&[0])), &[fd.as_fd()]);
    }
    while rig.receive(0).is_some() {}
    rig.write(DRIVER_AUX, &(u32::from(FIRST_KICK) << 16).to_le_bytes());
    let connected = (rig.vmm.mappings(), rig.vmm.armed(), rig.vmm.doorbells());
    let request = message(frontend::RESET_OWNER, PLAIN, &[]);
    passes(&mut rig, &mut frontend, &request, "RESET_OWNER");
    let now = (rig.vmm.mappings(), rig.vmm.armed(), rig.vmm.doorbells());
    assert_eq!(now, connected);
    // What was negotiated still holds.
    let request = message(frontend::GET_STATUS, PLAIN, &[]);
    passes(&mut rig, &mut frontend, &request, "GET_STATUS");
}

/// Rings of a packed layout have other parts: descriptors of 16 bytes, and
/// two event structures of 4.
#[test]
fn a_packed_ring_is_as_long_as_it_is() {
    for (packed, offset, fits) in [
        // 64 descriptors end where the memory does.
        (true, SIZE - 0x400, true),
        (false, SIZE - 0x400, true),
        (true, SIZE - 0x3F0, false),
        // A driver event structure fits there, an available ring does not.
        (true, SIZE - 4, true),
        (false, SIZE - 4, false),
    ] {
        let (mut rig, mut frontend) = everything();
        let mut features = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::VERSION_1;
        features.set(VirtioFeatures::RING_PACKED, packed);
        let memory = memory_file(SIZE);
        let set = message(2, PLAIN, &words(&[features.bits()]));
        passes(&mut rig, &mut frontend, &set, "SET_FEATURES");
        let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
        frontend.send(&table, &[memory.as_fd()]);
        rig.receive(0).expect("the table");
        let num = message(8, PLAIN, &words(&[64 << 32]));
        passes(&mut rig, &mut frontend, &num, "SET_VRING_NUM");
        let at = USER + offset;
        let parts = match offset {
            _ if offset == SIZE - 4 => [0, USER, USER, at, 0],
            _ => [0, at, USER, USER, 0],
        };
        frontend.send(&message(9, NEED_REPLY, &words(&parts)), &[]);
        let what = format!("packed: {packed}, at {offset:#x}");
        assert_eq!(rig.receive(0).is_some(), fits, "{what}");
        assert!(!rig.needs_reset(), "{what}");
    }
}

#[test]
fn what_a_backend_may_ask_passes_with_its_answer() {
    let (mut rig, mut frontend) = everything();
    let features = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::ACCESS_PLATFORM;
    let set = message(2, PLAIN, &words(&[features.bits()]));
    passes(&mut rig, &mut frontend, &set, "SET_FEATURES");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
    rig.receive(0).expect("the channel");
    let mut channel = Frontend { stream: ours };
    let carried = BACKEND_ROWS
        .iter()
        .filter(|row| row.verdict == Verdict::Forward);
    let mut names = Vec::new();
    for row in carried {
        names.push(row.name);
        // A miss, an access that failed: the address is an I/O virtual one.
        let kinds: &[u64] = if row.code == 1 { &[1, 4] } else { &[0] };
        for kind in kinds {
            let mut payload = sample(row);
            if row.code == 1 {
                payload = words(&[0x7000_4000, 0x1000, 0x7000_4000, 3 | kind << 8]);
            }
            let plain = message(row.code, PLAIN, &payload);
            rig.send(3, &plain);
            assert_eq!(channel.receive(), Some(plain), "{}", row.name);
            for value in [0, 1, 95u64.wrapping_neg()] {
                let request = message(row.code, NEED_REPLY, &payload);
                rig.send(3, &request);
                assert_eq!(channel.receive(), Some(request), "{}", row.name);
                let reply = message(row.code, REPLY, &words(&[value]));
                channel.send(&reply, &[]);
                assert_eq!(rig.receive(2), Some(reply), "{}", row.name);
            }
        }
    }
    assert_eq!(names, ["IOTLB_MSG", "CONFIG_CHANGE_MSG"]);
    assert!(!rig.needs_reset());
}

#[test]
fn backend_requests_need_what_they_belong_to() {
    for (features, code, payload) in [
        (carried().difference(ProtocolFeatures::CONFIG), 2, vec![]),
        // ACCESS_PLATFORM was not accepted.
        (carried(), 1, words(&[0x1000, 0x1000, 0, 0x103])),
    ] {
        let mut rig = Rig::new();
        rig.initialise();
        rig.backend_up();
        let mut frontend = rig.connect();
        rig.run();
        rig.negotiate(&mut frontend, features);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        frontend.send(&message(21, PLAIN, &[]), &[theirs.as_fd()]);
        rig.receive(0).expect("the channel");
        rig.send(3, &message(code, NEED_REPLY, &payload));
        let refusal = message(code, REPLY, &words(&[1]));
        assert_eq!(rig.receive(2), Some(refusal), "request {code}");
        assert!(!rig.needs_reset());
        rig.send(3, &message(code, PLAIN, &payload));
        assert!(rig.needs_reset(), "request {code}");
        let mut channel = Frontend { stream: ours };
        assert_eq!(channel.receive().unwrap_or_default(), []);
    }
}

#[test]
fn two_hundred_and_fifty_six_vrings_at_once() {
    let mut rig = Rig::with(|builder| builder.queues(256));
    rig.initialise();
    rig.backend_up();
    let mut frontend = rig.connect();
    rig.run();
    rig.negotiate(&mut frontend, carried());
    frontend.send(&message(frontend::GET_QUEUE_NUM, PLAIN, &[]), &[]);
    assert_eq!(rig.request(), Some(FrontendRequest::GetQueueNum));
    let number = message(frontend::GET_QUEUE_NUM, REPLY, &words(&[256]));
    comes_back(&mut rig, &mut frontend, &number, "GET_QUEUE_NUM");
    // A vector of its own for each.
    let entry = |vector: u64| MSIX_TABLE + 16 * vector;
    for kick in 0..256u32 {
        let vector = u32::from(FIRST_KICK) + kick;
        rig.write(entry(vector.into()), &0xFEE0_0000u32.to_le_bytes());
        rig.write(entry(vector.into()) + 8, &vector.to_le_bytes());
        rig.write(entry(vector.into()) + 12, &0u32.to_le_bytes());
        rig.write(DRIVER_AUX, &(kick | vector << 16).to_le_bytes());
    }
    let mut ends: Vec<[OwnedFd; 3]> = Vec::new();
    for vring in 0..256 {
        let fds = [event(), event(), event()];
        for (code, fd) in (12..).zip(&fds) {
            frontend.send(&message(code, PLAIN, &words(&[vring])), &[fd.as_fd()]);
            assert!(super::siege::receive_patiently(&mut rig).is_some());
        }
        ends.push(fds);
    }
    for (vring, [kick, call, err]) in (0u64..).zip(&ends) {
        for (doorbell, end) in [(vring, call), (256 + vring, err)] {
            let bell = rig.vmm.doorbell(DOORBELLS + 4 * doorbell).unwrap();
            rustix::io::write(&bell, &1u64.to_ne_bytes()).unwrap();
            assert!(signalled(end), "doorbell {doorbell}");
        }
        let message = vhost_guest_vmm_traits::MsiMessage {
            address: 0xFEE0_0000,
            data: u32::from(FIRST_KICK) + vring as u32,
        };
        let [armed] = &rig.vmm.armed_with(message)[..] else {
            panic!("kick {vring}");
        };
        rustix::io::write(kick, &1u64.to_ne_bytes()).unwrap();
        assert!(signalled(armed), "kick {vring}");
    }
    drop(frontend);
    assert!(rig.needs_reset());
    super::siege::assert_nothing_connected(&rig, "256 vrings");
    for fd in [0, 128, 255].iter().flat_map(|vring| &ends[*vring]) {
        super::siege::assert_closed(fd, "256 vrings");
    }
}

/// Gates that are acknowledged virtio features are those of the latest
/// `SET_FEATURES`.
#[test]
fn a_feature_that_is_given_up_closes_its_gate() {
    let gated = FRONTEND_ROWS.iter().filter(|row| match row.gate {
        Gate::Virtio(_) => true,
        Gate::Always | Gate::Offered(_) | Gate::Protocol(_) => false,
    });
    let mut count = 0;
    for row in gated {
        let Gate::Virtio(feature) = row.gate else {
            continue;
        };
        let (mut rig, mut frontend) = everything();
        let all = VirtioFeatures::PROTOCOL_FEATURES | VirtioFeatures::ACCESS_PLATFORM;
        let memory = memory_file(SIZE);
        let table = message(5, PLAIN, &words(&[1, 0, SIZE, USER, 0]));
        frontend.send(&table, &[memory.as_fd()]);
        rig.receive(0).expect("the table");
        for (features, open) in [(all, true), (all.difference(feature), false)] {
            let set = message(2, PLAIN, &words(&[features.bits()]));
            passes(&mut rig, &mut frontend, &set, "SET_FEATURES");
            frontend.send(&message(row.code, PLAIN, &sample(row)), &[]);
            assert_eq!(rig.receive(0).is_some(), open, "{}", row.name);
            assert_eq!(rig.needs_reset(), !open, "{}", row.name);
        }
        count += 1;
    }
    assert_eq!(count, 1);
}
