// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest: a vCPU that runs the driver and a disk behind it.

use std::fs::File;
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::vmm::Machine;
use vhost_guest_driver::blk::{Blk, Resize};
use vhost_guest_driver::emulated::{Emulated, Platform};
use vhost_guest_driver::{Device, Server, Stop, Wake};

use crate::disk::Disk;
use crate::loopback::backend::Event;
use crate::loopback::failure::{Context, Failure};
use crate::loopback::options::Options;
use crate::loopback::wakeups::VCPU;

/// A running guest.
pub struct Guest {
    vcpu: JoinHandle<()>,
}

/// What other threads can have a guest do that serves.
pub struct Handles {
    stop: Stop,
    resize: Resize,
    waker: Arc<dyn Wake>,
}

impl Handles {
    fn of(server: &DiskServer) -> Self {
        Self {
            stop: server.stop_handle(),
            resize: server.backend().resize_handle(),
            waker: server.waker(),
        }
    }

    /// The disk becomes as large as its image is.
    pub fn resize(&self) {
        self.resize.resize();
        self.waker.wake();
    }
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
    let disk = options.disk.clone();
    let run = move || {
        let outcome = boot(platform, image, &disk).and_then(|mut server| {
            let _ = events.send(Event::GuestReady(Handles::of(&server)));
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
fn boot(platform: Platform, image: File, disk: &Disk) -> Result<DiskServer, String> {
    let transport = Emulated::new(platform).map_err(|error| error.to_string())?;
    let device = Device::open(transport).map_err(|error| error.to_string())?;
    let disk = disk.on(image).map_err(|error| error.to_string())?;
    Server::new(device, disk).map_err(|error| error.to_string())
}

impl Guest {
    /// Stops the vCPU, and waits until it has.
    pub fn join(self, handles: &Handles) {
        handles.stop.stop();
        let _ = self.vcpu.join();
    }
}
