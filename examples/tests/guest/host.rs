// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A machine whose guest serves a backend, crashes now and then, and boots
//! again.

use std::os::unix::net::UnixListener;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vhost_guest_driver::emulated::Emulated;
use vhost_guest_driver::{
    Backend, Device, DmaMemory, InterruptMode, MsiMessage, Server, Stop, Transport, VectorSet,
    Wake, Window,
};
use vhost_guest_examples::vmm::{Config, Machine};
use vmm_sys_util::tempdir::TempDir;

/// What a crash looks like from inside.
struct Crash;

/// How many steps a guest has left to live.
#[derive(Clone, Default)]
pub struct Fuse(Arc<AtomicU32>);

impl Fuse {
    const NEVER: u32 = u32::MAX;
    const DEAD: u32 = u32::MAX - 1;

    fn light(&self, steps: Option<u32>) {
        self.0.store(steps.unwrap_or(Self::NEVER), Ordering::SeqCst);
    }

    fn is_dead(&self) -> bool {
        self.0.load(Ordering::SeqCst) == Self::DEAD
    }

    /// A step of the guest's, which may be its last.
    pub fn step(&self) {
        match self.0.load(Ordering::SeqCst) {
            Self::NEVER | Self::DEAD => {}
            0 => {
                self.0.store(Self::DEAD, Ordering::SeqCst);
                // Not a panic that is reported.
                resume_unwind(Box::new(Crash))
            }
            left => self.0.store(left - 1, Ordering::SeqCst),
        }
    }
}

/// A transport on which each access may be the last. While the guest's stack
/// unwinds it is dead already: nobody tidies up, and what the device was told
/// last holds until the next life resets it.
pub struct Mortal {
    transport: Emulated,
    fuse: Fuse,
}

impl Transport for Mortal {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.transport.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.fuse.step();
        if !self.fuse.is_dead() {
            self.transport.config_write(offset, data);
        }
    }

    fn bar_len(&self, bar: u8) -> u64 {
        self.transport.bar_len(bar)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        match self.fuse.is_dead() {
            true => data.fill(0),
            false => self.transport.bar_read(bar, offset, data),
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.fuse.step();
        if !self.fuse.is_dead() {
            self.transport.bar_write(bar, offset, data);
        }
    }

    fn window(&self, bar: u8, offset: u64, len: u64) -> Option<Window> {
        self.transport.window(bar, offset, len)
    }

    fn allocate_dma(&self, len: usize) -> Option<DmaMemory> {
        self.transport.allocate_dma(len)
    }

    fn interrupts(&self, wanted: u16) -> InterruptMode {
        self.transport.interrupts(wanted)
    }

    fn msi_message(&self, vector: u16) -> MsiMessage {
        self.transport.msi_message(vector)
    }

    fn wait(&self, timeout: Option<Duration>) -> VectorSet {
        self.fuse.step();
        match self.fuse.is_dead() {
            true => VectorSet::new(),
            false => self.transport.wait(timeout),
        }
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.transport.waker()
    }
}

/// A machine that runs.
pub struct Host {
    socket: PathBuf,
    _directory: TempDir,
    guest: Option<JoinHandle<()>>,
    last: Arc<AtomicBool>,
    stop: Arc<Mutex<Option<Stop>>>,
}

impl Host {
    /// Boots a guest with what `backend` makes for each of its lives, of
    /// which `life` says how many steps it lasts; `None` is the last.
    pub fn start<B: Backend>(
        device_type: u16,
        state_piece: Option<u32>,
        mut life: impl FnMut() -> Option<u32> + Send + 'static,
        mut backend: impl FnMut(&Fuse) -> B + Send + 'static,
    ) -> Self {
        let directory = TempDir::new().unwrap();
        let socket = directory.as_path().join("vhost.sock");
        let config = Config {
            queues: 1,
            window_size: 64 << 20,
            device_type,
            irqfd: true,
            ioeventfd: true,
            state_piece,
        };
        let listener = UnixListener::bind(&socket).unwrap();
        let machine = Machine::new(listener, &config).unwrap();
        let stop = Arc::new(Mutex::new(None));
        let last = Arc::new(AtomicBool::new(false));
        let (shared, last_life) = (stop.clone(), last.clone());
        let guest = thread::spawn(move || {
            let fuse = Fuse::default();
            loop {
                let steps = life();
                fuse.light(steps);
                last_life.store(steps.is_none(), Ordering::SeqCst);
                let backend = backend(&fuse);
                let run = || boot(&machine, backend, &fuse, &shared);
                match catch_unwind(AssertUnwindSafe(run)) {
                    Ok(()) => return,
                    Err(crash) if crash.is::<Crash>() => {}
                    Err(panic) => resume_unwind(panic),
                }
            }
        });
        Self {
            socket,
            _directory: directory,
            guest: Some(guest),
            last,
            stop,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the guest will not crash any more.
    pub fn is_last_life(&self) -> bool {
        self.last.load(Ordering::SeqCst)
    }

    /// Whether the guest has ended, which only a fault makes it do.
    pub fn has_ended(&self) -> bool {
        self.guest.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// One life of the guest.
fn boot<B: Backend>(machine: &Machine, backend: B, fuse: &Fuse, stop: &Mutex<Option<Stop>>) {
    let transport = Mortal {
        transport: Emulated::new(machine.platform().unwrap()).unwrap(),
        fuse: fuse.clone(),
    };
    let device = Device::open(transport).unwrap();
    let mut server = Server::new(device, backend).unwrap();
    *stop.lock().unwrap() = Some(server.stop_handle());
    server.run().unwrap();
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.lock().unwrap().take() {
            stop.stop();
        }
        if let Some(guest) = self.guest.take() {
            let ended = guest.join();
            assert!(ended.is_ok() || thread::panicking(), "the guest panicked");
        }
    }
}
