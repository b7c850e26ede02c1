// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A transport for programs in a Linux guest whose machine has an IOMMU: the
//! function through VFIO (`/dev/vfio`), with no kernel driver of this project's.
//!
//! The device reaches the memory of the driver's queues and no other, and what
//! it interrupts are eventfds: the program sleeps until there is something to
//! do. It needs no root, but the group's file in /dev/vfio to be its own, and
//! half a megabyte of memory that may be locked (`ulimit -l`). When it ends, in
//! whatever way, the kernel resets the function.
//!
//! The function must belong to vfio-pci. As root, for 0000:00:05.0, which the
//! driver of virtio devices may have taken:
//!
//! ```sh
//! modprobe vfio-pci
//! echo vfio-pci >/sys/bus/pci/devices/0000:00:05.0/driver_override
//! echo 0000:00:05.0 >/sys/bus/pci/devices/0000:00:05.0/driver/unbind
//! echo 0000:00:05.0 >/sys/bus/pci/drivers_probe
//! ```
//!
//! ```no_run
//! use vhost_guest_driver::vfio::Vfio;
//! use vhost_guest_driver::Device;
//!
//! let device = Device::open(Vfio::open(Vfio::find()?)?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The IOMMU
//!
//! Addresses in the queues are the IOMMU's. A device that does not offer
//! `VIRTIO_F_ACCESS_PLATFORM` goes past the IOMMU and would take them for
//! physical addresses, of memory that is not the driver's:
//! [`Device::open`](crate::Device::open) refuses it
//! ([`Error::PastIommu`](crate::Error::PastIommu)). Interrupts have to be
//! remapped, or whoever has the function could raise any interrupt of the machine's
//! ([`VfioError::NoRemapping`]). VFIO's mode without an IOMMU is not for this
//! transport; [`sysfs`] does as much.
//!
//! # The window
//!
//! VFIO maps BARs uncached on every architecture, prefetchable or not
//! (`vfio_pci_core_mmap`: `pgprot_noncached`). That is slower than the
//! write-combining mapping of [`sysfs`], and much slower than the
//! write-back one of [`Module`](crate::module::Module), where the hypervisor
//! leaves it at that. KVM does on AMD's processors. On Intel's it makes all of a guest's
//! memory write-back, whatever the guest says, unless the VM has a device
//! whose DMA goes past the caches.
//!
//! The kernel maps all of a BAR at its first access (6.1 and others, with page
//! tables of 2 MiB for each GiB): make the window no larger than need be.
//!
//! An access to a BAR of a device that is gone ends the program (SIGBUS); the
//! kernel does not let it go before the program has closed it, unless it is
//! torn out.

mod abi;
#[cfg(test)]
mod fake;
mod info;
mod interrupts;
mod kernel;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::access;
use crate::arena::Arena;
use crate::mapping;
use crate::sysfs::{self, Address, Sysfs, SysfsError};
use crate::transport::{DmaMemory, InterruptMode, MsiMessage, Transport, Wake};
use crate::vectors::VectorSet;
use crate::window::Window;

use info::{Function, Iommu, Region};
use interrupts::Interrupts;
use kernel::{Calls, Kernel};

/// Memory for the queues of the device: 408 KiB is what six of them take.
const DMA_LEN: u64 = 512 << 10;

