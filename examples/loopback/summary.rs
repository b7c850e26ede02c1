// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The table at the end.

use std::fmt;

use crate::vmm::Machine;
use vhost_guest_device::Statistics;

use crate::loopback::failure::Failure;
use crate::loopback::options::Options;
use crate::loopback::report::Report;

/// What a run showed.
pub struct Summary {
    report: Report,
    messages: Statistics,
    /// Kicks and device interrupts that the vCPU took from eventfds itself.
    irqfd: u64,
    /// The same, forwarded by a thread of the VMM.
    forwarded: u64,
    /// Doorbell stores that signalled without the device.
    ioeventfd: u64,
}

impl Summary {
    /// Joins the frontend's measurements and the VMM's.
    pub fn new(report: Report, machine: &Machine) -> Self {
        Self {
            report,
            messages: machine.device().statistics(),
            irqfd: machine.interrupts().delivered(),
            forwarded: machine.forwarded(),
            ioeventfd: machine.doorbells().rung(),
        }
    }
}

/// Checks the promise that the data path does not enter the VMM's threads, and
/// that it is broken where the user wants it so: else the count is no good.
pub fn check_wakeups(report: &Report, options: &Options) -> Result<(), Failure> {
    let wakeups = report.wakeups.values().sum::<u64>();
    if options.irqfd && options.ioeventfd {
        return match wakeups {
            0 => Ok(()),
            count => Err(Failure::Wakeups(format!("{count}, none expected"))),
        };
    }
    let kicked = !options.irqfd && report.kicks > 0;
    let called = !options.ioeventfd && report.calls > 0;
    if wakeups == 0 && (kicked || called) {
        return Err(Failure::Wakeups("none counted, some expected".into()));
    }
    Ok(())
}

/// Nanoseconds as microseconds.
fn micro(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            requests,
            nanoseconds,
            p50,
            p99,
            p999,
            kicks,
            calls,
            verified,
            wakeups,
        } = &self.report;
        let seconds = *nanoseconds as f64 / 1e9;
        let rate = *requests as f64 / seconds.max(1e-9);
        let (p50, p99, p999) = (micro(*p50), micro(*p99), micro(*p999));
        let messages = &self.messages;
        let doorbells = messages.userspace_doorbells;

        writeln!(f, "requests        {requests} in {seconds:.2} s")?;
        writeln!(f, "IOPS            {rate:.0}")?;
        writeln!(
            f,
            "latency         p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us"
        )?;
        writeln!(
            f,
            "verified        {verified} blocks after reconnecting, and in the image"
        )?;
        writeln!(
            f,
            "messages        {} requests to the guest, {} replies from it; {} and {} the other way",
            messages.requests,
            messages.replies,
            messages.backend_requests,
            messages.backend_replies
        )?;
        writeln!(
            f,
            "to the guest    {} interrupts by irqfd, {} by userspace",
            self.irqfd, self.forwarded
        )?;
        writeln!(
            f,
            "from the guest  {} doorbells by ioeventfd, {doorbells} by userspace",
            self.ioeventfd
        )?;
        writeln!(
            f,
            "steady state    {kicks} kicks, {calls} calls, {} wake-ups of the VMM's threads",
            wakeups.values().sum::<u64>()
        )?;
        for (thread, count) in wakeups.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "                {count} of {thread}")?;
        }
        Ok(())
    }
}
