// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors that came from a peer, and the threads that may suffer for them.
//!
//! Everything that a frontend sends beside its messages is hostile until
//! proven otherwise, and some of it stays so. `close` on a file of a FUSE
//! server hangs for as long as the server likes; so do `fstat`, `fstatfs` and
//! `read`. `write` on an eventfd blocks while its counter is full, and
//! `O_NONBLOCK` is the frontend's to clear. Hence four rules:
//!
//! - A received descriptor is a [`ForeignFd`] from the moment it exists. It is
//!   closed by the [`Reaper`]'s threads, never by the one that drops it; memory,
//!   which cannot hold a thread up, by another than what can.
//! - What a descriptor is, is asked with calls that no file system can delay:
//!   `fcntl`, `statx` with `AT_STATX_DONT_SYNC`, `getsockopt`, `getpeername`,
//!   `readlink` in `/proc`; of files of memory, which have locks that others can
//!   hold, on threads that nobody waits for. The answers are the types [`EventFd`],
//!   [`MemoryFd`], [`ChannelSocket`] and [`StateFd`]; nothing else of the device
//!   uses a received descriptor.
//! - Foreign sockets are read and written by threads of their own ([`Channels`]),
//!   and only the main one, which nobody else has, by the worker.
//! - Foreign eventfds are written by the [`Signaller`]'s threads only, and
//!   foreign pipes are read and written by the [`Pump`]'s.
//!
//! All these threads are [`crew`]s: made when there is work, and bounded, for each
//! frontend and in total.
//!
//! (vhost-guest specification, hostile descriptors.)

mod channel;
mod crew;
#[cfg(test)]
pub(crate) mod fuse_tests;
mod kind;
mod launcher;
pub(crate) mod listener;
mod pump;
mod reaper;
mod signaller;
mod socket_file;

use std::os::fd::OwnedFd;

pub(crate) use channel::{Channel, ChannelEnd, Channels, NoChannel, Received};
pub(crate) use crew::{Answer, Crew, Share};
pub use kind::MemoryPolicy;
pub(crate) use kind::{ChannelSocket, EventFd, FdError, FdKinds, FileIdentity, MemoryFd, StateFd};
pub(crate) use launcher::Launcher;
pub(crate) use pump::{Next, Pump, PumpError, Stream};
pub(crate) use reaper::{ForeignFd, Reaper, OVERLOAD};
pub(crate) use signaller::Signaller;
pub use socket_file::bind_socket;

/// Adds to an eventfd of the device's own.
fn signal(eventfd: &OwnedFd) {
    // A full counter is a signal already.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}
