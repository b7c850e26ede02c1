// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device with the driver and a backend of the test's behind it, or the relay and
//! one that others wrote, and a frontend whose guest has a ring: what a guest has to
//! get right itself.

mod chain;
mod crashes;
mod disk;
mod frontend;
mod host;
mod ledger;
mod migration;
mod ring;
mod state;
mod vm;

/// Numbers without order, the same in every run with the same seed.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(2 * seed + 1))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
