// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Replies: what answers a request, and when one is due.

use alloc::vec::Vec;

use zerocopy::byteorder::{ByteOrder, U64};

use crate::body::{exactly, Config, Inflight, LogArea, Plain, Rules, VringBase};
use crate::endian::in_order;
use crate::error::{Channel, Reason};
use crate::writer::{self, Writer};
use crate::{
    row, BackendRequest, BufferTooSmall, Context, Endian, FrontendRequest, HeaderFlags, Limits,
    ProtocolFeatures, ReplyRule, VirtioFeatures,
};

/// The form that a reply must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyShape {
    /// A u64, 0 for success.
    Ack,
    /// Virtio features.
    Features,
    /// Protocol features.
    ProtocolFeatures,
    /// A number.
    U64,
    /// Where a vring stands.
    VringBase,
    /// As many bytes of configuration space as were asked for, or an error.
    Config {
        /// Bytes asked for.
        size: usize,
    },
    /// One of three forms.
    Log,
    /// A record of in-flight requests.
    Inflight,
    /// Success or failure of a state transfer.
    DeviceState,
    /// Anything.
    Opaque,
}

/// Whether a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyExpectation {
    /// No reply: one would be a violation.
    None,
    /// Exactly one reply.
    Due(ReplyShape),
    /// Implementations differ: one reply or none.
    Optional(ReplyShape),
}

impl ReplyExpectation {
    /// What answers a frontend's request, given what was acked before it.
    ///
    /// ```
    /// use vhost_guest_msg::{Context, FrontendRequest, ReplyExpectation, ReplyShape};
    ///
    /// let context = Context::default();
    /// let get = FrontendRequest::<()>::GetFeatures;
    /// let expected = ReplyExpectation::of(&get, false, &context);
    /// assert_eq!(expected, ReplyExpectation::Due(ReplyShape::Features));
    ///
    /// // Without REPLY_ACK nobody has to acknowledge.
    /// let set = FrontendRequest::<()>::SetOwner;
    /// let expected = ReplyExpectation::of(&set, true, &context);
    /// assert_eq!(expected, ReplyExpectation::Optional(ReplyShape::Ack));
    /// ```
    #[must_use]
    pub fn of<F>(request: &FrontendRequest<F>, need_reply: bool, context: &Context) -> Self {
        // SET_PROTOCOL_FEATURES is itself subject to what it sets.
        let acked = match request {
            FrontendRequest::SetProtocolFeatures(features) => *features,
            _ => context.protocol_features,
        };
        let size = match request {
            FrontendRequest::GetConfig(config) => config.contents().len(),
            _ => 0,
        };
        let rule = request.row().map(|row| row.reply);
        Self::from_rule(rule, size, need_reply, acked)
    }

    /// What answers a backend's request, given what was acked before it.
    #[must_use]
    pub fn of_backend<F>(request: &BackendRequest<F>, need_reply: bool, context: &Context) -> Self {
        let rule = request.row().map(|row| row.reply);
        Self::from_rule(rule, 0, need_reply, context.protocol_features)
    }

    fn from_rule(
        rule: Option<ReplyRule>,
        size: usize,
        need_reply: bool,
        acked: ProtocolFeatures,
    ) -> Self {
        let on_request = match (need_reply, acked.contains(ProtocolFeatures::REPLY_ACK)) {
            (true, true) => Self::Due(ReplyShape::Ack),
            // libvhost-user and DPDK answer nevertheless.
            (true, false) => Self::Optional(ReplyShape::Ack),
            (false, _) => Self::None,
        };
        Self::Due(match rule {
            None | Some(ReplyRule::Ack) => return on_request,
            // QEMU asks and waits without a look at REPLY_ACK.
            Some(ReplyRule::Iotlb) if need_reply => ReplyShape::Ack,
            Some(ReplyRule::Iotlb) => return Self::Optional(ReplyShape::Ack),
            Some(ReplyRule::Log) if !acked.contains(ProtocolFeatures::LOG_SHMFD) => {
                return on_request
            }
            Some(ReplyRule::Log) => ReplyShape::Log,
            Some(ReplyRule::Features) => ReplyShape::Features,
            Some(ReplyRule::ProtocolFeatures) => ReplyShape::ProtocolFeatures,
            Some(ReplyRule::U64) => ReplyShape::U64,
            Some(ReplyRule::VringBase) => ReplyShape::VringBase,
            Some(ReplyRule::Config) => ReplyShape::Config { size },
            Some(ReplyRule::Inflight) => ReplyShape::Inflight,
            Some(ReplyRule::DeviceState) => ReplyShape::DeviceState,
            Some(ReplyRule::Opaque) => ReplyShape::Opaque,
        })
    }
}

