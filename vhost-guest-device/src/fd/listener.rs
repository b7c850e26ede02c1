// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vhost-user listener: one frontend at a time, and no spinning.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::event::{poll, PollFd, PollFlags};
use rustix::net::{acceptfrom_with, SocketFlags};
use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags,
    Timespec,
};

use super::{ForeignFd, Reaper};
use crate::host;

/// Time until what the environment failed is tried again.
const REST: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A listening socket that takes a rest when `accept` fails.
///
/// `accept` fails for want of descriptors or memory, and would go on failing
/// at once: epoll reports a listener with a waiting frontend again and again.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: ForeignFd,
    timer: OwnedFd,
    resting: bool,
}

impl Listener {
    /// Listens on `socket`, which is made non-blocking, and closed by `reaper` if
    /// that takes long.
    pub(crate) fn new(socket: UnixListener, reaper: &Reaper) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = host::ask(|| timerfd_create(TimerfdClockId::Monotonic, flags))?;
        Ok(Self {
            socket: ForeignFd::new(socket.into(), reaper),
            timer,
            resting: false,
        })
    }

    /// The socket, to wait for.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Expires when a rest is over.
    pub(crate) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Whether it waits for the [`timer`](Self::timer).
    pub(crate) fn is_resting(&self) -> bool {
        self.resting
    }

    /// The timer expired.
    pub(crate) fn resume(&mut self) {
        // Reading only clears the expiry; a timer has nothing else to say.
        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
        self.resting = false;
    }

    /// Takes a frontend that waits, if there is one.
    ///
    /// # Errors
    ///
    /// The environment's fault. The listener rests for a while.
    pub(crate) fn accept(&mut self) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match host::ask(|| acceptfrom_with(&self.socket, flags)) {
            Ok((socket, _)) => Ok(Some(socket)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(rustix::io::Errno::CONNABORTED) => Ok(None),
            Err(error) => {
                self.rest();
                Err(error.into())
            }
        }
    }

    /// Takes no frontend until the [`timer`](Self::timer) expires.
    pub(crate) fn rest(&mut self) {
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: REST,
        };
        // It can only fail for a descriptor that is no timer.
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        self.resting = set.is_ok();
    }
}

impl Drop for Listener {
    /// Who connects and is not accepted may have sent descriptors, which the kernel
    /// closes with the listener. Mostly nobody has, and a VMM that binds the name
    /// again finds it free at once.
    fn drop(&mut self) {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())) == Ok(0) {
            self.socket.is_ours();
        }
    }
}
