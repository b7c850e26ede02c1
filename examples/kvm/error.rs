// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can go wrong in this VMM.

use std::io;
use std::path::PathBuf;

use vhost_guest_device::BuildError;
use vmm_sys_util::errno;

use crate::loopback::failure::Failure;

/// Why the VMM cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no KVM, or it is somebody else's.
    #[error("cannot open /dev/kvm: {0} (is KVM there, and may this user use it?)")]
    NoKvm(errno::Error),
    /// KVM refused something.
    #[error("KVM: {what}: {error}")]
    Kvm {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        error: errno::Error,
    },
    /// A file cannot be used.
    #[error("{}: {error}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A socket cannot be listened at.
    #[error("{0}")]
    Socket(#[from] Failure),
    /// The kernel image is none, or does not fit.
    #[error("{}: not a bzImage that this VMM can load: {reason}", path.display())]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Guest memory is too small for what has to be in it.
    #[error("guest memory: {0}")]
    Memory(String),
    /// A device cannot be made.
    #[error("vhost-guest device: {0}")]
    Device(#[from] BuildError),
    /// The operating system failed.
    #[error("{0}")]
    System(#[from] io::Error),
    /// The guest did something that neither KVM nor this VMM can do for it.
    #[error("the vCPU stopped: {0}")]
    Vcpu(String),
}

impl Error {
    /// To be used with `map_err`: KVM refused to do `what`.
    pub(super) fn kvm(what: &'static str) -> impl Fn(errno::Error) -> Self {
        move |error| Self::Kvm { what, error }
    }

    /// To be used with `map_err`: guest memory has no place for `what`.
    pub(super) fn memory<E: ToString>(what: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Memory(format!("{what}: {}", error.to_string()))
    }
}
