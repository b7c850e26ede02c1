// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the two sides have agreed on.

use vhost_guest_msg::{Context, Limits, ProtocolFeatures, Reply, VirtioFeatures};

/// Negotiation state of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    limits: Limits,
    context: Context,
    carried: ProtocolFeatures,
}

impl Session {
    /// A connection that has agreed on nothing.
    pub(crate) fn new(limits: Limits, carried: ProtocolFeatures) -> Self {
        Self {
            limits,
            context: Context::default(),
            carried,
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

    /// The protocol features that this device carries.
    pub(super) fn carried(&self) -> ProtocolFeatures {
        self.carried
    }

    /// The guest has answered.
    pub(super) fn observe_reply(&mut self, reply: &Reply) {
        self.context.observe_reply(reply);
    }

    /// Whether the frontend may rely on acknowledgements.
    pub(super) fn acknowledges(&self) -> bool {
        self.context
            .protocol_features
            .contains(ProtocolFeatures::REPLY_ACK)
    }

    /// `SET_PROTOCOL_FEATURES`, with what is carried.
    pub(super) fn set_protocol_features(&mut self, chosen: ProtocolFeatures) {
        self.context.protocol_features = chosen;
    }

    /// `SET_FEATURES`, before or after `SET_PROTOCOL_FEATURES`.
    pub(super) fn set_features(&mut self, features: VirtioFeatures) {
        self.context.features = features;
    }

    /// Whether `feature` was acknowledged.
    pub(super) fn has(&self, feature: VirtioFeatures) -> bool {
        self.context.features.contains(feature)
    }
}
