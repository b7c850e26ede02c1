// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The thread of a device.
//!
//! It sleeps in epoll without a lock, and enters the connection's room for one turn
//! at a time. Nothing in a turn blocks: see [`Device::turn`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{mpsc, Arc};
use std::thread::{self, JoinHandle};

use vhost_guest_vmm_traits::ThreadHook;
use vm_memory::GuestAddressSpace;

use crate::device::Device;
use crate::event_loop::poller;
use crate::shared::Condition;
use crate::vmm::threads::WORKER;

/// The running thread. It ends when the device is stopped.
#[derive(Debug)]
pub(crate) struct Worker {
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread. Returns when its hook has run.
    pub(crate) fn start<M>(
        device: &Arc<Device<M>>,
        hook: Option<Arc<dyn ThreadHook>>,
    ) -> io::Result<Self>
    where
        M: GuestAddressSpace + Send + 'static,
    {
        let epoll = device.poller_fd()?;
        let device = Arc::clone(device);
        let (started, outcome) = mpsc::sync_channel(1);
        let body = move || {
            let ready = hook.map_or(Ok(()), |hook| hook.thread_started(WORKER.name));
            let goes_on = ready.is_ok();
            // The starter waits for exactly one word.
            let _ = started.send(ready);
            if goes_on {
                run(&device, &epoll);
            }
        };
        let thread = thread::Builder::new()
            .name(WORKER.name.to_owned())
            .spawn(body)?;
        let worker = Self {
            thread: Some(thread),
        };
        let ended = || {
            Err(io::Error::other(
                "the device's thread ended while it started",
            ))
        };
        outcome.recv().unwrap_or_else(|_| ended()).map(|()| worker)
    }

    /// Waits for the thread to end. The device has to be stopped before.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

fn run<M: GuestAddressSpace>(device: &Device<M>, epoll: &OwnedFd) {
    // A turn takes note of having been woken. So whoever wakes the worker to end it
    // may have done so before the turn that is just over, or does so later.
    while device.shared.condition() != Condition::Stopped {
        match poller::wait(epoll.as_fd(), true) {
            Ok(ready) => device.turn(&ready),
            Err(error) => return device.shared.die(error),
        }
    }
}
