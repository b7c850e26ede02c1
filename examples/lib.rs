// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The code of the examples, so that it is tested: a small VMM on KVM, one
//! without, a vfio-user server, and a whole chain with the relay, around vhost-guest
//! devices.

#[cfg(target_arch = "x86_64")]
pub mod attack;
pub mod backend;
pub mod chain;
pub mod cycles;
pub mod disk;
#[cfg(target_arch = "x86_64")]
pub mod kvm;
pub mod loopback;
pub mod truncate;
pub mod vfio_user;
pub mod vmm;
pub mod wire;
