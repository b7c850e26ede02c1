// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The log of pages that the guest has written to, for a migration.

use vhost_guest_msg::{FrontendRequest, LogArea, LogBase, LogReply, OnlyFd, Reply};

use super::forward::Forward;
use super::Resources;
use crate::error::{Refusal, Unfulfillable};
use crate::fd::{EventFd, ForeignFd};
use crate::guest::doorbells::Doorbell;
use crate::memory::{Change, Outcome, Ticket};

// Requests.

pub(super) fn set_log_base(log: LogBase<ForeignFd>) -> Result<Change, Refusal> {
    match log {
        LogBase::Shared { area, fd } => Ok(Change::Log(area, fd)),
        _ => Err(Unfulfillable::LogNotShared.into()),
    }
}

pub(super) fn set_log_fd(
    log: OnlyFd<ForeignFd>,
    on: &mut Resources<'_>,
) -> Result<Forward, Refusal> {
    let eventfd = EventFd::check(log.fd, on.kinds)?;
    on.registers()?.set_doorbell(Doorbell::Log, Some(eventfd))?;
    Ok(Forward::plain(FrontendRequest::SetLogFd(OnlyFd { fd: () })))
}

// What the reply does.

/// The guest has the log, or refused it; the frontend gets the log's place in its
/// own terms.
pub(super) fn show_log(ticket: Ticket, area: &LogArea, reply: &mut Reply, on: &mut Resources<'_>) {
    if matches!(reply, Reply::Log(LogReply::Echo { size: 0, .. })) {
        // A log without a size is a refusal, and passed on as such.
        return on.memory.settle(ticket, Outcome::Refused);
    }
    // libvhost-user and DPDK answer with less than the payload, and rust-vmm's
    // backend with an offset that is the guest's.
    *reply = Reply::Log(LogReply::to(area));
    on.memory.settle(ticket, Outcome::Done);
}
