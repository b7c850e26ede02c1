// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest: it takes every request, answers as a backend in its right mind,
//! moves device state, and asks the frontend for things.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vhost_guest_driver::emulated::{Emulated, Platform};
use vhost_guest_driver::{Device, Inbound, Outbound};
use vhost_guest_examples::wire::{message, words};
use vhost_guest_msg::{backend, frontend, ProtocolFeatures, VirtioFeatures};

/// Flags of a reply.
const REPLY: u32 = 5;
/// This bit of a request's flags asks for an acknowledgement.
const NEED_REPLY: u32 = 8;
/// "No descriptor comes with this."
const NO_FD: u64 = 0x100;
/// Pieces of state that it saves.
const PIECES: usize = 3;

/// What the test and the guest tell each other.
#[derive(Default)]
pub struct Word {
    /// Requests that arrived.
    pub requests: Mutex<BTreeSet<u32>>,
    /// Replies of the frontend that arrived.
    pub replies: Mutex<usize>,
    /// Bytes of state that were loaded.
    pub loaded: Mutex<usize>,
    /// Signal all doorbells.
    pub ring: AtomicBool,
    /// Reset the device, for no reason.
    pub reset: AtomicBool,
    /// No more.
    pub stop: AtomicBool,
}

/// Boots the guest.
pub fn start(platform: Platform, word: &Arc<Word>) -> JoinHandle<()> {
    let word = Arc::clone(word);
    thread::spawn(move || {
        let mut device = Device::open(Emulated::new(platform).unwrap()).unwrap();
        serve(&device);
        while !word.stop.load(Ordering::SeqCst) {
            device.wait(Some(Duration::from_millis(1)));
            if device.status().needs_reset || word.reset.swap(false, Ordering::SeqCst) {
                device.reset().unwrap();
                serve(&device);
            }
            work(&mut device, &word);
        }
    })
}

fn serve(device: &Device<Emulated>) {
    device.set_device_type(2).unwrap();
    device.set_backend_up(true);
}

fn work(device: &mut Device<Emulated>, word: &Word) {
    if word.ring.swap(false, Ordering::SeqCst) {
        for vring in 0..device.max_queues() {
            device.call(vring);
            device.signal_error(vring);
        }
        device.signal_log();
    }
    let mut bytes = Vec::new();
    while device.receive(Inbound::Requests, &mut bytes).unwrap() {
        let code = number(&bytes, 0);
        word.requests.lock().unwrap().insert(code);
        if let Some(reply) = reply(&bytes) {
            assert!(device.send(Outbound::Replies, &reply).unwrap());
        }
        match code {
            frontend::SET_BACKEND_REQ_FD => ask(device),
            frontend::SET_DEVICE_STATE_FD if number(&bytes, 12) == 0 => save(device),
            _ => {}
        }
    }
    while device.receive(Inbound::Replies, &mut bytes).unwrap() {
        *word.replies.lock().unwrap() += 1;
    }
    while device.state_piece() > 0 && device.receive(Inbound::State, &mut bytes).unwrap() {
        *word.loaded.lock().unwrap() += bytes.len();
    }
}

fn ask(device: &mut Device<Emulated>) {
    for request in [
        message(backend::CONFIG_CHANGE_MSG, 1 | NEED_REPLY, &[]),
        // A miss at this address.
        message(
            backend::IOTLB_MSG,
            1 | NEED_REPLY,
            &words(&[0x1000, 0, 0, 0x103]),
        ),
    ] {
        assert!(device.send(Outbound::Requests, &request).unwrap());
    }
}

fn save(device: &mut Device<Emulated>) {
    let piece = vec![7; device.state_piece()];
    for _ in 0..PIECES {
        send_state(device, &piece);
    }
    send_state(device, &[]);
}

fn send_state(device: &mut Device<Emulated>, piece: &[u8]) {
    while !device.send(Outbound::State, piece).unwrap() {
        device.wait(Some(Duration::from_millis(1)));
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let field = bytes
        .get(at..at + 4)
        .and_then(|field| field.try_into().ok());
    field.map_or(0, u32::from_ne_bytes)
}

/// The right reply, if there is one.
fn reply(request: &[u8]) -> Option<Vec<u8>> {
    let code = number(request, 0);
    let features = VirtioFeatures::VERSION_1
        | VirtioFeatures::PROTOCOL_FEATURES
        | VirtioFeatures::ACCESS_PLATFORM
        | VirtioFeatures::LOG_ALL;
    let payload = match code {
        frontend::GET_FEATURES => words(&[features.bits()]),
        frontend::GET_PROTOCOL_FEATURES => words(&[ProtocolFeatures::all().bits()]),
        frontend::GET_QUEUE_NUM => words(&[2]),
        frontend::GET_MAX_MEM_SLOTS => words(&[509]),
        frontend::SET_DEVICE_STATE_FD => words(&[NO_FD]),
        frontend::GET_STATUS | frontend::CHECK_DEVICE_STATE | frontend::SET_LOG_BASE => words(&[0]),
        frontend::GET_VRING_BASE
        | frontend::GET_VRING_BASE_SKIP_DRAIN
        | frontend::GET_CONFIG
        | frontend::GET_INFLIGHT_FD => request.get(12..)?.to_vec(),
        _ if number(request, 4) & NEED_REPLY != 0 => words(&[0]),
        _ => return None,
    };
    Some(message(code, REPLY, &payload))
}
