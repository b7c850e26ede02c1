// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The example `truncate`; its code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vhost_guest_examples::truncate::main()
}
