// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the kernel driver does for the relay, in user space: a device on an
//! emulated bus, and files that a program can wait for.
//!
//! One thread drives the device, as its driver; another one wakes it when there
//! is something for it in a file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{eventfd, EventfdFlags, PollFlags};
use rustix::io::Errno;
use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};
use vhost_guest_driver::emulated::Emulated;
use vhost_guest_driver::module::Notification;
use vhost_guest_driver::{Device, Status, Transport, Wake};
use vhost_guest_msg::Limits;

use super::driver::{drain, Command, Driver};
use super::wires::Wires;
use crate::vmm::Machine;

/// The device's file, as the relay knows it.
pub struct Node {
    machine: Arc<Machine>,
    messages: OwnedFd,
    requests: OwnedFd,
    news: OwnedFd,
    max_queues: u16,
    commands: Mutex<Option<Sender<Command>>>,
    waker: Arc<dyn Wake>,
    wires: Arc<Wires>,
    threads: Vec<JoinHandle<()>>,
}

/// A pair that keeps messages apart, and tells when the other end is gone.
fn sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

/// What a file says whose driver is gone.
fn gone<T>(_: T) -> io::Error {
    Errno::NODEV.into()
}

impl Node {
    /// The device of `machine`.
    ///
    /// # Errors
    ///
    /// The device cannot be driven, or the system lacks descriptors or threads.
    pub fn open(machine: Arc<Machine>) -> io::Result<Self> {
        machine.slots().keep_files();
        let transport = Emulated::new(machine.platform()?).map_err(io::Error::other)?;
        let device = Device::open(transport).map_err(io::Error::other)?;
        let waker = device.transport().waker();
        let max_queues = device.max_queues();
        let (messages, its_messages) = sockets()?;
        let (requests, its_requests) = sockets()?;
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wires = Arc::new(Wires::new()?);
        for socket in [&its_messages, &its_requests] {
            wires.watch(socket)?;
        }
        let (commands, received) = channel();
        let sockets = [its_messages, its_requests];
        let driver = Driver::new(device, sockets, news.try_clone()?, wires.clone());
        let mut node = Self {
            machine,
            messages,
            requests,
            news,
            max_queues,
            commands: Mutex::new(Some(commands)),
            waker: waker.clone(),
            wires: wires.clone(),
            threads: Vec::new(),
        };
        node.start("driver", move || driver.run(&received))?;
        node.start("wires", move || wires.run(&*waker))?;
        Ok(node)
    }

    fn start(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.into());
        self.threads.push(thread.spawn(run)?);
        Ok(())
    }

    /// Has the driver do something.
    fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Driver) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, outcome) = channel();
        let command: Command = Box::new(move |driver| {
            let _ = done.send(what(driver));
        });
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let commands = commands.as_ref().ok_or_else(|| gone(()))?;
        commands.send(command).map_err(gone)?;
        self.waker.wake();
        outcome.recv().map_err(gone)
    }

    /// Whether a vring was kicked, and the backend has looked at that.
    pub fn has_been_kicked(&self, vring: u16) -> bool {
        self.wires.has_been_kicked(vring)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.waker.wake();
        self.wires.end();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl vhost_guest_relay::Device for Node {
    fn messages(&self) -> BorrowedFd<'_> {
        self.messages.as_fd()
    }

    fn news(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.news.as_fd(), PollFlags::IN)
    }

    fn read(&self, message: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(&self.messages, message)? {
            0 => Err(gone(())),
            length => Ok(length),
        }
    }

    fn write(&self, message: &[u8]) -> io::Result<usize> {
        rustix::io::write(&self.messages, message).map_err(|error| match error {
            Errno::PIPE | Errno::CONNRESET => gone(error),
            other => other.into(),
        })
    }

    fn status(&self) -> io::Result<Status> {
        drain(&self.news);
        self.ask(|driver| driver.device.status())
    }

    fn reset(&self) -> io::Result<()> {
        self.ask(Driver::reset)?.map_err(gone)?;
        for fd in [&self.messages, &self.requests, &self.news] {
            drain(fd);
        }
        Ok(())
    }

    fn set_device_type(&self, device_type: u16) -> io::Result<()> {
        self.ask(move |driver| driver.device.set_device_type(device_type))?
            .map_err(io::Error::other)
    }

    fn set_backend_up(&self, up: bool) -> io::Result<()> {
        match self.ask(move |driver| driver.device.set_backend_up(up))? {
            true => Ok(()),
            false => Err(Errno::IO.into()),
        }
    }

    fn connect(&self, what: Notification, eventfd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let eventfd = eventfd.map(|fd| fd.try_clone_to_owned()).transpose()?;
        self.wires.connect(what, eventfd)
    }

    fn open_region(&self, offset: u64, size: u64) -> io::Result<OwnedFd> {
        self.machine.slots().file(offset, size)
    }

    fn open_backend(&self) -> io::Result<File> {
        Ok(self.requests.try_clone()?.into())
    }

    fn open_state(&self) -> io::Result<Option<File>> {
        Ok(None)
    }

    fn max_queues(&self) -> u16 {
        self.max_queues
    }

    fn max_message_size(&self) -> usize {
        Limits::default().max_message_size
    }

    fn state_piece(&self) -> usize {
        0
    }

    fn device_type(&self) -> u16 {
        0
    }
}