/// The payload of a reply. A descriptor that goes with it (GET_INFLIGHT_FD)
/// is the sender's affair.
///
/// ```
/// use vhost_guest_msg::{frontend, Endian, Reply};
///
/// let mut buffer = [0; 20];
/// let len = Reply::Ack(0).encode(
///     frontend::SET_VRING_ENABLE,
///     false,
///     Endian::Little,
///     &mut buffer,
/// )?;
/// assert_eq!(buffer[..12], [18, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]);
/// assert_eq!(len, 20);
/// # Ok::<(), vhost_guest_msg::BufferTooSmall>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Success if 0.
    Ack(u64),
    /// To GET_FEATURES.
    Features(VirtioFeatures),
    /// To GET_PROTOCOL_FEATURES.
    ProtocolFeatures(ProtocolFeatures),
    /// A number.
    U64(u64),
    /// To GET_VRING_BASE.
    VringBase(VringBase),
    /// To GET_CONFIG.
    Config(Config),
    /// To GET_CONFIG: the backend has no such configuration, and says so
    /// without a payload.
    NoConfig,
    /// To SET_LOG_BASE.
    Log(LogReply),
    /// To GET_INFLIGHT_FD.
    Inflight(Inflight),
    /// To SET_DEVICE_STATE_FD.
    DeviceState(DeviceStateReply),
    /// Not looked into.
    Opaque(Vec<u8>),
}

/// What implementations answer to SET_LOG_BASE. All of them mean success; a
/// log of size 0 is a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogReply {
    /// Nothing (DPDK).
    Empty,
    /// A number without meaning (libvhost-user).
    U64(u64),
    /// The request's payload (rust-vmm). The only form that every frontend
    /// accepts.
    Echo {
        /// The request's size.
        size: u64,
        /// The request's offset.
        offset: u64,
    },
}

impl LogReply {
    /// The reply for a frontend that sent `area`, whatever the backend's was.
    #[must_use]
    pub fn to(area: &LogArea) -> Self {
        Self::Echo {
            size: area.size(),
            offset: area.offset(),
        }
    }
}

/// What a backend says to SET_DEVICE_STATE_FD: bits 0-7 an error, bit 8 that
/// no descriptor is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceStateReply(pub u64);

impl DeviceStateReply {
    const NO_FD: u64 = 1 << 8;

    /// Whether the transfer can start.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.0 & 0xff == 0
    }

    /// The same, saying that no descriptor is returned: a guest has none.
    #[must_use]
    pub fn without_fd(self) -> Self {
        Self(self.0 | Self::NO_FD)
    }
}

impl Reply {
    /// What refuses a request of the frontend's, if the protocol has a refusal
    /// and the frontend reads it. If not, all that is left to whoever cannot
    /// comply is to end the connection.
    ///
    /// Requests with a reply of their own are refused in its terms: without
    /// configuration, without a record of requests, with the failure of a
    /// transfer. A vring's base or a number has no value that says no.
    ///
    /// ```
    /// use vhost_guest_msg::{frontend, Context, Reply};
    ///
    /// let context = Context::default();
    /// let refusal = Reply::refusal(frontend::GET_CONFIG, false, &context);
    /// assert_eq!(refusal, Some(Reply::NoConfig));
    /// // Nobody waits for an acknowledgement that was not negotiated.
    /// assert_eq!(Reply::refusal(frontend::SET_VRING_NUM, true, &context), None);
    /// ```
    #[must_use]
    pub fn refusal(code: u32, need_reply: bool, context: &Context) -> Option<Self> {
        let acked = context.protocol_features;
        let asked = need_reply && acked.contains(ProtocolFeatures::REPLY_ACK);
        match row(Channel::Main, code).map(|row| row.reply) {
            Some(ReplyRule::Config) => Some(Self::NoConfig),
            Some(ReplyRule::Inflight) => Inflight::new(0, 0, 0, 0).ok().map(Self::Inflight),
            Some(ReplyRule::DeviceState) => {
                Some(Self::DeviceState(DeviceStateReply(1).without_fd()))
            }
            // QEMU does not look at the log in the reply, unless it asks for an
            // acknowledgement. Those that do read a whole log, and would wait
            // for ever for the rest of a number. One without a size is none.
            Some(ReplyRule::Log) if acked.contains(ProtocolFeatures::LOG_SHMFD) => {
                asked.then_some(Self::Log(LogReply::Echo { size: 0, offset: 0 }))
            }
            Some(ReplyRule::Iotlb) => need_reply.then_some(Self::Ack(1)),
            None | Some(ReplyRule::Ack | ReplyRule::Log) => asked.then_some(Self::Ack(1)),
            Some(_) => None,
        }
    }

