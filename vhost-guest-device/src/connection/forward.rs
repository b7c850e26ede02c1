// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a handler makes of a request: the request as it goes to the guest, and
//! what is left to do; or a refusal.

use vhost_guest_msg::{Channel, FrontendRequest, LogArea, RequestName, Verdict};

use crate::error::FrontendFault;
use crate::fd::ForeignFd;
use crate::memory::Ticket;

/// What is left to do when the guest has replied to a request.
#[derive(Debug)]
pub(crate) enum Then {
    /// Nothing.
    Nothing,
    /// Unmap memory that the request took away; or, if the guest refused,
    /// undo what it changed.
    Settle(Ticket, OnRefusal),
    /// As [`Settle`](Self::Settle); and the frontend gets the log's place in
    /// its own terms, in the form that every frontend understands.
    ShowLog(Ticket, LogArea),
    /// The reply says how much memory a record of requests under way needs:
    /// make it, and send it along.
    MakeInflight,
    /// The ring is stopped: its kick and call are disconnected. Frontends
    /// send them again when they restart it.
    StopVring(u8),
    /// Clear what is not carried in the reply.
    ShowProtocolFeatures,
    /// No descriptor goes with the reply; if the guest refused this transfer
    /// of device state, it is over.
    AnswerTransfer(u64),
    /// The reply is a limit of the backend's that the device has to carry too:
    /// the driver knows what that is.
    AtMost(u64),
    /// The same, but the driver cannot know: the reply is lowered.
    Lower(u64),
}

/// What a negative acknowledgement of a memory message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnRefusal {
    /// ADD and REM: the change is undone.
    Undo,
    /// SET_MEM_TABLE: which table the guest uses now is anybody's guess.
    Disconnect,
}

/// A request that was carried out, as it goes to the guest.
#[derive(Debug)]
pub(super) struct Forward {
    pub request: FrontendRequest<()>,
    /// What follows from the guest's reply.
    pub then: Then,
}

impl Forward {
    /// Nothing follows.
    pub(super) fn plain(request: FrontendRequest<()>) -> Self {
        Self::then(request, Then::Nothing)
    }

    /// Something does.
    pub(super) fn then(request: FrontendRequest<()>, then: Then) -> Self {
        Self { request, then }
    }
}

/// A request of a feature that the device never shows, or of none.
pub(super) fn not_carried(request: &FrontendRequest<ForeignFd>) -> FrontendFault {
    let code = request.code();
    let name = RequestName(Channel::Main, code);
    match request.row().map(|row| row.verdict) {
        None => FrontendFault::Unknown(code),
        Some(Verdict::Refuse(reason)) => FrontendFault::NotCarried {
            request: name,
            reason,
        },
        Some(Verdict::Forward | Verdict::Handle) => FrontendFault::NoQueue(name),
    }
}
