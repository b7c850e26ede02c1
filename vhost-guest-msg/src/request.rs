// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests: decoding and encoding what the catalog lists.

use alloc::vec::Vec;

use zerocopy::byteorder::ByteOrder;

use crate::body::Rules;
use crate::endian::in_order;
use crate::error::{Channel, DecodeError, MessageError, Reason};
use crate::writer::{self, Writer};
use crate::{
    catalog, BackendRequest, BufferTooSmall, Context, Endian, Fds, Frame, FrontendRequest,
    HeaderFlags, Limits, Row,
};

/// A request, and whether its sender asks for an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<R> {
    /// The NEED_REPLY flag.
    pub need_reply: bool,
    /// The request.
    pub request: R,
}

/// What the two enums of requests have in common.
pub(crate) trait Request<F>: Sized {
    const CHANNEL: Channel;

    fn code(&self) -> u32;

    fn parse<O: ByteOrder>(
        code: u32,
        bytes: &[u8],
        fds: &mut Fds<F>,
        rules: &Rules<'_>,
    ) -> Result<Self, Reason>;

    fn emit<O: ByteOrder>(&self, writer: &mut Writer<'_>);
}

fn decode<F, R: Request<F>>(
    frame: Frame<'_, F>,
    endian: Endian,
    limits: &Limits,
    context: &Context,
) -> Result<Message<R>, DecodeError<F>> {
    let Frame {
        header,
        body,
        mut fds,
    } = frame;
    let rules = Rules {
        channel: R::CHANNEL,
        limits,
        context,
    };
    let parsed = if header.flags.contains(HeaderFlags::REPLY) {
        Err(Reason::NotRequest)
    } else {
        in_order!(endian, R::parse(header.code, body, &mut fds, &rules))
    };
    let need_reply = header.flags.contains(HeaderFlags::NEED_REPLY);
    match parsed {
        Ok(request) => Ok(Message {
            need_reply,
            request,
        }),
        Err(reason) => {
            let channel = R::CHANNEL;
            let code = header.code;
            let error = MessageError {
                channel,
                code,
                reason,
            };
            Err(DecodeError {
                error,
                need_reply,
                fds,
            })
        }
    }
}

fn encode<F, R: Request<F>>(
    request: &R,
    need_reply: bool,
    endian: Endian,
    buffer: &mut [u8],
) -> Result<usize, BufferTooSmall> {
    let mut flags = HeaderFlags::empty();
    flags.set(HeaderFlags::NEED_REPLY, need_reply);
    writer::message(buffer, request.code(), flags, endian, |writer| {
        in_order!(endian, Request::emit(request, writer))
    })
}

/// The same methods for both enums.
macro_rules! methods {
    ($Enum:ident) => {
        impl<F> $Enum<F> {
            /// Reads the request in a frame.
            ///
            /// # Errors
            ///
            /// The frame is not a request, or not a correct one. The error has
            /// all descriptors of the frame.
            pub fn decode(
                frame: Frame<'_, F>,
                endian: Endian,
                limits: &Limits,
                context: &Context,
            ) -> Result<Message<Self>, DecodeError<F>> {
                decode(frame, endian, limits, context)
            }

            /// Writes the request, header and payload, and returns its length.
            /// The descriptors are not written; see [`detach`](Self::detach).
            ///
            /// # Errors
            ///
            /// The buffer is too small; what is in it has no meaning then.
            pub fn encode(
                &self,
                need_reply: bool,
                endian: Endian,
                buffer: &mut [u8],
            ) -> Result<usize, BufferTooSmall> {
                encode(self, need_reply, endian, buffer)
            }

            /// Bytes in the encoded request, header included.
            #[must_use]
            pub fn encoded_len(&self) -> usize {
                match self.encode(false, Endian::NATIVE, &mut []) {
                    Ok(len) => len,
                    Err(BufferTooSmall { needed, .. }) => needed,
                }
            }

            /// As [`encode`](Self::encode), into memory of its own.
            #[must_use]
            pub fn to_vec(&self, need_reply: bool, endian: Endian) -> Vec<u8> {
                let mut bytes = alloc::vec![0; self.encoded_len()];
                let encoded = self.encode(need_reply, endian, &mut bytes);
                debug_assert_eq!(encoded, Ok(bytes.len()));
                bytes
            }

            /// The request's row; an unknown request has none.
            #[must_use]
            pub fn row(&self) -> Option<&'static Row> {
                catalog::row(<Self as Request<F>>::CHANNEL, self.code())
            }
        }
    };
}

methods!(FrontendRequest);
methods!(BackendRequest);

impl<F> FrontendRequest<F> {
    /// Whether the request resets the device behind the backend: RESET_DEVICE,
    /// or a device status of 0. All rings stop and are as they were at first;
    /// memory, descriptors and what was negotiated stay.
    ///
    /// ```
    /// use vhost_guest_msg::FrontendRequest;
    ///
    /// assert!(FrontendRequest::<()>::ResetDevice.resets_device());
    /// assert!(FrontendRequest::<()>::SetStatus(0).resets_device());
    /// assert!(!FrontendRequest::<()>::SetStatus(0xf).resets_device());
    /// // Deprecated, and best ignored (vhost-user, frontend message types).
    /// assert!(!FrontendRequest::<()>::ResetOwner.resets_device());
    /// ```
    #[must_use]
    pub fn resets_device(&self) -> bool {
        // A device status has 8 bits (virtio, device status field).
        matches!(self, Self::ResetDevice)
            || matches!(self, Self::SetStatus(status) if status & 0xff == 0)
    }

    /// The ring that stops with the reply to the request.
    #[must_use]
    pub fn stops_vring(&self) -> Option<u8> {
        match self {
            Self::GetVringBase(vring) | Self::GetVringBaseSkipDrain(vring) => Some(vring.index),
            _ => None,
        }
    }
}
