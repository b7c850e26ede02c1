// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The PCI function: what it looks like in configuration space.
//!
//! Nothing here touches the VMM or a queue: these are registers and their
//! rules, as PCI Local Bus 3.0 and the virtio PCI transport have them.
//! [`crate::guest::registers`] joins them with what they control.

pub(crate) mod bars;
pub(crate) mod capabilities;
pub(crate) mod config_space;
pub(crate) mod msix;

pub use bars::{BarKind, BarMove, BarSpec};
