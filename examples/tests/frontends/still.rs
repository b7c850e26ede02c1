// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A backend of any type that does nothing but answer, and remembers what it
//! was told.

use std::sync::{Arc, Mutex};

use vhost_guest_driver::{Backend, Ring, State};
use vhost_guest_msg::{ProtocolFeatures, Transfer, VirtioFeatures};

/// What all data is made of.
pub const PATTERN: u8 = 0x5a;
/// What its state is.
const STATE: &[u8] = b"still";

/// What a device on a network is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Mtu(u64),
    Rarp([u8; 6]),
}

/// The backend.
#[derive(Default)]
pub struct Still {
    pub device_type: u16,
    pub features: u64,
    pub queues: u16,
    pub told: Arc<Mutex<Vec<Told>>>,
    pub notebook: Notebook,
}

impl Backend for Still {
    fn device_type(&self) -> u16 {
        self.device_type
    }

    fn features(&self) -> VirtioFeatures {
        VirtioFeatures::from_bits_retain(self.features) | VirtioFeatures::ACCESS_PLATFORM
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    fn config_read(&mut self, offset: u32, data: &mut [u8]) -> bool {
        data.fill(PATTERN);
        offset < 256
    }

    fn config_write(&mut self, offset: u32, _data: &[u8]) -> bool {
        offset < 256
    }

    fn protocol_features(&self) -> ProtocolFeatures {
        ProtocolFeatures::RARP | ProtocolFeatures::MTU
    }

    fn send_rarp(&mut self, mac: [u8; 6]) -> bool {
        self.told.lock().unwrap().push(Told::Rarp(mac));
        true
    }

    fn set_mtu(&mut self, mtu: u64) -> bool {
        self.told.lock().unwrap().push(Told::Mtu(mtu));
        true
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.notebook)
    }

    /// Answers as a disk that is full of the pattern would.
    fn process(&mut self, _queue: u16, ring: &mut Ring<'_>) {
        while let Some(mut chain) = ring.next_chain() {
            let data = vec![PATTERN; chain.writable_len().saturating_sub(1) as usize];
            let written = chain.write(&data) + chain.write(&[0]);
            ring.complete(chain, written as u32);
        }
    }
}

/// State that is a word.
#[derive(Default)]
pub struct Notebook {
    saved: usize,
    loaded: Vec<u8>,
}

impl State for Notebook {
    fn begin(&mut self, _: Transfer) -> bool {
        *self = Self::default();
        true
    }

    fn save(&mut self, data: &mut [u8]) -> Option<usize> {
        let rest = &STATE[self.saved..];
        let len = rest.len().min(data.len());
        data[..len].copy_from_slice(&rest[..len]);
        self.saved += len;
        Some(len)
    }

    fn load(&mut self, data: &[u8]) -> bool {
        self.loaded.extend(data);
        STATE.starts_with(&self.loaded)
    }

    fn loaded(&mut self) -> bool {
        self.loaded == STATE
    }
}
