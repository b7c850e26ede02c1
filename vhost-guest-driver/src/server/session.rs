// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state of one frontend's connection.

use alloc::vec::Vec;

use thiserror::Error;
use vhost_guest_msg::{
    decode_whole, BackendRequest, Context, Endian, FrameReason, FrontendRequest, Iotlb, IotlbKind,
    Limits, MessageError, ProtocolFeatures, Reply, ReplyExpectation, ReplyShape,
};

use super::requests;
use super::state::StateTransfer;
use super::Statistics;
use crate::backend::Backend;
use crate::carried::Carried;
use crate::memory::Memory;
use crate::port::Port;
use crate::vring::{Budget, Ring, RingFault, Vring};

/// Why a frontend was disconnected, or one of its vrings is out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Disconnect {
    /// What the device passed on is not one whole message.
    #[error("a message with a bad frame: {0}")]
    Frame(FrameReason),
    /// A message is malformed.
    #[error("{0}")]
    Message(MessageError),
    /// A message is well-formed, but cannot be complied with.
    #[error("frontend's request {code}: {reason}")]
    Refused {
        /// Number of the request.
        code: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// A vring is broken; the connection stays.
    #[error("a vring of the frontend's guest is broken: {0}")]
    Ring(RingFault),
}

pub(super) struct Session {
    pub context: Context,
    pub limits: Limits,
    pub memory: Memory,
    pub vrings: Vec<Vring>,
    pub pending: Vec<bool>,
    /// An encoded reply that waits for room.
    reply: Vec<u8>,
    pub status: u64,
    /// SET_BACKEND_REQ_FD came.
    pub backend_channel: bool,
    /// SET_LOG_FD came.
    pub log_signal: bool,
    pub config_changed: bool,
    /// What the device carries of what the backend offers.
    pub carried: Carried,
    pub transfer: StateTransfer,
    /// The device was reset by its status, the backend not yet.
    pub reset_due: bool,
    fresh: bool,
}

impl Session {
    pub fn new(device: &impl Port, backend: &impl Backend) -> Self {
        let carried = Carried::new(device.max_queues(), device.state_piece());
        let queues = carried.queues(backend.queues().into());
        let limits = Limits {
            max_queues: queues,
            ..Limits::default()
        };
        let count = usize::from(queues);
        Self {
            context: Context {
                offered: Some(requests::offered_features(backend)),
                ..Context::default()
            },
            limits,
            memory: Memory::new(device.window().clone()),
            vrings: core::iter::repeat_with(Vring::default)
                .take(count)
                .collect(),
            pending: core::iter::repeat_n(false, count).collect(),
            reply: Vec::new(),
            status: 0,
            backend_channel: false,
            log_signal: false,
            config_changed: false,
            carried,
            transfer: StateTransfer::default(),
            reset_due: false,
            fresh: true,
        }
    }

