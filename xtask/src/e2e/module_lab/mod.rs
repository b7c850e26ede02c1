// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e module`: the Linux driver, on an emulated KVM host.

pub mod build;

use std::fmt::Display;

use super::lab::counts::Counts;
use super::lab::root::{self, Root};
use super::lab::Lab;
use crate::arguments::Arguments;
use crate::error::Result;

pub const HELP: &str = "\
Builds the Linux driver (linux/) and its test program, and boots an emulated
host with KVM. On it the example `kvm` runs a Linux guest that tests the driver,
also with device state that a frontend saves and loads, and then one that serves a
disk with it, from a process that is not root, to stock QEMUs. In between it is
counted that nothing runs while nothing happens. In the end, the process is killed
with a request under way, and another one goes on.

Usage: cargo xtask e2e module [OPTIONS]

Options:
  --seconds N      How long random calls are made (default: 5)

Logs and consoles are kept in target/e2e/.
";

/// What may happen in the guest while it is watched for this long: it is asked
/// before and after, and the asking wakes it.
const IDLE_SECONDS: u32 = 5;
const WAITS_OF_ASKING: i64 = 1;
/// What the disk is on: it has to be a file system that can be frozen.
const RAM_DISK_MODULE: &str = "brd";

struct Options {
    seconds: u32,
}

impl Options {
    fn parse(arguments: &mut Arguments) -> Result<Self> {
        let options = Self {
            seconds: arguments.option("--seconds")?.unwrap_or(5),
        };
        arguments.finish()?;
        if !(1..=300).contains(&options.seconds) {
            return Err("--seconds: 1 to 300".into());
        }
        Ok(options)
    }
}

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let options = Options::parse(arguments)?;
    let lab = Lab::new("module")?;
    let root = make_root(&lab, &options)?;
    let mut counts = Counts::default();
    lab.run(root, |line| {
        if counts.take(line) {
            return Ok(());
        }
        lab.say(line);
        if line == "idle" {
            let fact = check_idle(&std::mem::take(&mut counts))?;
            println!("          {fact}");
        }
        Ok(())
    })
}

fn make_root(lab: &Lab, options: &Options) -> Result<Root> {
    let built = build::build(&lab.host, &lab.directory("linux"))?;
    lab.say("the driver is built");
    let [kvm, backend] = lab.build_examples(["kvm", "backend"])?;
    let settings: [(_, &dyn Display); 3] = [
        ("SECONDS_OF_RANDOM", &options.seconds),
        ("IDLE_SECONDS", &IDLE_SECONDS),
        ("COUNT", &0),
    ];
    let root = lab.root(include_str!("guest/host.sh"), &settings)?;
    root.add_program("kvm", &kvm)?;
    root.add_program("vhost_guest_peer", &built.peer)?;
    let mut modules = lab.host.find_modules(&[RAM_DISK_MODULE])?;
    modules.push(("vhost_guest", built.module));
    let role = include_str!("guest/backend.sh");
    let programs = [
        ("backend", &*backend),
        ("vhost_guest_test", &*built.test),
        ("vhost_guest_peer", &*built.peer),
    ];
    let initramfs = root::initramfs(&lab.host, &modules, role, &programs)?;
    root.write("lab/backend.initramfs", &initramfs)?;
    Ok(root)
}

/// The process that serves may not be woken but to be asked, and the device may
/// not interrupt.
fn check_idle(counts: &Counts) -> Result<String> {
    let interrupts = counts.growth("backend.interrupts")?;
    let waits = counts.growth("backend.waits")?;
    if interrupts != 0 {
        return Err(format!("{interrupts} interrupts while nothing happened").into());
    }
    if waits > WAITS_OF_ASKING {
        return Err(format!("it was woken {waits} times while nothing happened").into());
    }
    Ok(format!(
        "in {IDLE_SECONDS} s without requests: no interrupt, woken only to be asked"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&mut Arguments::new(words.iter().copied()))
    }

    #[test]
    fn rejects_what_would_take_for_ever() {
        assert!(parse(&["--seconds", "0"]).is_err());
        assert!(parse(&["--seconds", "301"]).is_err());
        assert_eq!(parse(&[]).unwrap().seconds, 5);
    }

    fn counts(interrupts: u32, waits: u32) -> Counts {
        let mut counts = Counts::default();
        for (when, name, value) in [
            ("before", "interrupts", 7),
            ("before", "waits", 20),
            ("after", "interrupts", 7 + interrupts),
            ("after", "waits", 20 + waits),
        ] {
            assert!(counts.take(&format!("count {when} backend.{name} {value}")));
        }
        counts
    }

    #[test]
    fn finds_a_backend_that_does_not_sleep() {
        assert!(check_idle(&counts(0, 1)).is_ok());
        assert!(check_idle(&counts(1, 1)).is_err());
        assert!(check_idle(&counts(0, 2)).is_err());
        assert!(check_idle(&Counts::default()).is_err());
    }
}
