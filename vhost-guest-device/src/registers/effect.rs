// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What follows from an access, for the device's core to carry out.

use std::io;

use thiserror::Error;

use crate::interrupts::ArmFailure;
use crate::pci::BarMove;

/// One consequence of a register access.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The driver asked for a device reset. It is done when the core calls
    /// [`Registers::reset`](super::Registers::reset); `device_status` reads
    /// non-zero until then.
    Reset,
    /// The function is reset, by the guest or by the VMM. The PCI side of it is
    /// done; the rest is a device reset, done as for [`Effect::Reset`].
    FunctionReset,
    /// The driver has set `DRIVER_OK`: the queues may be used.
    DriverOk,
    /// The driver has enabled a queue, possibly before `DRIVER_OK`.
    QueueEnabled(u16),
    /// The driver asked for the reset of a queue. It is done when the core
    /// calls [`Registers::queue_reset_done`](super::Registers::queue_reset_done).
    QueueReset(u16),
    /// A queue notification has reached userspace.
    QueueNotified(u16),
    /// The driver has changed `BACKEND_UP`.
    BackendUp(bool),
    /// The function has been allowed or forbidden to access memory.
    BusMaster,
    /// BARs are decoded elsewhere now.
    BarMoves(Vec<BarMove>),
    /// A doorbell was rung through userspace.
    DoorbellRung,
    /// The guest broke a rule.
    GuestFault(GuestFault),
    /// Interrupts that should be armed are not. They are tried again at the
    /// next change of a mask.
    InterruptsFailed(Vec<ArmFailure>),
}

/// A rule that the guest broke.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum GuestFault {
    /// A ring is misaligned, or runs over the end of the address space.
    #[error("queue {0} enabled with an invalid ring address")]
    QueueAddress(u16),
    /// The driver does not accept `VIRTIO_F_VERSION_1`.
    #[error("features chosen without VIRTIO_F_VERSION_1")]
    Version1,
}

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