    /// Whether the frontend has not sent anything yet.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub fn queues(&self) -> u16 {
        self.limits.max_queues
    }

    /// Whether a vring must be looked at without a kick.
    pub fn is_polled(&self) -> bool {
        self.vrings.iter().any(|v| v.polled && v.is_active())
    }

    /// How many requests of an earlier backend can be handled now.
    pub fn resubmits(&self) -> usize {
        self.vrings.iter().map(Vring::resubmits).sum()
    }

    /// The vring, if it is its turn.
    pub fn take_turn(&mut self, index: u16, kicked: bool) -> Option<(&mut Vring, &Memory)> {
        let index = usize::from(index);
        let pending = core::mem::take(self.pending.get_mut(index)?);
        let vring = self.vrings.get_mut(index)?;
        let turn = (kicked || pending || vring.polled) && vring.is_active();
        turn.then_some((vring, &self.memory))
    }

    /// There was no time for the vring; whether it would have had a turn.
    pub fn postpone(&mut self, index: u16, kicked: bool) -> bool {
        let index = usize::from(index);
        let vring = self.vrings.get(index);
        let (Some(pending), Some(vring)) = (self.pending.get_mut(index), vring) else {
            return false;
        };
        *pending |= kicked;
        (*pending || vring.polled) && vring.is_active()
    }

    pub fn set_pending(&mut self, index: u16, pending: bool) {
        if let Some(slot) = self.pending.get_mut(usize::from(index)) {
            *slot = pending;
        }
    }

    pub fn reply(&self) -> Option<&[u8]> {
        (!self.reply.is_empty()).then_some(&self.reply)
    }

    pub fn reply_sent(&mut self) {
        self.reply.clear();
    }

    /// The message that tells the frontend of a configuration change, if one
    /// is due and there is a way to send it.
    pub fn config_change(&self, endian: Endian) -> Option<Vec<u8>> {
        let features = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::CONFIG;
        let negotiated = self.context.protocol_features.contains(features);
        let request = BackendRequest::<()>::ConfigChangeMsg;
        (self.config_changed && self.backend_channel && negotiated)
            .then(|| request.to_vec(false, endian))
    }

    /// The message that asks for a translation, if a vring waits for one and
    /// there is a way to ask; [`asked`](Self::asked) with the vring is next.
    pub fn question(&self, endian: Endian) -> Option<(usize, Vec<u8>)> {
        let acked = self.context.protocol_features;
        if !self.backend_channel || !acked.contains(ProtocolFeatures::BACKEND_REQ) {
            return None;
        }
        let find = |(at, vring): (usize, &Vring)| vring.miss().map(|miss| (at, miss));
        let (at, miss) = self.vrings.iter().enumerate().find_map(find)?;
        let entry = Iotlb::new(IotlbKind::Miss, miss.iova, 0, 0, miss.permission).ok()?;
        let request = BackendRequest::<()>::IotlbMsg(entry);
        Some((at, request.to_vec(false, endian)))
    }

    pub fn asked(&mut self, at: usize) {
        if let Some(vring) = self.vrings.get_mut(at) {
            vring.miss_asked();
        }
    }

    /// Handles one message: carries it out, and leaves the reply that is due
    /// in [`reply`](Self::reply).
    pub fn handle(
        &mut self,
        bytes: &[u8],
        endian: Endian,
        backend: &mut impl Backend,
    ) -> Result<(), Disconnect> {
        self.fresh = false;
        let frame = decode_whole(bytes, endian, &self.limits).map_err(Disconnect::Frame)?;
        let header = frame.header;
        let need_reply = header
            .flags
            .contains(vhost_guest_msg::HeaderFlags::NEED_REPLY);
        let decoded = FrontendRequest::decode(frame, endian, &self.limits, &self.context);
        let (expectation, result) = match decoded {
            Ok(message) => {
                let due = ReplyExpectation::of(&message.request, need_reply, &self.context);
                let code = header.code;
                let result = self
                    .carry_out(message.request, backend)
                    .map_err(|reason| Disconnect::Refused { code, reason });
                (due, result)
            }
            Err(error) => {
                let wrong = error.error();
                if !wrong.is_well_formed() {
                    return Err(Disconnect::Message(wrong));
                }
                (ReplyExpectation::None, Err(Disconnect::Message(wrong)))
            }
        };
        let reply = match (expectation, result) {
            (ReplyExpectation::Due(ReplyShape::Ack), Ok(_)) => Reply::Ack(0),
            (ReplyExpectation::Due(_), Ok(Some(reply))) => reply,
            (_, Ok(_)) => return Ok(()),
            (_, Err(disconnect)) => {
                let refusal = Reply::refusal(header.code, need_reply, &self.context);
                refusal.ok_or(disconnect)?
            }
        };
        self.encode(header.code, &reply, endian);
        Ok(())
    }

    fn encode(&mut self, code: u32, reply: &Reply, endian: Endian) {
        self.reply.resize(self.limits.max_message_size, 0);
        let len = reply.encode(code, false, endian, &mut self.reply);
        // No reply of ours is larger than a message may be.
        self.reply.truncate(len.unwrap_or(0));
    }
}

impl Vring {
    /// One turn of the backend's, of `bytes` that become fewer; whether there
    /// may be more to do.
    pub(super) fn process(
        &mut self,
        backend: &mut impl Backend,
        memory: &Memory,
        index: u16,
        (statistics, bytes): (&mut Statistics, &mut u64),
    ) -> bool {
        self.suppress_kicks();
        let budget = Budget {
            requests: backend.budget().max(1),
            bytes: *bytes,
        };
        let mut ring = Ring::new(self, memory, budget);
        backend.process(index, &mut ring);
        statistics.requests += u64::from(ring.completed());
        *bytes = ring.budget().bytes;
        // A backend need not have used its budget up, nor emptied the vring.
        let exhausted = ring.is_exhausted();
        // One that waits for a translation is looked at when that comes.
        self.is_active() && (exhausted || self.request_kicks())
    }
}
