// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Operations on eventfds that somebody hostile holds the other end of.
//!
//! Whether such an eventfd blocks is not ours to say: O_NONBLOCK belongs to
//! the open file, which the other side shares. So reads ask not to wait each
//! time, and signals do not write.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::ReadWriteFlags;
use vmm_sys_util::aio::{IoContext, IoControlBlock, IoEvent, IOCB_CMD_PREAD, IOCB_FLAG_RESFD};

/// More bytes than the kernel tells of an eventfd.
const INFO: u64 = 4096;
/// Signals that may be on their way at a time.
const EVENTS: u32 = 64;

/// Takes the count of an eventfd. Tells whether it was signalled. Never waits.
pub(super) fn drain(eventfd: impl AsFd) -> bool {
    let mut count = [0; 8];
    let mut buffers = [io::IoSliceMut::new(&mut count)];
    // The position that stands for "as read(2)".
    let position = u64::MAX;
    rustix::io::preadv2(eventfd, &mut buffers, position, ReadWriteFlags::NOWAIT).is_ok()
}

/// The kernel's number of an eventfd, the same for all its duplicates. Refuses
/// what is not an eventfd, as the kernel would.
pub(super) fn identity(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let file = File::open(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let mut info = String::new();
    // No system calls but these: threads of the VMM may be confined.
    file.take(INFO).read_to_string(&mut info)?;
    info.lines()
        .find_map(|line| line.strip_prefix("eventfd-id:")?.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Signals eventfds as an ioeventfd does: from within the kernel.
///
/// A write to a saturated eventfd waits, for ever if the other side wants it
/// so. The kernel's own signal, which an ioeventfd makes, does not: the count
/// stays at its maximum. Asynchronous I/O signals an eventfd in the same way
/// when an operation is done, and the emptiest operation there is is done at
/// once.
pub(super) struct Signaller {
    context: IoContext,
    nothing: File,
}

impl Signaller {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            context: IoContext::new(EVENTS)?,
            nothing: File::open("/dev/null")?,
        })
    }

    /// Adds 1 to `eventfd`. Never waits.
    pub fn signal(&self, eventfd: impl AsFd) -> io::Result<()> {
        match self.submit(&eventfd) {
            // The notes of earlier operations fill the ring; throw them away.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut done = [IoEvent::default(); EVENTS as usize];
                while self.context.get_events(0, &mut done, None)? > 0 {}
                self.submit(&eventfd)
            }
            outcome => outcome,
        }
    }

    fn submit(&self, eventfd: &impl AsFd) -> io::Result<()> {
        let mut read_nothing = IoControlBlock {
            aio_lio_opcode: IOCB_CMD_PREAD as u16,
            aio_fildes: self.nothing.as_raw_fd() as u32,
            aio_flags: IOCB_FLAG_RESFD,
            aio_resfd: eventfd.as_fd().as_raw_fd() as u32,
            ..IoControlBlock::default()
        };
        self.context.submit(&[&mut read_nothing]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::event::{eventfd, EventfdFlags};

    use super::*;

    fn value(eventfd: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(eventfd, &mut count).unwrap();
        u64::from_ne_bytes(count)
    }

    #[test]
    fn signals_more_often_than_the_ring_is_long() {
        let signaller = Signaller::new().unwrap();
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        for _ in 0..10 * EVENTS {
            signaller.signal(&fd).unwrap();
        }
        assert_eq!(value(&fd), 10 * u64::from(EVENTS));
    }

    #[test]
    fn does_not_wait_for_a_saturated_eventfd() {
        let signaller = Signaller::new().unwrap();
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        let most = (u64::MAX - 1).to_ne_bytes();
        rustix::io::write(&fd, &most).unwrap();
        for _ in 0..3 {
            signaller.signal(&fd).unwrap();
        }
        assert_eq!(value(&fd), u64::MAX);
    }

    #[test]
    fn drains_blocking_eventfds_without_waiting() {
        let fd = eventfd(3, EventfdFlags::empty()).unwrap();
        assert!(drain(&fd));
        assert!(!drain(&fd));
    }

    #[test]
    fn tells_eventfds_from_other_files_and_from_each_other() {
        let fds = [(); 2].map(|()| eventfd(0, EventfdFlags::empty()).unwrap());
        let duplicate = fds[0].try_clone().unwrap();
        let [first, second] = fds.map(|fd| identity(fd.as_fd()).unwrap());
        assert_ne!(first, second);
        assert_eq!(identity(duplicate.as_fd()).unwrap(), first);
        let error = identity(File::open("/dev/null").unwrap().as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
