// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vhost-guest device.

#![deny(missing_docs)]
#![forbid(unsafe_code)]
#![allow(dead_code)]

mod error;
mod fd;
mod journal;
mod listener;
mod poller;
mod queue;
mod statistics;

pub use error::BuildError;
pub use statistics::Statistics;
