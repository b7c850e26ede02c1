// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Eventfds that are connected with the device, and what else wakes its driver.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{eventfd, EventfdFlags};
use rustix::io::Errno;
use vhost_guest_driver::emulated::Emulated;
use vhost_guest_driver::module::Notification;
use vhost_guest_driver::{Device, Wake};

/// The eventfds of one device.
pub struct Wires {
    eventfds: Mutex<Eventfds>,
    /// What wakes the driver.
    files: OwnedFd,
    /// The last of it.
    end: OwnedFd,
    ended: AtomicBool,
}

#[derive(Default)]
struct Eventfds {
    connected: HashMap<Notification, OwnedFd>,
    /// Kicks that no eventfd was there for.
    missed: BTreeSet<u16>,
    /// Vrings whose eventfd has had a kick.
    kicked: BTreeSet<u16>,
}

/// Adds one to an eventfd. One that is full is readable, and that is all it is for.
pub fn signal(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

impl Wires {
    pub fn new() -> io::Result<Self> {
        let this = Self {
            eventfds: Mutex::default(),
            files: epoll::create(CreateFlags::CLOEXEC)?,
            end: eventfd(0, EventfdFlags::CLOEXEC)?,
            ended: AtomicBool::new(false),
        };
        this.watch(&this.end)?;
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Eventfds> {
        self.eventfds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver is woken when something comes to a file, or there is room in it.
    pub fn watch(&self, file: &OwnedFd) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        Ok(epoll::add(&self.files, file, EventData::new_u64(0), flags)?)
    }

    /// Connects an eventfd in place of the one before.
    pub fn connect(&self, what: Notification, eventfd: Option<OwnedFd>) -> io::Result<()> {
        let mut eventfds = self.lock();
        if let Some(old) = eventfds.connected.remove(&what) {
            let _ = epoll::delete(&self.files, &old);
        }
        let Some(eventfd) = eventfd else {
            return Ok(());
        };
        match what {
            Notification::Kick(vring) if eventfds.missed.remove(&vring) => signal(&eventfd),
            Notification::Kick(_) => {}
            _ => self.watch(&eventfd)?,
        }
        eventfds.connected.insert(what, eventfd);
        Ok(())
    }

    /// A vring was kicked.
    pub fn kick(&self, vring: u16) {
        let mut eventfds = self.lock();
        match eventfds.connected.get(&Notification::Kick(vring)) {
            Some(eventfd) => {
                signal(eventfd);
                eventfds.kicked.insert(vring);
            }
            None => drop(eventfds.missed.insert(vring)),
        }
    }

    /// Rings the doorbells of what was signalled.
    pub fn ring(&self, device: &Device<Emulated>) {
        for (what, eventfd) in &self.lock().connected {
            if matches!(what, Notification::Kick(_)) {
                continue;
            }
            if rustix::io::read(eventfd, &mut [0; 8]).is_ok() {
                match *what {
                    Notification::Call(vring) => device.call(vring),
                    Notification::Err(vring) => device.signal_error(vring),
                    _ => device.signal_log(),
                }
            }
        }
    }

    pub fn disconnect_all(&self) {
        let mut eventfds = self.lock();
        for (_, eventfd) in eventfds.connected.drain() {
            let _ = epoll::delete(&self.files, &eventfd);
        }
        eventfds.missed.clear();
    }

    /// Whether a vring's eventfd has had a kick that has been taken from it.
    pub fn has_been_kicked(&self, vring: u16) -> bool {
        let eventfds = self.lock();
        let eventfd = eventfds.connected.get(&Notification::Kick(vring));
        eventfds.kicked.contains(&vring) && eventfd.and_then(count).is_some_and(|kicks| kicks == 0)
    }

    /// Wakes the driver when there is something for it, until the end.
    pub fn run(&self, waker: &dyn Wake) {
        while !self.ended.load(Ordering::SeqCst) {
            let mut events = Vec::<epoll::Event>::with_capacity(8);
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.files, buffer, None) {
                Ok(_) | Err(Errno::INTR) => waker.wake(),
                Err(error) => return log::error!("waiting for files: {error}"),
            }
        }
    }

    /// Ends [`run`](Self::run).
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        signal(&self.end);
    }
}

/// What has been added to an eventfd, and not been read.
fn count(eventfd: &OwnedFd) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", eventfd.as_fd().as_raw_fd());
    let information = std::fs::read_to_string(path).ok()?;
    let mut lines = information.lines();
    let count = lines.find_map(|line| line.strip_prefix("eventfd-count:"))?;
    u64::from_str_radix(count.trim(), 16).ok()
}
