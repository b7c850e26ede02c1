// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Descriptors that came from a peer, and the threads that may suffer for them.
//!
//! Everything that a frontend sends beside its messages is hostile until
//! proven otherwise, and some of it stays so. `close` on a file of a FUSE
//! server hangs for as long as the server likes; so do `fstat`, `fstatfs` and
//! `read`. `write` on an eventfd blocks while its counter is full, and
//! `O_NONBLOCK` is the frontend's to clear. Hence three rules:
//!
//! - A received descriptor is a [`ForeignFd`] from the moment it exists. It is
//!   closed by the [`Reaper`]'s threads, never by the one that drops it; what
//!   cannot hold a thread up, by another than what can.
//! - What a descriptor is, is asked with calls that no file system can delay:
//!   `fcntl`, `statx` with `AT_STATX_DONT_SYNC`, `getsockopt`, `getpeername`,
//!   `readlink` in `/proc`. The answers are the types [`EventFd`],
//!   [`MemoryFd`], [`ChannelSocket`] and [`StateFd`]; nothing else of the device
//!   uses a received descriptor.
//! - Foreign eventfds are written by the [`Signaller`]'s threads only, and
//!   foreign pipes are read and written by the [`Pump`]'s.
//!
//! (vhost-guest specification, hostile descriptors.)

mod crew;
#[cfg(test)]
pub(crate) mod fuse_tests;
mod kind;
pub(crate) mod listener;
mod pump;
mod reaper;
mod signaller;
mod socket_file;

pub use kind::MemoryPolicy;
pub(crate) use kind::{ChannelSocket, EventFd, FdError, FdKinds, FileIdentity, MemoryFd, StateFd};
pub(crate) use pump::{Next, Pump, PumpError, Stream};
pub(crate) use reaper::{ForeignFd, Reaper, OVERLOAD};
pub(crate) use signaller::Signaller;
pub use socket_file::bind_socket;
