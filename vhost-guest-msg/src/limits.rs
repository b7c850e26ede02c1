// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a message may ask for, and what was negotiated before it.

use crate::{FrontendRequest, ProtocolFeatures, Reply, VirtioFeatures};

/// Upper bounds that a decoder holds a peer to.
///
/// ```
/// use vhost_guest_msg::Limits;
///
/// let limits = Limits {
///     max_queues: 16,
///     ..Limits::default()
/// };
/// assert_eq!(limits.max_message_size, 4096);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a message, header included.
    pub max_message_size: usize,
    /// Number of vrings; a ring index is smaller. More than 256 is the same
    /// as 256: SET_VRING_KICK has 8 bits for the index.
    pub max_queues: u16,
    /// Regions in one SET_MEM_TABLE.
    pub max_regions: usize,
}

impl Default for Limits {
    /// What serves every frontend known: 4096 bytes carry 32 regions (1044
    /// bytes) and the largest configuration space of a frontend (256).
    fn default() -> Self {
        Self {
            max_message_size: 4096,
            max_queues: 256,
            max_regions: 32,
        }
    }
}

/// What was offered and acknowledged so far on this connection.
///
/// A few messages mean different things depending on it: SET_LOG_BASE with
/// and without `LOG_SHMFD`, and every acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The value of the last reply to GET_FEATURES. A frontend that connects
    /// again may remember it and not ask.
    pub offered: Option<VirtioFeatures>,
    /// The value of the last SET_FEATURES.
    pub features: VirtioFeatures,
    /// The value of the last SET_PROTOCOL_FEATURES.
    pub protocol_features: ProtocolFeatures,
}

impl Context {
    /// Takes in a request that was accepted; only the two that acknowledge
    /// features change anything.
    pub fn observe<F>(&mut self, request: &FrontendRequest<F>) {
        match request {
            FrontendRequest::SetFeatures(features) => self.features = *features,
            FrontendRequest::SetProtocolFeatures(features) => self.protocol_features = *features,
            _ => {}
        }
    }

    /// Takes in a reply of the backend's; only the offer of features changes
    /// anything.
    pub fn observe_reply(&mut self, reply: &Reply) {
        if let Reply::Features(features) = reply {
            self.offered = Some(*features);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gate;

    #[test]
    fn a_gate_on_an_offer_is_closed_by_an_offer_without_it_alone() {
        let feature = VirtioFeatures::PROTOCOL_FEATURES;
        let gate = Gate::Offered(feature);
        let mut context = Context::default();
        assert!(gate.is_open(&context), "nobody asked");
        context.observe_reply(&Reply::Features(VirtioFeatures::VERSION_1));
        assert!(!gate.is_open(&context));
        context.observe(&FrontendRequest::<()>::SetFeatures(feature));
        assert!(gate.is_open(&context), "it was acknowledged");
        context.observe(&FrontendRequest::<()>::SetFeatures(VirtioFeatures::empty()));
        context.observe_reply(&Reply::Features(feature));
        assert!(gate.is_open(&context), "it was offered");
        assert!(!Gate::Virtio(feature).is_open(&context));
    }
}
