// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The calls of VFIO (`include/uapi/linux/vfio.h`).

use std::ffi::{c_char, c_int, c_void, CStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Result;
use rustix::ioctl::{ioctl, opcode, Ioctl, IoctlOutput, Opcode};
use vfio_bindings::bindings::vfio::{VFIO_BASE, VFIO_TYPE};

/// The numbers of VFIO name no size: arguments say theirs.
const fn request(number: u8) -> Opcode {
    opcode::none(VFIO_TYPE, VFIO_BASE as u8 + number)
}

const GET_API_VERSION: Opcode = request(0);
const CHECK_EXTENSION: Opcode = request(1);
const SET_IOMMU: Opcode = request(2);
const GROUP_SET_CONTAINER: Opcode = request(4);
const GROUP_GET_DEVICE_FD: Opcode = request(6);
const DEVICE_RESET: Opcode = request(11);

/// A request with an [`Argument`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    GroupStatus,
    DeviceInfo,
    RegionInfo,
    IrqInfo,
    SetIrqs,
    IommuInfo,
    MapDma,
}

impl Request {
    fn opcode(self) -> Opcode {
        match self {
            Self::GroupStatus => request(3),
            Self::DeviceInfo => request(7),
            Self::RegionInfo => request(8),
            Self::IrqInfo => request(9),
            Self::SetIrqs => request(10),
            Self::IommuInfo => request(12),
            Self::MapDma => request(13),
        }
    }
}

/// Ample: what we ask for has some hundred bytes, capabilities included; 320
/// eventfds have 1300.
const ARGUMENT_LEN: usize = 4096;

/// A structure of VFIO's: its first field, `argsz`, says how long it is, the
/// kernel does not go beyond that, and where more is to be said it says how
/// long it should have been.
#[repr(C, align(8))]
pub struct Argument([u8; ARGUMENT_LEN]);

const _: () = assert!(size_of::<Argument>() == ARGUMENT_LEN);

impl Argument {
    /// Zeros, with all the room that there is.
    pub fn new() -> Self {
        let mut this = Self([0; ARGUMENT_LEN]);
        this.put(0, (ARGUMENT_LEN as u32).to_ne_bytes());
        this
    }

    /// Bytes at an offset, unless they are outside.
    pub fn get<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    pub fn u16(&self, at: usize) -> Option<u16> {
        self.get(at).map(u16::from_ne_bytes)
    }

    pub fn u32(&self, at: usize) -> Option<u32> {
        self.get(at).map(u32::from_ne_bytes)
    }

    pub fn u64(&self, at: usize) -> Option<u64> {
        self.get(at).map(u64::from_ne_bytes)
    }

