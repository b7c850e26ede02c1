// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frontends that others wrote, on a device with the driver and a backend
//! behind it: libraries as they are (`blkio`, `vhost`), and what programs say,
//! as scripts that are written from their public sources or from what they
//! said.

mod blkio;
mod lab;
mod library;
mod memory;
mod player;
mod script;
mod scripts;
mod still;
