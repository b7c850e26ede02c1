// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend keeps a duplicate of the end of the backend channel that it
//! sent, and receives on it into memory that a userfaultfd does not let it
//! have. The kernel holds the socket's `iolock` meanwhile, for which every
//! other `recvmsg` on that end waits, MSG_DONTWAIT or not.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::mm::{mmap_anonymous, userfaultfd, MapFlags, ProtFlags, UserfaultfdFlags};
use vhost_guest_msg::frontend as code;

use super::{behaves, Attack};
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::machine::Setup;

pub const ATTACK: Attack = Attack {
    name: "io-lock",
    what: "a receive on the backend channel that sleeps with the socket's lock",
    unprivileged: false,
    knob: None,
    setup: Setup::PLAIN,
    guest: behaves,
    prepare: |_| Ok(Box::new(IoLock)),
};

/// Time for the attacker's thread to get into the kernel.
const PAUSE: Duration = Duration::from_millis(20);
/// The device may be faster with some.
const PIECES: usize = 5;
const MESSAGE: &[u8] = b"abcdefghijkl";
const PAGE: usize = 4096;
/// `_IOWR(0xAA, 0x3F, struct uffdio_api)` and
/// `_IOWR(0xAA, 0x00, struct uffdio_register)` of `linux/userfaultfd.h`.
const UFFDIO_API: libc::c_ulong = 0xC018_AA3F;
const UFFDIO_REGISTER: libc::c_ulong = 0xC020_AA00;
/// `_IO(0xAA, 0x00)` of `/dev/userfaultfd`.
const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xAA00;
const UFFD_API: u64 = 0xAA;
const MODE_MISSING: u64 = 1;

struct IoLock;

impl Strike for IoLock {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let mut frontend = attacker.negotiated()?;
        let (ours, theirs) = UnixStream::pair()?;
        frontend.tell(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
        let mut kept: Kept = Vec::new();
        if attacker.hostile {
            let (userfaultfd, page) = unreachable_page()?;
            let end = theirs.try_clone()?;
            thread::spawn(move || receive_into(&end, page));
            // One piece is for the attacker's thread, which sleeps in the
            // middle of copying it; the next is for the device.
            for _ in 0..PIECES {
                thread::sleep(PAUSE);
                rustix::io::write(&ours, MESSAGE)?;
            }
            kept.push(Box::new(userfaultfd));
        }
        attacker.until_told()?;
        kept.push(Box::new((ours, theirs)));
        Ok(kept)
    }
}

/// Receives into a page at `address`.
fn receive_into(socket: &UnixStream, address: usize) {
    let page = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: the page is this thread's alone, and stays mapped for good.
    unsafe { libc::recv(socket.as_raw_fd(), page, MESSAGE.len(), 0) };
}

/// A page whose first access sleeps until the descriptor is closed.
pub fn unreachable_page() -> io::Result<(OwnedFd, usize)> {
    let flags = UserfaultfdFlags::CLOEXEC;
    // SAFETY: a descriptor that nobody has yet.
    let userfaultfd = match unsafe { userfaultfd(flags) } {
        Ok(userfaultfd) => userfaultfd,
        Err(_) => userfaultfd_of_device()?,
    };
    let mut api = [UFFD_API, 0, 0];
    control(&userfaultfd, UFFDIO_API, &mut api)?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let null = std::ptr::null_mut();
    // SAFETY: a new mapping that nobody uses.
    let page = unsafe { mmap_anonymous(null, PAGE, protection, MapFlags::PRIVATE)? };
    let page = page.expose_provenance();
    let mut range = [page as u64, PAGE as u64, MODE_MISSING, 0];
    control(&userfaultfd, UFFDIO_REGISTER, &mut range)?;
    Ok((userfaultfd, page))
}

/// Where the system call is for the privileged only.
fn userfaultfd_of_device() -> io::Result<OwnedFd> {
    let device = File::options().read(true).open("/dev/userfaultfd")?;
    // SAFETY: the request takes flags by value and touches no memory.
    let fd = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            USERFAULTFD_IOC_NEW as _,
            libc::O_CLOEXEC,
        )
    };
    match fd {
        // SAFETY: the kernel has just made it.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A request with an argument of so many words, as its number says.
fn control<const N: usize>(
    userfaultfd: &OwnedFd,
    request: libc::c_ulong,
    argument: &mut [u64; N],
) -> io::Result<()> {
    let size = (request >> 16 & 0x3FFF) as usize;
    if size != size_of::<[u64; N]>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the kernel reads and writes as much as the argument is long.
    match unsafe { libc::ioctl(userfaultfd.as_raw_fd(), request as _, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
