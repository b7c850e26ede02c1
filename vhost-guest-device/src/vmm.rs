// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VMM: what it lends, and what it is told.

pub(crate) mod journal;
pub(crate) mod services;
pub(crate) mod statistics;
pub mod threads;
