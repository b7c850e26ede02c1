// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A port for programs in a Linux guest that has the kernel driver of this
//! project (`linux/`).
//!
//! The program needs no root: it may open the device file, or it may not. It
//! sleeps until there is something to do, and sees the memory of the frontend
//! cached, as its own.
//!
//! ```no_run
//! # #[cfg(feature = "blk")] {
//! use vhost_guest_driver::blk::Blk;
//! use vhost_guest_driver::module::{Module, Node};
//! use vhost_guest_driver::serve;
//!
//! let module = Module::new(Node::open(&Node::find()?)?)?;
//! serve(module, Blk::open("disk.img", false)?)?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod abi;
mod node;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;
use thiserror::Error;
use vhost_guest_msg::Endian;

use crate::device::{Events, Inbound, Outbound, Status};
use crate::error::Error;
use crate::eventfd::{self, Waker};
use crate::port::Port;
use crate::transport::Wake;
use crate::vectors::VectorSet;
use crate::window::Window;

pub use node::{Info, Node, Notification};

/// Why a device cannot be driven through the kernel driver.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// There is no device file.
    #[error("there is no device in /dev/vhost-guest; is vhost_guest loaded, and bound to it?")]
    NoDevice,
    /// There is more than one; these are the first two.
    #[error("there are several devices: {}, {}", .0.display(), .1.display())]
    Several(PathBuf, PathBuf),
    /// The driver is older or newer than this program.
    #[error("the driver's interface has version {0}, this program is for version 1")]
    Version(u32),
    /// The device file cannot be used.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl ModuleError {
    fn io(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { path, error }
    }
}

// What an event of epoll is about; below are the vrings that were kicked.
const CONTROL: u64 = 1 << 32;
const CHANNEL: u64 = CONTROL + 1;
const WOKEN: u64 = CONTROL + 2;

/// Events taken at once.
const EVENTS: usize = 64;

/// A [`Port`] through the kernel driver.
pub struct Module {
    node: Node,
    backend: File,
    state: Option<File>,
    window: Window,
    epoll: OwnedFd,
    woken: Arc<OwnedFd>,
    kicks: Vec<OwnedFd>,
    /// Connected when they are first needed; none since the last reset.
    doorbells: RefCell<Vec<(Notification, OwnedFd)>>,
}

fn kernel(call: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Kernel {
        call,
        errno: error.raw_os_error().unwrap_or_default(),
    }
}

impl Module {
    /// A port on an open device.
    pub fn new(node: Node) -> Result<Self, Error> {
        Self::build(node).map_err(kernel("setting up"))
    }

    fn build(node: Node) -> io::Result<Self> {
        let this = Self {
            backend: node.open_backend()?,
            state: node.open_state()?,
            window: node.map()?,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            woken: Arc::new(eventfd::new()?),
            node,
            kicks: Vec::new(),
            doorbells: RefCell::default(),
        };
        // Edges: what is told once need not be taken at once, and kicks need
        // not be read.
        let messages = EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::ET;
        epoll::add(
            &this.epoll,
            &this.node,
            EventData::new_u64(CONTROL),
            messages,
        )?;
        epoll::add(
            &this.epoll,
            &this.backend,
            EventData::new_u64(CHANNEL),
            messages,
        )?;
        if let Some(state) = &this.state {
            epoll::add(&this.epoll, state, EventData::new_u64(CHANNEL), messages)?;
        }
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&this.epoll, &this.woken, EventData::new_u64(WOKEN), edge)?;
        Ok(this)
    }

    /// The device file.
    pub fn node(&self) -> &Node {
        &self.node
    }

    fn connect_kick(&mut self, vring: u16) -> io::Result<()> {
        let kick = eventfd::new()?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.epoll, &kick, EventData::new_u64(vring.into()), edge)?;
        self.node
            .connect(Notification::Kick(vring), Some(kick.as_fd()))?;
        self.kicks.push(kick);
        Ok(())
    }

    /// Rings a doorbell, by an eventfd of its own.
    fn ring(&self, what: Notification) {
        let mut doorbells = self.doorbells.borrow_mut();
        let known = doorbells.iter().position(|(known, _)| *known == what);
        let index = match known {
            Some(index) => index,
            None => {
                let Ok(eventfd) = eventfd::new() else { return };
                if self.node.connect(what, Some(eventfd.as_fd())).is_err() {
                    // The device is gone, or needs a reset; the next wait tells.
                    return;
                }
                doorbells.push((what, eventfd));
                doorbells.len() - 1
            }
        };
        if let Some((_, eventfd)) = doorbells.get(index) {
            // The kernel empties it, so that there always is room.
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }

    /// What happened, by the events of epoll.
    fn wait_for(&self, timeout: Option<Timespec>) -> Result<Events, Errno> {
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; EVENTS];
        let (events, _) = epoll::wait(&self.epoll, &mut buffer, timeout.as_ref())?;
        let (mut config, mut messages, mut kicks) = (false, false, VectorSet::new());
        for event in events.iter() {
            let flags = event.flags;
            match event.data.u64() {
                CONTROL => {
                    // An error is to be seen by whoever looks at the status.
                    let errors = EventFlags::ERR | EventFlags::HUP;
                    config |= flags.intersects(EventFlags::PRI | errors);
                    messages |= flags.intersects(EventFlags::IN | EventFlags::OUT);
                }
                CHANNEL => messages = true,
                WOKEN => {}
                vring => kicks.insert(vring as u16),
            }
        }
        Ok(Events::new(config, messages, kicks))
    }
}

