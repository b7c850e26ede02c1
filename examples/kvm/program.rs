// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The program: `cargo run --release --example kvm -- --help`.

use std::io::{self, Read};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vhost_guest_device::Builder;

use super::bus::Bus;
use super::options::{Options, HELP};
use super::{linux, Error, Machine};
use crate::loopback::{journal, socket};

/// How long the guest is given to read what was typed before.
const TYPING: Duration = Duration::from_millis(10);

/// The program, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("kvm: {usage}");
            return ExitCode::from(2);
        }
    };
    if options.help {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    journal::show(log::LevelFilter::Warn);
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Error> {
    let mut machine = Machine::new(options.memory)?;
    if !options.ioeventfd {
        machine.use_userspace_doorbells();
    }
    if !options.irqfd {
        machine.use_userspace_interrupts()?;
    }
    machine.add_serial(Box::new(io::stdout()))?;
    // However this ends: whoever connects then is told that nobody is there.
    let mut names = Vec::new();
    for device in &options.devices {
        let (listener, name) = socket::listen(&device.socket)?;
        names.push(name);
        let mut builder = Builder::new(listener).queues(device.queues);
        if let Some(size) = device.migration {
            builder = builder.migration(size);
        }
        machine.plug_built(builder.uuid(device.uuid), device.window)?;
    }
    boot(&machine, options)
}

/// Runs the guest until it resets.
fn boot(machine: &Machine, options: &Options) -> Result<(), Error> {
    let initramfs = options.initramfs.as_deref();
    let vcpu = linux::boot(machine, &options.kernel, initramfs, &options.cmdline)?;
    let bus = Arc::clone(machine.bus());
    // Nobody waits for this thread: it ends with the process.
    thread::spawn(move || type_in(&bus));
    vcpu.wait().map(drop)
}

/// Passes standard input on to the serial console.
fn type_in(bus: &Bus) {
    let mut buffer = [0; 64];
    while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
        let mut input = buffer.get(..length).unwrap_or_default();
        while !input.is_empty() {
            let typed = bus.type_in(input);
            input = input.get(typed..).unwrap_or_default();
            if typed == 0 {
                thread::sleep(TYPING);
            }
        }
    }
}
