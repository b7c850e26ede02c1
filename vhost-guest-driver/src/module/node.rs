// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device file of the kernel driver.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::abi;
use super::ModuleError;
use crate::device::Status;
use crate::mapping::map_shared;
use crate::window::Window;

/// Where the device files are, named by the addresses of their functions.
const DIRECTORY: &str = "/dev/vhost-guest";

/// What an eventfd is connected with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notification {
    /// The kicks of a vring signal it.
    Kick(u16),
    /// Whoever signals it calls a vring.
    Call(u16),
    /// Whoever signals it reports an error in a vring.
    Err(u16),
    /// Whoever signals it says that the dirty log was written to.
    Log,
}

/// What the driver tells of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// Messages are big-endian.
    pub big_endian: bool,
    /// Bytes of the window.
    pub window_size: u64,
    /// How many vrings the device carries.
    pub max_queues: u16,
    /// The longest message that can be read or written.
    pub max_message_size: usize,
    /// The most bytes of device state in one piece; 0 if there is none.
    pub state_piece: usize,
    /// The virtio type that the frontend expects, 0 if any will do.
    pub device_type: u16,
    /// Names the service; nil if it has no name.
    pub uuid: [u8; 16],
}

/// A device file, open: messages, eventfds and memory, one call of the kernel
/// each. [`Module`](super::Module) is what a server makes of it.
///
/// Reading takes a request of the frontend, writing puts an answer; whole
/// messages both. They do not block: where there is nothing to read or no
/// room, they fail with [`io::ErrorKind::WouldBlock`]. `poll` tells when to try
/// again, and POLLPRI when the [status](Self::status) may have changed.
///
/// Closing it resets the device.
#[derive(Debug)]
pub struct Node {
    file: File,
    info: Info,
}

impl Node {
    /// The device file of the machine's only vhost-guest device.
    pub fn find() -> Result<PathBuf, ModuleError> {
        let directory = Path::new(DIRECTORY);
        let files = match directory.read_dir() {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ModuleError::NoDevice)
            }
            Err(error) => return Err(ModuleError::io(directory, error)),
        };
        let mut paths: Vec<_> = files
            .map(|file| file.map(|file| file.path()))
            .collect::<Result<_, _>>()
            .map_err(|error| ModuleError::io(directory, error))?;
        paths.sort();
        match &*paths {
            [] => Err(ModuleError::NoDevice),
            [path] => Ok(path.clone()),
            [first, second, ..] => Err(ModuleError::Several(first.clone(), second.clone())),
        }
    }

    /// The device file for the PCI function at `address`, such as
    /// `0000:00:05.0`.
    pub fn path(address: &str) -> PathBuf {
        Path::new(DIRECTORY).join(address)
    }

    /// Opens a device file, which resets the device.
    ///
    /// # Errors
    ///
    /// If another process has it open, among others.
    pub fn open(path: &Path) -> Result<Self, ModuleError> {
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits() as i32)
            .open(path)
            .map_err(|error| ModuleError::io(path, error))?;
        let raw = abi::info(file.as_fd()).map_err(|error| ModuleError::io(path, error.into()))?;
        if raw.version != abi::API_VERSION {
            return Err(ModuleError::Version(raw.version));
        }
        let queues = u16::try_from(raw.max_vhost_queues).ok();
        let info = Info {
            big_endian: raw.features & abi::F_BIG_ENDIAN != 0,
            window_size: raw.window_size,
            max_queues: queues.ok_or(ModuleError::Version(raw.version))?,
            max_message_size: raw.max_message_size as usize,
            state_piece: raw.max_migration_message_size as usize,
            device_type: raw.device_type,
            uuid: raw.uuid,
        };
        Ok(Self { file, info })
    }

    /// What the driver told when the file was opened.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Where the device stands; POLLPRI is over with that.
    pub fn status(&self) -> io::Result<Status> {
        let state = abi::state(self.as_fd())?;
        Ok(Status {
            needs_reset: state & abi::STATE_NEEDS_RESET != 0,
            backend_up: state & abi::STATE_BACKEND_UP != 0,
            frontend_up: state & abi::STATE_FRONTEND_UP != 0,
        })
    }

    /// Resets the device. All eventfds are disconnected, and files by
    /// [`open_window`](Self::open_window) of no use any more.
    pub fn reset(&self) -> io::Result<()> {
        Ok(abi::reset(self.as_fd())?)
    }

    /// States that the backend is a device of `device_type`; to be done after
    /// each reset.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ResourceBusy`] if the device is for another type.
    pub fn set_device_type(&self, device_type: u16) -> io::Result<()> {
        Ok(abi::set_type(self.as_fd(), device_type)?)
    }

    /// Lets the device accept a frontend; or with `false`, accept none and
    /// disconnect the one that is there.
    pub fn set_backend_up(&self, up: bool) -> io::Result<()> {
        Ok(abi::set_backend_up(self.as_fd(), up)?)
    }

    /// Connects an eventfd, in place of the one before; the kernel keeps it. With
    /// `None`, there is none; a kick waits for the next one then.
    pub fn connect(&self, what: Notification, eventfd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let (kind, index) = match what {
            Notification::Kick(vring) => (abi::KICK, vring),
            Notification::Call(vring) => (abi::CALL, vring),
            Notification::Err(vring) => (abi::ERR, vring),
            Notification::Log => (abi::LOG, 0),
        };
        Ok(abi::set_eventfd(self.as_fd(), kind, index, eventfd)?)
    }

    /// A file that can be mapped, `MAP_SHARED`, and nothing else: for another
    /// process. A user address in a message is an offset in it. It is of use
    /// until the next reset.
    pub fn open_window(&self) -> io::Result<OwnedFd> {
        Ok(abi::open(self.as_fd(), abi::OPEN_WINDOW)?)
    }

    /// As [`open_window`](Self::open_window), for `size` bytes of the window
    /// from `offset` on, a multiple of the page size: offset 0 in the file is
    /// the first of them, and its size is theirs in whole pages.
    pub fn open_region(&self, offset: u64, size: u64) -> io::Result<OwnedFd> {
        Ok(abi::open_region(self.as_fd(), offset, size)?)
    }

    /// The file for the backend's own requests, which are written to it; the
    /// answers are read there. It does not block, and is of use as long as
    /// this one is open.
    pub fn open_backend(&self) -> io::Result<File> {
        Ok(abi::open(self.as_fd(), abi::OPEN_BACKEND | abi::OPEN_NONBLOCK)?.into())
    }

    /// The file for device state: what is saved is written to it, what is
    /// loaded is read there, in pieces, with an empty one as the end. `None` if
    /// the device carries none. Otherwise as [`open_backend`](Self::open_backend).
    pub fn open_state(&self) -> io::Result<Option<File>> {
        if self.info.state_piece == 0 {
            return Ok(None);
        }
        let file = abi::open(self.as_fd(), abi::OPEN_MIGRATION | abi::OPEN_NONBLOCK)?;
        Ok(Some(file.into()))
    }

    /// Maps the whole window for this process. As long as it is mapped, the
    /// device stays open.
    pub fn map(&self) -> io::Result<Window> {
        map_shared(self.as_fd(), 0, self.info.window_size)
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Read for &Node {
    fn read(&mut self, message: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(message)
    }
}

impl Write for &Node {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        (&self.file).write(message)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