    /// Reads the payload of a reply.
    ///
    /// # Errors
    ///
    /// The payload cannot be this reply.
    pub fn decode(
        shape: ReplyShape,
        payload: &[u8],
        endian: Endian,
        limits: &Limits,
    ) -> Result<Self, Reason> {
        in_order!(endian, Self::parse(shape, payload, limits))
    }

    /// Writes the reply to the request `code`, header and payload, and
    /// returns its length. `need_reply` is the flag that some backends copy
    /// from the request; QEMU accepts no reply that has it.
    ///
    /// # Errors
    ///
    /// The buffer is too small; what is in it has no meaning then.
    pub fn encode(
        &self,
        code: u32,
        need_reply: bool,
        endian: Endian,
        buffer: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let mut flags = HeaderFlags::REPLY;
        flags.set(HeaderFlags::NEED_REPLY, need_reply);
        writer::message(buffer, code, flags, endian, |writer| {
            in_order!(endian, Self::emit(self, writer))
        })
    }

    fn parse<O: ByteOrder>(
        shape: ReplyShape,
        payload: &[u8],
        limits: &Limits,
    ) -> Result<Self, Reason> {
        let rules = Rules {
            channel: Channel::Main,
            limits,
            context: &Context::default(),
        };
        let number = || exactly::<U64<O>>(payload).map(U64::get);
        Ok(match shape {
            ReplyShape::Ack => Self::Ack(number()?),
            ReplyShape::Features => Self::Features(Plain::parse::<O>(payload, &rules)?),
            ReplyShape::ProtocolFeatures => {
                Self::ProtocolFeatures(Plain::parse::<O>(payload, &rules)?)
            }
            ReplyShape::U64 => Self::U64(number()?),
            ReplyShape::VringBase => Self::VringBase(Plain::parse::<O>(payload, &rules)?),
            ReplyShape::Config { .. } if payload.is_empty() => Self::NoConfig,
            ReplyShape::Config { size } => {
                let config: Config = Plain::parse::<O>(payload, &rules)?;
                match config.contents().len() {
                    // rust-vmm's way to say "error".
                    0 => Self::Config(config),
                    actual if actual == size => Self::Config(config),
                    actual => {
                        return Err(Reason::Size {
                            expected: size,
                            actual,
                        })
                    }
                }
            }
            ReplyShape::Log => Self::Log(LogReply::parse::<O>(payload)?),
            ReplyShape::Inflight => Self::Inflight(Plain::parse::<O>(payload, &rules)?),
            ReplyShape::DeviceState => Self::DeviceState(DeviceStateReply(number()?)),
            ReplyShape::Opaque => Self::Opaque(payload.to_vec()),
        })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Ack(value) | Self::U64(value) => Plain::emit::<O>(value, writer),
            Self::Features(features) => Plain::emit::<O>(features, writer),
            Self::ProtocolFeatures(features) => Plain::emit::<O>(features, writer),
            Self::VringBase(base) => Plain::emit::<O>(base, writer),
            Self::Config(config) => Plain::emit::<O>(config, writer),
            Self::NoConfig => {}
            Self::Log(log) => log.emit::<O>(writer),
            Self::Inflight(inflight) => Plain::emit::<O>(inflight, writer),
            Self::DeviceState(reply) => Plain::emit::<O>(&reply.0, writer),
            Self::Opaque(bytes) => writer.put(bytes.as_slice()),
        }
    }
}

impl LogReply {
    fn parse<O: ByteOrder>(payload: &[u8]) -> Result<Self, Reason> {
        if payload.is_empty() {
            return Ok(Self::Empty);
        }
        if let Ok(value) = exactly::<U64<O>>(payload) {
            return Ok(Self::U64(value.get()));
        }
        let [size, offset] = exactly::<[U64<O>; 2]>(payload)?.map(U64::get);
        Ok(Self::Echo { size, offset })
    }

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>) {
        match *self {
            Self::Empty => {}
            Self::U64(value) => Plain::emit::<O>(&value, writer),
            Self::Echo { size, offset } => {
                writer.put(&[size, offset].map(U64::<O>::new));
            }
        }
    }
}

#[cfg(test)]
mod tests;
