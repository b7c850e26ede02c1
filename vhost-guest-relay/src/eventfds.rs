// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The eventfds of a session, which the kernel connects with the device.
//!
//! There is one for each notification of each vring, and the backend gets it
//! again whenever the frontend replaces its own. With a new one, notifications
//! would be lost: until the backend has the message, it calls with the old one,
//! which is not connected any more; and kicks that it has not looked at are in
//! the old one only.
//!
//! A call that comes just before the device knows the frontend's new eventfd goes
//! to the frontend's old one, where it may not look any more: QEMU's
//! vhost-user-rng does not when it starts. So there is one more call then, as from
//! libvhost-user's backends; a call too many does no harm.

use std::collections::hash_map::{Entry, HashMap};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use vhost_guest_driver::module::Notification;

use crate::device::Device;
use crate::error::End;

/// What is connected with the device.
#[derive(Default)]
pub struct Eventfds(HashMap<Notification, OwnedFd>);

impl Eventfds {
    /// The eventfd that is connected with `what`, for the backend.
    pub fn connect(&mut self, device: &impl Device, what: Notification) -> Result<OwnedFd, End> {
        let fd = match self.0.entry(what) {
            Entry::Occupied(known) => {
                let fd = known.into_mut();
                if let Notification::Call(_) = what {
                    call(device, what, fd)?;
                }
                fd
            }
            Entry::Vacant(place) => {
                let fd = make(0)?;
                connect(device, what, &fd)?;
                place.insert(fd)
            }
        };
        fd.try_clone().map_err(End::system("dup"))
    }

    /// Kicks the backend once more, now that it has enabled a vring: one that looks
    /// at its kicks before, and drops them, as those on `vhost-user-backend` before
    /// 0.22 do, would not see what came meanwhile. A kick too many does no harm.
    pub fn kick(&self, vring: u8) {
        let Some(fd) = self.0.get(&Notification::Kick(vring.into())) else {
            return;
        };
        // A backend may want its eventfd to block; what is full is a kick, too.
        let mut ready = [PollFd::new(fd, PollFlags::OUT)];
        let room = poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0);
        if room {
            let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
        }
    }

    /// Ends the connection: the frontend wants no such notifications.
    pub fn disconnect(&mut self, device: &impl Device, what: Notification) -> Result<(), End> {
        self.0.remove(&what);
        let disconnected = device.connect(what, None);
        disconnected.map_err(End::device("disconnecting an eventfd"))
    }
}

/// An eventfd that was signalled before it is connected is heard. This is not the
/// backend's: a write to that could block, if the backend wants it to. What it
/// signals meanwhile is heard when it is connected again.
fn call(device: &impl Device, what: Notification, fd: &OwnedFd) -> Result<(), End> {
    connect(device, what, &make(1)?)?;
    connect(device, what, fd)
}

fn make(count: u32) -> Result<OwnedFd, End> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    eventfd(count, flags).map_err(|e| End::System("eventfd", e.into()))
}

/// The kernel keeps what it needs of the eventfd.
fn connect(device: &impl Device, what: Notification, fd: &OwnedFd) -> Result<(), End> {
    let connected = device.connect(what, Some(fd.as_fd()));
    connected.map_err(End::device("connecting an eventfd"))
}
