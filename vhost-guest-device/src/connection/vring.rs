// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Vrings: sizes, addresses, kicks and calls.

use std::collections::BTreeMap;

use vhost_guest_msg::{
    FrontendRequest, RingLayout, VirtioFeatures, VringAddr, VringFd, VringNum, VringSelect,
};

use super::forward::{Forward, Then};
use super::{Connection, Resources};
use crate::error::{EnvironmentFault, Fault, Refusal, Unfulfillable};
use crate::fd::{EventFd, FdError, ForeignFd};
use crate::guest::doorbells::Doorbell;
use crate::memory::RingAddress;
use crate::vmm::services::ServiceError;

/// What the device remembers of the vrings.
#[derive(Debug, Default)]
pub(super) struct Vrings {
    /// Sizes, by index, as far as the frontend has said.
    sizes: BTreeMap<u8, u16>,
    /// Where they are: for the frontend, and for the driver.
    addresses: BTreeMap<u8, [RingAddress; 3]>,
}

impl Vrings {
    /// `SET_VRING_ADDR` was carried out: the ring was moved into the window.
    fn remember(&mut self, ring: &VringAddr, moved: &VringAddr) {
        let part = |user_address, window_offset| RingAddress {
            user_address,
            window_offset,
        };
        let parts = [
            part(ring.descriptor, moved.descriptor),
            part(ring.used, moved.used),
            part(ring.available, moved.available),
        ];
        self.addresses.insert(ring.index, parts);
    }

    /// Where all rings in use are. A new memory table must not move them,
    /// because frontends do not send their addresses again.
    pub(super) fn addresses(&self) -> Vec<RingAddress> {
        self.addresses.values().flatten().copied().collect()
    }

    /// The device behind the guest's backend is reset: all rings stop. Their
    /// sizes and addresses are sent again before they start.
    pub(super) fn clear(&mut self) {
        self.addresses.clear();
        self.sizes.clear();
    }
}

// Requests.

impl Connection {
    pub(super) fn set_vring_num(&mut self, ring: VringNum) -> Forward {
        self.vrings.sizes.insert(ring.index(), ring.num());
        Forward::plain(FrontendRequest::SetVringNum(ring))
    }

    pub(super) fn set_vring_addr(
        &mut self,
        ring: VringAddr,
        on: &Resources<'_>,
    ) -> Result<Forward, Refusal> {
        if self.session.has(VirtioFeatures::ACCESS_PLATFORM) {
            // I/O virtual addresses, which IOTLB messages explain to the
            // backend, mean the same to everybody.
            self.vrings.addresses.remove(&ring.index);
            return Ok(Forward::plain(FrontendRequest::SetVringAddr(ring)));
        }
        let layout = self.layout(ring.index);
        let moved = ring.translate(layout, |address, length| {
            on.memory.translate(address, length)
        })?;
        self.vrings.remember(&ring, &moved);
        Ok(Forward::plain(FrontendRequest::SetVringAddr(moved)))
    }

    /// How long the parts of a ring are, as far as it is known.
    fn layout(&self, vring: u8) -> RingLayout {
        let num = self.vrings.sizes.get(&vring).copied().unwrap_or(0);
        if self.session.has(VirtioFeatures::RING_PACKED) {
            RingLayout::Packed { num }
        } else {
            RingLayout::Split { num }
        }
    }
}

/// `GET_VRING_BASE`, which stops a ring, and its variant that does not drain it.
pub(super) fn get_vring_base(
    ring: VringSelect,
    request: fn(VringSelect) -> FrontendRequest,
) -> Forward {
    let then = Then::StopVring(ring.index);
    Forward::then(request(ring), then)
}

pub(super) fn set_vring_kick(
    ring: VringFd<ForeignFd>,
    on: &mut Resources<'_>,
) -> Result<Forward, Refusal> {
    let (ring, eventfd) = take_eventfd(ring, on)?;
    on.registers()?.set_kick(ring.index.into(), eventfd)?;
    Ok(Forward::plain(FrontendRequest::SetVringKick(ring)))
}

pub(super) fn set_vring_call(
    ring: VringFd<ForeignFd>,
    on: &mut Resources<'_>,
) -> Result<Forward, Refusal> {
    let (ring, eventfd) = take_eventfd(ring, on)?;
    let doorbell = Doorbell::Call(ring.index.into());
    on.registers()?.set_doorbell(doorbell, eventfd)?;
    Ok(Forward::plain(FrontendRequest::SetVringCall(ring)))
}

pub(super) fn set_vring_err(
    ring: VringFd<ForeignFd>,
    on: &mut Resources<'_>,
) -> Result<Forward, Refusal> {
    let (ring, eventfd) = take_eventfd(ring, on)?;
    let doorbell = Doorbell::Err(ring.index.into());
    on.registers()?.set_doorbell(doorbell, eventfd)?;
    Ok(Forward::plain(FrontendRequest::SetVringErr(ring)))
}

/// The request as it goes to the guest, and the eventfd that came with it.
fn take_eventfd(
    ring: VringFd<ForeignFd>,
    on: &Resources<'_>,
) -> Result<(VringFd<()>, Option<EventFd>), FdError> {
    let VringFd { index, fd } = ring;
    let eventfd = fd.map(|fd| EventFd::check(fd, on.kinds)).transpose()?;
    let fd = eventfd.as_ref().map(|_| ());
    Ok((VringFd { index, fd }, eventfd))
}

// What the reply does.

impl Connection {
    /// The guest has stopped a ring: nothing of it fires any more.
    pub(super) fn stop_vring(&mut self, vring: u8, on: &mut Resources<'_>) -> Result<(), Fault> {
        self.vrings.addresses.remove(&vring);
        on.registers()?.set_kick(vring.into(), None)?;
        on.registers()?
            .set_doorbell(Doorbell::Call(vring.into()), None)?;
        Ok(())
    }
}

// Refusals.

impl From<FdError> for Refusal {
    fn from(error: FdError) -> Self {
        match error.is_environment() {
            true => EnvironmentFault::Descriptor(error).into(),
            false => Unfulfillable::Descriptor(error).into(),
        }
    }
}

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        if error.is_peers_fault() {
            return Unfulfillable::Eventfd(error).into();
        }
        Self::Fatal(error.into())
    }
}
