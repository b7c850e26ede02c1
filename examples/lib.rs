// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The code of the examples, so that it is tested, and a small userspace VMM
//! around a vhost-guest device that they share.

pub mod loopback;
pub mod vmm;
