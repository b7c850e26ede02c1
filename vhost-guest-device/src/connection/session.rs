// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the two sides have agreed on, and what the device remembers of it.

use std::collections::BTreeMap;

use vhost_guest_msg::{
    Context, Limits, ProtocolFeatures, Reply, RingLayout, VirtioFeatures, VringAddr,
};

use crate::error::Fault;
use crate::memory::RingAddress;

/// Protocol features that need the migration queues.
const WITH_MIGRATION: ProtocolFeatures = ProtocolFeatures::DEVICE_STATE;

/// The protocol features that survive in a `GET_PROTOCOL_FEATURES` reply of a
/// device without migration queues.
pub(crate) fn carried() -> ProtocolFeatures {
    ProtocolFeatures::forwardable().difference(WITH_MIGRATION)
}

/// Negotiation state of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    limits: Limits,
    context: Context,
    carried: ProtocolFeatures,
    /// Sizes of the rings, by vring index, as far as the frontend has said.
    sizes: BTreeMap<u8, u16>,
    /// Where the rings are: for the frontend, and for the driver.
    rings: BTreeMap<u8, [RingAddress; 3]>,
}

impl Session {
    /// A connection that has agreed on nothing.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            context: Context::default(),
            carried: carried(),
            sizes: BTreeMap::new(),
            rings: BTreeMap::new(),
        }
    }

    /// The same on a device with migration queues.
    pub(crate) fn with_migration(self) -> Self {
        Self {
            carried: self.carried.union(WITH_MIGRATION),
            ..self
        }
    }

    /// Bounds on messages.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What decoding and replies depend on.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// The guest has answered.
    pub(crate) fn observe_reply(&mut self, reply: &Reply) {
        self.context.observe_reply(reply);
    }

    /// Whether the frontend may rely on acknowledgements.
    pub(crate) fn acknowledges(&self) -> bool {
        self.context
            .protocol_features
            .contains(ProtocolFeatures::REPLY_ACK)
    }

    /// Edits a `GET_PROTOCOL_FEATURES` reply: what the device does not carry
    /// is cleared, and nothing else (vhost-guest specification, messages).
    pub(crate) fn show(&self, offered: ProtocolFeatures) -> ProtocolFeatures {
        offered.intersection(self.carried)
    }

    /// `SET_PROTOCOL_FEATURES`: never modified; a bit that is not carried
    /// disconnects. Whether the guest offers the others is the guest's to
    /// check: a frontend that connects again may remember them and not ask.
    pub(crate) fn set_protocol_features(&mut self, chosen: ProtocolFeatures) -> Result<(), Fault> {
        let unknown = chosen.difference(self.carried);
        if !unknown.is_empty() {
            let bits = unknown.bits();
            let reason = format_args!("SET_PROTOCOL_FEATURES: bits {bits:#x} are not carried");
            return Err(Fault::frontend(reason));
        }
        self.context.protocol_features = chosen;
        Ok(())
    }

    /// `SET_FEATURES`, before or after `SET_PROTOCOL_FEATURES`.
    pub(crate) fn set_features(&mut self, features: VirtioFeatures) {
        self.context.features = features;
    }

    /// Whether ring addresses are I/O virtual ones, which IOTLB messages
    /// explain to the backend.
    pub(crate) fn translates(&self) -> bool {
        self.context
            .features
            .contains(VirtioFeatures::ACCESS_PLATFORM)
    }

    /// `SET_VRING_NUM`.
    pub(crate) fn set_size(&mut self, vring: u8, num: u16) {
        self.sizes.insert(vring, num);
    }

    /// How long the parts of a ring are, as far as it is known.
    pub(crate) fn layout(&self, vring: u8) -> RingLayout {
        let num = self.sizes.get(&vring).copied().unwrap_or(0);
        if self.context.features.contains(VirtioFeatures::RING_PACKED) {
            RingLayout::Packed { num }
        } else {
            RingLayout::Split { num }
        }
    }

    /// `SET_VRING_ADDR` was carried out: the ring was moved into the window.
    pub(crate) fn remember_ring(&mut self, ring: &VringAddr, moved: &VringAddr) {
        let part = |user_address, window_offset| RingAddress {
            user_address,
            window_offset,
        };
        let parts = [
            part(ring.descriptor, moved.descriptor),
            part(ring.used, moved.used),
            part(ring.available, moved.available),
        ];
        self.rings.insert(ring.index, parts);
    }

    /// Where all rings in use are. A new memory table must not move them,
    /// because frontends do not send their addresses again.
    pub(crate) fn rings(&self) -> Vec<RingAddress> {
        self.rings.values().flatten().copied().collect()
    }

    /// The device behind the guest's backend is reset: all rings stop. Their
    /// sizes and addresses are sent again before they start.
    pub(crate) fn forget_rings(&mut self) {
        self.rings.clear();
        self.sizes.clear();
    }

    /// `GET_VRING_BASE` stops one.
    pub(crate) fn forget_ring(&mut self, vring: u8) {
        self.rings.remove(&vring);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clears_what_is_not_carried_and_changes_nothing_else() {
        let session = Session::new(Limits::default());
        let all = ProtocolFeatures::from_bits_retain(u64::MAX);
        let shown = session.show(all);
        assert_eq!(shown, carried());
        assert!(shown.contains(ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK));
        for bit in 24..64 {
            assert_eq!(shown.bits() & 1 << bit, 0, "unassigned bit {bit}");
        }
        let few = ProtocolFeatures::MQ | ProtocolFeatures::CONFIG;
        assert_eq!(session.show(few), few);
    }

    #[test]
    fn the_mask_is_made_of_bit_values() {
        // A QEMU device of old or-ed bit numbers: MQ | REPLY_ACK became 3.
        let names = ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK;
        assert_eq!(names.bits(), 0b1001);
        assert!(carried().contains(names));
        assert!(!carried().contains(ProtocolFeatures::PAGEFAULT));
    }

    #[test]
    fn disconnects_a_protocol_feature_that_is_not_carried() {
        let mut session = Session::new(Limits::default());
        session.set_protocol_features(ProtocolFeatures::MQ).unwrap();
        for unknown in [ProtocolFeatures::SHMEM, WITH_MIGRATION] {
            let fault = session.set_protocol_features(unknown).unwrap_err();
            assert!(matches!(fault, Fault::Frontend(_)));
        }
        assert_eq!(session.context().protocol_features, ProtocolFeatures::MQ);
        let mut session = session.with_migration();
        session.set_protocol_features(WITH_MIGRATION).unwrap();
    }
}
