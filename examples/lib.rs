// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The examples are targets of this package. What they share is here: a small
//! userspace VMM around a vhost-guest device.

pub mod vmm;
