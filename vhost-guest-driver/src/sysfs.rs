// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A transport for programs in a Linux guest: BARs and configuration space
//! through sysfs, without a kernel driver.
//!
//! The program runs as root. It polls: without VFIO or a kernel driver
//! nobody can tell it of interrupts ([`Options::interrupts`]). Memory for DMA
//! is one huge page of 2 MiB, which must be there:
//!
//! ```sh
//! echo 1 >/proc/sys/vm/nr_hugepages
//! ```
//!
//! There must be no IOMMU in front of the device, and no kernel driver bound
//! to it.
//!
//! ```no_run
//! use vhost_guest_driver::sysfs::{Options, Sysfs};
//! use vhost_guest_driver::Device;
//!
//! let address = Sysfs::find()?;
//! let device = Device::open(Sysfs::open(address, Options::default())?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod find;
mod mapping;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use thiserror::Error;

use crate::access;
use crate::arena::Arena;
use crate::transport::{DmaMemory, InterruptMode, MsiMessage, Transport, Wake};
use crate::vectors::VectorSet;
use crate::window::Window;

pub use find::Address;

/// All PCI functions of the machine.
pub(crate) const DEVICES: &str = "/sys/bus/pci/devices";

/// Why a function cannot be driven through sysfs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SysfsError {
    /// Not an address of a PCI function.
    #[error("'{0}' is no address of a PCI function (0000:00:05.0)")]
    Address(String),
    /// There is no vhost-guest device.
    #[error("there is no vhost-guest device (1af4:1075)")]
    NoDevice,
    /// There is more than one; these are the first two.
    #[error("there are several vhost-guest devices: {0}, {1}")]
    Several(Address, Address),
    /// A kernel driver has the device.
    #[error("the device belongs to the kernel driver {0}; unbind it")]
    Bound(String),
    /// A line of the file `resource` is not as the kernel writes it.
    #[error("the line for BAR {0} in the file 'resource' is malformed")]
    Resource(u8),
    /// The kernel found no address for a BAR.
    #[error("BAR {0} has no address")]
    Unplaced(u8),
    /// A BAR is larger than the address space.
    #[error("a BAR that is too large to be mapped")]
    TooLarge,
    /// There is no huge page for DMA.
    #[error("no huge page (echo 1 >/proc/sys/vm/nr_hugepages): {0}")]
    HugePage(#[source] io::Error),
    /// The kernel does not tell physical addresses.
    #[error("/proc/self/pagemap does not tell physical addresses; are you root?")]
    Pagemap,
    /// A file of sysfs or procfs cannot be used.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl SysfsError {
    fn io(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { path, error }
    }
}

fn read(path: &Path) -> Result<String, SysfsError> {
    fs::read_to_string(path).map_err(|error| SysfsError::io(path, error))
}

/// How the device is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long the program sleeps at the most when there is nothing to do: what
    /// a request may have to wait. Its first sleep after work takes 50 µs, if it
    /// may, and each one after that twice as long. Zero: it does not sleep, but
    /// lets others run.
    pub idle: Duration,
    /// A message that all interrupts of the device are sent as. The program
    /// polls all the same; but the device's interrupts take the way that they
    /// would take to a kernel driver.
    ///
    /// Nobody may be harmed by the interrupt. Linux on x86 has one that it only
    /// counts, unless it runs guests of its own: [`COUNTED_INTERRUPT`].
    pub interrupts: Option<MsiMessage>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            idle: FIRST_SLEEP,
            interrupts: None,
        }
    }
}

/// The first sleep after work.
const FIRST_SLEEP: Duration = Duration::from_micros(50);

/// Linux' interrupt for guests that run (`POSTED_INTR_VECTOR`), to the first
/// CPU: it is counted in /proc/interrupts ("PIN"), and that is all.
pub const COUNTED_INTERRUPT: MsiMessage = MsiMessage {
    address: 0xfee0_0000,
    data: 0xf2,
};

/// A [`Transport`] through sysfs.
pub struct Sysfs {
    config: File,
    bars: [Option<Window>; 6],
    arena: Arena,
    options: Options,
    woken: Arc<AtomicBool>,
    /// Nanoseconds of the last sleep, if there was no work since.
    slept: AtomicU64,
}

impl Sysfs {
    /// The address of the machine's only vhost-guest device.
    pub fn find() -> Result<Address, SysfsError> {
        find::only_function(Path::new(DEVICES))
    }

