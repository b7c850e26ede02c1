// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Two ways to do the same, measured in turns.

use std::time::{Duration, Instant};

const ROUNDS: usize = 41;
const ROUND: Duration = Duration::from_millis(5);

/// How much time `ours` takes as a multiple of what `theirs` takes: the median
/// of rounds in which both run.
pub fn ratio(mut ours: impl FnMut(), mut theirs: impl FnMut()) -> f64 {
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| time(&mut ours) / time(&mut theirs))
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ROUNDS / 2]
}

/// Nanoseconds for one call.
fn time(call: &mut impl FnMut()) -> f64 {
    let started = Instant::now();
    let mut calls = 0;
    while started.elapsed() < ROUND {
        for _ in 0..64 {
            call();
        }
        calls += 64;
    }
    started.elapsed().as_nanos() as f64 / f64::from(calls)
}
