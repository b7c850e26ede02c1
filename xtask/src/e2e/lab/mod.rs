// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask e2e kvm-lab`: a whole KVM host, emulated, on which a guest
//! serves a disk to a stock VM.

mod counts;
mod root;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::blk::{print_tail, Scratch};
use super::host::Host;
use super::vm::Vm;
use crate::arguments::Arguments;
use crate::error::{Context, Result};
use crate::process::{dying_with_us, find, run as run_command};
use crate::workspace;
use counts::Counts;
use root::Root;

/// How long everything may take; it takes less than a minute.
const LIMIT: Duration = Duration::from_secs(600);
/// What the emulated host loads besides the modules of its disk.
const KVM_MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-amd"];
const LOGS: [&str; 3] = ["host", "backend", "frontend"];

pub const HELP: &str = "\
Boots an emulated host with KVM (QEMU emulates AMD's SVM). On it the example
`kvm` runs a Linux guest that serves a disk through the device, and stock QEMUs
with KVM use the disk: one makes a file system and writes a tree, the next one
finds it. Then it is counted, over a number of requests, that no thread of the VMM
takes part; and it is counted again where the VMM has no ioeventfds, as a control
of the counters.

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

impl FromStr for Backend {
    type Err = ();

    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        match name {
            "kvm" => Ok(Self::Kvm),
            "qemu-storage-daemon" => Ok(Self::QemuStorageDaemon),
            _ => Err(()),
        }
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
    let lab = Lab::new(options)?;
    let result = lab.run();
    if result.is_err() {
        for name in LOGS {
            print_tail(&lab.log(name));
        }
    }
    result
}

struct Lab {
    options: Options,
    host: Host,
    mke2fs: PathBuf,
    storage_daemon: PathBuf,
    /// Holds the disk and the initramfs; removed in the end.
    scratch: Scratch,
    /// Kept in the end.
    logs: PathBuf,
    started: Instant,
}

impl Lab {
    fn new(options: Options) -> Result<Self> {
        let host = Host::find()?;
        let mke2fs = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].map(PathBuf::from);
        let mke2fs = mke2fs.into_iter().find(|path| path.is_file());
        let missing =
            |package| format!("missing packages: {package}\n    apt-get install {package}");
        let logs = workspace::target().join("e2e");
        fs::create_dir_all(&logs).path_context("cannot create", &logs)?;
        Ok(Self {
            options,
            host,
            mke2fs: mke2fs.ok_or_else(|| missing("e2fsprogs"))?,
            storage_daemon: find("qemu-storage-daemon")
                .ok_or_else(|| missing("qemu-system-common"))?,
            scratch: Scratch::new()?,
            logs,
            started: Instant::now(),
        })
    }

    fn run(&self) -> Result<()> {
        for name in LOGS {
            // There is none before the first run.
            let _ = fs::remove_file(self.log(name));
        }
        self.build_image()?;
        self.say("the host's disk is made");
        let mut vm = self.start()?;
        let (mut counts, mut ended) = (Counts::default(), false);
        while let Some(line) = vm.next()? {
            if counts.take(&line) {
                continue;
            }
            self.say(&line);
            let requests = self.options.count.into();
            let facts = match line.as_str() {
                "measured" => std::mem::take(&mut counts).check(requests)?,
                "control measured" => std::mem::take(&mut counts).check_control(requests)?,
                _ => Vec::new(),
            };
            for fact in facts {
                println!("          {fact}");
            }
            ended |= line == "done";
        }
        if !ended {
            let status = vm.status()?;
            return Err(format!("the host ended before it was done ({status})").into());
        }
        self.say("passed");
        Ok(())
    }

    fn build_image(&self) -> Result<()> {
        let examples = ["kvm", "backend", "truncate"];
        let mut build = Command::new(workspace::cargo());
        build.args(["build", "--quiet", "--release"]);
        build.args(["--package", "vhost-guest-examples"]);
        for example in examples {
            build.args(["--example", example]);
        }
        run_command(&mut build)?;
        let directory = workspace::target().join("release/examples");

        let kvm_modules = self.host.find_modules(&KVM_MODULES)?;
        let root = Root::new(self.scratch.0.join("root"))?;
        root.add_init(&self.host, &kvm_modules, include_str!("guest/host.sh"))?;
        root.add_program("qemu-system-x86_64", &self.host.qemu)?;
        root.add_program("qemu-storage-daemon", &self.storage_daemon)?;
        root.add_program("kvm", &directory.join("kvm"))?;
        root.add_program("truncate", &directory.join("truncate"))?;
        root.add_firmware()?;
        root.copy(&self.host.kernel, "lab/vmlinuz")?;
        let backend = root::initramfs(
            &self.host,
            &[],
            include_str!("guest/backend.sh"),
            &[("backend", &directory.join("backend"))],
        )?;
        root.write("lab/backend.initramfs", &backend)?;
        let modules = &self.host.modules;
        let frontend =
            root::initramfs(&self.host, modules, include_str!("guest/frontend.sh"), &[])?;
        root.write("lab/frontend.initramfs", &frontend)?;
        root.write("settings", self.settings().as_bytes())?;
        root.into_image(&self.mke2fs, &self.image())?;
        let boot = root::initramfs(&self.host, modules, include_str!("guest/boot.sh"), &[])?;
        fs::write(self.initramfs(), boot).path_context("cannot write", &self.initramfs())
    }

    /// Variables for the script of the host.
    fn settings(&self) -> String {
        let backend = match self.options.backend {
            Backend::Kvm => "kvm",
            Backend::QemuStorageDaemon => "qemu-storage-daemon",
        };
        format!("BACKEND={backend}\nCOUNT={}\n", self.options.count)
    }

    fn start(&self) -> Result<Vm> {
        let serial = |name| format!("file:{}", self.log(name).display());
        let mut command = dying_with_us(&self.host.qemu);
        command
            .args(["-M", "q35", "-accel", "tcg,thread=multi"])
            .args(["-cpu", "EPYC,+svm,+npt", "-smp", "1", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args([
                "-serial",
                &serial("backend"),
                "-serial",
                &serial("frontend"),
            ])
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,cache=unsafe",
                self.image().display()
            ))
            .arg("-kernel")
            .arg(&self.host.kernel)
            .arg("-initrd")
            .arg(self.initramfs())
            .args(["-append", "console=ttyS0 panic=-1 quiet"]);
        Vm::run(&mut command, &self.log("host"), LIMIT)
    }

    fn image(&self) -> PathBuf {
        self.scratch.0.join("host.img")
    }

    fn initramfs(&self) -> PathBuf {
        self.scratch.0.join("host.initramfs")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("kvm-lab-{name}.log"))
    }

    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }
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
