// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! VFIO as the kernel offers it: the way from an address to a device.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use vfio_bindings::bindings::vfio::{
    vfio_group_status, vfio_iommu_type1_dma_map, vfio_irq_set, VFIO_TYPE1v2_IOMMU,
    VFIO_API_VERSION, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_GROUP_FLAGS_VIABLE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_MSIX_IRQ_INDEX,
};

use super::abi::{self, Argument, Request};
use super::VfioError;
use crate::sysfs::Address;
use crate::window::Window;

/// Where containers and groups are.
const DEV_VFIO: &str = "/dev/vfio";

/// What the transport asks of the kernel, so that tests can answer it.
pub trait Calls {
    /// `request` about the device.
    fn device(&self, request: Request, argument: &mut Argument) -> io::Result<()>;

    /// `request` about the IOMMU.
    fn iommu(&self, request: Request, argument: &mut Argument) -> io::Result<()>;

    /// Lets the device access `memory` at `address`.
    fn map_dma(&self, memory: &Window, address: u64) -> io::Result<()>;

    /// Has the first MSI-X vectors signal eventfds. Not 0 if there are less
    /// vectors to be had: so many.
    fn set_vectors(&self, eventfds: &[OwnedFd]) -> io::Result<u32>;

    /// Resets the function.
    fn reset(&self) -> io::Result<()>;

    /// The file of which regions are parts.
    fn file(&self) -> &File;
}

/// A device, with the IOMMU that is in front of it.
pub struct Kernel {
    // Closed in this order: the device is at rest before its memory is
    // anybody's.
    device: File,
    _group: File,
    container: File,
}

fn open(path: &Path) -> Result<File, VfioError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => VfioError::Busy(path.to_owned()),
        ErrorKind::NotFound => VfioError::NoVfio(path.to_owned()),
        _ => VfioError::io(path, error),
    })
}

/// The number of the IOMMU group of a function that a driver of VFIO's has.
pub fn group(devices: &Path, address: Address) -> Result<String, VfioError> {
    let directory = devices.join(address.to_string());
    let name = |link: &str| {
        let link = fs::read_link(directory.join(link)).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    };
    if !directory.exists() {
        return Err(VfioError::NoFunction(address));
    }
    // A variant driver has a name of its own.
    match name("driver") {
        None => return Err(VfioError::Unbound(address)),
        Some(driver) if !driver.contains("vfio") => return Err(VfioError::Bound(driver)),
        Some(_) => {}
    }
    let group = name("iommu_group").ok_or(VfioError::NoIommu)?;
    let number = !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
    number.then_some(group).ok_or(VfioError::NoIommu)
}

impl Kernel {
    /// Opens the device at `address`, in `group`, with an IOMMU of its own.
    pub fn open(address: Address, group: &str) -> Result<Self, VfioError> {
        let directory = PathBuf::from(DEV_VFIO);
        let container = open(&directory.join("vfio"))?;
        let call = VfioError::call;
        let version = abi::api_version(container.as_fd());
        let version = version.map_err(call("VFIO_GET_API_VERSION"))?;
        let type1 = abi::check_extension(container.as_fd(), VFIO_TYPE1v2_IOMMU);
        let type1 = type1.map_err(call("VFIO_CHECK_EXTENSION"))?;
        if i64::from(version) != i64::from(VFIO_API_VERSION) || !type1 {
            return Err(VfioError::Version(version));
        }
        let path = directory.join(group);
        let group = open(&path)?;
        if !is_viable(group.as_fd()).map_err(call("VFIO_GROUP_GET_STATUS"))? {
            return Err(VfioError::Unviable(path));
        }
        abi::set_container(group.as_fd(), container.as_fd())
            .map_err(call("VFIO_GROUP_SET_CONTAINER"))?;
        abi::set_iommu(container.as_fd(), VFIO_TYPE1v2_IOMMU).map_err(|error| match error {
            rustix::io::Errno::PERM => VfioError::NoRemapping,
            error => call("VFIO_SET_IOMMU")(error),
        })?;
        // An address has no zeros.
        let name = CString::new(address.to_string()).unwrap_or_default();
        let device = abi::device(group.as_fd(), &name);
        Ok(Self {
            device: File::from(device.map_err(call("VFIO_GROUP_GET_DEVICE_FD"))?),
            _group: group,
            container,
        })
    }
}

fn is_viable(group: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut status = Argument::new();
    // SAFETY: this request maps nothing.
    unsafe { abi::call(group, Request::GroupStatus, &mut status) }?;
    let flags = status.u32(offset_of!(vfio_group_status, flags));
    Ok(flags.unwrap_or_default() & VFIO_GROUP_FLAGS_VIABLE != 0)
}

fn information(file: &File, request: Request, argument: &mut Argument) -> io::Result<()> {
    if request == Request::MapDma {
        return Err(ErrorKind::InvalidInput.into());
    }
    // SAFETY: this request maps nothing.
    unsafe { abi::call(file.as_fd(), request, argument) }?;
    Ok(())
}

impl Calls for Kernel {
    fn device(&self, request: Request, argument: &mut Argument) -> io::Result<()> {
        information(&self.device, request, argument)
    }

    fn iommu(&self, request: Request, argument: &mut Argument) -> io::Result<()> {
        information(&self.container, request, argument)
    }

