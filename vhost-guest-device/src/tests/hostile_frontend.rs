// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Messages that no frontend should send.

use std::net::Shutdown;
use std::os::fd::AsFd;

use vhost_guest_msg::Verdict;
use vhost_guest_msg::{frontend, FdRule, Gate, Layout, ProtocolFeatures, Row, FRONTEND_ROWS};

use super::rig::{self, event, message, words, VRINGS};
use super::siege::{assert_closed, sample, sample_fds, send, Siege, NEED_REPLY, PLAIN, REPLY};

/// A message as its sample has it, but for the size field.
fn sized(row: &Row, flags: u32, payload: &[u8], size: u32) -> Vec<u8> {
    let mut bytes = message(row.code, flags, payload);
    bytes[8..12].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// What a device can carry.
fn everything() -> ProtocolFeatures {
    ProtocolFeatures::forwardable()
}

/// Requests that are carried.
fn carried_rows() -> impl Iterator<Item = &'static Row> {
    let refused = |row: &&Row| matches!(row.verdict, Verdict::Refuse(_));
    FRONTEND_ROWS.iter().filter(move |row| !refused(row))
}

/// Requests that are not.
fn other_rows() -> impl Iterator<Item = &'static Row> {
    FRONTEND_ROWS
        .iter()
        .filter(|row| carried_rows().all(|carried| carried.code != row.code))
}

#[test]
fn unknown_numbers_disconnect() {
    let mut siege = Siege::with_migration();
    let spare = event();
    for code in [0, 46, 47, 1002, 0x8000_0001, u32::MAX] {
        for flags in [PLAIN, NEED_REPLY] {
            for payload in [&[][..], &[0; 8], &[0; 4084]] {
                siege.costs_the_connection(everything(), "unknown", |_, frontend| {
                    frontend.send(&message(code, flags, payload), &[spare.as_fd()]);
                });
            }
        }
    }
    assert_closed(spare, "a spare descriptor");
    siege.serves_the_next();
}

#[test]
fn requests_that_are_not_carried_disconnect() {
    let mut siege = Siege::with_migration();
    assert!(other_rows().count() >= 9);
    for row in other_rows() {
        for flags in [PLAIN, NEED_REPLY] {
            siege.costs_the_connection(everything(), row.name, |_, frontend| {
                send(
                    frontend,
                    &message(row.code, flags, &sample(row)),
                    &sample_fds(row),
                );
            });
        }
    }
    siege.serves_the_next();
}

#[test]
fn a_request_without_its_feature_disconnects() {
    let mut siege = Siege::with_migration();
    for row in carried_rows() {
        let without = match row.gate {
            // See `gates`: there has to be an offer without it first.
            Gate::Always | Gate::Offered(_) => continue,
            Gate::Protocol(feature) => everything().difference(feature),
            Gate::Virtio(_) => ProtocolFeatures::empty(),
        };
        siege.costs_the_connection(without, row.name, |_, frontend| {
            send(
                frontend,
                &message(row.code, NEED_REPLY, &sample(row)),
                &sample_fds(row),
            );
        });
    }
    siege.serves_the_next();
}

#[test]
fn a_hang_up_in_the_middle_of_a_message_is_a_loss() {
    let mut siege = Siege::with_migration();
    for row in carried_rows() {
        let whole = message(row.code, PLAIN, &sample(row));
        let fds = sample_fds(row);
        for length in 1..whole.len() {
            let what = format!("{} of {length} bytes", row.name);
            let mut frontend = siege.frontend(ProtocolFeatures::empty());
            send(&mut frontend, &whole[..length], &fds);
            siege.rig.run();
            assert_eq!(siege.rig.receive(0), None, "{what}");
            assert_eq!(siege.rig.up(), 3, "{what}");
            frontend.stream.shutdown(Shutdown::Write).unwrap();
            siege.assert_lost(frontend, &what);
        }
        for fd in fds {
            assert_closed(fd, row.name);
        }
    }
    siege.serves_the_next();
}

