// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's memory: what appears in the window, and what may leave it
//! when. Addresses of an IOMMU's are here as well.

use vhost_guest_msg::{
    Endian, FrontendRequest, Iotlb, MemRegion, MemTable, RemMemReg, Reply, ReplyExpectation,
};

use super::forward::{Forward, OnRefusal, Then};
use super::{Connection, Duty, Resources};
use crate::error::{Fault, GuestFault, Refusal, Unfulfillable};
use crate::fd::ForeignFd;
use crate::memory::{Area, MemoryError, Outcome, Ticket};

// Requests.

impl Connection {
    pub(super) fn set_mem_table(
        &mut self,
        table: MemTable<ForeignFd>,
        on: &mut Resources<'_>,
    ) -> Result<Forward, Refusal> {
        let (table, ticket) = on.memory.replace(table, &self.vrings.addresses())?;
        let then = Then::Settle(ticket, OnRefusal::Disconnect);
        Ok(Forward::then(FrontendRequest::SetMemTable(table), then))
    }

    pub(super) fn add_mem_reg(
        &mut self,
        region: MemRegion<ForeignFd>,
        on: &mut Resources<'_>,
    ) -> Result<Forward, Refusal> {
        let (region, ticket) = on.memory.add(region, &self.vrings.addresses())?;
        let then = Then::Settle(ticket, OnRefusal::Undo);
        Ok(Forward::then(FrontendRequest::AddMemReg(region), then))
    }

    pub(super) fn rem_mem_reg(
        &mut self,
        region: RemMemReg,
        on: &mut Resources<'_>,
    ) -> Result<Forward, Refusal> {
        let (region, ticket) = on.memory.remove(region, &self.vrings.addresses())?;
        let then = Then::Settle(ticket, OnRefusal::Undo);
        Ok(Forward::then(FrontendRequest::RemMemReg(region), then))
    }
}

pub(super) fn iotlb_msg(entry: Iotlb, on: &Resources<'_>) -> Result<Forward, Refusal> {
    let moved = entry.translate(|address, length| on.memory.translate(address, length))?;
    Ok(Forward::plain(FrontendRequest::IotlbMsg(moved)))
}

// What has to wait.

/// One generation at a time: the earlier change has to be settled.
pub(super) fn is_unsettled(on: &Resources<'_>) -> bool {
    on.memory.is_pending()
}

impl Connection {
    /// Settles a change that no acknowledgement will come for: at once, or behind
    /// a barrier if it takes something away.
    pub(super) fn settle_unanswered(
        &mut self,
        ticket: Ticket,
        on: &mut Resources<'_>,
    ) -> Result<(), Fault> {
        if !on.memory.needs_proof() {
            return settle(ticket, Outcome::Done, on);
        }
        self.barrier = Some(ticket);
        Ok(())
    }

    /// A `GET_FEATURES` of the device's own. Its reply proves that the guest has
    /// processed everything before it.
    pub(super) fn barrier_behind(
        &mut self,
        ticket: Ticket,
        on: &mut Resources<'_>,
    ) -> Result<Vec<u8>, Fault> {
        let request = FrontendRequest::<()>::GetFeatures;
        let expectation = ReplyExpectation::of(&request, false, self.session.context());
        let duty = Duty {
            pass: false,
            then: Then::Settle(ticket, OnRefusal::Undo),
        };
        self.expect(&request, expectation, duty)?;
        on.statistics.own_messages += 1;
        Ok(request.to_vec(false, Endian::NATIVE))
    }
}

// What the reply does.

/// The guest has answered a memory message.
pub(super) fn settle_as_answered(
    ticket: Ticket,
    on_refusal: OnRefusal,
    reply: &Reply,
    on: &mut Resources<'_>,
) -> Result<(), Fault> {
    let refused = matches!(reply, Reply::Ack(value) if *value != 0);
    if refused && on_refusal == OnRefusal::Disconnect {
        // The ticket is dropped with the connection; the memory stays
        // mapped until the driver has reset the device.
        return Err(GuestFault::RefusedTable.into());
    }
    let outcome = if refused {
        Outcome::Refused
    } else {
        Outcome::Done
    };
    settle(ticket, outcome, on)
}

/// The guest has processed a change of the window, or refused it.
pub(super) fn settle(
    ticket: Ticket,
    outcome: Outcome,
    on: &mut Resources<'_>,
) -> Result<(), Fault> {
    on.memory.settle(ticket, outcome)?;
    let record = on.memory.file_of(Area::Inflight);
    on.inflight.settle(record, on.reaper);
    Ok(())
}

// Refusals.

impl From<MemoryError> for Refusal {
    fn from(error: MemoryError) -> Self {
        if error.is_fatal() || error.is_environment() {
            Self::Fatal(error.into())
        } else {
            Unfulfillable::Memory(error).into()
        }
    }
}
