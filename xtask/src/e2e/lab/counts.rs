// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What was counted before and after something.
//!
//! The emulated host says it, and what its machines have said:
//!
//! | counter | who counts |
//! |---|---|
//! | `thread.NAME.TID.*ctxt_switches` | the host's kernel: /proc/PID/task/TID/status |
//! | `thread.NAME.TID.system_calls` | the tracepoint raw_syscalls:sys_enter |
//! | `thread.NAME.TID.userspace_exits` | the tracepoint kvm:kvm_userspace_exit |
//! | `thread.NAME.TID.register_reads` | the tracepoint kvm:kvm_mmio, reads that nobody in the kernel answers |
//! | `host.kicks` | the tracepoint kvm:kvm_msi_set_irq, the message of the kicks |
//! | `kvm.*` | KVM's statistics of the VM, in debugfs |
//! | `frontend.kicks` | a probe in the frontend guest's kernel, at `vp_notify` |
//! | `frontend.calls` | the frontend guest's /proc/interrupts |
//! | `backend.interrupts` | the backend guest's /proc/interrupts |
//! | `backend.calls`, `backend.requests` | the backend |

use std::collections::BTreeMap;

use crate::error::Result;

/// Counters before and after.
#[derive(Default)]
pub struct Counts {
    values: BTreeMap<String, [Option<i64>; 2]>,
}

impl Counts {
    /// Takes what a machine has said, if it is a count: `count before NAME 1`.
    pub fn take(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["count", when @ ("before" | "after"), name, value] = words[..] else {
            return false;
        };
        let values = self.values.entry(name.to_owned()).or_default();
        values[usize::from(when == "after")] = value.parse().ok();
        true
    }

    /// How much a counter has grown.
    pub fn growth(&self, name: &str) -> Result<i64> {
        match self.values.get(name) {
            Some([Some(before), Some(after)]) => Ok(after - before),
            _ => Err(format!("{name} was not counted twice").into()),
        }
    }

    /// The growth of all counters with this suffix, of threads whose name is
    /// such. What a thread has counted that has come meanwhile, it has counted
    /// meanwhile.
    pub fn threads(&self, which: impl Fn(&str) -> bool, suffix: &str) -> Result<i64> {
        let mut sum = 0;
        for name in self.values.keys() {
            let thread = name.strip_prefix("thread.");
            if thread.is_some_and(&which) && name.ends_with(suffix) {
                sum += match self.values.get(name) {
                    Some([None, Some(after)]) => *after,
                    _ => self.growth(name)?,
                };
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_counts_only() {
        let mut counts = Counts::default();
        assert!(!counts.take("count before x"));
        assert!(!counts.take("verified"));
        assert!(counts.take("count before x nothing"));
        assert!(counts.growth("x").is_err());
    }

    #[test]
    fn sums_threads_by_name() {
        let mut counts = Counts::default();
        for (when, one, other) in [("before", 1, 10), ("after", 4, 30)] {
            assert!(counts.take(&format!("count {when} thread.a.1.calls {one}")));
            assert!(counts.take(&format!("count {when} thread.b.2.calls {other}")));
            assert!(counts.take(&format!("count {when} thread.b.2.exits 7")));
        }
        let sum = |counts: &Counts, prefix: &str| {
            counts.threads(|name| name.starts_with(prefix), ".calls")
        };
        assert_eq!(sum(&counts, "a").unwrap(), 3);
        assert_eq!(sum(&counts, "b").unwrap(), 20);
        assert_eq!(sum(&counts, "").unwrap(), 23);
        // All of a thread that has come is new.
        assert!(counts.take("count after thread.a.3.calls 1"));
        assert_eq!(sum(&counts, "a").unwrap(), 4);
        // Of one that has gone, nobody knows.
        assert!(counts.take("count before thread.a.4.calls 1"));
        assert!(sum(&counts, "a").is_err());
    }
}
