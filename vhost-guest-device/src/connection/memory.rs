// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend's memory: what appears in the window, and what may leave it
//! when. Addresses of an IOMMU's are here as well.

use vhost_guest_msg::{Endian, FrontendRequest, Iotlb, Reply, ReplyExpectation};

use super::forward::{Forward, OnRefusal, Then};
use super::{inflight, Connection, Duty, Resources};
use crate::error::{Fault, GuestFault, Refusal, Unfulfillable};
use crate::event_loop::deadline::Deadline;
use crate::event_loop::poller::{Interest, Token};
use crate::memory::{Area, Change, Changed, MemoryError, Outcome, Ticket};

// Requests.

impl Connection {
    /// Begins a change of memory.
    pub(super) fn begin(&self, change: Change, on: &mut Resources<'_>) -> Result<(), Refusal> {
        Ok(on.memory.begin(change, self.vrings.addresses())?)
    }

    /// Goes on with the change that has begun.
    pub(super) fn go_on(&mut self, on: &mut Resources<'_>) -> Result<Lending, Refusal> {
        if !on.memory.is_admitted() {
            return Ok(Lending::Waits);
        }
        // Whoever shrinks a file from now on is noticed.
        if let Some(changes) = on.memory.changes() {
            let watched = on.poller.watch(Token::Memory, changes, Interest::READ);
            watched.map_err(Fault::from)?;
        }
        let Some((changed, ticket)) = on.memory.lend(Deadline::of_a_piece())? else {
            return Ok(Lending::GoesOn);
        };
        Ok(Lending::Done(match changed {
            Changed::Table(table) => Forward::then(
                FrontendRequest::SetMemTable(table),
                Then::Settle(ticket, OnRefusal::Disconnect),
            ),
            Changed::Added(region) => Forward::then(
                FrontendRequest::AddMemReg(region),
                Then::Settle(ticket, OnRefusal::Undo),
            ),
            Changed::Removed(region) => Forward::then(
                FrontendRequest::RemMemReg(region),
                Then::Settle(ticket, OnRefusal::Undo),
            ),
            Changed::Log(log, area) => Forward::then(
                FrontendRequest::SetLogBase(log),
                Then::ShowLog(ticket, area),
            ),
            Changed::Inflight(record) => inflight::lent(record, ticket, on),
        }))
    }
}

/// How far a change is that has begun.
#[derive(Debug)]
pub(super) enum Lending {
    /// Somebody looks at the frontend's files, who says when it is done.
    Waits,
    /// There is more to do.
    GoesOn,
    /// The guest is to hear of it.
    Done(Forward),
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
        if on.memory.needs_proof() {
            self.barrier = Some(ticket);
            return Ok(());
        }
        on.memory.settle(ticket, Outcome::Done);
        is_settled(on).map(|_| ())
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
        on.shared.counters.own_messages.add(1);
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
    on.memory.settle(ticket, outcome);
    Ok(())
}

/// Whether what a change took away is off the guest. Goes on with it.
pub(super) fn is_settled(on: &mut Resources<'_>) -> Result<bool, Fault> {
    let settled = on.memory.take_back(Deadline::of_a_piece())?;
    if settled {
        let record = on.memory.file_of(Area::Inflight);
        on.inflight.settle(record);
    }
    Ok(settled)
}

// Refusals.

impl From<MemoryError> for Refusal {
    fn from(error: MemoryError) -> Self {
        let over = matches!(error, MemoryError::Stale);
        if over || error.is_fatal() || error.is_environment() {
            Self::Fatal(error.into())
        } else {
            Unfulfillable::Memory(error).into()
        }
    }
}