/// Why a function cannot be driven through VFIO.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VfioError {
    /// There is no function to drive, or not one, or sysfs cannot be read.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// There is no such function.
    #[error("there is no PCI function {0}")]
    NoFunction(Address),
    /// No driver has the function; it must be one of VFIO's.
    #[error(
        "no driver has the device; as root: modprobe vfio-pci; \
         echo vfio-pci >/sys/bus/pci/devices/{0}/driver_override; \
         echo {0} >/sys/bus/pci/drivers_probe"
    )]
    Unbound(Address),
    /// A driver has the function that is none of VFIO's.
    #[error("the device belongs to the kernel driver {0}, not to vfio-pci; unbind it")]
    Bound(String),
    /// The function is in no group of an IOMMU's.
    #[error("there is no IOMMU in front of the device")]
    NoIommu,
    /// Interrupts are not remapped, or the machine's administrator forbids it.
    #[error("the kernel does not give the device away (are interrupts remapped?)")]
    NoRemapping,
    /// A file of VFIO's is not there.
    #[error("there is no {}; is vfio-pci loaded?", .0.display())]
    NoVfio(PathBuf),
    /// Another program has the group of the function.
    #[error("{}: another program has it", .0.display())]
    Busy(PathBuf),
    /// A driver that is none of VFIO's has another function of the group.
    #[error("{}: other devices of the group belong to kernel drivers", .0.display())]
    Unviable(PathBuf),
    /// VFIO is another than this program is for.
    #[error("VFIO has version {0}, or no IOMMU of type 1; this program is for version 0")]
    Version(i32),
    /// What VFIO offers is not a PCI function.
    #[error("the device is not a PCI function")]
    NotPci,
    /// What the kernel says about the device contradicts itself.
    #[error("what VFIO says of the device cannot be: {0}")]
    Malformed(&'static str),
    /// The IOMMU has no room for the queues.
    #[error("the IOMMU has no free range of addresses for the queues")]
    NoRange,
    /// The memory for the queues cannot be had.
    #[error("512 KiB of memory for the queues (see 'ulimit -l'): {0}")]
    Dma(#[source] io::Error),
    /// A BAR cannot be mapped.
    #[error("mapping BAR {0}: {1}")]
    Map(usize, #[source] io::Error),
    /// The kernel refused a call.
    #[error("{0}: {1}")]
    Call(&'static str, #[source] io::Error),
    /// A file cannot be used.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl VfioError {
    fn io(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { path, error }
    }

    fn call<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Call(call, error.into())
    }
}

/// A BAR, mapped as far as it can be.
struct Bar {
    region: Region,
    windows: Vec<(u64, Window)>,
}

impl Bar {
    fn map(calls: &dyn Calls, region: Region) -> io::Result<Self> {
        let map = |area: &std::ops::Range<u64>| {
            let len = area.end - area.start;
            let window =
                mapping::map_shared(calls.file().as_fd(), region.offset + area.start, len)?;
            Ok((area.start, window))
        };
        let windows = region.mappable.iter().map(map).collect::<io::Result<_>>()?;
        Ok(Self { region, windows })
    }

    /// The mapping that has all of a range, and where in it that begins.
    fn mapped(&self, offset: u64, len: u64) -> Option<(&Window, u64)> {
        self.windows.iter().find_map(|(start, window)| {
            let at = offset.checked_sub(*start)?;
            window.check(at, len).ok()?;
            Some((window, at))
        })
    }
}

/// A [`Transport`] through VFIO.
pub struct Vfio {
    bars: [Bar; info::BARS as usize],
    config: Region,
    arena: Arena,
    interrupts: Interrupts,
    calls: Box<dyn Calls>,
}

impl Vfio {
    /// The address of the machine's only vhost-guest device.
    pub fn find() -> Result<Address, VfioError> {
        Ok(Sysfs::find()?)
    }

    /// Takes the function, resets it, and sets up its BARs, its interrupts,
    /// and memory that it can access.
    ///
    /// # Errors
    ///
    /// If the function is not vfio-pci's to give, among others.
    pub fn open(address: Address) -> Result<Self, VfioError> {
        let group = kernel::group(Path::new(sysfs::DEVICES), address)?;
        Self::new(Box::new(Kernel::open(address, &group)?))
    }

    fn new(calls: Box<dyn Calls>) -> Result<Self, VfioError> {
        let function = Function::ask(&*calls)?;
        if function.can_reset {
            // What the last program left behind.
            calls
                .reset()
                .map_err(VfioError::call("VFIO_DEVICE_RESET"))?;
        }
        let mut bars = Vec::new();
        for (number, region) in function.bars.into_iter().enumerate() {
            let bar = Bar::map(&*calls, region);
            bars.push(bar.map_err(|error| VfioError::Map(number, error))?);
        }
        let iommu = Iommu::ask(&*calls, DMA_LEN)?;
        let memory = memory_for_queues(iommu.page).map_err(VfioError::Dma)?;
        let mapped = calls.map_dma(&memory, iommu.address);
        mapped.map_err(VfioError::Dma)?;
        Ok(Self {
            // There are as many as regions were asked for.
            bars: bars.try_into().map_err(|_| VfioError::NotPci)?,
            config: function.config,
            arena: Arena::new(DmaMemory {
                memory,
                address: iommu.address,
            }),
            interrupts: Interrupts::new(&*calls, function.vectors)
                .map_err(VfioError::call("VFIO_DEVICE_SET_IRQS"))?,
            calls,
        })
    }

    fn bar(&self, bar: u8) -> Option<&Bar> {
        self.bars.get(usize::from(bar))
    }

    /// Where `len` bytes of a region are in the file.
    fn place(region: &Region, offset: u64, len: usize) -> Option<u64> {
        let end = offset.checked_add(len as u64)?;
        (end <= region.size).then(|| region.offset + offset)
    }

    fn read(&self, region: &Region, offset: u64, data: &mut [u8]) {
        let place = Self::place(region, offset, data.len());
        let read = place.and_then(|at| self.calls.file().read_exact_at(data, at).ok());
        if read.is_none() {
            data.fill(0xff);
        }
    }

    fn write(&self, region: &Region, offset: u64, data: &[u8]) {
        if let Some(at) = Self::place(region, offset, data.len()) {
            // As on a bus, nobody is told.
            let _ = self.calls.file().write_all_at(data, at);
        }
    }
}

/// Memory in whole pages of the IOMMU's. It is shared, so that it stays where
/// it is if the program forks.
fn memory_for_queues(page: u64) -> io::Result<Window> {
    let len = DMA_LEN.next_multiple_of(page);
    let memory = mapping::anonymous(len + page)?;
    let start = memory.base().ok_or(io::ErrorKind::Other)?;
    let start = start.addr().get() as u64;
    let offset = start.next_multiple_of(page) - start;
    memory.slice(offset, len).map_err(io::Error::other)
}

impl Transport for Vfio {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.read(&self.config, offset.into(), data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.write(&self.config, offset.into(), data);
    }

    fn bar_len(&self, bar: u8) -> u64 {
        self.bar(bar).map_or(0, |bar| bar.region.size)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let Some(bar) = self.bar(bar) else {
            return data.fill(0xff);
        };
        match bar.mapped(offset, data.len() as u64) {
            Some((window, at)) if access::load(window, at, data) => {}
            Some(_) => data.fill(0xff),
            None => self.read(&bar.region, offset, data),
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        let Some(bar) = self.bar(bar) else { return };
        match bar.mapped(offset, data.len() as u64) {
            Some((window, at)) => {
                access::store(window, at, data);
            }
            None => self.write(&bar.region, offset, data),
        }
    }

    fn window(&self, bar: u8, offset: u64, len: u64) -> Option<Window> {
        let (window, at) = self.bar(bar)?.mapped(offset, len)?;
        window.slice(at, len).ok()
    }

    fn allocate_dma(&self, len: usize) -> Option<DmaMemory> {
        self.arena.allocate(len)
    }

    fn is_behind_iommu(&self) -> bool {
        true
    }

    fn interrupts(&self, wanted: u16) -> InterruptMode {
        match self.interrupts.vectors().min(wanted) {
            0 => InterruptMode::Polling,
            vectors => InterruptMode::Platform { vectors },
        }
    }

    /// The kernel has written the table.
    fn msi_message(&self, _vector: u16) -> MsiMessage {
        MsiMessage::default()
    }

    fn wait(&self, timeout: Option<Duration>) -> VectorSet {
        self.interrupts.wait(timeout)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.interrupts.waker()
    }
}

#[cfg(test)]
mod tests;
