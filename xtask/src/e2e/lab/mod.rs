// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A whole KVM host, emulated: QEMU emulates AMD's SVM, so that KVM works on it
//! as on a real one. Tests say what is on its disk and what happens there.

pub mod counts;
pub mod root;

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::blk::{print_tail, Scratch};
use super::host::{Host, Module, Program, STORAGE_DAEMON};
use super::vm::Vm;
use crate::documented::{Documented, BACKENDS};
use crate::error::{Context, Result};
use crate::process::{dying_with_us, run};
use crate::workspace;
use root::Root;

/// How long everything may take; it takes a few minutes on a busy machine.
const LIMIT: Duration = Duration::from_secs(1500);
/// How long the emulated host may stand still when the interrupt of a timer got lost.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What the emulated host loads besides the modules of its disk.
const KVM_MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-amd"];
/// Serial ports of the emulated host: its own, and those that it passes the
/// consoles of its machines on to.
const CONSOLES: [&str; 4] = ["host", "backend", "frontend", "peer"];

const MKE2FS: Program = Program {
    name: "mke2fs",
    package: "e2fsprogs",
};
const STRIP: Program = Program {
    name: "strip",
    package: "binutils",
};
const TASKSET: Program = Program {
    name: "taskset",
    package: "util-linux",
};

/// The parts of an emulated host, and what it has said.
pub struct Lab {
    name: &'static str,
    pub host: Host,
    mke2fs: PathBuf,
    storage_daemon: PathBuf,
    strip: PathBuf,
    taskset: PathBuf,
    /// Holds the disk and the initramfs; removed in the end.
    scratch: Scratch,
    /// Kept in the end.
    logs: PathBuf,
    started: Instant,
}

impl Lab {
    /// Finds all that has to be installed. The test's name is in the names of
    /// its logs.
    pub fn new(name: &'static str) -> Result<Self> {
        let programs = [MKE2FS, STORAGE_DAEMON, STRIP, TASKSET];
        let (host, [mke2fs, storage_daemon, strip, taskset]) = Host::find(programs)?;
        let logs = workspace::target().join("e2e");
        fs::create_dir_all(&logs).path_context("cannot create", &logs)?;
        Ok(Self {
            name,
            host,
            mke2fs,
            storage_daemon,
            strip,
            taskset,
            scratch: Scratch::new()?,
            logs,
            started: Instant::now(),
        })
    }

    /// A directory for what is removed in the end.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    /// Builds examples of the workspace. Returns where they are, without what
    /// only a debugger needs: it is most of them.
    pub fn build_examples<const N: usize>(&self, names: [&str; N]) -> Result<[PathBuf; N]> {
        let mut build = Command::new(workspace::cargo());
        build.args(["build", "--quiet", "--release"]);
        build.args(["--package", "vhost-guest-examples"]);
        for name in names {
            build.args(["--example", name]);
        }
        run(&mut build)?;
        let directory = workspace::target().join("release/examples");
        let stripped = names.map(|name| self.scratch.0.join(name));
        for (name, stripped) in names.iter().zip(&stripped) {
            run(Command::new(&self.strip)
                .arg("-o")
                .arg(stripped)
                .arg(directory.join(name)))?;
        }
        self.say("the examples are built");
        Ok(stripped)
    }

    /// Builds the relay.
    pub fn build_relay(&self) -> Result<PathBuf> {
        let mut build = Command::new(workspace::cargo());
        build.args(["build", "--quiet", "--release"]);
        build.args(["--package", "vhost-guest-relay"]);
        run(&mut build)?;
        Ok(workspace::target().join("release/vhost-guest-relay"))
    }

    /// The root of the emulated host, with KVM, QEMU and its storage daemon, and
    /// the guest that uses a disk. `script` is what happens, after
    /// `guest/host.sh`; `settings` are variables for both.
    pub fn root(&self, script: &str, settings: &[(&str, &dyn Display)]) -> Result<Root> {
        let root = Root::new(self.scratch.0.join("root"))?;
        let modules = self.host.find_modules(&KVM_MODULES)?;
        let qemu = documented_qemu()?;
        let script = [include_str!("guest/host.sh"), &qemu, script].concat();
        root.add_init(&self.host, &modules, &script)?;
        let settings = settings.iter();
        let settings: String = settings
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        root.write("settings", settings.as_bytes())?;
        root.add_program("qemu-system-x86_64", &self.host.qemu)?;
        root.add_program("qemu-storage-daemon", &self.storage_daemon)?;
        root.add_firmware()?;
        root.copy(&self.host.kernel, "lab/vmlinuz")?;
        let frontend = self.frontend(&self.host.modules, &[])?;
        root.write("lab/frontend.initramfs", &frontend)?;
        Ok(root)
    }

