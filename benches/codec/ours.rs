// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! With `vhost-guest-msg`.

use vhost_guest_msg::{decode_whole, Context, Endian, Frame, FrontendRequest, Limits, RingLayout};

use super::{place, Fd, Sample};

const LAYOUT: RingLayout = RingLayout::Split { num: 256 };

/// Reads a message, moves it into the window, and writes it into `buffer`.
pub fn relay(sample: &Sample, buffer: &mut [u8]) -> Option<usize> {
    let (limits, context) = (Limits::default(), Context::default());
    let whole = decode_whole(&sample.bytes, Endian::NATIVE, &limits).ok()?;
    let frame = Frame {
        header: whole.header,
        body: whole.body,
        fds: sample.fds.iter().copied().collect(),
    };
    let message = FrontendRequest::decode(frame, Endian::NATIVE, &limits, &context).ok()?;
    let request = rewrite(message.request)?;
    let (request, _fds) = request.detach();
    request
        .encode(message.need_reply, Endian::NATIVE, buffer)
        .ok()
}

fn rewrite(request: FrontendRequest<Fd>) -> Option<FrontendRequest<Fd>> {
    Some(match request {
        FrontendRequest::SetMemTable(table) => FrontendRequest::SetMemTable(
            table
                .relocate(|_, region| place(region.user_address()))
                .ok()?,
        ),
        FrontendRequest::AddMemReg(region) => {
            let address = place(region.region.user_address());
            FrontendRequest::AddMemReg(region.relocate(address).ok()?)
        }
        FrontendRequest::SetVringAddr(addr) => FrontendRequest::SetVringAddr(
            addr.translate(LAYOUT, |address, _| Some(place(address)))
                .ok()?,
        ),
        request => request,
    })
}
