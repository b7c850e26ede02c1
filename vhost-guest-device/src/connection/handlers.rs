// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One handler for each frontend request that is more than passed on.
//!
//! [`carry_out`] is the switch, and knows every request of the catalog: one
//! that is added to it has to be added here too. A handler gets the request with its descriptors, acquires what
//! the request asks for, and returns the request as the guest is to see it,
//! without descriptors, together with what is left to do when the guest has
//! replied. It either does everything or changes nothing.

use vhost_guest_msg::{
    DeviceState, FrontendRequest, Iotlb, LogArea, LogBase, MemRegion, MemTable, OnlyFd, RemMemReg,
    SetInflight, Verdict, VringAddr, VringFd,
};

use crate::connection::session::Session;
use crate::doorbells::Doorbell;
use crate::error::{Fault, Refusal};
use crate::fd::{
    ChannelSocket, EventFd, FdError, FdKinds, ForeignFd, Pump, PumpError, StateFd, Stream,
};
use crate::inflight::InflightMemory;
use crate::memory::{Area, Memory, MemoryError, Ticket};
use crate::registers::{Registers, ServiceError};

/// What a handler works on.
pub(crate) struct Resources<'a> {
    pub registers: &'a mut Registers,
    pub memory: &'a mut Memory,
    pub session: &'a mut Session,
    pub kinds: &'a FdKinds,
    pub inflight: &'a mut InflightMemory,
    pub pump: Option<&'a mut Pump>,
}

impl Resources<'_> {
    fn eventfd(&self, fd: Option<ForeignFd>) -> Result<Option<EventFd>, FdError> {
        fd.map(|fd| EventFd::check(fd, self.kinds)).transpose()
    }
}

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
    /// The reply is a limit of the backend's that the device has to carry too.
    AtMost(u64),
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
pub(crate) struct Forward {
    pub request: FrontendRequest<()>,
    /// What follows from the guest's reply.
    pub then: Then,
    /// What came with the request and is used from here on.
    pub opens: Option<Opens>,
}

/// A connection beside the main one.
#[derive(Debug)]
pub(crate) enum Opens {
    /// The backend channel.
    Channel(ChannelSocket),
    /// A transfer of device state.
    Stream(Stream),
}

impl Forward {
    fn plain(request: FrontendRequest<()>) -> Self {
        Self::then(request, Then::Nothing)
    }

    fn then(request: FrontendRequest<()>, then: Then) -> Self {
        Self {
            request,
            then,
            opens: None,
        }
    }
}

/// Whether a request changes what is in the window.
pub(crate) fn changes_memory(request: &FrontendRequest<ForeignFd>) -> bool {
    use FrontendRequest::{AddMemReg, RemMemReg, SetInflightFd, SetLogBase, SetMemTable};
    matches!(
        request,
        SetMemTable(_) | AddMemReg(_) | RemMemReg(_) | SetLogBase(_) | SetInflightFd(_)
    )
}

/// Carries out a request of the frontend's.
pub(crate) fn carry_out(
    request: FrontendRequest<ForeignFd>,
    on: &mut Resources<'_>,
) -> Result<Forward, Refusal> {
    use FrontendRequest as R;

    check_gate(&request, on.session)?;
    match request {
        R::SetFeatures(features) => {
            on.session.set_features(features);
            Ok(Forward::plain(R::SetFeatures(features)))
        }
        R::GetProtocolFeatures => Ok(Forward::then(
            R::GetProtocolFeatures,
            Then::ShowProtocolFeatures,
        )),
        R::SetProtocolFeatures(features) => {
            on.session.set_protocol_features(features)?;
            Ok(Forward::plain(R::SetProtocolFeatures(features)))
        }
        R::GetQueueNum => {
            let most = Then::AtMost(on.session.limits().max_queues.into());
            Ok(Forward::then(R::GetQueueNum, most))
        }
        R::GetMaxMemSlots => {
            let most = Then::AtMost(on.memory.max_regions() as u64);
            Ok(Forward::then(R::GetMaxMemSlots, most))
        }
        R::SetMemTable(table) => set_mem_table(table, on),
        R::AddMemReg(region) => add_mem_reg(region, on),
        R::RemMemReg(region) => rem_mem_reg(region, on),
        R::SetLogBase(log) => set_log_base(log, on),
        R::SetLogFd(eventfd) => set_log_fd(eventfd, on),
        R::SetVringNum(ring) => {
            on.session.set_size(ring.index(), ring.num());
            Ok(Forward::plain(R::SetVringNum(ring)))
        }
        R::SetVringAddr(ring) => set_vring_addr(ring, on),
        R::GetVringBase(ring) => {
            let then = Then::StopVring(ring.index);
            Ok(Forward::then(R::GetVringBase(ring), then))
        }
        R::GetVringBaseSkipDrain(ring) => {
            let then = Then::StopVring(ring.index);
            Ok(Forward::then(R::GetVringBaseSkipDrain(ring), then))
        }
        R::SetVringKick(ring) => set_vring_kick(ring, on),
        R::SetVringCall(ring) => set_doorbell(ring, Doorbell::Call, on)
            .map(R::SetVringCall)
            .map(Forward::plain),
        R::SetVringErr(ring) => set_doorbell(ring, Doorbell::Err, on)
            .map(R::SetVringErr)
            .map(Forward::plain),
        R::IotlbMsg(entry) => iotlb_msg(entry, on),
        R::SetBackendReqFd(socket) => set_backend_req_fd(socket),
        R::GetInflightFd(record) => Ok(Forward::then(R::GetInflightFd(record), Then::MakeInflight)),
        R::SetInflightFd(record) => set_inflight_fd(record, on),
        R::SetDeviceStateFd(state) => set_device_state_fd(state, on),
        // It has waited for the end of the transfer.
        R::CheckDeviceState => Ok(Forward::plain(R::CheckDeviceState)),
        request @ (R::ResetDevice | R::SetStatus(_)) => {
            if request.resets_device() {
                on.session.forget_rings();
            }
            Ok(Forward::plain(request.detach().0))
        }
        request @ (R::GetFeatures
        | R::SetOwner
        | R::ResetOwner
        | R::SetVringBase(_)
        | R::SetVringEnable(_)
        | R::SendRarp(_)
        | R::NetSetMtu(_)
        | R::SetVringEndian(_)
        | R::GetConfig(_)
        | R::SetConfig(_)
        | R::GetStatus) => Ok(Forward::plain(request.detach().0)),
        request @ (R::CreateCryptoSession(_)
        | R::CloseCryptoSession(_)
        | R::PostcopyAdvise(_)
        | R::PostcopyListen(_)
        | R::PostcopyEnd(_)
        | R::GpuSetSocket(_)
        | R::VringKick(_)
        | R::GetSharedObject(_)
        | R::GetShmemConfig(_)
        | R::Unknown { .. }) => Err(not_carried(&request)),
    }
}

