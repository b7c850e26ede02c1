// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can go wrong between the driver and the device.

use thiserror::Error;

use crate::window::WindowError;

/// A device that cannot be driven, or that broke the rules.
///
/// Nothing of this is a frontend's doing: the device keeps bad frontends
/// away, and what gets through is answered by disconnecting the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The function is not a vhost-guest device.
    #[error("PCI function {vendor:04x}:{device:04x} is not a vhost-guest device")]
    NotVhostGuest {
        /// PCI vendor ID.
        vendor: u16,
        /// PCI device ID.
        device: u16,
    },
    /// The function lacks a capability that the driver needs.
    #[error("the device has no capability for its {0}")]
    MissingCapability(&'static str),
    /// A capability points outside its BAR or contradicts itself.
    #[error("the capability for the device's {0} is malformed")]
    BadCapability(&'static str),
    /// The capability list does not end.
    #[error("the device's capability list is a loop")]
    CapabilityLoop,
    /// The transport has no memory for the virtqueues.
    #[error("the transport has too little DMA memory")]
    NoDmaMemory,
    /// The transport cannot access the shared memory.
    #[error("the transport gives no access to the device's shared memory")]
    NoWindow,
    /// The device did not finish its reset in time.
    #[error("the device does not finish its reset")]
    ResetTimeout,
    /// The device does not offer VIRTIO_F_VERSION_1, or did not keep
    /// FEATURES_OK set.
    #[error("the device does not accept the features {0:#x}")]
    FeaturesRefused(u64),
    /// There is an IOMMU in front of the device, which does not offer
    /// VIRTIO_F_ACCESS_PLATFORM: it would use the driver's addresses as physical
    /// ones, which are those of other memory.
    #[error("the device goes past its IOMMU (no VIRTIO_F_ACCESS_PLATFORM)")]
    PastIommu,
    /// A device configuration field has an impossible value.
    #[error("impossible device configuration: {field} = {value}")]
    BadConfiguration {
        /// Name in the device configuration structure.
        field: &'static str,
        /// What the device says.
        value: u64,
    },
    /// The device is configured for another virtio device type.
    #[error("the device wants a backend of virtio type {device}, this one has {backend}")]
    WrongDeviceType {
        /// Type in the device configuration.
        device: u16,
        /// Type of the backend.
        backend: u16,
    },
    /// The device does not let BACKEND_UP be set.
    #[error("the device does not accept a backend")]
    BackendRefused,
    /// The device has no such virtqueue, or none of a usable size.
    #[error("virtqueue {queue} of the device is unusable")]
    BadQueue {
        /// Virtqueue of the device.
        queue: u16,
    },
    /// The device returned more buffers than it had.
    #[error("virtqueue {queue}: used index {index} is beyond what was available")]
    UsedIndex {
        /// Virtqueue of the device.
        queue: u16,
        /// What the device wrote.
        index: u16,
    },
    /// The device returned a buffer that it did not have.
    #[error("virtqueue {queue}: used buffer {id} was not available")]
    UsedId {
        /// Virtqueue of the device.
        queue: u16,
        /// What the device wrote.
        id: u32,
    },
    /// The device says that it wrote more than fits the buffer.
    #[error("virtqueue {queue}: {len} bytes do not fit the used buffer")]
    UsedLen {
        /// Virtqueue of the device.
        queue: u16,
        /// What the device wrote.
        len: u32,
    },
    /// A message is larger than the device takes.
    #[error("a message of {0} bytes is larger than the device takes")]
    MessageTooLarge(usize),
    /// The kernel driver refused a call.
    #[cfg(feature = "module")]
    #[error("{call} of the kernel driver: {}", std::io::Error::from_raw_os_error(*errno))]
    Kernel {
        /// Which one.
        call: &'static str,
        /// The system's error number.
        errno: i32,
    },
    /// The driver's own memory was accessed out of bounds.
    #[error(transparent)]
    Memory(#[from] WindowError),
}