fn needs_reset(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// `None` where the call would have to block; or the device needs a reset, of
/// which the next wait tells.
fn unless_blocked<T>(result: io::Result<T>, call: &'static str) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock || needs_reset(&error) => Ok(None),
        Err(error) => Err(kernel(call)(error)),
    }
}

impl Port for Module {
    fn reset(&mut self) -> Result<(), Error> {
        // The kernel disconnects them all.
        self.kicks.clear();
        self.doorbells.get_mut().clear();
        self.node.reset().map_err(kernel("reset"))
    }

    fn status(&self) -> Result<Status, Error> {
        self.node.status().map_err(kernel("asking for the state"))
    }

    fn set_device_type(&self, device_type: u16) -> Result<(), Error> {
        match self.node.set_device_type(device_type) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                let info = abi::info(self.node.as_fd());
                Err(Error::WrongDeviceType {
                    device: info.map_or(0, |info| info.device_type),
                    backend: device_type,
                })
            }
            result => result.map_err(kernel("setting the type")),
        }
    }

    fn set_backend_up(&self, up: bool) -> Result<bool, Error> {
        match self.node.set_backend_up(up) {
            Ok(()) => Ok(true),
            Err(error) if needs_reset(&error) => Ok(false),
            Err(error) => Err(kernel("offering the backend")(error)),
        }
    }

    fn expect_kicks(&mut self, vrings: u16) -> Result<(), Error> {
        (self.kicks.len() as u16..vrings)
            .try_for_each(|vring| self.connect_kick(vring))
            .map_err(kernel("connecting kicks"))
    }

    fn receive(&mut self, queue: Inbound, message: &mut Vec<u8>) -> Result<bool, Error> {
        let info = self.node.info();
        let most = match queue {
            Inbound::State => info.state_piece,
            _ => info.max_message_size,
        };
        message.resize(most, 0);
        let read = match (queue, &self.state) {
            (Inbound::Requests, _) => (&self.node).read(message),
            (Inbound::Replies, _) => (&self.backend).read(message),
            (Inbound::State, Some(state)) => (&*state).read(message),
            (Inbound::State, None) => return Ok(false),
        };
        let read = unless_blocked(read, "reading a message");
        message.truncate(read.ok().flatten().unwrap_or_default());
        Ok(read?.is_some())
    }

    fn send(&mut self, queue: Outbound, message: &[u8]) -> Result<bool, Error> {
        let written = match (queue, &self.state) {
            (Outbound::Replies, _) => (&self.node).write(message),
            (Outbound::Requests, _) => (&self.backend).write(message),
            (Outbound::State, Some(state)) => (&*state).write(message),
            (Outbound::State, None) => return Ok(false),
        };
        match written {
            Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                Err(Error::MessageTooLarge(message.len()))
            }
            written => Ok(unless_blocked(written, "writing a message")?.is_some()),
        }
    }

    fn call(&self, index: u16) {
        self.ring(Notification::Call(index));
    }

    fn signal_error(&self, index: u16) {
        self.ring(Notification::Err(index));
    }

    fn signal_log(&self) {
        self.ring(Notification::Log);
    }

    fn wait(&self, timeout: Option<Duration>) -> Events {
        let timeout = timeout.map(eventfd::timespec);
        // A signal is as good an end as a wake.
        self.wait_for(timeout)
            .unwrap_or_else(|_| Events::new(false, false, VectorSet::new()))
    }

    fn kicked(&self, events: &Events, index: u16) -> bool {
        events.are_all() || events.raised().contains(index)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Waker(self.woken.clone()))
    }

    fn window(&self) -> &Window {
        &self.window
    }

    fn max_queues(&self) -> u16 {
        self.node.info().max_queues
    }

    fn state_piece(&self) -> usize {
        self.node.info().state_piece
    }

    fn endian(&self) -> Endian {
        match self.node.info().big_endian {
            true => Endian::Big,
            false => Endian::Little,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_file_that_is_no_device_file_is_not() {
        let error = Node::open(Path::new("/dev/null")).unwrap_err();
        assert!(error.to_string().starts_with("/dev/null: "), "{error}");
        let error = Node::open(Path::new("/dev/vhost-guest/none")).unwrap_err();
        assert!(matches!(error, ModuleError::Io { .. }));
    }

    #[test]
    fn a_call_that_the_kernel_driver_refuses_is_named() {
        let refused = |errno: Errno| Err::<(), _>(errno.into());
        let errno = Errno::PERM.raw_os_error();
        let call = "read";
        let error = unless_blocked(refused(Errno::PERM), call);
        assert_eq!(error, Err(Error::Kernel { call, errno }));
        for errno in [Errno::AGAIN, Errno::IO] {
            assert_eq!(unless_blocked(refused(errno), call), Ok(None));
        }
    }

    #[test]
    fn says_that_there_is_no_device() {
        // Machines have one or have none; either must be said well.
        match Node::find() {
            Ok(path) => assert!(path.is_absolute()),
            Err(error) => assert!(error.to_string().contains("device"), "{error}"),
        }
    }
}