    /// Enables the function and maps its BARs.
    pub fn open(address: Address, options: Options) -> Result<Self, SysfsError> {
        let directory = find::directory(Path::new(DEVICES), address)?;
        Self::with_dma(&directory, mapping::allocate_dma()?, options)
    }

    fn with_dma(directory: &Path, dma: DmaMemory, options: Options) -> Result<Self, SysfsError> {
        let enable = directory.join("enable");
        fs::write(&enable, "1").map_err(|error| SysfsError::io(&enable, error))?;
        let path = directory.join("config");
        let config = OpenOptions::new().read(true).write(true).open(&path);
        let lengths = find::bar_lengths(&read(&directory.join("resource"))?)?;
        let mut bars = [const { None }; 6];
        for ((bar, len), slot) in (0..).zip(lengths).zip(&mut bars) {
            if len != 0 {
                *slot = Some(map_bar(directory, bar, len)?);
            }
        }
        Ok(Self {
            config: config.map_err(|error| SysfsError::io(&path, error))?,
            bars,
            arena: Arena::new(dma),
            options,
            woken: Arc::default(),
            slept: AtomicU64::new(0),
        })
    }

    /// How long to sleep now: twice as long as before, as far as it may.
    fn next_sleep(&self, timeout: Option<Duration>) -> Duration {
        let slept = self.slept.load(Ordering::Relaxed);
        let longer = Duration::from_nanos(slept.saturating_mul(2)).max(FIRST_SLEEP);
        let sleep = longer.min(self.options.idle);
        let sleep = timeout.map_or(sleep, |timeout| timeout.min(sleep));
        let nanoseconds = u64::try_from(sleep.as_nanos()).unwrap_or(u64::MAX);
        self.slept.store(nanoseconds, Ordering::Relaxed);
        sleep
    }

    fn bar(&self, bar: u8) -> Option<&Window> {
        self.bars.get(usize::from(bar))?.as_ref()
    }
}

/// Maps a BAR. Linux offers a cached mapping of none; where the BAR is
/// prefetchable there is a write-combining one, which is faster.
fn map_bar(directory: &Path, bar: u8, len: u64) -> Result<Window, SysfsError> {
    let combining = directory.join(format!("resource{bar}_wc"));
    if combining.exists() {
        return mapping::map_bar(&combining, len);
    }
    mapping::map_bar(&directory.join(format!("resource{bar}")), len)
}

struct Waker(Arc<AtomicBool>);

impl Wake for Waker {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Transport for Sysfs {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        if self.config.read_exact_at(data, offset.into()).is_err() {
            data.fill(0xff);
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        // As on a bus, nobody is told.
        let _ = self.config.write_all_at(data, offset.into());
    }

    fn bar_len(&self, bar: u8) -> u64 {
        self.bar(bar).map_or(0, Window::len)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let window = self.bar(bar);
        if !window.is_some_and(|window| access::load(window, offset, data)) {
            data.fill(0xff);
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        // As on a bus, a store that nobody takes is lost.
        if let Some(window) = self.bar(bar) {
            access::store(window, offset, data);
        }
    }

    fn window(&self, bar: u8, offset: u64, len: u64) -> Option<Window> {
        self.bar(bar)?.slice(offset, len).ok()
    }

    fn allocate_dma(&self, len: usize) -> Option<DmaMemory> {
        self.arena.allocate(len)
    }

    fn interrupts(&self, wanted: u16) -> InterruptMode {
        match self.options.interrupts {
            Some(_) => InterruptMode::Unheard { vectors: wanted },
            None => InterruptMode::Polling,
        }
    }

    fn msi_message(&self, _vector: u16) -> MsiMessage {
        self.options.interrupts.unwrap_or_default()
    }

    /// Sleeps for a while. Of interrupts it never knows.
    fn wait(&self, timeout: Option<Duration>) -> VectorSet {
        let woken = self.woken.swap(false, Ordering::Acquire);
        if timeout == Some(Duration::ZERO) {
            // There is work, and more is likely to follow.
            self.slept.store(0, Ordering::Relaxed);
        } else if !woken {
            match self.next_sleep(timeout) {
                Duration::ZERO => thread::yield_now(),
                sleep => thread::sleep(sleep),
            }
        }
        VectorSet::new()
    }

    fn poll_interval(&self) -> Duration {
        // Zero would not let others run.
        self.options.idle.max(FIRST_SLEEP)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Waker(self.woken.clone()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
