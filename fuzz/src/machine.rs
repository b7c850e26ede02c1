// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device on a VMM that exists on paper.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vhost_guest_device::{BarMove, Builder, Services, SnapshotError, VhostGuest};
use vhost_guest_vmm_traits::test_utils::TestVmm;
use vhost_guest_vmm_traits::{Access, AddressTranslator, Translation};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::threads;

/// Vrings of the device.
pub const VRINGS: u16 = 4;
/// Size of the window: enough for the memory of captured sessions.
const WINDOW: u64 = 1 << 30;
/// Size of guest memory.
pub const RAM: usize = 1 << 20;
/// Numbers and addresses of the BARs: registers, doorbells, window.
pub const BARS: [(u8, u64); 3] = [(0, 0xE000_0000), (2, 0xE001_0000), (4, 1 << 40)];
/// Closing happens on threads of the device's.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a buffer of device state.
const STATE: u32 = 4096;
/// Bytes that are translated at a time.
const PIECE: u64 = 512;

/// An IOMMU whose addresses are guest physical ones, while it knows any.
#[derive(Default)]
pub struct Iommu {
    /// It knows none.
    pub unmapped: AtomicBool,
}

impl AddressTranslator for Iommu {
    fn translate(&self, iova: u64, length: u64, _: Access) -> io::Result<Translation> {
        if self.unmapped.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Translation {
            guest_address: iova,
            length: length.min(PIECE - iova % PIECE),
        })
    }
}

/// The device, the VMM, and the guest's memory.
pub struct Machine {
    pub function: VhostGuest<Arc<GuestMemoryMmap>>,
    pub vmm: Arc<TestVmm>,
    pub memory: Arc<GuestMemoryMmap>,
    /// What is before the device, if it is a whole one.
    pub iommu: Option<Arc<Iommu>>,
    address: SocketAddr,
    /// A service failed on purpose; what is left then may be the VMM's loss.
    failed: bool,
}

impl Machine {
    /// A machine that was just switched on. A whole one has an IOMMU, and its
    /// device carries device state.
    #[must_use]
    pub fn new(whole: bool) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vhost-guest-fuzz-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        let listener = UnixListener::bind_addr(&address).expect("a new name");
        let vmm = Arc::new(TestVmm::new());
        let ranges = [(GuestAddress(0), RAM)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).expect("memory"));
        let iommu = whole.then(|| Arc::new(Iommu::default()));
        let services = Services {
            interrupts: vmm.clone(),
            doorbells: Some(vmm.clone()),
            window: vmm.clone(),
            memory: memory.clone(),
            translator: iommu.clone().map(|iommu| iommu as _),
            notifier: Some(vmm.clone()),
            thread_hook: None,
        };
        let mut builder = Builder::new(listener)
            .queues(VRINGS)
            .window_size(WINDOW)
            .device_type(2);
        if whole {
            builder = builder.migration(STATE);
        }
        let function = builder.build(services).expect("a device");
        Self {
            function,
            vmm,
            memory,
            iommu,
            address,
            failed: false,
        }
    }

    /// A write to configuration space, and what the VMM does after it.
    pub fn config_write(&mut self, offset: u16, data: &[u8]) {
        for BarMove { bar, address, .. } in self.function.config_write(offset, data) {
            self.bar_moved(bar, address);
        }
    }

    /// Routes a BAR elsewhere.
    pub fn bar_moved(&mut self, bar: u8, address: Option<u64>) {
        let moved = self.function.bar_moved(bar, address);
        assert!(moved.is_ok() || self.failed, "{moved:?}");
    }

    /// Restores the device, and routes its BARs.
    ///
    /// # Errors
    ///
    /// See [`VhostGuest::restore`].
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        for BarMove { bar, address, .. } in self.function.restore(snapshot)? {
            self.bar_moved(bar, address);
        }
        Ok(())
    }

    /// Saves the device and restores it, where it is.
    pub fn go_round(&mut self) {
        self.function.pause();
        let snapshot = self.function.snapshot().expect("a pause");
        let restored = self.restore(&snapshot);
        assert!(restored.is_ok() || self.failed, "{restored:?}");
        self.function.resume();
    }

    /// Makes the n-th call of a service fail.
    pub fn fail_nth(&mut self, n: usize) {
        self.failed = true;
        self.vmm.fail_nth(n, std::io::ErrorKind::OutOfMemory);
    }

    /// A connection to the device's socket.
    #[must_use]
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect_addr(&self.address).expect("it listens");
        stream.set_nonblocking(true).expect("a socket");
        stream
    }

    /// Lets the device do what there is to do.
    pub fn rest(&self) {
        threads::rest();
    }

    /// Unplugs the device; nothing of it must be left.
    pub fn finish(self) {
        self.vmm.clear_failure();
        self.function.revoke();
        if !self.failed {
            assert!(self.vmm.mappings().is_empty());
        }
        drop(self.function);
        if !self.failed {
            assert!(self.vmm.doorbells().is_empty());
            assert_eq!(self.vmm.source_count(), 0);
        }
    }
}

/// How many descriptors this process has; waits for them to become `most`.
pub fn open_descriptors(most: usize) -> usize {
    let began = Instant::now();
    loop {
        let open = fs::read_dir("/proc/self/fd").expect("/proc").count();
        if open <= most || began.elapsed() > PATIENCE {
            return open;
        }
        thread::yield_now();
    }
}
