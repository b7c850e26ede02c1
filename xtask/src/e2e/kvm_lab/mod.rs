// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e kvm-lab`: a guest serves a disk to a stock VM, on an
//! emulated KVM host.

mod proof;

use std::str::FromStr;

use super::lab::counts::Counts;
use super::lab::root::{self, Root};
use super::lab::Lab;
use crate::arguments::Arguments;
use crate::error::Result;

pub const HELP: &str = "\
Boots an emulated host with KVM (QEMU emulates AMD's SVM). On it the example
`kvm` runs a Linux guest that serves a disk through the device, and stock QEMUs
with KVM use the disk: one makes a file system and writes a tree, the next one
finds it. Then it is counted, over a number of requests, that no thread of the VMM
takes part. A frontend truncates its memory while the guest uses it, and the next
one finds the disk as it was. In the end it is counted again where the VMM has
neither irqfds nor ioeventfds, as a control of the counters.

Usage: cargo xtask e2e kvm-lab [OPTIONS]

Options:
  --backend NAME   kvm (default), or qemu-storage-daemon: the same without the
                   device, as a control of the lab itself
  --count N        Requests of the measured run (default: 1000)

Logs and consoles are kept in target/e2e/.
";

/// What serves the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Kvm,
    QemuStorageDaemon,
}

impl Backend {
    const ALL: [Self; 2] = [Self::Kvm, Self::QemuStorageDaemon];

    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::QemuStorageDaemon => "qemu-storage-daemon",
        }
    }
}

impl FromStr for Backend {
    type Err = ();

    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        let mut all = Self::ALL.into_iter();
        all.find(|backend| backend.name() == name).ok_or(())
    }
}

struct Options {
    backend: Backend,
    count: u32,
}

impl Options {
    fn parse(arguments: &mut Arguments) -> Result<Self> {
        let options = Self {
            backend: arguments.option("--backend")?.unwrap_or(Backend::Kvm),
            count: arguments.option("--count")?.unwrap_or(1000),
        };
        arguments.finish()?;
        if !(100..=8000).contains(&options.count) {
            return Err("--count: 100 to 8000".into());
        }
        Ok(options)
    }
}

pub fn run(arguments: &mut Arguments) -> Result<()> {
    let options = Options::parse(arguments)?;
    let lab = Lab::new("kvm-lab")?;
    let root = make_root(&lab, &options)?;
    let (mut counts, mut proofs) = (Counts::default(), 0);
    let requests = options.count.into();
    lab.run(root, |line| {
        if counts.take(line) {
            return Ok(());
        }
        lab.say(line);
        let check = match line {
            "measured" => proof::check,
            "control measured" => proof::check_control,
            _ => return Ok(()),
        };
        for fact in check(&std::mem::take(&mut counts), requests)? {
            println!("          {fact}");
        }
        proofs += 1;
        Ok(())
    })?;
    match (options.backend, proofs) {
        (Backend::Kvm, 2) | (Backend::QemuStorageDaemon, 0) => Ok(()),
        _ => Err(format!("{proofs} proofs").into()),
    }
}

fn make_root(lab: &Lab, options: &Options) -> Result<Root> {
    let [kvm, backend, truncate] = lab.build_examples(["kvm", "backend", "truncate"])?;
    let settings: [(_, &dyn std::fmt::Display); 2] = [
        ("BACKEND", &options.backend.name()),
        ("COUNT", &options.count),
    ];
    let root = lab.root(include_str!("guest/host.sh"), &settings)?;
    root.add_program("kvm", &kvm)?;
    root.add_program("truncate", &truncate)?;
    let role = include_str!("guest/backend.sh");
    let initramfs = root::initramfs(&lab.host, &[], role, &[("backend", &backend)])?;
    root.write("lab/backend.initramfs", &initramfs)?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&mut Arguments::new(words.iter().copied()))
    }

    #[test]
    fn rejects_what_the_lab_cannot_do() {
        assert!(parse(&["--count", "1"]).is_err());
        assert!(parse(&["--backend", "none"]).is_err());
        let options = parse(&["--backend=qemu-storage-daemon"]).unwrap();
        assert_eq!(options.backend, Backend::QemuStorageDaemon);
    }
}
