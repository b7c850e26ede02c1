// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A program that lets unmodified vhost-user backends serve through a
//! vhost-guest device, in a Linux guest with the kernel driver of this
//! project.
//!
//! A backend expects a socket, over which a frontend sends messages with
//! descriptors: memory, eventfds. A vhost-guest device brings the messages into
//! the guest, without any. The relay is a frontend to the backend: it passes
//! each message on, together with descriptors of the guest's own that are as
//! good.
//!
//! ```text
//!                          ┌ messages ─ relay ─ socket ─┐
//!   device ─ kernel driver ┼ window ────────── mapping ─┼ backend
//!                          └ kicks, calls ──── eventfds ┘
//! ```
//!
//! Memory and notifications go past it: the backend maps the window itself,
//! and its eventfds are connected to the device by the kernel. The relay
//! sleeps while requests are served.
//!
//! # The way of a message
//!
//! 1. `device` reads it from the device file.
//! 2. `requests` has a function for each message that a descriptor goes
//!    with; all others pass as they are.
//! 3. `socket` sends it to the backend, and receives the reply.
//! 4. `replies` has a function for each reply that is changed.
//!
//! `session` is the loop around them, for one frontend and one backend;
//! `channel` does the same for requests of the backend, `transfer` for device
//! state. `service` brings the two together, again and again.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod account;
mod channel;
mod device;
mod direct;
mod error;
mod eventfds;
mod options;
mod peer;
mod program;
mod replies;
mod requests;
mod service;
mod session;
mod socket;
#[cfg(test)]
mod tests;
mod transfer;

pub use device::Device;
pub use error::Failure;
pub use options::device_type;
pub use peer::{Listener, Peer};
pub use program::main;
pub use service::Service;
