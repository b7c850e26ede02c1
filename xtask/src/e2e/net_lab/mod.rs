// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e net`: network cards that DPDK serves, on an emulated KVM host.

use std::fmt::Display;

use super::lab::counts::Counts;
use super::lab::root::{self, Root};
use super::lab::Lab;
use super::module_lab::build;
use super::steps::{self, Steps, Way};
use super::testpmd::Testpmd;
use crate::arguments::Arguments;
use crate::documented::{Documented, BACKENDS};
use crate::error::Result;

pub const HELP: &str = "\
Boots an emulated host with KVM. On it, two stock QEMUs have network cards
(-netdev vhost-user, two pairs of queues, offloads) that a stock dpdk-testpmd
connects: first on the host itself, as a control, and then in a guest of the
example `kvm`, behind the relay and the Linux driver. Both times, the VMs answer each
other, send 16 MiB by TCP either way, change the link, are killed, and testpmd is
killed and started again; in the guest, it is counted each time that the relay and the
device sleep while frames pass.

Usage: cargo xtask e2e net [OPTIONS]

Options:
  --only WAY       control or guest (default: both)

Logs and consoles are kept in target/e2e/.
";

/// What a guest loads for a network card, besides the modules of a disk.
pub const NET_MODULES: [&str; 3] = ["failover", "net_failover", "virtio_net"];

/// Larger than the frames of a network in which nobody has said anything, and than
/// what testpmd has in one buffer.
const MTU: u32 = 4000;

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let ways = steps::ways(arguments, ["control", "guest"])?;
    arguments.finish()?;
    let lab = Lab::new("net")?;
    let root = make_root(&lab, &ways)?;
    let (mut counts, mut steps) = (Counts::default(), Steps::new(&ways));
    lab.run(root, |line| {
        if counts.take(line) {
            return Ok(());
        }
        lab.say(line);
        let fact = match line {
            "queues" => check_queues(&counts)?,
            "slept" => check_sleep(&std::mem::take(&mut counts))?,
            _ => {
                steps.take(line);
                return Ok(());
            }
        };
        println!("          {fact}");
        Ok(())
    })?;
    print!("{}", steps.table()?);
    Ok(())
}

fn make_root(lab: &Lab, ways: &[Way]) -> Result<Root> {
    let testpmd = Testpmd::find()?;
    let built = build::build(&lab.host, &lab.directory("linux"))?;
    let relay = lab.build_relay()?;
    lab.say("the driver and the relay are built");
    let [kvm] = lab.build_examples(["kvm"])?;
    let ways = format!("'{}'", ways.join(" "));
    let settings: [(_, &dyn Display); 2] = [("WAYS", &ways), ("MTU", &MTU)];
    let start = include_str!("guest/testpmd.sh");
    let script = [&documented_card()?, start, include_str!("guest/host.sh")].concat();
    let root = lab.root(&script, &settings)?;
    root.add_program("kvm", &kvm)?;
    let mut programs = testpmd.programs();
    for (name, path) in &programs {
        root.add_program(name, path)?;
    }
    programs.push(("vhost-guest-relay", &relay));
    let modules = [("vhost_guest", built.module)];
    let role = [start, include_str!("guest/backend.sh")].concat();
    let initramfs = root::initramfs(&lab.host, &modules, &role, &programs)?;
    root.write("lab/backend.initramfs", &initramfs)?;
    // In place of the one that knows disks only.
    let mut modules = lab.host.modules.clone();
    modules.extend(lab.host.find_modules(&NET_MODULES)?);
    let role = include_str!("guest/peer.sh");
    let initramfs = root::initramfs(&lab.host, &modules, role, &[])?;
    root.write("lab/frontend.initramfs", &initramfs)?;
    Ok(root)
}

/// A guest got frames through both pairs of queues.
fn check_queues(counts: &Counts) -> Result<String> {
    let first = counts.growth("card.input.0")?;
    let second = counts.growth("card.input.1")?;
    if first == 0 || second == 0 {
        return Err(format!("{first} and {second} interrupts of the pairs of queues").into());
    }
    Ok(format!(
        "{first} and {second} interrupts of the first and the second pair's queue"
    ))
}

/// Frames passed while the relay and the device slept; testpmd, which cannot have
/// slept, shows that the counters count.
fn check_sleep(counts: &Counts) -> Result<String> {
    let relay = counts.growth("relay.switches")?;
    let device = counts.threads(|_| true, ".switches")?;
    let testpmd = counts.growth("testpmd.switches")?;
    if relay != 0 || device != 0 {
        return Err(format!("the relay ran {relay} times, and the device {device} times").into());
    }
    if testpmd == 0 {
        return Err("no context switches of testpmd".into());
    }
    Ok(format!(
        "context switches: {relay} of the relay, {device} of the device, {testpmd} of testpmd"
    ))
}

/// A function for the emulated host that becomes the guide's QEMU with a network
/// card, at `$socket` and with `$address`; arguments go behind everything.
fn documented_card() -> Result<String> {
    let card = ",rx_queue_size=1024,tx_queue_size=1024,mac=52:54:00:00:00:0$address,romfile=";
    Documented::find(BACKENDS, "qemu-system-x86_64", "-user,id=net")?
        .replace("256M", "128M")?
        .replace("share=on", "share=on,hugetlb=on,hugetlbsize=2M")?
        .replace("/run/card0.sock", "$socket")?
        .replace("host_mtu=1500", "host_mtu=$MTU")?
        .replace("guest_announce=off", &format!("guest_announce=off{card}"))?
        .replace("target/frontend/vmlinuz", "/lab/vmlinuz")?
        .replace("target/frontend/initramfs", "/lab/frontend.initramfs")
        .map(|qemu| qemu.to_function("documented_card"))
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
    fn finds_a_relay_or_a_device_that_takes_part() {
        let sleep = |relay, device, testpmd| {
            check_sleep(&counts(&[
                ("relay.switches", relay),
                ("thread.vhost-guest.7.switches", 0),
                ("thread.vhost-guest.8.switches", device),
                ("testpmd.switches", testpmd),
            ]))
        };
        assert!(sleep(0, 0, 9).is_ok());
        assert!(sleep(1, 0, 9).is_err());
        assert!(sleep(0, 1, 9).is_err());
        assert!(sleep(0, 0, 0).is_err(), "the counters do not count");
    }

    #[test]
    fn finds_a_pair_of_queues_that_is_not_used() {
        let queues = |first, second| {
            check_queues(&counts(&[
                ("card.input.0", first),
                ("card.input.1", second),
            ]))
        };
        assert!(queues(3, 4).is_ok());
        assert!(queues(0, 4).is_err());
        assert!(queues(3, 0).is_err());
        assert!(check_queues(&Counts::default()).is_err());
    }
}
