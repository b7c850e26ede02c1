// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Many frontends that live and die, and a VMM that has nothing left of them:
//! `cargo run --release --example cycles`.
//!
//! Everything is in this one process, and the frontends are gone when it is
//! counted: what is left is the VMM's, or its guest's.

mod frontends;
pub mod held;
mod options;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{channel, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use vhost_guest_driver::blk::Blk;
use vhost_guest_driver::emulated::{Emulated, Platform};
use vhost_guest_driver::{Device, Server, Stop};
use vhost_guest_vmm_traits::{InterruptManager, IoEventFdRegistrar, SharedMemoryMapper};
use vmm_sys_util::tempdir::TempDir;

use crate::loopback::failure::{Context, Failure};
use crate::loopback::frontend::pattern::BLOCK;
use crate::vmm::{Config, Machine};
use frontends::{Frontends, QUEUES};
use held::{resident, Held};
use options::{Leak, Options, HELP};

/// The virtio type of a disk.
const BLOCK_DEVICE: u16 = 2;
/// Most memory that a frontend can share.
const WINDOW_SIZE: usize = 1 << 30;
/// Blocks of the disk.
const BLOCKS: u64 = 1024;
/// Cycles before the first count: each way to die several times, so that every
/// thread has its stack and its part of the heap, and the code is in memory.
/// If fewer cycles follow, there are only so many.
const WARM_UP: u64 = 200;
/// How much more memory may be resident after all cycles, in KiB. It is what
/// the allocator keeps that makes a difference: it is filled and emptied at
/// random, by threads that come and go, and takes some thousand cycles to reach its
/// final size, 700 KiB above that after the warm-up (measured up to 12,000 cycles).
/// To lose 105 bytes in each of 10,000 cycles is more than this.
const TOLERANCE: u64 = 1024;
/// How long giving back may take: closing descriptors has threads of its own.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for what will not come.
const LEAK_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args_os().skip(1)).and_then(run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cycles: {failure}");
            ExitCode::from(if matches!(failure, Failure::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}

fn run(options: Options) -> Result<(), Failure> {
    if options.help {
        print!("{HELP}");
        return Ok(());
    }
    let prefix = std::env::temp_dir().join("cycles-");
    let directory = TempDir::new_with_prefix(prefix).context("temporary directory")?;
    let socket = directory.as_path().join("socket");
    let listener = UnixListener::bind(&socket).context("socket")?;
    let config = Config {
        queues: QUEUES,
        window_size: WINDOW_SIZE,
        device_type: BLOCK_DEVICE,
        irqfd: true,
        ioeventfd: true,
        state_piece: None,
    };
    let machine = Machine::new(listener, &config).context("starting the machine")?;
    let guest = Guest::boot(&machine)?;
    let outcome = work(&machine, &socket, &options);
    guest.end();
    outcome
}

fn work(machine: &Machine, socket: &Path, options: &Options) -> Result<(), Failure> {
    let mut frontends = Frontends::new(socket, options.seed, BLOCKS);
    (0..WARM_UP.min(options.cycles)).try_for_each(|_| frontends.cycle())?;
    let before = Held::at_rest(machine)?;
    let resident_before = resident()?;
    frontends.deaths.clear();
    frontends.counters.requests.store(0, Ordering::Relaxed);

    let start = Instant::now();
    for cycle in 1..=options.cycles {
        frontends.cycle()?;
        if let Some(leak) = options.leak {
            lose(leak, machine, cycle).context("losing something")?;
        }
        if cycle % 1000 == 0 {
            let seconds = start.elapsed().as_secs();
            eprintln!("{seconds:4} s {cycle:6} cycles, {} KiB", resident()?);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let patience = options.leak.map_or(PATIENCE, |_| LEAK_PATIENCE);
    let mut differences = before.expect_again(machine, patience)?;
    let resident_after = resident()?;

    let requests = frontends.counters.requests.load(Ordering::Relaxed);
    println!(
        "{} cycles in {seconds:.1} s, {requests} requests",
        options.cycles
    );
    for (death, count) in &frontends.deaths {
        println!("{count:6} died: {death:?}");
    }
    println!("{resident_before:6} KiB resident before, {resident_after} KiB after");
    print!("{before}");
    if resident_after > resident_before + TOLERANCE {
        differences.push(format!(
            "{resident_before} KiB resident before, {resident_after} after"
        ));
    }
    match differences.is_empty() {
        true => Ok(()),
        false => Err(Failure::Leak(differences.join("; "))),
    }
}

/// The negative control.
fn lose(leak: Leak, machine: &Machine, cycle: u64) -> std::io::Result<()> {
    let event = || eventfd(0, EventfdFlags::CLOEXEC);
    match leak {
        Leak::Descriptor => std::mem::forget(event()?),
        Leak::Mapping => {
            use rustix::mm::{mmap_anonymous, MapFlags, ProtFlags};
            // Read-only and not: neighbours would be one mapping.
            let protection = [ProtFlags::READ, ProtFlags::empty()][cycle as usize % 2];
            let null = std::ptr::null_mut();
            // SAFETY: a new mapping that nobody uses.
            unsafe { mmap_anonymous(null, 4096, protection, MapFlags::PRIVATE)? };
        }
        Leak::Memory => std::mem::forget(std::hint::black_box(vec![1_u8; 100 << 10])),
        Leak::Thread => drop(thread::Builder::new().spawn(|| loop {
            thread::park();
        })?),
        Leak::Ioeventfd => {
            let nowhere = (1 << 60) + cycle;
            let outcome = machine.doorbells().register(event()?.as_fd(), nowhere);
            outcome?;
        }
        Leak::Source => drop(machine.interrupts().create_source()?),
        Leak::Window => {
            let page = machine.slots().size() - 4096 * cycle;
            let file = memfd_create("lost", MemfdFlags::CLOEXEC)?;
            ftruncate(&file, 4096)?;
            let range = machine.slots().open(file.as_fd(), 0, 4096)?;
            machine.slots().attach(range, page)?;
        }
    }
    Ok(())
}

/// The guest: a vCPU that runs the driver and a disk behind it.
struct Guest {
    vcpu: JoinHandle<()>,
    stop: Stop,
}

impl Guest {
    fn boot(machine: &Machine) -> Result<Self, Failure> {
        let platform = machine.platform().context("memory of the guest")?;
        let disk = memfd_create("disk", MemfdFlags::CLOEXEC).context("disk")?;
        ftruncate(&disk, BLOCKS * BLOCK as u64).context("disk")?;
        let (ready, started) = channel();
        let serve = move || {
            if let Err(error) = serve(platform, File::from(disk), &ready) {
                let failure = Failure::Guest(error.to_string());
                crate::loopback::fail(&failure);
            }
        };
        let thread = thread::Builder::new().name("vcpu".into());
        let vcpu = thread.spawn(serve).context("starting the vCPU")?;
        let stop = started.recv();
        let stop = stop.map_err(|_| Failure::Guest("it did not start".into()))?;
        Ok(Self { vcpu, stop })
    }

    fn end(self) {
        self.stop.stop();
        let _ = self.vcpu.join();
    }
}

fn serve(
    platform: Platform,
    image: File,
    ready: &Sender<Stop>,
) -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::open(Emulated::new(platform)?)?;
    let disk = Blk::new(image, false)?.with_queues(QUEUES);
    let mut server = Server::new(device, disk)?;
    let _ = ready.send(server.stop_handle());
    server.run()?;
    Ok(())
}
