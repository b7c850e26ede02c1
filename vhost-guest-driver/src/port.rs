// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a server knows of the device that it serves through.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use vhost_guest_msg::Endian;

use crate::device::{Device, Events, Inbound, Outbound, Status};
use crate::error::Error;
use crate::transport::{Transport, Wake};
use crate::window::Window;

/// A vhost-guest device, initialised and ready to be given a backend.
///
/// [`Device`] is one, over any [`Transport`]: it drives the virtqueues of the
/// device itself. [`Module`](crate::module::Module) is one that leaves this to
/// a kernel driver.
pub trait Port {
    /// Resets the device and initialises it again; memory of the last
    /// frontend leaves the window.
    fn reset(&mut self) -> Result<(), Error>;

    /// Where the device stands.
    fn status(&self) -> Result<Status, Error>;

    /// States that the backend is a device of `device_type`; to be done after
    /// each reset.
    ///
    /// # Errors
    ///
    /// If the device is meant for another type.
    fn set_device_type(&self, device_type: u16) -> Result<(), Error>;

    /// Lets the device accept a frontend, or accept none; returns whether it
    /// does as it is told.
    fn set_backend_up(&self, up: bool) -> Result<bool, Error>;

    /// Says that the kicks of the first `vrings` vrings are of interest, until
    /// the next reset; those of others may be ignored.
    ///
    /// # Errors
    ///
    /// If there are not so many, or kicks cannot be told.
    fn expect_kicks(&mut self, vrings: u16) -> Result<(), Error>;

    /// Takes the next message out of `queue`; `false` if there is none.
    fn receive(&mut self, queue: Inbound, message: &mut Vec<u8>) -> Result<bool, Error>;

    /// Puts a message into `queue`; `false` if there is no room now, and
    /// [`wait`](Self::wait) will tell when there is.
    fn send(&mut self, queue: Outbound, message: &[u8]) -> Result<bool, Error>;

    /// Calls the frontend's guest: vring `index` has used buffers.
    fn call(&self, index: u16);

    /// Reports an error in vring `index` to the frontend.
    fn signal_error(&self, index: u16);

    /// Tells the frontend that something was written to the dirty log.
    fn signal_log(&self);

    /// Waits until something may have happened, the [waker](Self::waker) was
    /// used, or `timeout` (`None`: for ever) has passed. What happens between
    /// two calls is told by the second.
    fn wait(&self, timeout: Option<Duration>) -> Events;

    /// Whether vring `index` may have been kicked.
    fn kicked(&self, events: &Events, index: u16) -> bool;

    /// What ends a [`wait`](Self::wait).
    fn waker(&self) -> Arc<dyn Wake>;

    /// The window on the memory of the frontend's guest.
    fn window(&self) -> &Window;

    /// How many vrings the device carries.
    fn max_queues(&self) -> u16;

    /// The most bytes in a piece of device state; 0 if the device carries
    /// none.
    fn state_piece(&self) -> usize;

    /// Byte order of messages.
    fn endian(&self) -> Endian;
}

impl<T: Transport> Port for Device<T> {
    fn reset(&mut self) -> Result<(), Error> {
        Device::reset(self)
    }

    fn status(&self) -> Result<Status, Error> {
        Ok(Device::status(self))
    }

    fn set_device_type(&self, device_type: u16) -> Result<(), Error> {
        Device::set_device_type(self, device_type)
    }

    fn set_backend_up(&self, up: bool) -> Result<bool, Error> {
        Ok(Device::set_backend_up(self, up))
    }

    fn expect_kicks(&mut self, _vrings: u16) -> Result<(), Error> {
        // All of them are told from the reset on.
        Ok(())
    }

    fn receive(&mut self, queue: Inbound, message: &mut Vec<u8>) -> Result<bool, Error> {
        Device::receive(self, queue, message)
    }

    fn send(&mut self, queue: Outbound, message: &[u8]) -> Result<bool, Error> {
        Device::send(self, queue, message)
    }

    fn call(&self, index: u16) {
        Device::call(self, index);
    }

    fn signal_error(&self, index: u16) {
        Device::signal_error(self, index);
    }

    fn signal_log(&self) {
        Device::signal_log(self);
    }

    fn wait(&self, timeout: Option<Duration>) -> Events {
        Device::wait(self, timeout)
    }

    fn kicked(&self, events: &Events, index: u16) -> bool {
        Device::kicked(self, events, index)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.transport().waker()
    }

    fn window(&self) -> &Window {
        Device::window(self)
    }

    fn max_queues(&self) -> u16 {
        Device::max_queues(self)
    }

    fn state_piece(&self) -> usize {
        Device::state_piece(self)
    }

    fn endian(&self) -> Endian {
        Device::endian(self)
    }
}
