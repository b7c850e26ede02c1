// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest: a vCPU that runs the driver and a disk behind it.

use std::fs::File;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use crate::vmm::Machine;
use vhost_guest_driver::blk::Blk;
use vhost_guest_driver::emulated::{Emulated, Platform};
use vhost_guest_driver::{Device, Server, Stop};

use crate::loopback::backend::Event;
use crate::loopback::failure::{Context, Failure};
use crate::loopback::options::Options;
use crate::loopback::wakeups::VCPU;

/// A running guest.
pub struct Guest {
    vcpu: JoinHandle<()>,
}

type DiskServer = Server<Device<Emulated>, Blk>;

/// Boots the guest. It says in `events` when it serves, and when it ends.
pub fn start(
    machine: &Machine,
    image: File,
    options: &Options,
    events: Sender<Event>,
) -> Result<Guest, Failure> {
    let platform = machine.platform().context("memory of the guest")?;
    let (read_only, queues) = (options.read_only, options.queues);
    let run = move || {
        let outcome = boot(platform, image, read_only, queues).and_then(|mut server| {
            let _ = events.send(Event::GuestReady(server.stop_handle()));
            server.run().map_err(|error| error.to_string())
        });
        let why = outcome.err().unwrap_or_else(|| "stopped".into());
        let _ = events.send(Event::GuestEnded(why));
    };
    let thread = thread::Builder::new().name(VCPU.into());
    let vcpu = thread.spawn(run).context("starting the vCPU")?;
    Ok(Guest { vcpu })
}

/// What a guest's init would do.
fn boot(
    platform: Platform,
    image: File,
    read_only: bool,
    queues: u16,
) -> Result<DiskServer, String> {
    let transport = Emulated::new(platform).map_err(|error| error.to_string())?;
    let device = Device::open(transport).map_err(|error| error.to_string())?;
    let disk = Blk::new(image, read_only).map_err(|error| error.to_string())?;
    let disk = disk.with_queues(queues);
    Server::new(device, disk).map_err(|error| error.to_string())
}

impl Guest {
    /// Waits until the vCPU has stopped, after `stop`.
    pub fn join(self, stop: &Stop) {
        stop.stop();
        let _ = self.vcpu.join();
    }
}