    fn map_dma(&self, memory: &Window, address: u64) -> io::Result<()> {
        let mut argument = Argument::new();
        let flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
        let start = memory.base().ok_or(io::ErrorKind::InvalidInput)?;
        let start = start.as_ptr() as u64;
        argument.set(
            offset_of!(vfio_iommu_type1_dma_map, flags),
            flags.to_ne_bytes(),
        );
        for (at, value) in [
            (offset_of!(vfio_iommu_type1_dma_map, vaddr), start),
            (offset_of!(vfio_iommu_type1_dma_map, iova), address),
            (offset_of!(vfio_iommu_type1_dma_map, size), memory.len()),
        ] {
            argument.set(at, value.to_ne_bytes());
        }
        // SAFETY: the memory is that of a window, which others may write at any
        // time and no reference is made to. The kernel keeps the pages for the
        // device, also when the window is gone.
        unsafe { abi::call(self.container.as_fd(), Request::MapDma, &mut argument) }?;
        Ok(())
    }

    fn set_vectors(&self, eventfds: &[OwnedFd]) -> io::Result<u32> {
        let mut argument = vectors(eventfds).ok_or(ErrorKind::InvalidInput)?;
        // SAFETY: this request maps nothing.
        let less = unsafe { abi::call(self.device.as_fd(), Request::SetIrqs, &mut argument) }?;
        Ok(u32::try_from(less).unwrap_or_default())
    }

    fn reset(&self) -> io::Result<()> {
        Ok(abi::reset(self.device.as_fd())?)
    }

    fn file(&self) -> &File {
        &self.device
    }
}

/// `struct vfio_irq_set` with an eventfd for each of the first vectors.
fn vectors(eventfds: &[OwnedFd]) -> Option<Argument> {
    let mut argument = Argument::new();
    let count = u32::try_from(eventfds.len()).ok()?;
    let mut fits = true;
    for (at, value) in [
        (
            offset_of!(vfio_irq_set, flags),
            VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        ),
        (offset_of!(vfio_irq_set, index), VFIO_PCI_MSIX_IRQ_INDEX),
        (offset_of!(vfio_irq_set, count), count),
    ] {
        fits &= argument.set(at, value.to_ne_bytes());
    }
    let mut at = offset_of!(vfio_irq_set, data);
    for eventfd in eventfds {
        fits &= argument.set(at, eventfd.as_raw_fd().to_ne_bytes());
        at += size_of::<i32>();
    }
    fits.then_some(argument)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tests::FakeSysfs;
    use crate::vectors::MAX_VECTORS;
    use std::os::unix::fs::symlink;

    #[test]
    fn tells_what_is_in_the_way_of_a_device() {
        let sysfs = FakeSysfs::new();
        let address: Address = "0000:00:03.0".parse().unwrap();
        let group = || group(sysfs.path(), address);
        assert!(matches!(group(), Err(VfioError::NoFunction(_))));
        let place = sysfs.function("0000:00:03.0", "0x1af4\n", "0x1075\n");
        assert!(matches!(group(), Err(VfioError::Unbound(_))));
        symlink("../../bus/virtio-pci", place.join("driver")).unwrap();
        assert!(matches!(group(), Err(VfioError::Bound(driver)) if driver == "virtio-pci"));
        fs::remove_file(place.join("driver")).unwrap();
        symlink("../../bus/vfio-pci", place.join("driver")).unwrap();
        assert!(matches!(group(), Err(VfioError::NoIommu)));
        symlink("../../kernel/noiommu", place.join("iommu_group")).unwrap();
        assert!(matches!(group(), Err(VfioError::NoIommu)));
        fs::remove_file(place.join("iommu_group")).unwrap();
        symlink("../../kernel/iommu_groups/17", place.join("iommu_group")).unwrap();
        assert_eq!(group().unwrap(), "17");
    }

    #[test]
    fn says_what_a_machine_without_vfio_lacks() {
        // Machines have it or not; no machine has this group.
        let address = "0000:00:03.0".parse().unwrap();
        let error = Kernel::open(address, "4294967295").err().unwrap();
        assert!(error.to_string().contains("/dev/vfio"), "{error}");
    }

    #[test]
    fn tells_what_the_kernel_says_to_each_call() {
        let null = || File::open("/dev/null").unwrap();
        let kernel = Kernel {
            device: null(),
            _group: null(),
            container: null(),
        };
        let argument = &mut Argument::new();
        let memory = Window::allocate(4096).unwrap();
        let eventfds = [crate::eventfd::new().unwrap()];
        let asked = [
            kernel.device(Request::DeviceInfo, argument),
            kernel.iommu(Request::IommuInfo, argument),
            kernel.map_dma(&memory, 1 << 20),
            kernel.set_vectors(&eventfds).map(drop),
            kernel.reset(),
        ];
        for (call, outcome) in asked.into_iter().enumerate() {
            let errno = outcome.unwrap_err().raw_os_error();
            assert_eq!(
                errno,
                Some(rustix::io::Errno::NOTTY.raw_os_error()),
                "{call}"
            );
        }
        // Memory is mapped by the call that is for it.
        let mapped = kernel.iommu(Request::MapDma, argument);
        assert_eq!(mapped.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(is_viable(kernel.file().as_fd()).is_err());
        let missing = open(Path::new("/dev/vfio/4294967295"));
        assert!(matches!(missing, Err(VfioError::NoVfio(_))));
        let directory = open(Path::new("/dev"));
        assert!(matches!(directory, Err(VfioError::Io { .. })));
    }

    #[test]
    fn lists_the_eventfds_of_all_vectors() {
        let new = |count| (0..count).map(|_| crate::eventfd::new().unwrap()).collect();
        let eventfds: Vec<OwnedFd> = new(usize::from(MAX_VECTORS));
        let argument = vectors(&eventfds).unwrap();
        let field = |at| argument.u32(at).unwrap();
        assert_eq!([4, 8, 12, 16].map(field), [0x24, 2, 0, 320]);
        let last = eventfds.last().unwrap().as_raw_fd();
        assert_eq!(field(20 + 4 * 319), last as u32);
        assert_eq!(field(20 + 4 * 320), 0);
        assert!(vectors(&new(1020)).is_none());
    }
}
