// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device on a VMM that exists on paper.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vhost_guest_device::{BarMove, BuildError, Builder, Services, SnapshotError, VhostGuest};
use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};
use vhost_guest_vmm_traits::{Access, AddressTranslator, Translation};
use vm_memory::{
    Address, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend,
    GuestMemoryMmap, GuestRegionMmap,
};

use crate::lent::Lent;
use crate::threads;

/// Vrings of the device.
pub const VRINGS: u16 = 4;
/// Size of the window: enough for the memory of captured sessions.
const WINDOW: u64 = 1 << 30;
/// Size of guest memory.
pub const RAM: usize = 1 << 20;
/// Numbers and addresses of the BARs: registers, doorbells, window.
pub const BARS: [(u8, u64); 3] = [(0, 0xE000_0000), (2, 0xE001_0000), (4, 1 << 40)];
/// A register in BAR 0: `device_status`.
pub const STATUS: u64 = 0x14;
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

/// Memory that the VMM may replace.
type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// The device, the VMM, and the guest's memory.
pub struct Machine {
    pub function: VhostGuest<Memory>,
    pub vmm: Arc<TestVmm>,
    memory: Memory,
    /// What it is lent, if that is real.
    pub lent: Option<Arc<Lent>>,
    /// What is before the device, if it is a whole one.
    pub iommu: Option<Arc<Iommu>>,
    address: SocketAddr,
    /// One access to configuration space at a time, and what follows from it.
    bus: Mutex<()>,
    /// A service failed on purpose; what is left then may be the VMM's loss.
    failed: AtomicBool,
}

/// What a VMM chooses.
#[derive(Default)]
pub struct Choice {
    /// It has an IOMMU, and its device carries device state.
    pub whole: bool,
    /// Services are real: KVM's, or an emulated machine's. Then the device does
    /// not come to rest between steps, either.
    pub real: Option<Real>,
}

/// A machine whose services are real.
pub struct Real {
    pub kvm: bool,
    pub ioeventfds: bool,
    pub event_loop: bool,
}

impl Machine {
    /// A machine that was just switched on. A whole one has an IOMMU, and its
    /// device carries device state.
    #[must_use]
    pub fn new(whole: bool) -> Self {
        let choice = Choice { whole, real: None };
        Self::with(choice, |builder| {
            builder.queues(VRINGS).window_size(WINDOW).device_type(2)
        })
        .expect("a device")
    }

