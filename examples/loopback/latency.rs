// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Latency percentiles in constant space.

use std::time::Duration;

/// Each power of two is divided into this many buckets: an error of 3 %.
const STEPS: usize = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts durations in buckets of nearly constant relative width.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self {
            counts: vec![0; STEPS * 64],
            total: 0,
        }
    }

    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanoseconds)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// Takes the counts of another histogram in.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The number of durations.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The duration in nanoseconds that `per_mille` of all do not exceed.
    pub fn percentile(&self, per_mille: u64) -> u64 {
        let rank = (self.total * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return upper_bound(bucket);
            }
        }
        0
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let shift = value.ilog2() - STEP_BITS;
    STEPS * shift as usize + (value >> shift) as usize
}

fn upper_bound(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    let step = (bucket % STEPS + STEPS) as u64;
    (step << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_values_within_a_thirtieth() {
        let values = (0..60).map(|shift| 1_u64 << shift);
        for value in values.flat_map(|v| [v, v + v / 3, v + v / 2]) {
            let bound = upper_bound(bucket(value));
            assert!((value..=value + value / 30).contains(&bound), "{value}");
        }
        assert!(bucket(u64::MAX) < STEPS * 64);
    }

    #[test]
    fn finds_percentiles() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(500), 0);
        for i in 1..=1000 {
            histogram.record(Duration::from_nanos(i));
        }
        assert!((500..=516).contains(&histogram.percentile(500)));
        assert!((999..=1031).contains(&histogram.percentile(999)));
    }
}
