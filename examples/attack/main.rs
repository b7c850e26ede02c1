// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The example `attack`; its code is in the library.

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    vhost_guest_examples::attack::main()
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("attack: this example is for x86-64");
    std::process::exit(1);
}
