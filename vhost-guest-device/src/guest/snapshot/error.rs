// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is wrong with a snapshot.

use std::io;

use thiserror::Error;

/// Why there is no snapshot, or why a device cannot be brought to what one
/// says. The device is as before then, unless this says otherwise.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// [`VhostGuest::pause`](crate::VhostGuest::pause) comes first.
    #[error("the device is not paused")]
    NotPaused,
    /// These are other bytes.
    #[error("this is no snapshot of a vhost-guest device")]
    Foreign,
    /// It was made by a version of this crate that this one does not know.
    #[error("the snapshot has version {found}, and only {known} is known")]
    Version {
        /// The version that it has.
        found: u32,
        /// The version that can be restored.
        known: u32,
    },
    /// Bytes are missing or too many.
    #[error("the snapshot has {found} bytes where {expected} belong")]
    Length {
        /// Bytes that there are.
        found: usize,
        /// Bytes that a snapshot of this device has.
        expected: usize,
    },
    /// It is one of a device that was built in another way.
    #[error("the snapshot is of a device with {what} {saved}; here it is {own}")]
    Different {
        /// Which choice of the VMM's it is.
        what: &'static str,
        /// What was chosen for the device that was saved.
        saved: String,
        /// What was chosen for this one.
        own: String,
    },
    /// No device was ever in this state.
    #[error("the snapshot is damaged: {0}")]
    Damaged(#[from] Damage),
    /// The operating system or the VMM's services failed. The device is as
    /// after [`VhostGuest::reset`](crate::VhostGuest::reset), paused, and
    /// decodes none of its BARs: the VMM takes them off its bus.
    #[error("cannot restore the device: {0}")]
    Environment(#[from] io::Error),
}

/// A state that no guest can have brought a device to.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// A register that no guest can write has another value.
    #[error("configuration space that cannot be written")]
    ConfigurationSpace,
    /// A size probe of a BAR that there is not, or that is none.
    #[error("size probes")]
    SizeProbe,
    /// Bits that the ISR status has not.
    #[error("ISR status")]
    IsrStatus,
    /// More or fewer MSI-X vectors.
    #[error("size of the MSI-X table")]
    VectorTableSize,
    /// Bits of an MSI-X vector that cannot be written.
    #[error("MSI-X table")]
    VectorTable,
    /// More or fewer events.
    #[error("number of events")]
    Events,
    /// An event with a vector that there is not.
    #[error("vector of an event")]
    Vector,
    /// An event that waits and cannot, or a bit that is neither 0 nor 1.
    #[error("pending bit of an event")]
    Pending,
    /// A byte that is always 0.
    #[error("reserved byte of an event")]
    EventReserved,
    /// More or fewer queues.
    #[error("number of queues")]
    Queues,
    /// A queue of a size that cannot be set.
    #[error("size of a queue")]
    QueueSize,
    /// A queue that is neither enabled nor not.
    #[error("state of a queue")]
    QueueState,
    /// An enabled queue whose rings are misaligned, or run over the end of the address
    /// space.
    #[error("rings of a queue")]
    QueueRings,
    /// A queue that was used and is not enabled.
    #[error("queue in use")]
    QueuePosition,
    /// A reset that is neither pending nor not.
    #[error("pending reset")]
    ResetPending,
    /// Settled features that cannot be chosen.
    #[error("features of the driver")]
    DriverFeatures,
    /// A driver that runs without having settled its features.
    #[error("device status")]
    DeviceStatus,
    /// Another type than the VMM has chosen.
    #[error("device type")]
    DeviceType,
    /// Bits that the status has not.
    #[error("status")]
    Status,
    /// A backend that is up before the type is known.
    #[error("a backend of no type")]
    TypelessBackend,
    /// A configuration that was neither read nor not.
    #[error("configuration generation")]
    ConfigurationGeneration,
    /// A frontend or a backend of a device that needs a reset.
    #[error("status of a device that needs a reset")]
    BrokenStatus,
    /// A frontend where none can be connected.
    #[error("a frontend without a backend")]
    FrontendWithoutBackend,
}

/// Refuses what cannot be.
pub(crate) fn ensure(possible: bool, damage: Damage) -> Result<(), Damage> {
    possible.then_some(()).ok_or(damage)
}

/// A byte that is 0 or 1.
pub(crate) fn flag(byte: u8, damage: Damage) -> Result<bool, Damage> {
    ensure(byte <= 1, damage).map(|()| byte == 1)
}