    /// The initramfs of the guest that uses a disk.
    pub fn frontend(&self, modules: &[Module], programs: &[(&str, &Path)]) -> Result<Vec<u8>> {
        let role = include_str!("guest/frontend.sh");
        root::initramfs(&self.host, modules, role, programs)
    }

    /// QEMU's own backend, for disks.
    pub fn storage_daemon(&self) -> &Path {
        &self.storage_daemon
    }

    /// Makes a disk of `root` and boots the emulated host from it. `hear` gets
    /// each line that it says, and may say no. On a failure, the ends of all logs
    /// are printed.
    pub fn run(&self, root: Root, hear: impl FnMut(&str) -> Result<()>) -> Result<()> {
        for name in CONSOLES {
            // There is none before the first run.
            let _ = fs::remove_file(self.log(name));
        }
        let outcome = self.make_disk(root).and_then(|()| self.follow(hear));
        match &outcome {
            Ok(()) => self.say("passed"),
            Err(_) => CONSOLES.iter().for_each(|name| print_tail(&self.log(name))),
        }
        outcome
    }

    fn make_disk(&self, root: Root) -> Result<()> {
        root.into_image(&self.mke2fs, &self.disk())?;
        let role = include_str!("guest/boot.sh");
        let boot = root::initramfs(&self.host, &self.host.modules, role, &[])?;
        fs::write(self.boot(), boot).path_context("cannot write", &self.boot())?;
        self.say("the host's disk is made");
        Ok(())
    }

    fn follow(&self, mut hear: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let mut vm = self.start()?;
        vm.interrupt_each(HEARTBEAT)?;
        let mut ended = false;
        while let Some(line) = vm.next()? {
            hear(&line)?;
            ended |= line == "done";
        }
        match ended {
            true => Ok(()),
            false => {
                let status = vm.status()?;
                Err(format!("the host ended before it was done ({status})").into())
            }
        }
    }

    /// One processor is emulated, and one runs the emulation. QEMU's threads
    /// change the interrupt requests of a processor without a lock where it
    /// enters a guest (`helper_vmrun`): on two processors the interrupt of a
    /// timer got lost now and then, and the emulated host never woke up again. On
    /// one they cannot come in between, for it takes one instruction. Where an
    /// interrupt gets lost nevertheless, the next one of any device brings it back.
    fn start(&self) -> Result<Vm> {
        let serial = |name| format!("file:{}", self.log(name).display());
        let mut command = dying_with_us(&self.taskset);
        command
            .args(["--cpu-list", &processor()?])
            .arg(&self.host.qemu)
            .args(["-M", "q35", "-accel", "tcg,thread=multi"])
            .args(["-cpu", "EPYC,+svm,+npt", "-smp", "1", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-serial", &serial("backend")])
            .args(["-serial", &serial("frontend")])
            .args(["-serial", &serial("peer")])
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,cache=unsafe",
                self.disk().display()
            ))
            .arg("-kernel")
            .arg(&self.host.kernel)
            .arg("-initrd")
            .arg(self.boot())
            .args(["-append", "console=ttyS0 panic=-1 quiet"]);
        Vm::run(&mut command, &self.log("host"), LIMIT)
    }

    fn disk(&self) -> PathBuf {
        self.scratch.0.join("host.img")
    }

    fn boot(&self) -> PathBuf {
        self.scratch.0.join("host.initramfs")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{}-{name}.log", self.name))
    }

    pub fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }
}

/// A function for the emulated host that becomes the QEMU of the guide, with
/// files of the lab; `$memory`, `$socket` and `$disk` go behind what the guide
/// says of these, arguments behind everything.
fn documented_qemu() -> Result<String> {
    Documented::find(BACKENDS, "qemu-system-x86_64", "vhost-user-blk")?
        .replace("/run/disk.sock,reconnect=1", "disk.sock$socket")?
        .replace("num-queues=1", "num-queues=1$disk")?
        .replace("share=on", "share=on$memory")?
        .replace("target/frontend/vmlinuz", "/lab/vmlinuz")?
        .replace("target/frontend/initramfs", "/lab/frontend.initramfs")
        .map(|qemu| qemu.to_function("documented_qemu"))
}

/// One of the processors that this process may use; another one for the next
/// process.
fn processor() -> Result<String> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).context(path)?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed = processors(allowed.unwrap_or_default());
    let turn = std::process::id() as usize % allowed.len().max(1);
    let processor = allowed.get(turn).ok_or("no processors in /proc")?;
    Ok(processor.to_string())
}

/// "0-2,5" as [0, 1, 2, 5].
fn processors(list: &str) -> Vec<u32> {
    list.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_processors_that_it_may_use() {
        assert_eq!(processors("\t0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(processors("7"), [7]);
        assert!(processors("").is_empty());
        processor().unwrap().parse::<u32>().unwrap();
    }
}
