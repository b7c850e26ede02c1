// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The record of requests that are under way.

mod memory;

pub(crate) use memory::InflightMemory;

use std::os::fd::OwnedFd;

use vhost_guest_msg::{FrontendRequest, Inflight, Reply, SetInflight};

use super::forward::{Forward, OnRefusal, Then};
use super::Resources;
use crate::error::Fault;
use crate::fd::{ForeignFd, Reaper};
use crate::memory::{Area, Change, Ticket};

// Requests.

pub(super) fn get_inflight_fd(record: Inflight) -> Forward {
    Forward::then(FrontendRequest::GetInflightFd(record), Then::MakeInflight)
}

pub(super) fn set_inflight_fd(record: SetInflight<ForeignFd>) -> Change {
    let (record, fd) = record.into_parts();
    Change::Inflight(record, fd)
}

/// The record that was set is in the window.
pub(super) fn lent(record: SetInflight<()>, ticket: Ticket, on: &mut Resources<'_>) -> Forward {
    on.inflight.set(on.memory.file_of(Area::Inflight));
    let then = Then::Settle(ticket, OnRefusal::Undo);
    Forward::then(FrontendRequest::SetInflightFd(record), then)
}

// What the reply does.

/// The guest said how much memory its record of requests needs: the reply goes on
/// with a file of that size. No size means no record.
pub(super) fn make(
    reply: &mut Reply,
    reaper: &Reaper,
    on: &mut Resources<'_>,
) -> Result<Option<OwnedFd>, Fault> {
    let Reply::Inflight(record) = reply else {
        return Ok(None);
    };
    let size = record.mmap_size();
    if size == 0 {
        return Ok(None);
    }
    let memory = on.inflight.make(size, reaper)?;
    *record = record.at_the_beginning();
    Ok(Some(memory))
}
