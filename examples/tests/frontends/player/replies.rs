// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the player hears.

use std::os::fd::OwnedFd;

use super::{exactly, Player};
use crate::script::{Body, Reply};

/// Flags of a reply: QEMU takes no others.
const REPLY: u32 = 1 | 1 << 2;
/// A header of a configuration.
const CONFIG_HEADER: usize = 12;

impl Player {
    /// Receives the reply to a message, and checks it.
    pub(super) fn hear(&mut self, code: u32, body: &Body, expected: Reply) {
        let (payload, mut fds) = self.receive(code);
        let place = &self.place;
        match expected {
            Reply::Nothing => panic!("{place}: a reply"),
            Reply::Ack => assert_eq!(number(&payload), 0, "{place}: refused"),
            Reply::Number(expected) => assert_eq!(number(&payload), expected, "{place}"),
            Reply::AtLeast(least) => {
                let number = number(&payload);
                assert!(number >= least, "{place}: {number}");
            }
            Reply::Features(needed) => {
                self.offered = number(&payload);
                let missing = needed & !self.offered;
                assert_eq!(missing, 0, "{place}: not offered: {missing:#x}");
            }
            Reply::ProtocolFeatures(needed) => {
                self.offered_protocol = number(&payload);
                let missing = needed & !self.offered_protocol;
                assert_eq!(missing, 0, "{place}: not offered: {missing:#x}");
            }
            Reply::Base => self.hear_base(&payload, body),
            Reply::Config => {
                let Body::Config(_, size, _) = *body else {
                    panic!("{place}: not about configuration");
                };
                assert_eq!(payload.len(), CONFIG_HEADER + size as usize, "{place}");
            }
            Reply::Inflight => {
                let file = fds.pop();
                let file = file.unwrap_or_else(|| panic!("{place}: no descriptor"));
                let size = u64::from_ne_bytes(payload[..8].try_into().unwrap());
                assert!(size > 0, "{place}");
                self.record = Some((payload, file));
            }
            Reply::Log => {
                let Body::Log(size) = *body else {
                    panic!("{place}: not about a log");
                };
                let (said, _) = payload.split_at(8);
                assert_eq!(number(said), size, "{place}");
                assert_eq!(payload.len(), 16, "{place}");
            }
        }
        assert!(fds.is_empty(), "{}: descriptors", self.place);
    }

    fn receive(&self, code: u32) -> (Vec<u8>, Vec<OwnedFd>) {
        let place = &self.place;
        let header = exactly(&self.socket, 12);
        let (header, fds) = header.unwrap_or_else(|error| panic!("{place}: {error}"));
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4)), (code, REPLY), "{place}");
        let payload = exactly(&self.socket, word(8) as usize);
        let (payload, _) = payload.unwrap_or_else(|error| panic!("{place}: {error}"));
        (payload, fds)
    }

    /// A vring has stopped: what it has taken is done.
    fn hear_base(&mut self, payload: &[u8], body: &Body) {
        let Body::Vring(ring, _) = *body else {
            panic!("{}: not about a vring", self.place);
        };
        let [index, base] = [&payload[..4], &payload[4..]];
        let index = u32::from_ne_bytes(index.try_into().unwrap());
        let base = u32::from_ne_bytes(base.try_into().unwrap());
        let used = self.memory.load(self.memory.guest_parts(ring).used + 2);
        assert_eq!((index, base), (ring, used.into()), "{}", self.place);
        self.bases[ring as usize] = Some(base);
        self.events[ring as usize].callable = false;
    }
}

fn number(payload: &[u8]) -> u64 {
    let payload = payload.try_into();
    u64::from_ne_bytes(payload.expect("a number"))
}
