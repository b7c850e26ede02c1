// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a session ends, and why a device is no longer served.

use std::io;

use thiserror::Error;

/// How the session of a frontend and a backend ended. Another one follows.
#[derive(Debug, Error)]
pub enum End {
    /// The frontend left, or broke a rule; the device says no more.
    #[error("the frontend is gone")]
    Frontend,
    /// The frontend sent what cannot be passed on.
    #[error("the frontend's fault: {0}")]
    FrontendFault(String),
    /// The backend left.
    #[error("the backend is gone")]
    Backend,
    /// The backend did what it must not.
    #[error("the backend's fault: {0}")]
    BackendFault(String),
    /// The backend cannot work here (see [`crate::direct`]).
    #[error(
        "refused: the backend has {} open with O_DIRECT, which does not work with the \
         frontend's memory here (--allow-direct if that is not for its requests)", .0.display()
    )]
    Direct(std::path::PathBuf),
    /// A call of the system failed.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
    /// The relay is to end.
    #[error("ended")]
    Stopped,
}

impl End {
    /// An [`End::System`].
    pub fn system(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::System(call, error)
    }

    /// As [`system`](Self::system), for a call of the device: it fails when the
    /// frontend has left.
    pub fn device(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match needs_reset(&error) {
            true => Self::Frontend,
            false => Self::System(call, error),
        }
    }
}

/// Whether a call of the device failed because it needs a reset.
pub fn needs_reset(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Why a device is no longer served.
#[derive(Debug, Error)]
pub enum Failure {
    /// The command line is wrong.
    #[error("{0} (try --help)")]
    Usage(String),
    /// There is no such device.
    #[error("no device {0}; is vhost_guest loaded, and bound to it?")]
    NoDevice(String),
    /// It cannot be opened.
    #[error(transparent)]
    Module(#[from] vhost_guest_driver::module::ModuleError),
    /// A call of the device failed.
    #[error("{0}: {1}")]
    Device(&'static str, #[source] io::Error),
    /// Nobody has said what the backend is.
    #[error("the type of the backend is not known: give --type")]
    NoType,
    /// The frontend wants another type.
    #[error("the device is for virtio type {device}, not for {backend}")]
    WrongType {
        /// What the device is for.
        device: u16,
        /// What the backend is.
        backend: u16,
    },
    /// The socket cannot be used.
    #[error("{0}: {1}")]
    Socket(String, #[source] io::Error),
    /// Signals or threads cannot be had.
    #[error("{0}: {1}")]
    Start(&'static str, #[source] io::Error),
}
