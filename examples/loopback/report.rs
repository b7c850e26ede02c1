// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the frontend's process measured, on its way to the VMM's.

use std::collections::BTreeMap;
use std::fmt;

/// Results of the measured part of the workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests that finished.
    pub requests: u64,
    /// How long it took.
    pub nanoseconds: u64,
    /// Latency in nanoseconds that 50 % of the requests did not exceed.
    pub p50: u64,
    /// The same for 99 %.
    pub p99: u64,
    /// The same for 99.9 %.
    pub p999: u64,
    /// Kicks sent by the frontend.
    pub kicks: u64,
    /// Calls received by the frontend.
    pub calls: u64,
    /// Blocks that were verified after the reconnection.
    pub verified: u64,
    /// Context switches of the VMM's threads.
    pub wakeups: BTreeMap<String, u64>,
}

const WAKEUPS: &str = "wakeups of ";

impl Report {
    fn fields(&mut self) -> [(&'static str, &mut u64); 8] {
        [
            ("requests", &mut self.requests),
            ("nanoseconds", &mut self.nanoseconds),
            ("p50", &mut self.p50),
            ("p99", &mut self.p99),
            ("p999", &mut self.p999),
            ("kicks", &mut self.kicks),
            ("calls", &mut self.calls),
            ("verified", &mut self.verified),
        ]
    }

    /// Reads what [`Display`](fmt::Display) wrote. `None` if a field is missing.
    pub fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let mut values: BTreeMap<&str, u64> = lines
            .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
            .collect();
        let mut report = Self::default();
        for (name, field) in report.fields() {
            *field = values.remove(name)?;
        }
        for (name, count) in values {
            let thread = name.strip_prefix(WAKEUPS)?;
            report.wakeups.insert(thread.to_owned(), count);
        }
        Some(report)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.clone().fields() {
            writeln!(f, "{name}={value}")?;
        }
        for (thread, count) in &self.wakeups {
            writeln!(f, "{WAKEUPS}{thread}={count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way() {
        let report = Report {
            requests: 1,
            p999: 7,
            wakeups: [("vhost-guest".to_owned(), 3)].into(),
            ..Report::default()
        };
        assert_eq!(Report::parse(&report.to_string()), Some(report));
        assert_eq!(Report::parse("requests=1\n"), None);
    }
}
