// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo bench`: what a message costs.
//!
//! After criterion's figures come ratios, measured in turns so that both sides
//! see the same machine.

#![forbid(unsafe_code)]

mod codec;
mod ratio;
mod round_trip;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codec::bench(&mut criterion);
    round_trip::bench(&mut criterion);
    criterion.final_summary();
    // As a test each benchmark runs once; there is nothing to compare then.
    if std::env::args().any(|argument| argument == "--bench") {
        println!("\nTime of vhost-guest-msg / time of vhost, for the same bytes:");
        codec::compare();
        println!("\nTime through the device / time over plain sockets, as many thread hops:");
        round_trip::compare();
    }
}
