// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests of the frontend: the descriptors that go with them.
//!
//! | request | descriptor | offset in it |
//! |---|---|---|
//! | SET_MEM_TABLE, ADD_MEM_REG | the region, out of the window | below a page |
//! | SET_LOG_BASE, SET_INFLIGHT_FD | the area, out of the window | below a page |
//! | SET_VRING_KICK | an eventfd that the device signals | |
//! | SET_VRING_CALL, _ERR, SET_LOG_FD | an eventfd that rings a doorbell | |
//! | SET_BACKEND_REQ_FD | a socket | |
//! | SET_DEVICE_STATE_FD | a pipe | |
//!
//! Each region has a file that begins with its first page. Backends map a file from its
//! beginning, whatever the offset; with the window itself, they would map all of
//! it for each region. DPDK adds the offset of the log to its mapping twice, and
//! can have none but 0.
//!
//! User addresses stay as they are, offsets in the window: backends only compare
//! them with each other.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::param::page_size;
use rustix::pipe::{pipe_with, PipeFlags};
use vhost_guest_driver::module::Notification;
use vhost_guest_msg::{
    Channel, DeviceState, FrontendRequest, LogBase, MemRegion, MemTable, Region, SetInflight,
    Verdict, VringFd,
};

use crate::account::Name;
use crate::device::Device;
use crate::error::End;
use crate::eventfds::Eventfds;
use crate::transfer::Transfer;

/// A request with all that goes with it.
pub struct Outgoing {
    /// What the backend is sent.
    pub request: FrontendRequest<()>,
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
    /// Our end of what the request opens.
    pub opened: Option<Opened>,
}

/// Our end of something.
pub enum Opened {
    /// The channel for requests of the backend.
    Channel(UnixStream),
    /// The channel for its state.
    State(Transfer),
}

impl Outgoing {
    fn new(request: FrontendRequest<()>, fds: impl Into<Vec<OwnedFd>>) -> Self {
        Self {
            request,
            fds: fds.into(),
            opened: None,
        }
    }

    fn opens(mut self, opened: Opened) -> Self {
        self.opened = Some(opened);
        self
    }
}

/// Finds the descriptors that go with a request.
pub fn equip(
    device: &impl Device,
    eventfds: &mut Eventfds,
    request: FrontendRequest<()>,
) -> Result<Outgoing, End> {
    use FrontendRequest as Request;
    let mut vring_fd = |what, vring, request| set_vring_fd(device, eventfds, what, vring, request);
    match request {
        Request::SetMemTable(table) => set_mem_table(device, table),
        Request::AddMemReg(region) => add_mem_reg(device, &region),
        Request::SetLogBase(log) => set_log_base(device, log),
        Request::SetInflightFd(inflight) => set_inflight(device, inflight),
        Request::SetVringKick(vring) => vring_fd(Notification::Kick, vring, request),
        Request::SetVringCall(vring) => vring_fd(Notification::Call, vring, request),
        Request::SetVringErr(vring) => vring_fd(Notification::Err, vring, request),
        Request::SetLogFd(_) => {
            let fd = eventfds.connect(device, Notification::Log)?;
            Ok(Outgoing::new(request, [fd]))
        }
        Request::SetBackendReqFd(_) => set_backend_req_fd(request),
        Request::SetDeviceStateFd(state) => set_device_state_fd(state),
        plain => match plain.row().map(|row| row.verdict) {
            Some(Verdict::Forward | Verdict::Handle) => Ok(Outgoing::new(plain, [])),
            Some(Verdict::Refuse(reason)) => Err(fault(plain.code(), reason)),
            None => Err(fault(plain.code(), "it is not known")),
        },
    }
}

fn fault(code: u32, reason: &str) -> End {
    End::FrontendFault(format!("{}: {reason}", Name(Channel::Main, code)))
}

