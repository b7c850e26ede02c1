// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the counters have to show around the measured requests.

use std::ops::RangeInclusive;

use super::super::lab::counts::Counts;
use crate::error::Result;

/// The only thread of the VMM that may do something.
fn is_vcpu(thread: &str) -> bool {
    thread.starts_with("vcpu")
}

/// The thread that raises interrupts where there are no irqfds.
fn is_forwarder(thread: &str) -> bool {
    thread.starts_with("irq-forwarder")
}

/// The threads of the device, which signal where there are no ioeventfds.
fn is_device(thread: &str) -> bool {
    thread.starts_with("vhost-guest")
}

/// A counter: what it counts, how much it has grown, and how much it had to.
type Fact = (&'static str, i64, RangeInclusive<i64>);

fn judge(facts: &[Fact], remarks: &[(&str, i64)]) -> Result<Vec<String>> {
    let facts_and_remarks = facts.iter().map(|(what, found, _)| (what, found));
    let remarks = remarks.iter().map(|(what, found)| (what, found));
    let lines: Vec<_> = facts_and_remarks
        .chain(remarks)
        .map(|(what, found)| format!("{found:8} {what}"))
        .collect();
    let wrong: Vec<_> = facts
        .iter()
        .filter(|(_, found, expected)| !expected.contains(found))
        .map(|(what, found, expected)| {
            let (least, most) = expected.clone().into_inner();
            match most {
                i64::MAX => format!("{found} {what}, not {least} or more"),
                _ => format!("{found} {what}, not {least} to {most}"),
            }
        })
        .collect();
    match wrong.is_empty() {
        true => Ok(lines),
        false => Err(format!("{}\n{}", lines.join("\n"), wrong.join("; ")).into()),
    }
}

/// That `requests` requests took place without a thread of the VMM.
pub fn check(counts: &Counts, requests: i64) -> Result<Vec<String>> {
    let others = |thread: &str| !is_vcpu(thread);
    let exits = counts.threads(is_vcpu, ".userspace_exits")?;
    let reads = counts.threads(is_vcpu, ".register_reads")?;
    let kicks = counts.growth("frontend.kicks")?;
    // Reads are counted for a little longer than exits, while the driver polls.
    let other_exits = -requests / 10..=requests / 100;
    // A driver that polls may find a request before it has asked for the kick;
    // and an interrupt merges with one that is still pending.
    let most = requests - requests / 10..=requests;
    let facts = [
        (
            "context switches of other threads than the vCPU",
            counts.threads(others, "ctxt_switches")?,
            0..=0,
        ),
        (
            "system calls of other threads than the vCPU",
            counts.threads(others, ".system_calls")?,
            0..=0,
        ),
        (
            "exits to userspace besides register reads",
            exits - reads,
            other_exits,
        ),
        (
            "exits to userspace by signals",
            counts.growth("kvm.signal_exits")?,
            0..=0,
        ),
        (
            "requests that the backend served",
            counts.growth("backend.requests")?,
            requests..=requests,
        ),
        ("kicks by the frontend's guest", kicks, most.clone()),
        (
            "kicks that KVM made interrupts",
            counts.growth("host.kicks")?,
            kicks..=kicks,
        ),
        (
            "interrupts in the backend's guest",
            counts.growth("backend.interrupts")?,
            most.clone(),
        ),
        (
            "calls by the backend's guest",
            counts.growth("backend.calls")?,
            requests..=requests,
        ),
        (
            "interrupts in the frontend's guest",
            counts.growth("frontend.calls")?,
            most,
        ),
    ];
    let remarks = [
        ("register reads (the driver polls the status)", reads),
        (
            "system calls of the vCPU's thread",
            counts.threads(is_vcpu, ".system_calls")?,
        ),
        (
            "exits that KVM handled itself",
            counts.growth("kvm.exits")? - exits,
        ),
    ];
    judge(&facts, &remarks)
}

/// That the same counters see a VMM that takes part in each of `requests`
/// requests: a thread raises its interrupts, and its doorbells exit to
/// userspace, where another thread signals.
pub fn check_control(counts: &Counts, requests: i64) -> Result<Vec<String>> {
    let exits = counts.threads(is_vcpu, ".userspace_exits")?;
    let reads = counts.threads(is_vcpu, ".register_reads")?;
    // Threads that find work when they have just finished need no switch.
    let many = requests / 2..=i64::MAX;
    let facts = [
        (
            "context switches of the thread that forwards kicks",
            counts.threads(is_forwarder, "ctxt_switches")?,
        ),
        (
            "system calls of the thread that forwards kicks",
            counts.threads(is_forwarder, ".system_calls")?,
        ),
        (
            "context switches of the device's threads",
            counts.threads(is_device, "ctxt_switches")?,
        ),
        (
            "system calls of the device's threads",
            counts.threads(is_device, ".system_calls")?,
        ),
        ("exits to userspace besides register reads", exits - reads),
    ];
    judge(&facts.map(|(what, found)| (what, found, many.clone())), &[])
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
            ("thread.irq-forwarder.3.voluntary_ctxt_switches", 0),
            ("thread.irq-forwarder.3.system_calls", 0),
            ("thread.vhost-guest-sig.4.voluntary_ctxt_switches", 0),
            ("thread.vhost-guest-sig.4.system_calls", 0),
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
        check(&counts(&[]), 10).unwrap();
    }

    #[test]
    fn rejects_every_trace_of_the_vmm() {
        for change in [
            ("thread.kvm.1.voluntary_ctxt_switches", 1),
            ("thread.kvm.1.system_calls", 1),
            ("thread.irq-forwarder.3.voluntary_ctxt_switches", 1),
            ("thread.vhost-guest-sig.4.system_calls", 1),
            ("thread.vcpu0.2.userspace_exits", 17),
            ("kvm.signal_exits", 1),
            ("backend.interrupts", 8),
            ("backend.requests", 9),
            ("backend.calls", 9),
            ("host.kicks", 9),
            ("frontend.kicks", 8),
            ("frontend.calls", 0),
        ] {
            assert!(check(&counts(&[change]), 10).is_err(), "{change:?}");
        }
        assert!(check(&Counts::default(), 10).is_err());
    }

    #[test]
    fn rejects_a_control_that_shows_nothing() {
        let seen = [
            ("thread.irq-forwarder.3.voluntary_ctxt_switches", 10),
            ("thread.irq-forwarder.3.system_calls", 20),
            ("thread.vhost-guest-sig.4.voluntary_ctxt_switches", 10),
            ("thread.vhost-guest-sig.4.system_calls", 20),
            ("thread.vcpu0.2.userspace_exits", 17),
        ];
        check_control(&counts(&seen), 10).unwrap();
        for unseen in 0..seen.len() {
            let mut change = seen;
            change[unseen].1 = 0;
            assert!(check_control(&counts(&change), 10).is_err(), "{unseen}");
        }
    }
}