    /// A machine as a VMM chose it.
    ///
    /// # Errors
    ///
    /// What the builder refuses.
    pub fn with(
        choice: Choice,
        options: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self, BuildError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vhost-guest-fuzz-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        let listener = UnixListener::bind_addr(&address).expect("a new name");
        let vmm = Arc::new(TestVmm::new());
        let memory =
            Memory::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("memory"));
        let iommu = choice.whole.then(|| Arc::new(Iommu::default()));
        let mut services = Services {
            interrupts: vmm.clone(),
            doorbells: Some(vmm.clone()),
            window: vmm.clone(),
            memory: memory.clone(),
            translator: iommu.clone().map(|iommu| iommu as _),
            notifier: Some(vmm.clone()),
            thread_hook: None,
        };
        let mut builder = options(Builder::new(listener));
        if choice.whole {
            builder = builder.migration(STATE);
        }
        let mut lent = None;
        let function = match choice.real {
            None => builder.build(services)?,
            Some(real) => {
                let all = Arc::new(Lent::new(vmm.clone(), real.kvm, WINDOW));
                services.interrupts = all.clone();
                services.window = all.clone();
                services.doorbells = real.ioeventfds.then(|| all.clone() as _);
                lent = Some(all);
                let function = builder.prepare(services)?;
                // Starting twice is starting once.
                for _ in 0..2 {
                    match real.event_loop {
                        true => function.start_without_thread()?,
                        false => function.start()?,
                    }
                }
                function
            }
        };
        Ok(Self {
            function,
            vmm,
            memory,
            lent,
            iommu,
            address,
            bus: Mutex::default(),
            failed: AtomicBool::new(false),
        })
    }

    /// The guest's memory as it is now.
    #[must_use]
    pub fn memory(&self) -> impl std::ops::Deref<Target = GuestMemoryMmap> {
        self.memory.memory()
    }

    /// Plugs memory behind that of the guest's, or takes it away.
    pub fn replace_memory(&self) {
        let map = self.memory.memory().clone();
        let more = GuestAddress(RAM as u64);
        let map = match map.last_addr().raw_value() >= more.raw_value() {
            true => map.remove_region(more, RAM as u64).map(|(map, _)| map),
            false => {
                let region = GuestRegionMmap::from_range(more, RAM, None).expect("memory");
                map.insert_region(Arc::new(region))
            }
        };
        let replaced = self.memory.lock().expect("nobody panicked");
        replaced.replace(map.expect("regions that do not meet"));
        self.function.memory_changed();
    }

    /// A write to configuration space, and what the VMM does after it.
    pub fn config_write(&self, offset: u16, data: &[u8]) {
        let _bus = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
        self.move_bars(self.function.config_write(offset, data));
    }

    /// Resets the device as its bus does.
    pub fn reset(&self) {
        let _bus = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
        self.move_bars(self.function.reset());
    }

    fn move_bars(&self, moves: Vec<BarMove>) {
        for BarMove { bar, address, .. } in moves {
            self.bar_moved(bar, address);
        }
    }

    /// Routes a BAR elsewhere.
    pub fn bar_moved(&self, bar: u8, address: Option<u64>) {
        let moved = self.function.bar_moved(bar, address);
        // A guest may place a BAR where KVM cannot have memory.
        let may_fail = self.has_failed() || self.is_kvm();
        assert!(moved.is_ok() || may_fail, "{moved:?}");
    }

    /// Restores the device, and routes its BARs.
    ///
    /// # Errors
    ///
    /// See [`VhostGuest::restore`].
    pub fn restore(&self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        let _bus = self.bus.lock().unwrap_or_else(PoisonError::into_inner);
        self.move_bars(self.function.restore(snapshot)?);
        Ok(())
    }

    /// Saves the device and restores it, where it is.
    pub fn go_round(&self) {
        self.function.pause();
        let snapshot = self.function.snapshot().expect("a pause");
        let restored = self.restore(&snapshot);
        assert!(restored.is_ok() || self.has_failed(), "{restored:?}");
        self.function.resume();
    }

    /// Makes the n-th call of a service fail.
    pub fn fail_nth(&self, n: usize) {
        self.failed.store(true, Ordering::SeqCst);
        self.vmm.fail_nth(n, std::io::ErrorKind::OutOfMemory);
    }

    /// Whether a service may have failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Whether the device cannot keep its promises any more.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.vmm.calls().contains(&Call::Dead)
    }

    fn is_kvm(&self) -> bool {
        self.lent.as_ref().is_some_and(|lent| lent.is_kvm())
    }

    /// Where the device's socket is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.clone()
    }

    /// A connection to the device's socket.
    #[must_use]
    pub fn connect(&self) -> UnixStream {
        connect(&self.address).expect("it listens")
    }

    /// What `device_status` reads.
    #[must_use]
    pub fn status(&self) -> u8 {
        let mut status = [0];
        self.function.bar_read(0, STATUS, &mut status);
        status[0]
    }

    /// Lets the device do what there is to do. One with real services is not
    /// alone, and never at rest.
    pub fn rest(&self) {
        if self.lent.is_none() {
            threads::rest();
        }
    }

    /// Unplugs the device; nothing of it must be left.
    pub fn finish(self) {
        self.vmm.clear_failure();
        self.function.revoke();
        let failed = self.has_failed();
        if !failed {
            assert!(self.vmm.mappings().is_empty());
        }
        drop(self.function);
        if !failed {
            assert!(self.vmm.doorbells().is_empty());
            assert_eq!(self.vmm.source_count(), 0);
            let began = Instant::now();
            while self.vmm.open_ranges() > 0 {
                assert!(began.elapsed() < PATIENCE, "ranges stay open");
                thread::yield_now();
            }
        }
    }
}

/// A connection to a device's socket.
///
/// # Errors
///
/// The device is not there any more.
pub(crate) fn connect(device: &SocketAddr) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(device)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
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