    /// Sets bytes at an offset; whether that is inside. The size is none of
    /// what can be set.
    pub fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        at >= size_of::<u32>() && self.put(at, bytes)
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) -> bool {
        let end = at.checked_add(N);
        let place = end.and_then(|end| self.0.get_mut(at..end));
        let inside = place.is_some();
        if let Some(place) = place {
            place.copy_from_slice(&bytes);
        }
        inside
    }

    /// The size that the kernel would like it to have.
    pub fn wanted(&self) -> usize {
        self.u32(0).unwrap_or_default() as usize
    }

    /// Pretends to be the kernel.
    #[cfg(test)]
    pub fn answer(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// A request with a pointer.
struct Pointer(Opcode, *mut c_void);

// SAFETY: the kernel gets this very pointer; whoever calls `ioctl` with it
// knows what the kernel does there.
unsafe impl Ioctl for Pointer {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.1
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput> {
        Ok(output)
    }
}

/// # Safety
///
/// With [`Request::MapDma`], the device may access the memory that `argument`
/// names from then on: it must be mapped, and nothing in this program may make
/// Rust references to it.
pub unsafe fn call(
    file: BorrowedFd<'_>,
    request: Request,
    argument: &mut Argument,
) -> Result<IoctlOutput> {
    // The kernel may have changed it in the last call.
    argument.put(0, (ARGUMENT_LEN as u32).to_ne_bytes());
    let pointer = (&raw mut *argument).cast();
    // SAFETY: `argsz` was just set to the size of `argument`, so that the kernel
    // reads and writes inside of it; it is borrowed for us alone, and any bytes
    // are an `Argument`. As for other memory, the caller vouches. No file but
    // VFIO's knows the numbers.
    unsafe { ioctl(file, Pointer(request.opcode(), pointer)) }
}

/// A request whose argument is a number.
fn number(file: BorrowedFd<'_>, opcode: Opcode, argument: u32) -> Result<IoctlOutput> {
    let pointer = std::ptr::without_provenance_mut(argument as usize);
    // SAFETY: the arguments of the requests that come here are numbers, so that
    // the kernel accesses no memory of ours.
    unsafe { ioctl(file, Pointer(opcode, pointer)) }
}

pub fn api_version(container: BorrowedFd<'_>) -> Result<IoctlOutput> {
    number(container, GET_API_VERSION, 0)
}

pub fn check_extension(container: BorrowedFd<'_>, extension: u32) -> Result<bool> {
    Ok(number(container, CHECK_EXTENSION, extension)? > 0)
}

pub fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> Result<()> {
    number(container, SET_IOMMU, kind).map(drop)
}

pub fn reset(device: BorrowedFd<'_>) -> Result<()> {
    number(device, DEVICE_RESET, 0).map(drop)
}

pub fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<()> {
    let mut descriptor: c_int = container.as_raw_fd();
    let pointer = (&raw mut descriptor).cast();
    // SAFETY: the kernel reads an `int`, which `descriptor` is.
    unsafe { ioctl(group, Pointer(GROUP_SET_CONTAINER, pointer)) }.map(drop)
}

pub fn device(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let name: *const c_char = name.as_ptr();
    // SAFETY: the kernel reads a string that ends with a zero, and writes none.
    let device = unsafe { ioctl(group, Pointer(GROUP_GET_DEVICE_FD, name.cast_mut().cast())) }?;
    // SAFETY: the kernel made a descriptor for us, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(device) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a C compiler makes of the header: _IO(';', 100 + n).
    #[test]
    fn has_the_numbers_of_the_header() {
        assert_eq!(GET_API_VERSION, 0x3b64);
        assert_eq!(CHECK_EXTENSION, 0x3b65);
        assert_eq!(SET_IOMMU, 0x3b66);
        assert_eq!(GROUP_SET_CONTAINER, 0x3b68);
        assert_eq!(GROUP_GET_DEVICE_FD, 0x3b6a);
        assert_eq!(DEVICE_RESET, 0x3b6f);
        let requests = [
            (Request::GroupStatus, 0x3b67),
            (Request::DeviceInfo, 0x3b6b),
            (Request::RegionInfo, 0x3b6c),
            (Request::IrqInfo, 0x3b6d),
            (Request::SetIrqs, 0x3b6e),
            (Request::IommuInfo, 0x3b70),
            (Request::MapDma, 0x3b71),
        ];
        for (request, number) in requests {
            assert_eq!(request.opcode(), number, "{request:?}");
        }
    }

    #[test]
    fn keeps_arguments_inside_of_their_size() {
        let mut argument = Argument::new();
        assert_eq!(argument.wanted(), ARGUMENT_LEN);
        assert!(argument.set(8, 7u64.to_ne_bytes()));
        assert_eq!((argument.u64(8), argument.u32(4)), (Some(7), Some(0)));
        // Its size is told to the kernel, and stays what it is.
        assert!(!argument.set(0, u32::MAX.to_ne_bytes()));
        assert!(!argument.set(3, [0]));
        assert!(!argument.set(ARGUMENT_LEN - 3, [0; 4]));
        assert!(!argument.set(usize::MAX, [0; 4]));
        assert_eq!(argument.wanted(), ARGUMENT_LEN);
        assert_eq!(argument.u32(ARGUMENT_LEN - 3), None);
        assert_eq!(argument.u64(usize::MAX), None);
    }

    #[test]
    fn finds_no_vfio_in_other_files() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let file = std::os::fd::AsFd::as_fd(&null);
        assert!(api_version(file).is_err() && reset(file).is_err());
        assert!(device(file, c"0000:00:05.0").is_err());
        let mut argument = Argument::new();
        // What the kernel would have liked is not what there is.
        argument.answer(0, &u32::MAX.to_ne_bytes());
        // SAFETY: nothing is mapped for DMA.
        let asked = unsafe { call(file, Request::DeviceInfo, &mut argument) };
        assert!(asked.is_err());
        assert_eq!(argument.wanted(), ARGUMENT_LEN);
    }
}
