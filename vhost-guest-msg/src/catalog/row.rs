// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a row of the table says about a message.

use crate::{Channel, Context, ProtocolFeatures, VirtioFeatures};

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose request it is.
    pub channel: Channel,
    /// The request number.
    pub code: u32,
    /// The name in the vhost-user document, without `VHOST_USER_` and
    /// `VHOST_USER_BACKEND_`.
    pub name: &'static str,
    /// The bytes of the payload.
    pub layout: Layout,
    /// The descriptors.
    pub fds: FdRule,
    /// What has to be negotiated for it.
    pub gate: Gate,
    /// Its reply.
    pub reply: ReplyRule,
    /// What a vhost-guest device does with it.
    pub verdict: Verdict,
}

/// The layout of a payload; the module of the type has it as a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// No bytes.
    Nothing,
    /// One number.
    U64,
    /// An Ethernet address in 8 bytes.
    Rarp,
    /// Vring index and number.
    VringState,
    /// Addresses of a vring.
    VringAddr,
    /// Vring index and a bit for "no descriptor".
    VringFd,
    /// Any number of regions.
    MemTable,
    /// One region.
    MemRegion,
    /// Size and offset of a log, or one number.
    Log,
    /// An I/O translation.
    Iotlb,
    /// A piece of configuration space.
    Config,
    /// A record of in-flight requests.
    Inflight,
    /// Direction and phase of a state transfer.
    DeviceState,
    /// Not looked into.
    Opaque,
}

/// Which descriptors come with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FdRule {
    /// None.
    None,
    /// One.
    One,
    /// One for each region.
    OnePerRegion,
    /// One, unless bit 8 of the payload says that there is none.
    OneUnlessNoFd,
    /// One with `LOG_SHMFD`, else none.
    OneIfShared,
    /// None, or one that is dropped.
    AtMostOneIgnored,
    /// Not looked into.
    Any,
}

/// What has to be negotiated before a message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Nothing.
    Always,
    /// A virtio feature that the backend offers; whether the frontend
    /// acknowledges it is no matter. QEMU's network cards enable rings before
    /// they acknowledge anything, and every backend lets them.
    Offered(VirtioFeatures),
    /// A virtio feature that the frontend has acknowledged.
    Virtio(VirtioFeatures),
    /// A protocol feature that the frontend has acknowledged.
    Protocol(ProtocolFeatures),
}

impl Gate {
    /// Whether what was offered or acked lets the message through.
    ///
    /// A frontend that did not ask for the offer on this connection may know
    /// it from an earlier one: then the backend has to judge.
    #[must_use]
    pub fn is_open(self, context: &Context) -> bool {
        match self {
            Self::Always => true,
            Self::Offered(feature) => context
                .offered
                .is_none_or(|offered| offered.union(context.features).contains(feature)),
            Self::Virtio(feature) => context.features.contains(feature),
            Self::Protocol(feature) => context.protocol_features.contains(feature),
        }
    }
}

/// What answers a request, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyRule {
    /// A u64 that is 0 for success, if the request asks for it and
    /// `REPLY_ACK` was acked.
    Ack,
    /// As `Ack`, but the vhost-user document wants it always: it may come
    /// unasked.
    Iotlb,
    /// With `LOG_SHMFD` one of three forms, always; else as `Ack`.
    Log,
    /// Virtio features, always.
    Features,
    /// Protocol features, always.
    ProtocolFeatures,
    /// A number, always.
    U64,
    /// Where a vring stands, always.
    VringBase,
    /// A piece of configuration space or one of two error forms, always.
    Config,
    /// A record of in-flight requests and, if not empty, a descriptor;
    /// always.
    Inflight,
    /// Success or failure of a state transfer, always.
    DeviceState,
    /// Not looked into, always.
    Opaque,
}

/// What a vhost-guest device does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Passes it on as it is.
    Forward,
    /// Passes it on, and rewrites it or its reply, takes its descriptors, or
    /// acts on it.
    Handle,
    /// Never sees it, because it clears the gate's feature; if it does, the
    /// sender is at fault. Says why.
    Refuse(&'static str),
}

/// The gates of forwarded and of refused messages. In a loop, because it has
/// to be `const`.
pub(super) const fn gates(rows: &[Row]) -> (ProtocolFeatures, ProtocolFeatures) {
    let mut forwarded = ProtocolFeatures::empty();
    let mut refused = ProtocolFeatures::empty();
    let mut rest = rows;
    while let [row, tail @ ..] = rest {
        match (row.gate, row.verdict) {
            (Gate::Protocol(gate), Verdict::Refuse(_)) => refused = refused.union(gate),
            (Gate::Protocol(gate), _) => forwarded = forwarded.union(gate),
            _ => {}
        }
        rest = tail;
    }
    (forwarded, refused)
}
