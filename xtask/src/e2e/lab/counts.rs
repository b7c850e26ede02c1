// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What was counted around the measured requests, and what it has to be.
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

/// The only thread of the VMM that may do something.
const VCPU: &str = "thread.vcpu";

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

    fn growth(&self, name: &str) -> Result<i64> {
        match self.values.get(name) {
            Some([Some(before), Some(after)]) => Ok(after - before),
            _ => Err(format!("{name} was not counted twice").into()),
        }
    }

    /// The growth of all counters of threads of the VMM whose name ends so: of
    /// its vCPU, and of all others.
    fn threads(&self, suffix: &str) -> Result<[i64; 2]> {
        let mut sums = [0; 2];
        for name in self.values.keys() {
            if name.starts_with("thread.") && name.ends_with(suffix) {
                sums[usize::from(!name.starts_with(VCPU))] += self.growth(name)?;
            }
        }
        Ok(sums)
    }

    /// That the same counters see a VMM that takes part in each of `requests`
    /// requests: its doorbells exit to userspace.
    pub fn check_control(&self, requests: i64) -> Result<Vec<String>> {
        let [_, switches] = self.threads("ctxt_switches")?;
        let [_, calls] = self.threads(".system_calls")?;
        let [exits, _] = self.threads(".userspace_exits")?;
        let [reads, _] = self.threads(".register_reads")?;
        let facts = [
            ("context switches of other threads than the vCPU", switches),
            ("system calls of other threads than the vCPU", calls),
            ("exits to userspace besides register reads", exits - reads),
        ];
        let lines = facts
            .map(|(what, found)| format!("{found:8} {what}"))
            .to_vec();
        // Threads that find work when they have just finished need no switch.
        match facts.iter().all(|(_, found)| *found >= requests / 2) {
            true => Ok(lines),
            false => Err(format!("too little was counted:\n{}", lines.join("\n")).into()),
        }
    }

    /// That `requests` requests took place without a thread of the VMM.
    pub fn check(&self, requests: i64) -> Result<Vec<String>> {
        let [_, switches] = self.threads("ctxt_switches")?;
        let [vcpu_calls, calls] = self.threads(".system_calls")?;
        let [exits, _] = self.threads(".userspace_exits")?;
        let [reads, _] = self.threads(".register_reads")?;
        let kicks = self.growth("frontend.kicks")?;
        // Counters are read one after the other, while the driver polls.
        let skew = requests / 100;
        // A driver that polls may find a request before it has asked for the
        // kick; and an interrupt merges with one that is still pending.
        let most = requests - requests / 10..=requests;
        let facts = [
            (
                "context switches of other threads than the vCPU",
                switches,
                0..=0,
            ),
            ("system calls of other threads than the vCPU", calls, 0..=0),
            (
                "exits to userspace besides register reads",
                exits - reads,
                -skew..=skew,
            ),
            (
                "exits to userspace by signals",
                self.growth("kvm.signal_exits")?,
                0..=0,
            ),
            (
                "requests that the backend served",
                self.growth("backend.requests")?,
                requests..=requests,
            ),
            ("kicks by the frontend's guest", kicks, most.clone()),
            (
                "kicks that KVM made interrupts",
                self.growth("host.kicks")?,
                kicks..=kicks,
            ),
            (
                "interrupts in the backend's guest",
                self.growth("backend.interrupts")?,
                most.clone(),
            ),
            (
                "calls by the backend's guest",
                self.growth("backend.calls")?,
                requests..=requests,
            ),
            (
                "interrupts in the frontend's guest",
                self.growth("frontend.calls")?,
                most,
            ),
        ];
        let mut lines = Vec::new();
        let mut wrong = Vec::new();
        for (what, found, expected) in facts {
            lines.push(format!("{found:8} {what}"));
            if !expected.contains(&found) {
                let (least, most) = expected.into_inner();
                wrong.push(format!("{found} {what}, not {least} to {most}"));
            }
        }
        lines.push(format!(
            "{reads:8} register reads (the driver polls the status)"
        ));
        lines.push(format!("{vcpu_calls:8} system calls of the vCPU's thread"));
        lines.push(format!(
            "{:8} exits that KVM handled itself",
            self.growth("kvm.exits")? - exits
        ));
        match wrong.is_empty() {
            true => Ok(lines),
            false => Err(format!("{}\n{}", lines.join("\n"), wrong.join("; ")).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(change: &[(&str, i64)]) -> Counts {
        let mut counts = Counts::default();
        let all = [
            ("thread.kvm.1.voluntary_ctxt_switches", 0),
            ("thread.kvm.1.system_calls", 0),
            ("thread.vcpu0.2.voluntary_ctxt_switches", 40),
            ("thread.vcpu0.2.system_calls", 7),
            ("thread.vcpu0.2.userspace_exits", 7),
            ("thread.vcpu0.2.register_reads", 7),
            ("kvm.signal_exits", 0),
            ("kvm.exits", 100),
            ("backend.requests", 10),
            ("backend.calls", 10),
            ("backend.interrupts", 10),
            ("frontend.kicks", 10),
            ("host.kicks", 10),
            ("frontend.calls", 10),
        ];
        for (name, grown) in all {
            let changed = change.iter().find(|(changed, _)| *changed == name);
            let grown = changed.map_or(grown, |(_, grown)| *grown);
            assert!(counts.take(&format!("count before {name} 5")));
            assert!(counts.take(&format!("count after {name} {}", 5 + grown)));
        }
        counts
    }

    #[test]
    fn accepts_a_data_path_without_threads() {
        counts(&[]).check(10).unwrap();
    }

    #[test]
    fn rejects_every_trace_of_the_vmm() {
        for change in [
            ("thread.kvm.1.voluntary_ctxt_switches", 1),
            ("thread.kvm.1.system_calls", 1),
            ("thread.vcpu0.2.userspace_exits", 17),
            ("kvm.signal_exits", 1),
            ("backend.interrupts", 8),
            ("host.kicks", 9),
            ("frontend.calls", 0),
        ] {
            assert!(counts(&[change]).check(10).is_err(), "{change:?}");
        }
        assert!(Counts::default().check(10).is_err());
    }

    #[test]
    fn rejects_a_control_that_shows_nothing() {
        assert!(counts(&[]).check_control(10).is_err());
        let change = [
            ("thread.kvm.1.voluntary_ctxt_switches", 10),
            ("thread.kvm.1.system_calls", 20),
            ("thread.vcpu0.2.userspace_exits", 17),
        ];
        counts(&change).check_control(10).unwrap();
    }

    #[test]
    fn takes_counts_only() {
        let mut counts = Counts::default();
        assert!(!counts.take("count before x"));
        assert!(!counts.take("verified"));
        assert!(counts.take("count before x nothing"));
        assert!(counts.growth("x").is_err());
    }
}
