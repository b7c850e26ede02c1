// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the relay needs of a device: what the kernel driver offers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use vhost_guest_driver::module::{Node, Notification};
use vhost_guest_driver::Status;

/// A vhost-guest device, open. See [`Node`] for what the methods do; reading and
/// writing never block.
pub trait Device {
    /// Readable if there is a request of the frontend's, writable if there is
    /// room for a reply.
    fn messages(&self) -> BorrowedFd<'_>;

    /// What tells, and by which event, that the status may have changed.
    fn news(&self) -> (BorrowedFd<'_>, PollFlags);

    /// Takes the next request.
    fn read(&self, message: &mut [u8]) -> io::Result<usize>;

    /// Puts a reply.
    fn write(&self, message: &[u8]) -> io::Result<usize>;

    /// Where the device stands; there is no news after that.
    fn status(&self) -> io::Result<Status>;

    /// Resets the device.
    fn reset(&self) -> io::Result<()>;

    /// States the type of the backend.
    fn set_device_type(&self, device_type: u16) -> io::Result<()>;

    /// Accepts a frontend, or none.
    fn set_backend_up(&self, up: bool) -> io::Result<()>;

    /// Connects an eventfd.
    fn connect(&self, what: Notification, eventfd: Option<BorrowedFd<'_>>) -> io::Result<()>;

    /// A file with a part of the window.
    fn open_region(&self, offset: u64, size: u64) -> io::Result<OwnedFd>;

    /// The file for the backend's requests.
    fn open_backend(&self) -> io::Result<File>;

    /// The file for device state, if there is one.
    fn open_state(&self) -> io::Result<Option<File>>;

    /// How many vrings there are.
    fn max_queues(&self) -> u16;

    /// The longest message.
    fn max_message_size(&self) -> usize;

    /// The most bytes of device state at a time; 0 if there is none.
    fn state_piece(&self) -> usize;

    /// The type that the frontend expects; 0 if any will do.
    fn device_type(&self) -> u16;
}

impl Device for Node {
    fn messages(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn news(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.as_fd(), PollFlags::PRI)
    }

    fn read(&self, message: &mut [u8]) -> io::Result<usize> {
        let mut this = self;
        Read::read(&mut this, message)
    }

    fn write(&self, message: &[u8]) -> io::Result<usize> {
        let mut this = self;
        Write::write(&mut this, message)
    }

    fn status(&self) -> io::Result<Status> {
        Node::status(self)
    }

    fn reset(&self) -> io::Result<()> {
        Node::reset(self)
    }

    fn set_device_type(&self, device_type: u16) -> io::Result<()> {
        Node::set_device_type(self, device_type)
    }

    fn set_backend_up(&self, up: bool) -> io::Result<()> {
        Node::set_backend_up(self, up)
    }

    fn connect(&self, what: Notification, eventfd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        Node::connect(self, what, eventfd)
    }

    fn open_region(&self, offset: u64, size: u64) -> io::Result<OwnedFd> {
        Node::open_region(self, offset, size)
    }

    fn open_backend(&self) -> io::Result<File> {
        Node::open_backend(self)
    }

    fn open_state(&self) -> io::Result<Option<File>> {
        Node::open_state(self)
    }

    fn max_queues(&self) -> u16 {
        self.info().max_queues
    }

    fn max_message_size(&self) -> usize {
        self.info().max_message_size
    }

    fn state_piece(&self) -> usize {
        self.info().state_piece
    }

    fn device_type(&self) -> u16 {
        self.info().device_type
    }
}
