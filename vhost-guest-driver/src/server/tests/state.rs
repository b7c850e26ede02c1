// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Device state that is saved and loaded.

use super::*;
use vhost_guest_msg::{DeviceState, Transfer};

const PIECE: u32 = 4096;

/// A device with a text as its state. It moves with its length in front.
#[derive(Clone, Debug, Default)]
pub(super) struct Notebook {
    text: Vec<u8>,
    stream: Vec<u8>,
    begun: Vec<Transfer>,
    /// Saves so many bytes and fails.
    fails_after: Option<usize>,
    refuses: bool,
}

impl State for Notebook {
    fn begin(&mut self, direction: Transfer) -> bool {
        self.begun.push(direction);
        self.stream.clear();
        if direction == Transfer::Save {
            self.stream.extend((self.text.len() as u64).to_le_bytes());
            self.stream.extend(&self.text);
        }
        !self.refuses
    }

    fn save(&mut self, data: &mut [u8]) -> Option<usize> {
        assert!(!data.is_empty());
        if self.fails_after == Some(0) {
            return None;
        }
        let mut len = data.len().min(self.stream.len());
        if let Some(left) = &mut self.fails_after {
            len = len.min(*left);
            *left -= len;
        }
        for (to, from) in data.iter_mut().zip(self.stream.drain(..len)) {
            *to = from;
        }
        Some(len)
    }

    fn load(&mut self, data: &[u8]) -> bool {
        assert!(!data.is_empty());
        self.stream.extend(data);
        // So much and no more is believed.
        self.stream.len() <= 1 << 20
    }