/// What the request needs was negotiated (vhost-user, the section of each
/// message). That is asked of what this connection acknowledged, never of what
/// it was shown: a frontend may remember an offer.
fn check_gate(request: &FrontendRequest<ForeignFd>, session: &Session) -> Result<(), Fault> {
    let Some(row) = request.row() else {
        return Ok(());
    };
    let refused = matches!(row.verdict, Verdict::Refuse(_));
    if refused || row.gate.is_open(session.context()) {
        return Ok(());
    }
    let name = row.name;
    Err(Fault::frontend(format_args!("{name} without its feature")))
}

/// A request of a feature that the device never shows, or of none.
fn not_carried(request: &FrontendRequest<ForeignFd>) -> Refusal {
    let (name, reason) = match request.row() {
        None => {
            let code = request.code();
            return Fault::frontend(format_args!("unknown request {code}")).into();
        }
        Some(row) => match row.verdict {
            Verdict::Refuse(reason) => (row.name, reason),
            Verdict::Forward | Verdict::Handle => (row.name, "there is no queue for it"),
        },
    };
    Fault::frontend(format_args!("{name} is not carried: {reason}")).into()
}

fn set_mem_table(table: MemTable<ForeignFd>, on: &mut Resources<'_>) -> Result<Forward, Refusal> {
    let (table, ticket) = on.memory.replace(table, &on.session.rings())?;
    let then = Then::Settle(ticket, OnRefusal::Disconnect);
    Ok(Forward::then(FrontendRequest::SetMemTable(table), then))
}

fn add_mem_reg(region: MemRegion<ForeignFd>, on: &mut Resources<'_>) -> Result<Forward, Refusal> {
    let (region, ticket) = on.memory.add(region, &on.session.rings())?;
    let then = Then::Settle(ticket, OnRefusal::Undo);
    Ok(Forward::then(FrontendRequest::AddMemReg(region), then))
}

fn rem_mem_reg(region: RemMemReg, on: &mut Resources<'_>) -> Result<Forward, Refusal> {
    let (region, ticket) = on.memory.remove(region, &on.session.rings())?;
    let then = Then::Settle(ticket, OnRefusal::Undo);
    Ok(Forward::then(FrontendRequest::RemMemReg(region), then))
}

fn set_log_base(log: LogBase<ForeignFd>, on: &mut Resources<'_>) -> Result<Forward, Refusal> {
    let LogBase::Shared { area, fd } = log else {
        // An address in the frontend's process is of no use to a guest.
        return Err(Refusal::request("a log that is not shared (LOG_SHMFD)"));
    };
    let place = |memory: &mut Memory| memory.place_area(Area::Log, fd, area.offset(), area.size());
    let (offset, ticket) = place(on.memory)?;
    let placed = LogBase::Shared { area, fd: () }.with_offset(offset);
    let request = FrontendRequest::SetLogBase(placed.map_err(Refusal::request)?);
    Ok(Forward::then(request, Then::ShowLog(ticket, area)))
}

