// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the worker waits for.
//!
//! A thin layer over epoll that remembers the interest in each descriptor, so
//! that the rest of the device says what it wants (`watch`) instead of what to
//! change, and an unchanged wish costs no system call.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{epoll, Timespec};
use rustix::io::Errno;
use thiserror::Error;

use crate::host;

/// Names a descriptor that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Token {
    /// The worker is asked to end, or to look at new wishes.
    Wake,
    /// The vhost-user listener.
    Listener,
    /// Time to try the listener again.
    Timer,
    /// The guest's time for an answer is up.
    ReplyLimit,
    /// A lost frontend's memory has been there for long enough.
    MemoryLimit,
    /// The frontend's main socket.
    Frontend,
    /// A file of the frontend's memory has changed.
    Memory,
    /// The driver notified queue `n`.
    Queue(u16),
}

impl Token {
    fn to_u64(self) -> u64 {
        match self {
            Self::Wake => 0,
            Self::Listener => 1,
            Self::Timer => 2,
            Self::Frontend => 3,
            Self::ReplyLimit => 5,
            Self::MemoryLimit => 6,
            Self::Memory => 7,
            Self::Queue(n) => 0x100 + u64::from(n),
        }
    }

    fn from_u64(value: u64) -> Option<Self> {
        match value {
            0 => Some(Self::Wake),
            1 => Some(Self::Listener),
            2 => Some(Self::Timer),
            3 => Some(Self::Frontend),
            5 => Some(Self::ReplyLimit),
            6 => Some(Self::MemoryLimit),
            7 => Some(Self::Memory),
            n => u16::try_from(n.checked_sub(0x100)?).ok().map(Self::Queue),
        }
    }
}

/// What to wait for on a descriptor. A hang-up is always reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Wake up when it is readable.
    pub read: bool,
    /// Wake up when it is writable.
    pub write: bool,
}

impl Interest {
    /// Only reading.
    pub(crate) const READ: Self = Self {
        read: true,
        write: false,
    };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        flags
    }
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// Which descriptor.
    pub token: Token,
    /// It was hung up or is in error; there may still be something to read.
    pub hung_up: bool,
}

/// A descriptor that cannot be waited for.
///
/// What is behind a peer's descriptor is up to the peer, and so are the epoll
/// sets that wait for it already: `EINVAL`, `ELOOP` and `EPERM` are its doing.
/// `ENOSPC` (`fs.epoll.max_user_watches`) and `ENOMEM` are limits of the host's,
/// which a peer of the same user can exhaust.
#[derive(Debug, Error)]
#[error("cannot wait for a descriptor: {0}")]
pub(crate) struct Unwaitable(pub(crate) Errno);

impl Unwaitable {
    /// Whether a limit of the host's is exhausted.
    pub(crate) fn is_limit(&self) -> bool {
        matches!(self.0, Errno::NOSPC | Errno::NOMEM)
    }
}

impl From<Unwaitable> for io::Error {
    fn from(error: Unwaitable) -> Self {
        error.0.into()
    }
}

/// The set of descriptors that the worker waits for.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    interests: BTreeMap<Token, Interest>,
}

impl Poller {
    /// An empty set.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = host::ask(|| epoll::create(epoll::CreateFlags::CLOEXEC))?;
        Ok(Self {
            epoll,
            interests: BTreeMap::new(),
        })
    }

    /// A duplicate of the epoll descriptor, to wait on without the lock.
    pub(crate) fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    /// The epoll descriptor.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Waits for `interest` on `fd` from now on.
    ///
    /// # Errors
    ///
    /// The kernel does not let anybody wait for it any more. If it waited for
    /// another interest, it still does.
    pub(crate) fn watch(
        &mut self,
        token: Token,
        fd: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), Unwaitable> {
        let data = epoll::EventData::new_u64(token.to_u64());
        let done = match self.interests.get(&token) {
            Some(now) if *now == interest => return Ok(()),
            Some(_) => epoll::modify(&self.epoll, fd, data, interest.flags()),
            None => host::ask(|| epoll::add(&self.epoll, fd, data, interest.flags())),
        };
        done.map_err(Unwaitable)?;
        self.interests.insert(token, interest);
        Ok(())
    }

    /// Waits for nothing on `fd`, if it is watched, until it is watched again.
    /// Then nothing can be missing, as it could if it had to be added.
    pub(crate) fn mute(&mut self, token: Token, fd: BorrowedFd<'_>) {
        self.change(token, fd, Interest::default());
    }

    /// Waits for `fd` to be readable again, if it was watched when it was
    /// [muted](Self::mute).
    pub(crate) fn unmute(&mut self, token: Token, fd: BorrowedFd<'_>) {
        self.change(token, fd, Interest::READ);
    }

    fn change(&mut self, token: Token, fd: BorrowedFd<'_>, new: Interest) {
        if let Some(interest) = self.interests.get_mut(&token) {
            *interest = new;
            let data = epoll::EventData::new_u64(token.to_u64());
            // It can only fail for a descriptor that is not in the set.
            let _ = epoll::modify(&self.epoll, fd, data, new.flags());
        }
    }

    /// Stops waiting for `fd`. To be called before `fd` is closed: a
    /// descriptor that a peer shares would stay in the set otherwise.
    pub(crate) fn unwatch(&mut self, token: Token, fd: BorrowedFd<'_>) {
        if self.interests.remove(&token).is_some() {
            // It can only fail for a descriptor that is not in the set.
            let _ = epoll::delete(&self.epoll, fd);
        }
    }
}

/// Makes an eventfd readable that somebody waits for.
pub(crate) fn wake(eventfd: &OwnedFd) {
    // Its counter can only be full if it is readable anyway.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

/// Waits on an epoll descriptor until something is ready. Returns without
/// events when a signal interrupts it.
pub(crate) fn wait(epoll: BorrowedFd<'_>, block: bool) -> io::Result<Vec<Ready>> {
    let mut events = Vec::with_capacity(32);
    let poll_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let timeout = if block { None } else { Some(&poll_once) };
    match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
        Ok(_) => {}
        Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let lost = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
    let ready = events.iter().filter_map(|event: &epoll::Event| {
        // The structure is packed: its fields are copied, not borrowed.
        let (data, flags) = (event.data, event.flags);
        let token = Token::from_u64(data.u64())?;
        Some(Ready {
            token,
            hung_up: flags.intersects(lost),
        })
    });
    Ok(ready.collect())
}