    fn loaded(&mut self) -> bool {
        let Some((len, text)) = self.stream.split_first_chunk() else {
            return false;
        };
        if u64::from_le_bytes(*len) != text.len() as u64 {
            return false;
        }
        self.text = text.to_vec();
        true
    }
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn stream(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// A negotiated device with a state.
fn with(notebook: Notebook) -> Setup {
    let backend = Echo {
        state: Some(notebook),
        ..Echo::default()
    };
    let mut setup = Setup::with_backend(Fake::with_state(4, PIECE), backend);
    setup.negotiate_with(ProtocolFeatures::DEVICE_STATE);
    setup
}

fn writing(text: Vec<u8>) -> Setup {
    with(Notebook {
        text,
        ..Notebook::default()
    })
}

impl Setup {
    /// SET_DEVICE_STATE_FD; what the reply says.
    fn transfer(&mut self, direction: Transfer) -> u64 {
        self.ask_u64(&Request::SetDeviceStateFd(DeviceState {
            direction,
            fd: (),
        }))
    }

    fn check(&mut self) -> u64 {
        self.ask_u64(&Request::CheckDeviceState)
    }

    /// All that is saved up to its end.
    fn saved(&mut self) -> Vec<u8> {
        let mut stream = Vec::new();
        loop {
            match self.fake.take(4) {
                Some(piece) if piece.is_empty() => return stream,
                Some(piece) => stream.extend(piece),
                None => self.run(),
            }
        }
    }

    /// The device has so much for the driver.
    fn give_state(&mut self, piece: &[u8]) {
        let (id, at, len, flags) = self.fake.pop(5).expect("no buffer for state");
        assert_eq!(flags, 2);
        assert!(piece.len() <= len as usize);
        self.fake.ram.write(at, piece).unwrap();
        self.fake.push(5, id.into(), piece.len() as u32);
    }

    fn text(&self) -> Vec<u8> {
        let state = self.server.backend().state.as_ref();
        state.unwrap().text.clone()
    }
}

#[test]
fn offers_state_only_if_there_is_some_and_it_is_carried() {
    let notebook = || Echo {
        state: Some(Notebook::default()),
        ..Echo::default()
    };
    for (fake, backend, offered) in [
        (Fake::new(4), notebook(), false),
        (Fake::with_state(4, 0), notebook(), false),
        (Fake::with_state(4, PIECE), Echo::default(), false),
        (Fake::with_state(4, PIECE), notebook(), true),
    ] {
        let mut setup = Setup::with_backend(fake, backend);
        let features = setup.ask_u64(&Request::GetProtocolFeatures);
        assert_eq!(features >> 19 & 1 == 1, offered);
    }
}

#[test]
fn saves_all_of_any_length() {
    // More than all buffers hold, too.
    for len in [0, 1, 4087, 4088, 4089, 16 * 4096, 200_000] {
        let mut setup = writing(text(len));
        assert_eq!(setup.transfer(Transfer::Save), 0x100);
        assert_eq!(setup.saved(), stream(&text(len)), "{len}");
        setup.run();
        assert_eq!(setup.fake.take(4), None, "nothing behind the end");
        assert_eq!(setup.check(), 0);
    }
}

#[test]
fn keeps_to_the_pieces_of_the_device() {
    let backend = Echo {
        state: Some(Notebook {
            text: text(1000),
            ..Notebook::default()
        }),
        ..Echo::default()
    };
    let mut setup = Setup::with_backend(Fake::with_state(4, 100), backend);
    setup.negotiate_with(ProtocolFeatures::DEVICE_STATE);
    assert_eq!(setup.transfer(Transfer::Save), 0x100);
    assert_eq!(setup.fake.take(4).map(|piece| piece.len()), Some(100));
    setup.saved();
    assert_eq!(setup.check(), 0);
}

#[test]
fn loads_in_any_pieces() {
    let stream = stream(&text(30_000));
    for piece in [1000, 1, 4096, 333, 7] {
        let mut setup = writing(Vec::new());
        assert_eq!(setup.transfer(Transfer::Load), 0x100);
        for piece in stream.chunks(piece).take(1 << 14) {
            setup.give_state(piece);
            setup.run();
        }
        assert_eq!(setup.check(), 1, "there is no end yet");
        setup.give_state(&[]);
        setup.run();
        assert_eq!(setup.check(), u64::from(piece == 1), "{piece}");
        let loaded = setup.text() == text(30_000);
        assert_eq!(loaded, piece != 1, "cut off");
    }
}

#[test]
fn loads_what_came_before_it_answers_for_it() {
    let mut setup = writing(Vec::new());
    assert_eq!(setup.transfer(Transfer::Load), 0x100);
    // All of it, and the question, before the driver looks.
    let stream = stream(&text(15 * 4096 - 8));
    for piece in stream.chunks(4096) {
        setup.give_state(piece);
    }
    setup.give_state(&[]);
    assert_eq!(setup.check(), 0);
    assert_eq!(setup.text().len(), 15 * 4096 - 8);
}

#[test]
fn state_that_is_cut_off_or_wrong_is_not_loaded() {
    let stream = stream(&text(5000));
    for cut in [0, 7, 8, 4096, 5007] {
        let mut setup = writing(b"old".to_vec());
        assert_eq!(setup.transfer(Transfer::Load), 0x100);
        for piece in stream[..cut].chunks(4096) {
            setup.give_state(piece);
        }
        setup.give_state(&[]);
        assert_eq!(setup.check(), 1, "{cut}");
        assert_eq!(setup.text(), b"old");
        // And once more, in one piece.
        assert_eq!(setup.transfer(Transfer::Load), 0x100);
        setup.give_state(&stream[..4096]);
        setup.give_state(&stream[4096..]);
        setup.give_state(&[]);
        assert_eq!(setup.check(), 0);
    }
    // More than the backend believes is taken, and dropped.
    let mut setup = writing(b"old".to_vec());
    assert_eq!(setup.transfer(Transfer::Load), 0x100);
    for _ in 0..300 {
        setup.give_state(&[0; 4096]);
        setup.run();
    }
    setup.give_state(&[]);
    assert_eq!(setup.check(), 1);
    assert!(!setup.disconnected());
}

#[test]
fn a_save_that_fails_ends_and_says_so() {
    for fails_after in [0, 5, 4096, 20 * 4096] {
        let mut setup = with(Notebook {
            text: text(100_000),
            fails_after: Some(fails_after),
            ..Notebook::default()
        });
        assert_eq!(setup.transfer(Transfer::Save), 0x100);
        assert_eq!(setup.saved().len(), fails_after);
        assert_eq!(setup.check(), 1);
    }
}

#[test]
fn refuses_while_a_vring_runs_or_the_backend_does_not_want() {
    let mut setup = writing(text(10));
    setup.share_memory();
    setup.start_ring(0);
    assert_eq!(setup.transfer(Transfer::Save), 0x101);
    setup.stop_ring(0);
    assert_eq!(setup.transfer(Transfer::Save), 0x100);
    assert_eq!(setup.saved().len(), 18);
    let mut setup = with(Notebook {
        refuses: true,
        ..Notebook::default()
    });
    assert_eq!(setup.transfer(Transfer::Save), 0x101);
    assert_eq!(setup.transfer(Transfer::Load), 0x101);
    assert_eq!(setup.check(), 1);
    assert_eq!(setup.fake.take(4), None);
}

#[test]
fn trusts_no_transfer_that_another_one_has_cut_short() {
    for (first, second) in [
        (Transfer::Load, Transfer::Load),
        (Transfer::Save, Transfer::Save),
        (Transfer::Save, Transfer::Load),
    ] {
        let mut setup = writing(text(100_000));
        assert_eq!(setup.transfer(first), 0x100);
        assert_eq!(setup.transfer(second), 0x101);
        assert_eq!(setup.check(), 1);
        assert_eq!(setup.transfer(second), 0x101, "nor a later one");
        // The next frontend begins anew.
        setup.fake.disconnect();
        setup.run();
        setup.fake.connect();
        setup.negotiate_with(ProtocolFeatures::DEVICE_STATE);
        assert_eq!(setup.transfer(Transfer::Save), 0x100);
        assert_eq!(setup.saved().len(), 100_008);
        assert_eq!(setup.check(), 0);
    }
}

#[test]
fn a_reset_spoils_what_is_under_way() {
    let mut setup = writing(text(100_000));
    assert_eq!(setup.transfer(Transfer::Save), 0x100);
    assert!(setup.acked(&Request::ResetDevice));
    let saved = setup.saved();
    assert!(saved.len() < 100_000 && stream(&text(100_000)).starts_with(&saved));
    assert_eq!(setup.check(), 1);
    assert_eq!(setup.transfer(Transfer::Load), 0x100);
    setup.give_state(&stream(b"new"));
    setup.run();
    assert!(setup.acked(&Request::ResetDevice));
    setup.give_state(&[]);
    assert_eq!(setup.check(), 1);
    assert_eq!(setup.check(), 1);
}

/// QEMU stops a device by its status, before or behind GET_VRING_BASE.
#[test]
fn what_was_reset_by_its_status_is_saved_as_it_was() {
    let mut setup = writing(text(5000));
    setup.share_memory();
    setup.start_ring(0);
    setup.stop_ring(0);
    assert!(setup.acked(&Request::SetStatus(0)));
    setup.stop_ring(0);
    assert_eq!(setup.transfer(Transfer::Save), 0x100);
    // Also while it is saved.
    assert!(setup.acked(&Request::SetStatus(0)));
    assert_eq!(setup.saved(), stream(&text(5000)));
    assert_eq!((setup.check(), setup.server.backend().resets), (0, 0));
    // The guest begins anew.
    assert!(setup.acked(&Request::SetStatus(1)));
    assert_eq!((setup.check(), setup.server.backend().resets), (1, 1));
    assert!(setup.acked(&Request::SetStatus(0)));
    assert_eq!(setup.server.backend().resets, 1);
    setup.start_ring(0);
    assert_eq!(setup.server.backend().resets, 2);
}

#[test]
fn what_is_loaded_behind_a_reset_stays() {
    let mut setup = writing(text(5000));
    assert!(setup.acked(&Request::SetStatus(0)));
    assert_eq!(setup.transfer(Transfer::Load), 0x100);
    assert_eq!(setup.server.backend().resets, 1);
    setup.give_state(&stream(b"new"));
    setup.give_state(&[]);
    assert_eq!(setup.check(), 0);
    setup.share_memory();
    setup.start_ring(0);
    assert_eq!(
        (setup.server.backend().resets, setup.text()),
        (1, b"new".to_vec())
    );
}

#[test]
fn a_check_without_a_transfer_fails() {
    let mut setup = writing(Vec::new());
    assert_eq!(setup.check(), 1);
}
