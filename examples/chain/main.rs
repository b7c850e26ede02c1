// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The example `chain`; its code is in the library, where its tests are.

use std::process::ExitCode;

fn main() -> ExitCode {
    vhost_guest_examples::chain::main()
}
