// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can end a run early, each as one line for the user.

use std::io;

/// The reason why a run did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line makes no sense.
    #[error("{0} (try --help)")]
    Usage(String),

    /// Something that the run needs is not to be had.
    #[error("{what}: {source}")]
    Setup {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },

    /// The socket path cannot be used.
    #[error("socket {0}")]
    Socket(String),

    /// The vhost-user conversation broke.
    #[error("vhost-user: {what}: {source}")]
    Conversation {
        /// The message, or the step.
        what: &'static str,
        /// What the frontend's library said.
        source: vhost::Error,
    },

    /// The other side does not do what the workload needs.
    #[error("backend: {0}")]
    Backend(String),

    /// Data came back other than it was written.
    #[error("checksum mismatch: {0}")]
    Mismatch(String),

    /// Nothing moved for too long.
    #[error("hang: {0}")]
    Hang(String),

    /// Something was not given back.
    #[error("leak: {0}")]
    Leak(String),

    /// The VMM's threads ran where they must not, or did not where they must.
    #[error("wake-ups of the VMM's threads in steady state: {0}")]
    Wakeups(String),

    /// The emulated guest stopped.
    #[error("guest: {0}")]
    Guest(String),

    /// The frontend's process failed; it has said why.
    #[error("the frontend failed ({0})")]
    Frontend(String),

    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Names what was tried when an I/O operation failed.
pub trait Context<T> {
    /// Turns an I/O error into a [`Failure`] that names `what`.
    fn context(self, what: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|source| Failure::Setup {
            what: what.into(),
            source: source.into(),
        })
    }
}
