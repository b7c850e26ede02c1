// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a frontend may be told that a backend can do, through a device.

use vhost_guest_msg::ProtocolFeatures;

/// Regions of the frontend's memory at one time, as many as libvhost-user
/// and DPDK's and rust-vmm's libraries carry at most.
pub(crate) const MAX_REGIONS: usize = 509;

/// What a device carries of what backends offer.
///
/// A backend may be able to do more: DPDK announces 128 vrings, whatever device
/// it is on. A frontend is told what both can, whether the backend runs on
/// [`serve`](crate::serve) or has been brought into the guest as it is.
///
/// ```
/// use vhost_guest_driver::Carried;
///
/// let carried = Carried::new(8, 0);
/// assert_eq!(carried.queues(128), 8);
/// assert_eq!(carried.queues(2), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    queues: u16,
    state: bool,
}

impl Carried {
    /// By a device with `max_queues` vrings, and pieces of device state that have
    /// `state_piece` bytes: 0 if it carries none.
    #[must_use]
    pub fn new(max_queues: u16, state_piece: usize) -> Self {
        Self {
            queues: max_queues,
            state: state_piece > 0,
        }
    }

    /// GET_QUEUE_NUM: how many of the backend's vrings.
    #[must_use]
    pub fn queues(&self, offered: u64) -> u16 {
        u16::try_from(offered).map_or(self.queues, |offered| offered.min(self.queues))
    }

    /// GET_MAX_MEM_SLOTS: how many of the backend's slots.
    #[must_use]
    pub fn memory_slots(&self, offered: u64) -> u64 {
        offered.min(MAX_REGIONS as u64)
    }

    /// GET_PROTOCOL_FEATURES: which of the backend's. The others need more than
    /// a guest has: descriptors to send, files, page faults.
    #[must_use]
    pub fn protocol_features(&self, offered: ProtocolFeatures) -> ProtocolFeatures {
        let mut carried = offered & ProtocolFeatures::forwardable();
        if !self.state {
            carried.remove(ProtocolFeatures::DEVICE_STATE);
        }
        carried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamps_what_a_backend_announces() {
        let carried = Carried::new(8, 0);
        for (offered, queues) in [(0, 0), (7, 7), (8, 8), (128, 8), (u64::MAX, 8)] {
            assert_eq!(carried.queues(offered), queues);
        }
        for (offered, slots) in [(8, 8), (509, 509), (u64::MAX, 509)] {
            assert_eq!(carried.memory_slots(offered), slots);
        }
    }

    #[test]
    fn takes_out_what_a_guest_or_the_device_does_not_have() {
        let good = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::DEVICE_STATE;
        let offered = good | ProtocolFeatures::HOST_NOTIFIER | ProtocolFeatures::SHMEM;
        assert_eq!(Carried::new(8, 4096).protocol_features(offered), good);
        let stateless = Carried::new(8, 0).protocol_features(offered);
        assert_eq!(stateless, ProtocolFeatures::REPLY_ACK);
    }
}
