// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the device's loop waits for: descriptors, and time.

pub(crate) mod alarm;
pub(crate) mod deadline;
pub(crate) mod poller;