#[test]
fn a_payload_of_the_wrong_size_disconnects() {
    let mut siege = Siege::with_migration();
    for row in carried_rows() {
        let payload = sample(row);
        let longer = [&payload[..], &[0]].concat();
        let much_longer = [&payload[..], &[0; 64]].concat();
        let shorter = payload.split_last().map(|(_, rest)| rest.to_vec());
        for wrong in [Some(longer), Some(much_longer), shorter]
            .into_iter()
            .flatten()
        {
            // Some frontends send this one with a payload, which is tolerated.
            if row.code == frontend::SET_BACKEND_REQ_FD {
                continue;
            }
            siege.costs_the_connection(everything(), row.name, |_, frontend| {
                let bytes = message(row.code, NEED_REPLY, &wrong);
                send(frontend, &bytes, &sample_fds(row));
            });
        }
        for size in [
            4085,
            4096,
            0x7FFF_FFFF,
            0x8000_0000,
            u32::MAX - 11,
            u32::MAX,
        ] {
            siege.costs_the_connection(everything(), row.name, |_, frontend| {
                let bytes = sized(row, NEED_REPLY, &payload, size);
                send(frontend, &bytes, &sample_fds(row));
            });
        }
    }
    siege.serves_the_next();
}

#[test]
fn wrong_flags_disconnect() {
    let mut siege = Siege::with_migration();
    let versions = [0, 2, 3];
    let reserved = (4..32).map(|bit| PLAIN | 1 << bit);
    let replies = [REPLY, REPLY | NEED_REPLY];
    for flags in versions.into_iter().chain(reserved).chain(replies) {
        for row in carried_rows().take(3) {
            let what = format!("{} with flags {flags:#x}", row.name);
            siege.costs_the_connection(everything(), &what, |_, frontend| {
                frontend.send(&message(row.code, flags, &sample(row)), &[]);
            });
        }
    }
    siege.serves_the_next();
}

#[test]
fn a_wrong_number_of_descriptors_disconnects() {
    let mut siege = Siege::with_migration();
    let spare = event();
    for row in carried_rows() {
        let right = sample_fds(row).len();
        for count in [0, 1, 2, 3, 31, 32, 33, 60] {
            let ignored = row.fds == FdRule::AtMostOneIgnored && count <= 1;
            if count == right || ignored {
                continue;
            }
            let what = format!("{} with {count} descriptors", row.name);
            siege.costs_the_connection(everything(), &what, |_, frontend| {
                let fds = vec![spare.as_fd(); count];
                frontend.send(&message(row.code, NEED_REPLY, &sample(row)), &fds);
            });
        }
    }
    assert_closed(spare, "a spare descriptor");
    siege.serves_the_next();
}

#[test]
fn the_no_descriptor_bit_and_a_descriptor_exclude_each_other() {
    let mut siege = Siege::with_migration();
    for code in [12, 13, 14] {
        for (payload, count) in [(0x101, 1), (0x1, 0), (0x100, 2)] {
            siege.costs_the_connection(everything(), "bit 8", |_, frontend| {
                let fds: Vec<_> = (0..count).map(|_| event()).collect();
                send(
                    frontend,
                    &message(code, NEED_REPLY, &words(&[payload])),
                    &fds,
                );
            });
        }
    }
}

#[test]
fn descriptors_in_the_middle_of_a_message_disconnect() {
    let mut siege = Siege::with_migration();
    let whole = message(12, PLAIN, &words(&[1]));
    let eventfd = event();
    for at in 1..whole.len() {
        let what = format!("descriptor at byte {at}");
        siege.costs_the_connection(everything(), &what, |rig, frontend| {
            frontend.send(&whole[..at], &[]);
            rig.run();
            frontend.send(&whole[at..], &[eventfd.as_fd()]);
        });
        siege.costs_the_connection(everything(), "a second descriptor", |rig, frontend| {
            frontend.send(&whole[..at], &[eventfd.as_fd()]);
            rig.run();
            frontend.send(&whole[at..], &[eventfd.as_fd()]);
        });
    }
    assert_closed(eventfd, "an eventfd");
}

#[test]
fn vrings_that_do_not_exist_are_refused() {
    let mut siege = Siege::with_migration();
    let indexed = |row: &&Row| {
        let layouts = [Layout::VringState, Layout::VringAddr, Layout::VringFd];
        layouts.contains(&row.layout)
    };
    for row in carried_rows().filter(indexed) {
        for index in [u32::from(VRINGS), 255, 256, 0x8000_0000, u32::MAX] {
            if row.layout == Layout::VringFd && index & 0x100 != 0 {
                continue;
            }
            let what = format!("{} of vring {index}", row.name);
            siege.refuses(everything(), row.code, &what, &mut |frontend, flags| {
                let mut payload = sample(row);
                payload[..4].copy_from_slice(&index.to_ne_bytes());
                let bytes = message(row.code, flags, &payload);
                send(frontend, &bytes, &sample_fds(row));
            });
        }
    }
    siege.serves_the_next();
}

