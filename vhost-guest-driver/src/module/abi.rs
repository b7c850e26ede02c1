// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The interface of the kernel driver: `linux/include/uapi/linux/vhost_guest.h`
//! in Rust.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Result;
use rustix::ioctl::{ioctl, opcode, Getter, Ioctl, IoctlOutput, Opcode, Setter};

pub const API_VERSION: u32 = 1;

const MAGIC: u8 = 0xb9;
const GET_INFO: Opcode = opcode::read::<Info>(MAGIC, 0);
const GET_STATE: Opcode = opcode::read::<u32>(MAGIC, 1);
const RESET: Opcode = opcode::none(MAGIC, 2);
const SET_TYPE: Opcode = opcode::none(MAGIC, 3);
const SET_BACKEND_UP: Opcode = opcode::none(MAGIC, 4);
const SET_EVENTFD: Opcode = opcode::write::<Eventfd>(MAGIC, 5);
const OPEN: Opcode = opcode::none(MAGIC, 6);
const OPEN_REGION: Opcode = opcode::write::<Region>(MAGIC, 7);

pub const F_BIG_ENDIAN: u32 = 1 << 0;

pub const STATE_BACKEND_UP: u32 = 1 << 0;
pub const STATE_FRONTEND_UP: u32 = 1 << 1;
pub const STATE_NEEDS_RESET: u32 = 1 << 2;

pub const KICK: u32 = 0;
pub const CALL: u32 = 1;
pub const ERR: u32 = 2;
pub const LOG: u32 = 3;

pub const OPEN_WINDOW: u32 = 0;
pub const OPEN_BACKEND: u32 = 1;
pub const OPEN_MIGRATION: u32 = 2;
pub const OPEN_NONBLOCK: u32 = 1 << 31;

/// `struct vhost_guest_info`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Info {
    pub version: u32,
    pub features: u32,
    pub window_size: u64,
    pub max_vhost_queues: u32,
    pub max_message_size: u32,
    pub max_migration_message_size: u32,
    pub device_type: u16,
    pub reserved: u16,
    pub uuid: [u8; 16],
    pub reserved2: [u64; 4],
}

/// `struct vhost_guest_eventfd`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Eventfd {
    kind: u32,
    index: u32,
    fd: RawFd,
    reserved: u32,
}

/// `struct vhost_guest_region`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Region {
    offset: u64,
    size: u64,
}

/// A request that makes a file for a part of the window.
struct OpenRegion(Region);

// SAFETY: the driver reads a struct vhost_guest_region, which `Region` is, and
// no other memory; the pointer is to a field of this very object.
unsafe impl Ioctl for OpenRegion {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPEN_REGION
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput> {
        Ok(output)
    }
}

/// A request with a number as its argument, and one as its result.
struct Number<const OPCODE: Opcode>(u32);

// SAFETY: the argument of these requests is no pointer, so that the kernel
// accesses no memory of ours for them.
unsafe impl<const OPCODE: Opcode> Ioctl for Number<OPCODE> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput> {
        Ok(output)
    }
}

pub fn info(fd: BorrowedFd<'_>) -> Result<Info> {
    // SAFETY: the driver writes a struct vhost_guest_info, which `Info` is; a
    // file of another kind does not know the number. Any bytes are an `Info`.
    unsafe { ioctl(fd, Getter::<GET_INFO, Info>::new()) }
}

pub fn state(fd: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: as for `info`, with a `u32`.
    unsafe { ioctl(fd, Getter::<GET_STATE, u32>::new()) }
}

fn number<const OPCODE: Opcode>(fd: BorrowedFd<'_>, argument: u32) -> Result<IoctlOutput> {
    // SAFETY: the numbers that this is called with take no pointer (the header
    // of the driver), and no other file knows them.
    unsafe { ioctl(fd, Number::<OPCODE>(argument)) }
}

pub fn reset(fd: BorrowedFd<'_>) -> Result<()> {
    number::<RESET>(fd, 0).map(drop)
}

pub fn set_type(fd: BorrowedFd<'_>, device_type: u16) -> Result<()> {
    number::<SET_TYPE>(fd, device_type.into()).map(drop)
}

pub fn set_backend_up(fd: BorrowedFd<'_>, up: bool) -> Result<()> {
    number::<SET_BACKEND_UP>(fd, up.into()).map(drop)
}

pub fn set_eventfd(
    fd: BorrowedFd<'_>,
    kind: u32,
    index: u16,
    eventfd: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let argument = Eventfd {
        kind,
        index: index.into(),
        fd: eventfd.map_or(-1, |eventfd| eventfd.as_raw_fd()),
        reserved: 0,
    };
    // SAFETY: the driver reads a struct vhost_guest_eventfd, which `Eventfd` is.
    unsafe { ioctl(fd, Setter::<SET_EVENTFD, Eventfd>::new(argument)) }
}

pub fn open(fd: BorrowedFd<'_>, what: u32) -> Result<OwnedFd> {
    let new = number::<OPEN>(fd, what)?;
    // SAFETY: the driver made a descriptor for us, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

pub fn open_region(fd: BorrowedFd<'_>, offset: u64, size: u64) -> Result<OwnedFd> {
    // SAFETY: `OpenRegion` tells what the driver reads; no other file knows the
    // number.
    let new = unsafe { ioctl(fd, OpenRegion(Region { offset, size })) }?;
    // SAFETY: as in `open`.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that a C compiler makes of the header.
    #[test]
    fn has_the_numbers_of_the_header() {
        assert_eq!(GET_INFO, 0x8050_b900);
        assert_eq!(GET_STATE, 0x8004_b901);
        assert_eq!(RESET, 0xb902);
        assert_eq!(SET_TYPE, 0xb903);
        assert_eq!(SET_BACKEND_UP, 0xb904);
        assert_eq!(SET_EVENTFD, 0x4010_b905);
        assert_eq!(OPEN, 0xb906);
        assert_eq!(OPEN_REGION, 0x4010_b907);
        let header = include_str!("../../../linux/include/uapi/linux/vhost_guest.h");
        for definition in [
            format!("VHOST_GUEST_API_VERSION\t{API_VERSION}"),
            format!("VHOST_GUEST_MAGIC\t0x{MAGIC:X}"),
            format!("VHOST_GUEST_KICK\t{KICK}"),
            format!("VHOST_GUEST_CALL\t{CALL}"),
            format!("VHOST_GUEST_ERR\t\t{ERR}"),
            format!("VHOST_GUEST_LOG\t\t{LOG}"),
            format!("VHOST_GUEST_OPEN_WINDOW\t\t{OPEN_WINDOW}"),
            format!("VHOST_GUEST_OPEN_BACKEND\t{OPEN_BACKEND}"),
            format!("VHOST_GUEST_OPEN_MIGRATION\t{OPEN_MIGRATION}"),
        ] {
            let line = format!("#define {definition}");
            assert!(header.lines().any(|l| l.starts_with(&line)), "{line}");
        }
    }
}
