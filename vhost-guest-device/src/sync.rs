// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What threads agree by.

pub(crate) mod epoch;
pub(crate) mod ordered;

pub(crate) use self::epoch::{Epoch, Epochs};
pub(crate) use self::ordered::{Ordered, OrderedGuard};
