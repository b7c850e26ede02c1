// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What each request of the frontend's does (vhost-user, frontend message
//! types).

use alloc::vec::Vec;

use vhost_guest_msg::{
    Config, Context, DeviceStateReply, FrontendRequest, Inflight, Iotlb, LogBase, LogReply,
    MemTable, ProtocolFeatures, Region, Reply, Transfer, VirtioFeatures, VringAddr, VringBase,
};

use super::session::Session;
use crate::backend::Backend;
use crate::carried::MAX_REGIONS;
use crate::inflight::{record_len, Place, Record};
use crate::log::DirtyLog;
use crate::vring::Vring;

/// What the server itself can do.
const FEATURES: VirtioFeatures = VirtioFeatures::VERSION_1
    .union(VirtioFeatures::PROTOCOL_FEATURES)
    .union(VirtioFeatures::LOG_ALL)
    .union(VirtioFeatures::RING_INDIRECT_DESC)
    .union(VirtioFeatures::RING_EVENT_IDX)
    .union(VirtioFeatures::RING_PACKED);

/// What the server does for every backend.
const PROTOCOL_FEATURES: ProtocolFeatures = ProtocolFeatures::MQ
    .union(ProtocolFeatures::LOG_SHMFD)
    .union(ProtocolFeatures::REPLY_ACK)
    .union(ProtocolFeatures::BACKEND_REQ)
    .union(ProtocolFeatures::CONFIG)
    .union(ProtocolFeatures::INFLIGHT_SHMFD)
    .union(ProtocolFeatures::RESET_DEVICE)
    .union(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(ProtocolFeatures::STATUS)
    .union(SUSPENDING);

/// A vring that stops may leave requests in flight, in the record of them.
const SUSPENDING: ProtocolFeatures =
    ProtocolFeatures::GET_VRING_BASE_INFLIGHT.union(ProtocolFeatures::GET_VRING_BASE_SKIP_DRAIN);

/// What is up to the backend.
const BACKEND_FEATURES: ProtocolFeatures = ProtocolFeatures::RARP.union(ProtocolFeatures::MTU);

/// Why a request is not complied with.
type Reason = &'static str;

const NOT_OFFERED: Reason = "a feature that was not offered";
const NOT_NEGOTIATED: Reason = "its feature was not negotiated";
const NO_VRING: Reason = "no such vring";
const BAD_RECORD: Reason = "a record of requests that is too short, misaligned or outside";
const OUTSIDE: Reason = "memory outside the window, or overlapping";

impl Session {
    fn vring(&mut self, index: u8) -> Result<&mut Vring, Reason> {
        self.vrings.get_mut(usize::from(index)).ok_or(NO_VRING)
    }

    /// Carries out `request`; returns the reply, unless an acknowledgement
    /// is all it takes.
    pub(super) fn carry_out(
        &mut self,
        request: FrontendRequest<()>,
        backend: &mut impl Backend,
    ) -> Result<Option<Reply>, Reason> {
        use FrontendRequest as R;

        let gate = request.row().map(|row| row.gate);
        if gate.is_none_or(|gate| !gate.is_open(&self.context)) {
            return Err(NOT_NEGOTIATED);
        }
        if self.reset_due && uses_backend(&request) {
            self.reset_backend(backend);
        }
        if request.resets_device() {
            self.reset_device(&request, backend);
        }
        match request {
            R::GetFeatures => {
                return Ok(Some(Reply::Features(offered_features(backend))));
            }
            R::SetFeatures(features) => self.set_features(features, backend)?,
            R::GetProtocolFeatures => {
                let offered = self.offered(backend);
                return Ok(Some(Reply::ProtocolFeatures(offered)));
            }
            R::SetProtocolFeatures(features) => self.set_protocol_features(features, backend)?,
            // Deprecated: to be ignored, says vhost-user.
            R::SetOwner | R::ResetOwner => {}
            R::GetQueueNum => return Ok(Some(Reply::U64(self.queues().into()))),
            R::GetMaxMemSlots => {
                let slots = self.carried.memory_slots(MAX_REGIONS as u64);
                return Ok(Some(Reply::U64(slots)));
            }
            R::SetMemTable(table) => self.set_mem_table(&table)?,
            R::AddMemReg(region) => self.change_memory(&region.region, true)?,
            R::RemMemReg(region) => self.change_memory(&region.region, false)?,
            R::GetConfig(config) => return Ok(Some(read_config(&config, backend))),
            R::SetConfig(config) => {
                if !backend.config_write(config.offset(), config.contents()) {
                    return Err("this configuration cannot be written");
                }
            }
            R::SetBackendReqFd(_) => self.backend_channel = true,
            R::SetLogBase(log) => return self.set_log_base(log).map(Some),
            R::SetLogFd(_) => self.log_signal = true,
            R::GetInflightFd(wanted) => {
                // Where it is, and of what memory, is the device's affair.
                // Before the features are, what vrings there will be is not
                // known: the record has room for either kind.
                let unknown = self.context.features.is_empty();
                let packed = unknown || self.has_packed_rings();
                let size = record_len(wanted.num_queues(), wanted.queue_size(), packed);
                let inflight = wanted.with_area(size, 0).map_err(|_| BAD_RECORD)?;
                return Ok(Some(Reply::Inflight(inflight)));
            }
            R::IotlbMsg(entry) => self.translate(&entry)?,
            R::SetInflightFd(set) => self.set_inflight(set.inflight())?,
            R::ResetDevice => {}
            R::SetStatus(status) => self.status = status & 0xff,
            R::GetStatus => return Ok(Some(Reply::U64(self.status))),
            R::SendRarp(rarp) => refuse_unless(backend.send_rarp(rarp.mac))?,
            R::NetSetMtu(mtu) => refuse_unless(backend.set_mtu(mtu))?,
            R::SetDeviceStateFd(transfer) => {
                let reply = self.set_device_state(transfer.direction, backend);
                return Ok(Some(Reply::DeviceState(reply)));
            }
            R::CheckDeviceState => {
                let failed = !self.transfer.is_complete();
                return Ok(Some(Reply::U64(failed.into())));
            }
            request => return self.carry_out_vring(request),
        }
        Ok(None)
    }

    fn carry_out_vring(&mut self, request: FrontendRequest<()>) -> Result<Option<Reply>, Reason> {
        use FrontendRequest as R;

        match request {
            R::SetVringNum(num) => {
                if !self.vring(num.index())?.set_num(num.num()) {
                    return Err("a size that no such vring has, or the vring runs");
                }
            }
            R::SetVringAddr(address) => self.set_vring_addr(address)?,
            R::SetVringBase(base) => {
                if !self.vring(base.index)?.set_base(base.base) {
                    return Err("no index of a split vring, or the vring runs");
                }
            }
            // Nothing is in flight but what an earlier backend left, and this
            // one has not got to: there is nothing to drain.
            R::GetVringBase(select) | R::GetVringBaseSkipDrain(select) => {
                let base = self.vring(select.index)?.stop();
                let index = select.index;
                return Ok(Some(Reply::VringBase(VringBase { index, base })));
            }
            R::SetVringKick(kick) => {
                let features = self.context.features;
                let vring = self
                    .vrings
                    .get_mut(usize::from(kick.index))
                    .ok_or(NO_VRING)?;
                if !vring.start(&self.memory, features) {
                    return Err("no size, no address, or no sound record of requests");
                }
                vring.polled = kick.fd.is_none();
                // Kicks may have come before the message.
                self.set_pending(kick.index.into(), true);
            }
            R::SetVringCall(call) => {
                self.vring(call.index)?.set_call(call.fd.is_some());
                self.set_pending(call.index.into(), true);
            }
            R::SetVringErr(err) => self.vring(err.index)?.err = err.fd.is_some(),
            R::SetVringEnable(enable) => {
                self.vring(enable.index)?.enabled = enable.enable;
                self.set_pending(enable.index.into(), enable.enable);
            }
            _ => return Err("not supported"),
        }
        Ok(None)
    }

    fn offered(&self, backend: &mut impl Backend) -> ProtocolFeatures {
        let own = backend.protocol_features().intersection(BACKEND_FEATURES);
        let mut offered = PROTOCOL_FEATURES.union(own);
        let state = backend.state().is_some();
        offered.set(ProtocolFeatures::DEVICE_STATE, state);
        self.carried.protocol_features(offered)
    }

    fn set_protocol_features(
        &mut self,
        features: ProtocolFeatures,
        backend: &mut impl Backend,
    ) -> Result<(), Reason> {
        if !self.offered(backend).contains(features) {
            return Err(NOT_OFFERED);
        }
        self.context.protocol_features = features;
        self.negotiate_logging();
        self.memory_changed();
        Ok(())
    }

    /// The device must be suspended: no vring runs.
    fn set_device_state(
        &mut self,
        direction: Transfer,
        backend: &mut impl Backend,
    ) -> DeviceStateReply {
        let suspended = !self.vrings.iter().any(Vring::is_started);
        let state = backend.state().filter(|_| suspended);
        let refused = !self.transfer.begin(direction, state);
        DeviceStateReply(refused.into()).without_fd()
    }

    fn set_features(
        &mut self,
        features: VirtioFeatures,
        backend: &mut impl Backend,
    ) -> Result<(), Reason> {
        if !offered_features(backend).contains(features) {
            return Err(NOT_OFFERED);
        }
        self.context.features = features;
        self.negotiate_logging();
        let translating = features.contains(VirtioFeatures::ACCESS_PLATFORM);
        self.memory.set_translating(translating);
        backend.set_features(features);
        let enable = !features.contains(VirtioFeatures::PROTOCOL_FEATURES);
        for (vring, pending) in self.vrings.iter_mut().zip(&mut self.pending) {
            vring.set_features(features);
            vring.memory_changed(&self.memory);
            // Without protocol features there is no SET_VRING_ENABLE.
            vring.enabled |= enable;
            // It may have rested.
            *pending = true;
        }
        Ok(())
    }

    /// Without LOG_SHMFD no log can come, and nothing waits for one.
    fn negotiate_logging(&mut self) {
        let Context {
            features,
            protocol_features,
            ..
        } = self.context;
        let shared = protocol_features.contains(ProtocolFeatures::LOG_SHMFD);
        let logging = features.contains(VirtioFeatures::LOG_ALL);
        self.memory.set_logging(logging && shared);
    }

    fn translate(&mut self, entry: &Iotlb) -> Result<(), Reason> {
        let kept = self.memory.update(entry).ok_or(OUTSIDE)?;
        if !kept {
            self.vrings.iter_mut().for_each(Vring::ask_again);
        }
        self.memory_changed();
        Ok(())
    }

    /// The log may also come before or after LOG_ALL, and grow while vrings
    /// run.
    fn set_log_base(&mut self, log: LogBase<()>) -> Result<Reply, Reason> {
        let LogBase::Shared { area, .. } = log else {
            return Err("a log that is not shared");
        };
        let log = DirtyLog::new(self.memory.window(), area);
        self.memory.set_log(log.ok_or("a log outside the window")?);
        self.memory_changed();
        Ok(Reply::Log(LogReply::to(&area)))
    }

    fn set_mem_table(&mut self, table: &MemTable<()>) -> Result<(), Reason> {
        if !self.memory.replace(table) {
            return Err(OUTSIDE);
        }
        self.vrings.iter_mut().for_each(Vring::ask_again);
        self.memory_changed();
        Ok(())
    }

    fn change_memory(&mut self, region: &Region, add: bool) -> Result<(), Reason> {
        let done = if add {
            self.memory.add(region)
        } else {
            self.memory.remove(region)
        };
        self.vrings.iter_mut().for_each(Vring::ask_again);
        self.memory_changed();
        done.then_some(()).ok_or(OUTSIDE)
    }

    fn memory_changed(&mut self) {
        for (vring, pending) in self.vrings.iter_mut().zip(&mut self.pending) {
            vring.memory_changed(&self.memory);
            *pending = true;
        }
    }

    /// Vrings that the record has no room for are not recorded.
    fn set_inflight(&mut self, inflight: &Inflight) -> Result<(), Reason> {
        let window = self.memory.window();
        let packed = self.has_packed_rings();
        let mut places = Vec::new();
        for (index, _) in (0..inflight.num_queues()).zip(&self.vrings) {
            let inflight = *inflight;
            let place = Place { inflight, index };
            // Before the features are known, that shows when vrings start.
            Record::new(window, &place, packed).ok_or(BAD_RECORD)?;
            places.push(place);
        }
        if self.vrings.iter().any(Vring::has_resubmits) {
            return Err("requests of the record before wait");
        }
        let mut places = places.into_iter();
        let mut sound = true;
        for vring in &mut self.vrings {
            sound &= vring.set_place(places.next(), &self.memory);
        }
        sound.then_some(()).ok_or(BAD_RECORD)
    }

    fn has_packed_rings(&self) -> bool {
        let packed = VirtioFeatures::RING_PACKED;
        self.context.features.contains(packed)
    }

    fn set_vring_addr(&mut self, address: VringAddr) -> Result<(), Reason> {
        let vring = self
            .vrings
            .get_mut(usize::from(address.index))
            .ok_or(NO_VRING)?;
        if !vring.set_address(address, &self.memory) {
            return Err("the vring is misaligned or outside the memory");
        }
        self.set_pending(address.index.into(), true);
        Ok(())
    }

    /// RESET_DEVICE and status 0: vrings stop and are disabled; memory,
    /// notifications and the connection stay.
    fn reset_device(&mut self, request: &FrontendRequest<()>, backend: &mut impl Backend) {
        for vring in &mut self.vrings {
            vring.reset();
        }
        self.status = 0;
        let saving = ProtocolFeatures::DEVICE_STATE;
        self.reset_due = self.context.protocol_features.contains(saving)
            && matches!(request, FrontendRequest::SetStatus(_));
        if !self.reset_due {
            self.reset_backend(backend);
        }
    }

    fn reset_backend(&mut self, backend: &mut impl Backend) {
        self.reset_due = false;
        self.transfer.spoil();
        backend.reset();
        backend.set_features(self.context.features);
    }
}

/// Whether the backend must have been reset before `request`. QEMU stops a
/// device by its status, and saves its state then.
fn uses_backend(request: &FrontendRequest<()>) -> bool {
    use FrontendRequest as R;

    match request {
        R::SetStatus(status) => status & 0xff != 0,
        R::SetDeviceStateFd(transfer) => transfer.direction == Transfer::Load,
        R::SetFeatures(_)
        | R::SetProtocolFeatures(_)
        | R::GetConfig(_)
        | R::SetConfig(_)
        | R::SetVringKick(_)
        | R::SendRarp(_)
        | R::NetSetMtu(_) => true,
        _ => false,
    }
}

/// What a reply to GET_FEATURES says.
pub(super) fn offered_features(backend: &impl Backend) -> VirtioFeatures {
    backend.features() | FEATURES
}

fn refuse_unless(done: bool) -> Result<(), Reason> {
    done.then_some(()).ok_or("the backend cannot do it")
}

fn read_config(config: &Config, backend: &mut impl Backend) -> Reply {
    let mut contents = config.contents().to_vec();
    // What the frontend sends along has no meaning.
    contents.fill(0);
    if !backend.config_read(config.offset(), &mut contents) {
        return Reply::NoConfig;
    }
    match Config::new(config.offset(), config.flags(), contents) {
        Ok(config) => Reply::Config(config),
        Err(_) => Reply::NoConfig,
    }
}
