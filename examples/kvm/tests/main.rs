// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Notifications and memory through real KVM, seen by bare-metal guest code.
//!
//! These tests need a usable /dev/kvm, and say so and pass where there is none;
//! with `CI=true` in the environment they fail instead. KVM need not have
//! hardware behind it.
//!
//! The guest ([`guest`]) executes small programs that a test gives it, and
//! counts interrupts. The test itself plays the driver ([`driver`]), as a
//! second vCPU could, and the frontend ([`frontend`]).

#![cfg(target_arch = "x86_64")]

mod driver;
mod frontend;
mod guest;
mod rig;

mod adapter;
mod cycles;
mod doorbells;
mod endings;
mod interrupts;
mod latency;
mod moves;
mod resets;
mod unplug;
mod window;
