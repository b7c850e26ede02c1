// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! MSI-X vectors as eventfds, and the sleep until one is signalled.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::kernel::Calls;
use crate::eventfd::{self, Waker};
use crate::transport::Wake;
use crate::vectors::VectorSet;

/// What an event of epoll is about, if it is no vector.
const WOKEN: u64 = 1 << 32;
/// Events taken at once; the rest stay for the next time.
const EVENTS: usize = 64;

fn is_no_space(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOSPC.raw_os_error())
}

/// The interrupts of one function.
pub struct Interrupts {
    vectors: u16,
    epoll: OwnedFd,
    woken: Arc<OwnedFd>,
    /// Kept for epoll's sake; the kernel has its own hold of them.
    _eventfds: Vec<OwnedFd>,
}

impl Interrupts {
    /// Connects the first `vectors` vectors, or as many as can be had.
    pub fn new(calls: &dyn Calls, vectors: u16) -> io::Result<Self> {
        let new = |_| eventfd::new();
        let mut eventfds = (0..vectors).map(new).collect::<io::Result<Vec<_>>>()?;
        while !eventfds.is_empty() {
            let count = eventfds.len();
            match calls.set_vectors(&eventfds) {
                Ok(0) => break,
                Ok(less) if (less as usize) < count => eventfds.truncate(less as usize),
                // More than it was asked for, and yet not enough.
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                // The machine has less interrupts left, and does not say how
                // many: a processor of x86 has about 200.
                Err(error) if count > 1 && is_no_space(&error) => eventfds.truncate(count / 2),
                Err(error) => return Err(error),
            }
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let woken = Arc::new(eventfd::new()?);
        // Edges: nobody need read what is signalled again and again.
        let add = |file: &OwnedFd, number| {
            let edge = EventFlags::IN | EventFlags::ET;
            epoll::add(&epoll, file.as_fd(), EventData::new_u64(number), edge)
        };
        for (vector, eventfd) in (0..).zip(&eventfds) {
            add(eventfd, vector)?;
        }
        add(&woken, WOKEN)?;
        Ok(Self {
            // No more than it was asked for.
            vectors: eventfds.len() as u16,
            epoll,
            woken,
            _eventfds: eventfds,
        })
    }

    /// How many vectors are heard.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// See [`Transport::wait`](crate::Transport::wait).
    pub fn wait(&self, timeout: Option<Duration>) -> VectorSet {
        let timeout = timeout.map(eventfd::timespec);
        let mut buffer = [const { MaybeUninit::uninit() }; EVENTS];
        let mut raised = VectorSet::new();
        // A signal is as good an end as a wake.
        if let Ok((events, _)) = epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
            for event in events.iter() {
                match event.data.u64() {
                    WOKEN => {}
                    vector => raised.insert(vector as u16),
                }
            }
        }
        raised
    }

    pub fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Waker(self.woken.clone()))
    }
}
