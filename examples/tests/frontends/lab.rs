// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A machine whose guest serves a backend, and its socket.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};

use rustix::fs::{memfd_create, MemfdFlags};
use vhost_guest_driver::blk::Blk;
use vhost_guest_driver::emulated::Emulated;
use vhost_guest_driver::{Backend, Device, Server, Stop};
use vhost_guest_examples::vmm::{Config, Machine};
use vmm_sys_util::tempdir::TempDir;

/// Vrings that the device carries.
const QUEUES: u16 = 16;
/// More than any of the frontends has.
const WINDOW: usize = 16 << 30;
/// Bytes of device state in one message.
const STATE_PIECE: u32 = 4096;

/// A running machine.
pub struct Lab {
    directory: TempDir,
    stop: Stop,
    guest: Option<JoinHandle<()>>,
}

impl Lab {
    /// Boots a guest that serves `backend`.
    pub fn start<B: Backend + Send + 'static>(backend: B) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.as_path().join("socket")).unwrap();
        let config = Config {
            queues: QUEUES,
            window_size: WINDOW,
            device_type: backend.device_type(),
            irqfd: true,
            ioeventfd: true,
            state_piece: Some(STATE_PIECE),
        };
        let machine = Machine::new(listener, &config).unwrap();
        let (sender, receiver) = channel();
        let guest = thread::spawn(move || {
            let transport = Emulated::new(machine.platform().unwrap()).unwrap();
            let device = Device::open(transport).unwrap();
            let mut server = Server::new(device, backend).unwrap();
            sender.send(server.stop_handle()).unwrap();
            server.run().unwrap();
            if let Some(fault) = server.last_fault() {
                eprintln!("the last fault that the guest saw: {fault}");
            }
        });
        Self {
            directory,
            stop: receiver.recv().unwrap(),
            guest: Some(guest),
        }
    }

    /// The same with a disk of `image`.
    pub fn with_disk(image: &File, queues: u16) -> Self {
        let disk = Blk::new(image.try_clone().unwrap(), false).unwrap();
        Self::start(disk.with_queues(queues))
    }

    /// The same with one that cannot be written.
    pub fn with_read_only_disk(image: &File) -> Self {
        let disk = Blk::new(image.try_clone().unwrap(), true).unwrap();
        Self::start(disk)
    }

    /// Where frontends connect.
    pub fn socket(&self) -> PathBuf {
        self.directory.as_path().join(Path::new("socket"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(guest) = self.guest.take() {
            let ended = guest.join();
            assert!(ended.is_ok() || thread::panicking(), "the guest panicked");
        }
    }
}

/// An empty file without a name.
pub fn nameless() -> File {
    memfd_create("image", MemfdFlags::CLOEXEC).unwrap().into()
}
