// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk that a Linux guest serves through its vhost-guest device, from a
//! program: `cargo build --release --example backend`, to be run in the guest.

mod options;

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use vhost_guest_driver::blk::Blk;
use vhost_guest_driver::module::{Module, ModuleError, Node};
use vhost_guest_driver::sysfs::{self, Sysfs, COUNTED_INTERRUPT};
use vhost_guest_driver::vfio::{Vfio, VfioError};
use vhost_guest_driver::{Device, Port, Server, Statistics, Turn, Wake};

use crate::loopback::signals::{self, Signal};
use options::{Options, HELP};

/// Why the program ends.
#[derive(Debug, Error)]
enum Failure {
    #[error("{0} (try --help)")]
    Usage(String),
    #[error(transparent)]
    Sysfs(#[from] sysfs::SysfsError),
    #[error(transparent)]
    Vfio(#[from] VfioError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    Device(#[from] vhost_guest_driver::Error),
    #[error("{0}: {1}")]
    Disk(String, io::Error),
    #[error("{0}")]
    Signals(String),
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args_os().skip(1)).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("backend: {failure}");
            ExitCode::from(match failure {
                Failure::Usage(_) => 2,
                _ => 1,
            })
        }
    }
}

/// What other threads want of the one that serves.
#[derive(Default)]
struct Wishes {
    end: AtomicBool,
    statistics: AtomicBool,
    resize: AtomicBool,
    waker: OnceLock<Arc<dyn Wake>>,
}

impl Wishes {
    fn want(&self, wish: &AtomicBool) {
        wish.store(true, Ordering::Release);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

fn run(options: Options) -> Result<(), Failure> {
    if options.help {
        print!("{HELP}");
        return Ok(());
    }
    let wishes = Arc::new(Wishes::default());
    let ending = wishes.clone();
    // The device must be reset before our memory is another's.
    let told = move |signal| match signal {
        Signal::End => ending.want(&ending.end),
        Signal::Resize => ending.want(&ending.resize),
    };
    signals::watch_resizing(told).map_err(|failure| Failure::Signals(failure.to_string()))?;

    let disk = open(&options);
    let disk = disk.map_err(|e| Failure::Disk(options.image.display().to_string(), e))?;
    if options.module {
        let path = match options.device {
            Some(address) => Node::path(&address.to_string()),
            None => Node::find()?,
        };
        let server = Server::new(Module::new(Node::open(&path)?)?, disk)?;
        return serve(server, &wishes, &path.display().to_string());
    }
    let address = options.device.map_or_else(Sysfs::find, Ok)?;
    if options.vfio {
        let device = Device::open(Vfio::open(address)?)?;
        return serve(Server::new(device, disk)?, &wishes, &address.to_string());
    }
    let how = sysfs::Options {
        idle: options.idle,
        interrupts: options.count_interrupts.then_some(COUNTED_INTERRUPT),
    };
    let device = Device::open(Sysfs::open(address, how)?)?;
    serve(Server::new(device, disk)?, &wishes, &address.to_string())
}

fn open(options: &Options) -> io::Result<Blk> {
    let writes = !options.disk.read_only;
    let image = File::options()
        .read(true)
        .write(writes)
        .open(&options.image)?;
    options.disk.on(image)
}

/// Serves until it is to end; the frontend is disconnected then.
fn serve<P: Port>(
    mut server: Server<P, Blk>,
    wishes: &Arc<Wishes>,
    through: &str,
) -> Result<(), Failure> {
    // Nobody else sets it.
    let _ = wishes.waker.set(server.waker());
    say(&format!("serving, through {through}"));
    answer_questions(wishes.clone());
    let resize = server.backend().resize_handle();
    let mut sectors = server.backend().sectors();
    let (mut turn, mut faults) = (Turn::Busy, 0);
    while !wishes.end.load(Ordering::Acquire) {
        if wishes.resize.swap(false, Ordering::Acquire) {
            resize.resize();
            turn = Turn::Busy;
        }
        let timeout = match turn {
            Turn::Busy => Some(Duration::ZERO),
            Turn::Idle => server.idle_timeout(),
        };
        turn = server.run_once(timeout)?;
        if server.backend().sectors() != sectors {
            sectors = server.backend().sectors();
            say(&format!("the disk has {sectors} sectors now"));
        }
        let statistics = server.statistics();
        let now = statistics.faults + statistics.ring_faults;
        if let Some(fault) = server.last_fault().filter(|_| now != faults) {
            say(&format!("the frontend's fault: {fault}"));
        }
        faults = now;
        if wishes.statistics.swap(false, Ordering::Acquire) {
            say(&describe(&statistics));
        }
    }
    say("ended");
    Ok(())
}

/// Prints the statistics whenever a line is typed. The thread ends with the
/// input, or with the program.
fn answer_questions(wishes: Arc<Wishes>) {
    thread::spawn(move || {
        for _ in io::stdin().lock().lines().map_while(Result::ok) {
            wishes.want(&wishes.statistics);
        }
    });
}

fn describe(statistics: &Statistics) -> String {
    let interrupts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    format!(
        "frontends={} faults={} messages={} requests={} calls={} waits={} interrupts={}",
        statistics.frontends,
        statistics.faults + statistics.ring_faults,
        statistics.messages,
        statistics.requests,
        statistics.calls,
        statistics.waits,
        counted_interrupts(&interrupts)
    )
}

/// How often the device interrupted, on all CPUs together: with the interrupt
/// that Linux only counts, or with those of the kernel driver or of VFIO.
fn counted_interrupts(table: &str) -> u64 {
    let lines = table.lines().map(str::trim_start);
    let names = [" vhost-guest[", " vfio-msix["];
    let ours = |line: &&str| names.iter().any(|name| line.contains(name));
    let lines = lines.filter(|line| line.starts_with("PIN:") || ours(line));
    let counts = lines.flat_map(|line| {
        let counts = line.split_whitespace().skip(1);
        counts.map_while(|count| count.parse::<u64>().ok())
    });
    counts.sum()
}

/// A line on standard output, whole and at once. Nobody need read it.
fn say(text: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "backend: {text}").and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_counted_interrupts_of_all_cpus() {
        let table = "           CPU0       CPU1\n   4:  9  1  ttyS0\n PIN:   5   2   \
                     Posted-interrupt event\n";
        assert_eq!(counted_interrupts(table), 7);
        let table =
            "  25:  3  4  PCI-MSIX-0000:00:02.0 0-edge  vhost-guest[0000:00:02.0]-config\n  \
                     26:  1  0  PCI-MSIX-0000:00:02.0 2-edge  vhost-guest[0000:00:02.0]-kick.0\n";
        assert_eq!(counted_interrupts(table), 8);
        let table = "  26:  5  0  IR-PCI-MSIX-0000:00:03.0 0-edge  vfio-msix[0](0000:00:03.0)\n";
        assert_eq!(counted_interrupts(table), 5);
        assert_eq!(counted_interrupts("PIN:"), 0);
        assert_eq!(counted_interrupts(""), 0);
    }
}