#[test]
fn values_out_of_range_are_refused() {
    let mut siege = Siege::with_migration();
    let num = |num: u64| words(&[num << 32]);
    let flags = |flags: u64| words(&[flags << 32, 0, 0, 0, 0]);
    let config = |offset: u64, size: u64, payload: usize| {
        let head = words(&[size << 32 | offset]);
        [head, vec![0; 4 + payload]].concat()
    };
    let cases = [
        (8, num(0)),
        (8, num(32769)),
        (8, num(0xFFFF_FFFF)),
        (9, flags(2)),
        (9, flags(0x8000_0001)),
        (12, words(&[0x200])),
        (13, words(&[1 << 63])),
        (18, num(2)),
        (23, num(2)),
        (24, config(0xFFFF_FFFF, 4, 4)),
        (25, config(4096, 4, 4)),
        (5, words(&[0])),
        (5, words(&[33])),
        (5, words(&[0xFFFF_FFFF])),
    ];
    for (code, payload) in cases {
        let what = format!("request {code} with {payload:x?}");
        siege.refuses(everything(), code, &what, &mut |frontend, flags| {
            let fds = [event()];
            let fds = if matches!(code, 12 | 13) {
                &fds[..]
            } else {
                &[]
            };
            send(frontend, &message(code, flags, &payload), fds);
        });
    }
    // Another length than the message says it has.
    for payload in [config(0, 5, 4), config(0, 3, 4)] {
        let what = format!("{payload:x?}");
        siege.costs_the_connection(everything(), &what, |_, frontend| {
            send(frontend, &message(24, NEED_REPLY, &payload), &[]);
        });
    }
    siege.serves_the_next();
}

#[test]
fn asking_for_a_reply_without_reply_ack_gets_none_for_a_refusal() {
    let mut siege = Siege::with_migration();
    let features = everything().difference(ProtocolFeatures::REPLY_ACK);
    siege.costs_the_connection(features, "refused", |_, frontend| {
        // Well-formed, but no such memory.
        let ring = words(&[0, 0x1000, 0x2000, 0x3000, 0]);
        frontend.send(&message(9, NEED_REPLY, &ring), &[]);
    });
    let mut frontend = siege.frontend(features);
    frontend.send(&message(3, NEED_REPLY, &[]), &[]);
    assert_eq!(siege.rig.receive(0), Some(message(3, NEED_REPLY, &[])));
    // Whether the guest answers is its affair.
    frontend.send(&message(1, PLAIN, &[]), &[]);
    assert_eq!(siege.rig.receive(0), Some(message(1, PLAIN, &[])));
    siege.rig.reply(1, &words(&[0]));
    let reply = message(1, REPLY, &words(&[0]));
    assert_eq!(frontend.receive(), Some(reply));
}

#[test]
fn a_second_frontend_waits_until_the_first_is_gone_and_the_guest_ready() {
    let (mut rig, mut first) = rig::connected();
    let mut others: Vec<_> = (0..5).map(|_| rig.connect()).collect();
    for other in &mut others {
        other.send(&message(3, PLAIN, &[]), &[]);
    }
    rig.run();
    assert_eq!(rig.receive(0), None);
    assert_eq!(rig.device.shared.counters.frontends.read(), 1);
    first.send(&message(1, PLAIN, &[]), &[]);
    assert_eq!(rig.receive(0), Some(message(1, PLAIN, &[])));
    drop(first);
    assert!(rig.needs_reset());
    assert_eq!(rig.device.shared.counters.frontends.read(), 1);
    // Those that did not wait are noticed one by one.
    drop(others.remove(0));
    rig.start();
    rig.backend_up();
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
    assert!(rig.needs_reset());
    rig.start();
    rig.backend_up();
    assert_eq!(rig.receive(0), Some(message(3, PLAIN, &[])));
    assert!(!rig.needs_reset());
    assert_eq!(rig.device.shared.counters.frontends.read(), 3);
}
