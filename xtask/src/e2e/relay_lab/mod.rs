// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e relay`: stock backends in a guest, on an emulated KVM host.

mod vsock;

use std::fmt::Display;

use super::lab::counts::Counts;
use super::lab::root::{self, Root};
use super::lab::Lab;
use super::module_lab::build;
use crate::arguments::Arguments;
use crate::error::Result;

pub const HELP: &str = "\
Builds the Linux driver and the relay, and boots an emulated host with KVM. On it
the example `kvm` runs a Linux guest with two stock backends behind one relay,
qemu-storage-daemon and vhost-device-vsock, which stock QEMUs use. It is counted
that the relay sleeps while requests are served, and everything while there are
none. The frontend is killed, and each backend; what was written is there all the
time, and what is sent comes back. The guest of the backends is started again, and
the frontend goes on. A backend that opens its disk with O_DIRECT is refused.

vhost-device-vsock is built from crates.io when it is first needed.

Usage: cargo xtask e2e relay [OPTIONS]

Options:
  --count N        Requests of the measured run (default: 1000)

Logs and consoles are kept in target/e2e/.
";

/// A disk for the guest of the backend that can be opened with O_DIRECT.
const RAM_DISK_MODULE: &str = "brd";

/// What the frontend's guest loads besides the modules of a disk.
const VSOCK_MODULES: [&str; 3] = [
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
];

const IDLE_SECONDS: u32 = 5;
/// Ticks of the clock that CPU time is told in, in a second.
const TICKS: i64 = 100;

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let count: u32 = arguments.option("--count")?.unwrap_or(1000);
    arguments.finish()?;
    if !(100..=8000).contains(&count) {
        return Err("--count: 100 to 8000".into());
    }
    let lab = Lab::new("relay")?;
    let root = make_root(&lab, count)?;
    let mut counts = Counts::default();
    lab.run(root, |line| {
        if counts.take(line) {
            return Ok(());
        }
        lab.say(line);
        let facts = match line {
            "measured" => check_steady(&std::mem::take(&mut counts), count.into())?,
            "rested" => check_rest(&std::mem::take(&mut counts))?,
            _ => Vec::new(),
        };
        for fact in facts {
            println!("          {fact}");
        }
        Ok(())
    })
}

fn make_root(lab: &Lab, count: u32) -> Result<Root> {
    let built = build::build(&lab.host, &lab.directory("linux"))?;
    let relay = lab.build_relay()?;
    let vsock = vsock::install()?;
    let echo = lab.directory("echo_bytes");
    vsock::build_echo(&echo)?;
    lab.say("the driver, the relay and the backend are built");
    let [kvm] = lab.build_examples(["kvm"])?;
    let settings: [(_, &dyn Display); 2] = [("COUNT", &count), ("IDLE_SECONDS", &IDLE_SECONDS)];
    let root = lab.root(include_str!("guest/host.sh"), &settings)?;
    root.add_program("kvm", &kvm)?;
    let echo = ("echo_bytes", &*echo);
    let programs = [
        ("vhost-guest-relay", &*relay),
        ("qemu-storage-daemon", lab.storage_daemon()),
        ("vhost-device-vsock", &*vsock),
        echo,
    ];
    let mut modules = lab.host.find_modules(&[RAM_DISK_MODULE])?;
    modules.push(("vhost_guest", built.module));
    let role = include_str!("guest/backend.sh");
    let initramfs = root::initramfs(&lab.host, &modules, role, &programs)?;
    root.write("lab/backend.initramfs", &initramfs)?;
    // In place of the one that knows disks only.
    let mut modules = lab.host.modules.clone();
    modules.extend(lab.host.find_modules(&VSOCK_MODULES)?);
    let initramfs = lab.frontend(&modules, &[echo])?;
    root.write("lab/frontend.initramfs", &initramfs)?;
    Ok(root)
}

/// Requests were served while the relay slept; the backends, which cannot have,
/// show that the counters count.
fn check_steady(counts: &Counts, requests: i64) -> Result<Vec<String>> {
    let relay = counts.growth("relay.switches")?;
    let disk = counts.growth("disk.switches")?;
    let vsock = counts.growth("vsock.switches")?;
    let messages = requests / 4;
    if relay != 0 {
        return Err(format!("the relay ran {relay} times during {requests} requests").into());
    }
    if disk < requests / 2 || vsock < messages {
        return Err(format!("only {disk} and {vsock} context switches of the backends").into());
    }
    Ok(vec![
        format!("{relay:8} context switches of the relay"),
        format!("{disk:8} context switches of the disk's backend, in {requests} requests"),
        format!(
            "{vsock:8} context switches of the vsock's, in {messages} messages, and as many back"
        ),
    ])
}

/// Nothing happens while there are no requests, though a frontend is there.
fn check_rest(counts: &Counts) -> Result<Vec<String>> {
    let relay = counts.growth("relay.switches")?;
    let relay_ticks = counts.growth("relay.ticks")?;
    let guest = counts.growth("guest.ticks")?;
    // The clock of the guest, and the two questions.
    let most = i64::from(IDLE_SECONDS) * TICKS / 5;
    if relay != 0 || relay_ticks != 0 {
        return Err(format!("the relay ran {relay} times, for {relay_ticks} ticks").into());
    }
    if guest > most {
        return Err(format!("the guest ran for {guest} ticks, more than {most}").into());
    }
    Ok(vec![
        format!("{relay:8} context switches of the relay in {IDLE_SECONDS} s of rest"),
        format!("{guest:8} ticks ({TICKS} in a second) of CPU time of the VM"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(values: &[(&str, i64)]) -> Counts {
        let mut counts = Counts::default();
        for (name, value) in values {
            assert!(counts.take(&format!("count before {name} 5")));
            assert!(counts.take(&format!("count after {name} {}", 5 + value)));
        }
        counts
    }

    #[test]
    fn finds_a_relay_that_takes_part() {
        let steady = |relay, disk, vsock| {
            check_steady(
                &counts(&[
                    ("relay.switches", relay),
                    ("disk.switches", disk),
                    ("vsock.switches", vsock),
                ]),
                1000,
            )
        };
        assert!(steady(0, 900, 500).is_ok());
        assert!(steady(1, 900, 500).is_err());
        assert!(steady(0, 10, 500).is_err(), "the counters do not count");
        assert!(steady(0, 900, 10).is_err(), "nor do these");
    }

    #[test]
    fn finds_a_guest_that_does_not_rest() {
        let rest = |switches, ticks, guest| {
            check_rest(&counts(&[
                ("relay.switches", switches),
                ("relay.ticks", ticks),
                ("guest.ticks", guest),
            ]))
        };
        assert!(rest(0, 0, 20).is_ok());
        assert!(rest(1, 0, 20).is_err());
        assert!(rest(0, 1, 20).is_err());
        assert!(rest(0, 0, 500).is_err());
        assert!(check_rest(&Counts::default()).is_err());
    }
}
