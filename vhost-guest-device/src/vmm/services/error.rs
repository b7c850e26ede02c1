// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Failures of a service, by what they cost.

use std::io;

use thiserror::Error;

/// A service of the VMM's that failed.
#[derive(Debug, Error)]
pub(crate) enum ServiceError {
    /// It did not do what was asked; the device is as before.
    #[error("VMM: cannot connect an eventfd: {0}")]
    Refused(#[source] io::Error),
    /// It could not undo what it had done: an eventfd of a frontend's may
    /// still be connected to a guest address. The device is dead.
    #[error("VMM: cannot disconnect an eventfd: {0}")]
    Dead(#[source] io::Error),
}

impl ServiceError {
    /// Whether the descriptor is at fault, and with it the peer that sent it.
    pub(crate) fn is_peers_fault(&self) -> bool {
        matches!(self, ServiceError::Refused(error) if is_descriptors_fault(error))
    }
}

/// Whether an eventfd cannot be connected because it is none, or in use
/// already: for another vring, or for another device of the VMM's.
pub(crate) fn is_descriptors_fault(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::InvalidInput, io::ErrorKind::ResourceBusy];
    kinds.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blames_the_peer_for_its_descriptors_only() {
        use io::ErrorKind::{InvalidInput, OutOfMemory, ResourceBusy};
        let refused = |kind: io::ErrorKind| ServiceError::Refused(kind.into()).is_peers_fault();
        assert_eq!(
            [InvalidInput, ResourceBusy, OutOfMemory].map(refused),
            [true, true, false]
        );
        assert!(!ServiceError::Dead(InvalidInput.into()).is_peers_fault());
    }
}
