// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Armed eventfds, and a wait for them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::Timespec;
use vhost_guest_vmm_traits::{Arming, MsiMessage, SourceId};

use super::eventfd;

/// Events taken from the kernel at a time.
const BATCH: usize = 32;

/// The token of the eventfd that only ends a wait.
const WAKE: u64 = 0;

struct Armed {
    /// A duplicate of our own: it stays when the device closes its own.
    eventfd: OwnedFd,
    /// Which eventfd it is a duplicate of.
    identity: u64,
    message: MsiMessage,
    token: u64,
}

/// The books: which source is armed with what.
pub(crate) struct Sources {
    sources: BTreeMap<SourceId, Option<Armed>>,
    /// The armed source of each token. A token is used once, so that a late
    /// event cannot be taken for one of a later eventfd.
    tokens: BTreeMap<u64, SourceId>,
    next_source: u32,
    next_token: u64,
}

impl Sources {
    pub fn new() -> Self {
        Self {
            sources: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_source: 0,
            next_token: WAKE + 1,
        }
    }

    pub fn create(&mut self) -> io::Result<SourceId> {
        let source = SourceId(self.next_source);
        let next = self.next_source.checked_add(1);
        self.next_source = next.ok_or(io::ErrorKind::OutOfMemory)?;
        self.sources.insert(source, None);
        Ok(source)
    }

    pub fn destroy(&mut self, source: SourceId) {
        self.sources.remove(&source);
    }

    /// Arms all of `sources`, or as many as it can.
    pub fn arm_all(&mut self, events: &Events, sources: &[Arming<'_>]) -> io::Result<()> {
        sources
            .iter()
            .try_for_each(|arming| self.arm(events, arming))
    }

    fn arm(&mut self, events: &Events, arming: &Arming<'_>) -> io::Result<()> {
        let identity = eventfd::identity(arming.eventfd)?;
        let mut armed = self.sources.values().flatten();
        if armed.any(|other| other.identity == identity) {
            // As KVM does. Only one of the two would hear of a signal.
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let slot = self.sources.get_mut(&arming.source);
        let slot = slot.ok_or(io::ErrorKind::NotFound)?;
        if slot.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let token = self.next_token;
        let eventfd = arming.eventfd.try_clone_to_owned()?;
        events.watch(&eventfd, token)?;
        *slot = Some(Armed {
            eventfd,
            identity,
            message: arming.message,
            token,
        });
        self.next_token += 1;
        self.tokens.insert(token, arming.source);
        Ok(())
    }

    /// Disarms a source; returns its message if the eventfd was signalled
    /// before anybody saw it.
    pub fn disarm(&mut self, events: &Events, source: SourceId) -> Option<MsiMessage> {
        let armed = self.sources.get_mut(&source).and_then(Option::take)?;
        self.tokens.remove(&armed.token);
        events.forget(&armed.eventfd);
        eventfd::drain(&armed.eventfd).then_some(armed.message)
    }

    /// Takes the signal of an event, unless its source has been disarmed.
    pub fn take(&self, token: u64) -> Option<MsiMessage> {
        let source = self.tokens.get(&token)?;
        let armed = self.sources.get(source)?.as_ref()?;
        eventfd::drain(&armed.eventfd).then_some(armed.message)
    }

    /// How many sources exist.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// How many of them are armed.
    pub fn armed(&self) -> usize {
        self.tokens.len()
    }
}

/// A wait for any of a set of eventfds.
pub(crate) struct Events {
    epoll: OwnedFd,
    wake: OwnedFd,
}

impl Events {
    pub fn new() -> io::Result<Self> {
        let events = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            wake: rustix::event::eventfd(
                0,
                rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
            )?,
        };
        events.watch(&events.wake, WAKE)?;
        Ok(events)
    }

    /// Edge-triggered, as an irqfd is: one event for each signal, even if
    /// the other side does not let the count go to 0.
    fn watch(&self, eventfd: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.epoll, eventfd, EventData::new_u64(token), flags)?;
        Ok(())
    }

    fn forget(&self, eventfd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, eventfd);
    }

    /// Ends the wait in progress, or the next one.
    pub fn wake(&self) {
        // Cannot fail in a way that matters: a full counter is a signal, too.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits for events, for `timeout` at most; returns their tokens.
    pub fn wait(&self, timeout: Option<Duration>) -> Vec<u64> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = Vec::<epoll::Event>::with_capacity(BATCH);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        // An interrupted wait has no events, like one that was woken.
        let _ = epoll::wait(&self.epoll, buffer, timeout.as_ref());
        let mut tokens: Vec<_> = events.iter().map(|event| event.data.u64()).collect();
        if tokens.contains(&WAKE) {
            eventfd::drain(&self.wake);
            tokens.retain(|token| *token != WAKE);
        }
        tokens
    }
}
