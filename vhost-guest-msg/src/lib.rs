// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Typed vhost-user messages, independent of what carries them.
//!
//! vhost-user is what a virtual machine monitor (the *frontend*) and a device
//! implementation (the *backend*) speak over a socket. A vhost-guest device
//! carries the same messages over virtqueues. This crate is the part that both
//! have in common: bytes and descriptors on one side, values that are right on
//! the other. It does no I/O, knows no socket, and needs no operating system.
//!
//! # The way of a message
//!
//! 1. [`Framer`] says how many bytes it wants next and cuts a stream into
//!    [`Frame`]s; [`decode_whole`] does that for a virtqueue buffer.
//! 2. [`FrontendRequest::decode`] turns a frame into a typed request that owns
//!    its descriptors. A value that exists is valid: regions do not overlap,
//!    ranges do not overflow, ring indices exist. What cannot be decoded is an
//!    error that names message and field and hands back the descriptors.
//! 3. A relay rewrites addresses: [`MemTable::relocate`],
//!    [`VringAddr::translate`] and others.
//! 4. [`FrontendRequest::detach`] takes the descriptors out,
//!    [`FrontendRequest::encode`] writes the bytes into the caller's buffer.
//! 5. [`ReplyTracker`] knows which replies are due and reads them
//!    ([`Reply`]).
//!
//! [`BackendRequest`] is the same for the other channel. What is known about
//! each message stands in one table: [`FRONTEND_ROWS`], [`BACKEND_ROWS`].
//!
//! # From bytes to a message and back
//!
//! ```
//! use vhost_guest_msg::{decode_whole, Context, Endian, FrontendRequest, Limits};
//!
//! // SET_VRING_ADDR, ring 0, as a frontend sends it.
//! let mut bytes = vec![9, 0, 0, 0, 1, 0, 0, 0, 40, 0, 0, 0];
//! bytes.extend([0; 8]);
//! for address in [0x7f00_0001_0000_u64, 0x7f00_0001_2000, 0x7f00_0001_1000, 0] {
//!     bytes.extend(address.to_le_bytes());
//! }
//!
//! let (endian, limits, context) = (Endian::Little, Limits::default(), Context::default());
//! let frame = decode_whole(&bytes, endian, &limits)?;
//! let message = FrontendRequest::decode(frame, endian, &limits, &context)?;
//! let FrontendRequest::SetVringAddr(addr) = &message.request else {
//!     unreachable!()
//! };
//! assert_eq!(addr.used, 0x7f00_0001_2000);
//!
//! assert_eq!(message.request.to_vec(message.need_reply, endian), bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Heap
//!
//! Messages of fixed size, one descriptor included, are decoded and encoded
//! without memory allocation. Only tables of regions, configuration contents
//! and opaque payloads take some, bounded by [`Limits::max_message_size`].

#![no_std]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

/// The README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod body;
mod catalog;
mod endian;
mod error;
mod fds;
mod features;
mod framer;
mod header;
mod limits;
mod reply;
mod request;
mod tracker;
mod writer;

pub use body::{
    Config, DeviceState, Inflight, Iotlb, IotlbKind, LogArea, LogBase, MemRegion, MemTable, OnlyFd,
    Opaque, Permission, Rarp, Region, RemMemReg, RingLayout, SetInflight, Transfer, VringAddr,
    VringBase, VringEnable, VringEndian, VringFd, VringNum, VringSelect,
};
pub use catalog::{
    backend, frontend, row, BackendRequest, FdRule, FrontendRequest, Gate, Layout, ReplyRule, Row,
    Verdict, BACKEND_ROWS, FRONTEND_ROWS,
};
pub use endian::Endian;
pub use error::{
    BufferTooSmall, Channel, DecodeError, Invalid, MessageError, Problem, Reason, RequestName,
};
pub use fds::Fds;
pub use features::{ProtocolFeatures, VirtioFeatures};
pub use framer::{decode_whole, Frame, FrameError, FrameReason, Framer, Progress};
pub use header::{Header, HeaderFlags, HEADER_SIZE};
pub use limits::{Context, Limits};
pub use reply::{DeviceStateReply, LogReply, Reply, ReplyExpectation, ReplyShape};
pub use request::Message;
pub use tracker::{Accepted, ReplyError, ReplyTracker, TrackerFull};