fn set_inflight_fd(
    record: SetInflight<ForeignFd>,
    on: &mut Resources<'_>,
) -> Result<Forward, Refusal> {
    let (record, fd) = record.into_parts();
    let (offset, size) = (record.mmap_offset(), record.mmap_size());
    let (offset, ticket) = on.memory.place_area(Area::Inflight, fd, offset, size)?;
    let placed = record.with_offset(offset).map_err(Refusal::request)?;
    let placed = SetInflight::new(placed, ()).map_err(Refusal::request)?;
    on.inflight.set(on.memory.file_of(Area::Inflight));
    let then = Then::Settle(ticket, OnRefusal::Undo);
    Ok(Forward::then(FrontendRequest::SetInflightFd(placed), then))
}

fn iotlb_msg(entry: Iotlb, on: &mut Resources<'_>) -> Result<Forward, Refusal> {
    let moved = entry
        .translate(|address, length| on.memory.translate(address, length))
        .map_err(Refusal::request)?;
    Ok(Forward::plain(FrontendRequest::IotlbMsg(moved)))
}

fn set_vring_addr(ring: VringAddr, on: &mut Resources<'_>) -> Result<Forward, Refusal> {
    if on.session.translates() {
        // I/O virtual addresses mean the same to everybody.
        on.session.forget_ring(ring.index);
        return Ok(Forward::plain(FrontendRequest::SetVringAddr(ring)));
    }
    let layout = on.session.layout(ring.index);
    let moved = ring
        .translate(layout, |address, length| {
            on.memory.translate(address, length)
        })
        .map_err(Refusal::request)?;
    on.session.remember_ring(&ring, &moved);
    Ok(Forward::plain(FrontendRequest::SetVringAddr(moved)))
}

fn set_vring_kick(ring: VringFd<ForeignFd>, on: &mut Resources<'_>) -> Result<Forward, Refusal> {
    let VringFd { index, fd } = ring;
    let eventfd = on.eventfd(fd)?;
    let request = VringFd {
        index,
        fd: eventfd.as_ref().map(|_| ()),
    };
    on.registers.set_kick(index.into(), eventfd)?;
    Ok(Forward::plain(FrontendRequest::SetVringKick(request)))
}

fn set_doorbell(
    ring: VringFd<ForeignFd>,
    doorbell: fn(u16) -> Doorbell,
    on: &mut Resources<'_>,
) -> Result<VringFd<()>, Refusal> {
    let VringFd { index, fd } = ring;
    let eventfd = on.eventfd(fd)?;
    let request = VringFd {
        index,
        fd: eventfd.as_ref().map(|_| ()),
    };
    on.registers.set_doorbell(doorbell(index.into()), eventfd)?;
    Ok(request)
}

fn set_log_fd(log: OnlyFd<ForeignFd>, on: &mut Resources<'_>) -> Result<Forward, Refusal> {
    let eventfd = on.eventfd(Some(log.fd))?;
    on.registers.set_doorbell(Doorbell::Log, eventfd)?;
    Ok(Forward::plain(FrontendRequest::SetLogFd(OnlyFd { fd: () })))
}

fn set_backend_req_fd(socket: OnlyFd<ForeignFd>) -> Result<Forward, Refusal> {
    let socket = ChannelSocket::check(socket.fd)?;
    let mut forward = Forward::plain(FrontendRequest::SetBackendReqFd(OnlyFd { fd: () }));
    forward.opens = Some(Opens::Channel(socket));
    Ok(forward)
}

fn set_device_state_fd(
    state: DeviceState<ForeignFd>,
    on: &mut Resources<'_>,
) -> Result<Forward, Refusal> {
    let Some(pump) = &mut on.pump else {
        return Err(not_carried(&FrontendRequest::SetDeviceStateFd(state)));
    };
    let DeviceState { direction, fd } = state;
    let stream = pump.start(direction, StateFd::check(fd, direction)?)?;
    let request = FrontendRequest::SetDeviceStateFd(DeviceState { direction, fd: () });
    let mut forward = Forward::then(request, Then::AnswerTransfer(stream.number()));
    forward.opens = Some(Opens::Stream(stream));
    Ok(forward)
}

impl From<FdError> for Refusal {
    fn from(error: FdError) -> Self {
        match error {
            FdError::Environment(error) => Self::Fatal(Fault::Environment(error)),
            error => Self::request(error),
        }
    }
}

impl From<PumpError> for Refusal {
    fn from(error: PumpError) -> Self {
        match error {
            PumpError::Environment(error) => Self::Fatal(Fault::Environment(error)),
            error => Self::request(error),
        }
    }
}

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        if error.is_peers_fault() {
            return Self::request(error);
        }
        Self::Fatal(error.into())
    }
}

impl From<MemoryError> for Refusal {
    fn from(error: MemoryError) -> Self {
        if error.is_fatal() || error.is_environment() {
            Self::Fatal(error.into())
        } else {
            Self::request(error)
        }
    }
}