fn set_mem_table(device: &impl Device, table: MemTable<()>) -> Result<Outgoing, End> {
    let mut entries = Vec::new();
    let mut fds = Vec::new();
    for region in table.regions() {
        let (region, fd) = open(device, region)?;
        entries.push((region, ()));
        fds.push(fd);
    }
    let table = MemTable::new(entries).map_err(|e| End::FrontendFault(e.to_string()))?;
    Ok(Outgoing::new(FrontendRequest::SetMemTable(table), fds))
}

fn add_mem_reg(device: &impl Device, added: &MemRegion<()>) -> Result<Outgoing, End> {
    let (region, fd) = open(device, &added.region)?;
    let request = FrontendRequest::AddMemReg(MemRegion { region, fd: () });
    Ok(Outgoing::new(request, [fd]))
}

/// A region, in the first page of a file of its own.
fn open(device: &impl Device, region: &Region) -> Result<(Region, OwnedFd), End> {
    let (user, size) = (region.user_address(), region.size());
    let (offset, fd) = open_area(device, user, size)?;
    let region = Region::new(region.guest_address(), size, user, offset);
    Ok((region.map_err(|e| End::FrontendFault(e.to_string()))?, fd))
}

fn set_log_base(device: &impl Device, log: LogBase<()>) -> Result<Outgoing, End> {
    let LogBase::Shared { area, .. } = &log else {
        // An address in a process of another machine; backends ignore it.
        return Ok(Outgoing::new(FrontendRequest::SetLogBase(log), []));
    };
    let (offset, fd) = open_area(device, area.offset(), area.size())?;
    let log = log.with_offset(offset);
    let log = log.map_err(|e| End::FrontendFault(e.to_string()))?;
    Ok(Outgoing::new(FrontendRequest::SetLogBase(log), [fd]))
}

fn set_inflight(device: &impl Device, set: SetInflight<()>) -> Result<Outgoing, End> {
    let record = set.inflight();
    let (offset, fd) = open_area(device, record.mmap_offset(), record.mmap_size())?;
    let set = set.with_offset(offset);
    let set = set.map_err(|e| End::FrontendFault(e.to_string()))?;
    Ok(Outgoing::new(FrontendRequest::SetInflightFd(set), [fd]))
}

/// Some bytes of the window: where they are in a file, and the file.
fn open_area(device: &impl Device, offset: u64, size: u64) -> Result<(u64, OwnedFd), End> {
    let lead = offset % page_size() as u64;
    let fd = device
        .open_region(offset - lead, size.saturating_add(lead))
        .map_err(End::device("opening a part of the window"))?;
    Ok((lead, fd))
}

/// An eventfd that is connected with the device; or, if the frontend has none
/// for this vring, the end of the connection.
fn set_vring_fd(
    device: &impl Device,
    eventfds: &mut Eventfds,
    what: fn(u16) -> Notification,
    vring: VringFd<()>,
    request: FrontendRequest<()>,
) -> Result<Outgoing, End> {
    let what = what(vring.index.into());
    if vring.fd.is_some() {
        return Ok(Outgoing::new(request, [eventfds.connect(device, what)?]));
    }
    eventfds.disconnect(device, what)?;
    Ok(Outgoing::new(request, []))
}

fn set_backend_req_fd(request: FrontendRequest<()>) -> Result<Outgoing, End> {
    let (ours, theirs) = UnixStream::pair().map_err(End::system("socketpair"))?;
    let outgoing = Outgoing::new(request, [theirs.into()]);
    Ok(outgoing.opens(Opened::Channel(ours)))
}

fn set_device_state_fd(state: DeviceState<()>) -> Result<Outgoing, End> {
    let open = || -> io::Result<_> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ours, theirs) = match state.direction {
            vhost_guest_msg::Transfer::Save => (read, write),
            vhost_guest_msg::Transfer::Load => (write, read),
        };
        Ok((Transfer::new(state.direction, ours)?, theirs))
    };
    let (transfer, theirs) = open().map_err(End::system("pipe"))?;
    let outgoing = Outgoing::new(FrontendRequest::SetDeviceStateFd(state), [theirs]);
    Ok(outgoing.opens(Opened::State(transfer)))
}
