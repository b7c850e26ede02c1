// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which request belongs to which family, and what follows from its reply.
//!
//! A handler gets the request with its descriptors, acquires what the request
//! asks for, and returns the request as the guest is to see it, without
//! descriptors, together with what is left to do when the guest has replied. It
//! either does everything or changes nothing.

use std::os::fd::OwnedFd;

use vhost_guest_msg::{Channel, FrontendRequest, Reply, RequestName, Verdict};

use super::forward::{not_carried, Forward, Then};
use super::session::Session;
use super::{device_state, features, inflight, log, memory, vring, Connection, Resources};
use crate::error::{Fault, FrontendFault, Refusal};
use crate::fd::ForeignFd;
use crate::memory::Change;

/// What became of a request, which is what its row says.
#[derive(Debug)]
enum Course {
    /// Its handler has seen to it.
    Handled(Result<Forward, Refusal>),
    /// Its handler has begun, and the connection goes on with it.
    Begun(Result<(), Refusal>),
    /// It is none of the device's affair.
    Passed(FrontendRequest<ForeignFd>),
    /// The device does not carry it.
    Refused(FrontendRequest<ForeignFd>),
}

impl Connection {
    /// Carries out a request of the frontend's. `None` if it has only
    /// [begun](Connection::go_on).
    pub(super) fn carry_out(
        &mut self,
        request: FrontendRequest<ForeignFd>,
        on: &mut Resources<'_>,
    ) -> Result<Option<Forward>, Refusal> {
        check_gate(&request, &self.session)?;
        match self.sort(request, on) {
            Course::Handled(outcome) => outcome.map(Some),
            Course::Begun(outcome) => outcome.map(|()| None),
            Course::Passed(request) => Ok(Some(Forward::plain(request.detach().0))),
            Course::Refused(request) => Err(not_carried(&request).into()),
        }
    }

    /// Every request of the catalog has its arm, so one that is added there has
    /// to be added here.
    fn sort(&mut self, request: FrontendRequest<ForeignFd>, on: &mut Resources<'_>) -> Course {
        use FrontendRequest as R;

        Course::Handled(match request {
            R::SetFeatures(features) => Ok(self.set_features(features)),
            R::GetProtocolFeatures => Ok(features::get_protocol_features()),
            R::SetProtocolFeatures(features) => self.set_protocol_features(features),
            R::GetQueueNum => Ok(features::get_queue_num(&self.session)),
            R::GetMaxMemSlots => Ok(features::get_max_mem_slots(on)),

            R::SetMemTable(table) => return self.change(Ok(Change::Table(table)), on),
            R::AddMemReg(region) => return self.change(Ok(Change::Add(region)), on),
            R::RemMemReg(region) => return self.change(Ok(Change::Remove(region)), on),
            R::IotlbMsg(entry) => memory::iotlb_msg(entry, on),

            R::SetVringNum(ring) => Ok(self.set_vring_num(ring)),
            R::SetVringAddr(ring) => self.set_vring_addr(ring, on),
            R::GetVringBase(ring) => Ok(vring::get_vring_base(ring, R::GetVringBase)),
            R::GetVringBaseSkipDrain(ring) => {
                Ok(vring::get_vring_base(ring, R::GetVringBaseSkipDrain))
            }
            R::SetVringKick(ring) => vring::set_vring_kick(ring, on),
            R::SetVringCall(ring) => vring::set_vring_call(ring, on),
            R::SetVringErr(ring) => vring::set_vring_err(ring, on),

            request @ (R::ResetDevice | R::SetStatus(_)) => Ok(self.set_status(request)),

            R::GetInflightFd(record) => Ok(inflight::get_inflight_fd(record)),
            R::SetInflightFd(record) => {
                return self.change(Ok(inflight::set_inflight_fd(record)), on)
            }

            R::SetLogBase(log) => return self.change(log::set_log_base(log), on),
            R::SetLogFd(eventfd) => log::set_log_fd(eventfd, on),

            R::SetDeviceStateFd(state) => self.set_device_state_fd(state, on),
            R::CheckDeviceState => Ok(device_state::check_device_state()),

            R::SetBackendReqFd(socket) => self.set_backend_req_fd(socket, on),

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
            | R::GetStatus) => return Course::Passed(request),

            request @ (R::CreateCryptoSession(_)
            | R::CloseCryptoSession(_)
            | R::PostcopyAdvise(_)
            | R::PostcopyListen(_)
            | R::PostcopyEnd(_)
            | R::GpuSetSocket(_)
            | R::VringKick(_)
            | R::GetSharedObject(_)
            | R::GetShmemConfig(_)
            | R::Unknown { .. }) => return Course::Refused(request),
        })
    }

    fn change(&self, change: Result<Change, Refusal>, on: &mut Resources<'_>) -> Course {
        Course::Begun(change.and_then(|change| self.begin(change, on)))
    }

    /// Whether a request cannot be carried out yet.
    pub(super) fn has_to_wait(
        &self,
        request: &FrontendRequest<ForeignFd>,
        on: &Resources<'_>,
    ) -> bool {
        use FrontendRequest as R;

        match request {
            R::CheckDeviceState => self.state_is_under_way(),
            R::SetMemTable(_)
            | R::AddMemReg(_)
            | R::RemMemReg(_)
            | R::SetLogBase(_)
            | R::SetInflightFd(_) => memory::is_unsettled(on),
            R::GetFeatures
            | R::SetFeatures(_)
            | R::SetOwner
            | R::ResetOwner
            | R::GetProtocolFeatures
            | R::SetProtocolFeatures(_)
            | R::GetQueueNum
            | R::GetMaxMemSlots
            | R::IotlbMsg(_)
            | R::SetVringNum(_)
            | R::SetVringAddr(_)
            | R::SetVringBase(_)
            | R::GetVringBase(_)
            | R::GetVringBaseSkipDrain(_)
            | R::SetVringKick(_)
            | R::SetVringCall(_)
            | R::SetVringErr(_)
            | R::SetVringEnable(_)
            | R::SetVringEndian(_)
            | R::SendRarp(_)
            | R::NetSetMtu(_)
            | R::GetConfig(_)
            | R::SetConfig(_)
            | R::GetStatus
            | R::SetStatus(_)
            | R::ResetDevice
            | R::GetInflightFd(_)
            | R::SetLogFd(_)
            | R::SetDeviceStateFd(_)
            | R::SetBackendReqFd(_)
            | R::CreateCryptoSession(_)
            | R::CloseCryptoSession(_)
            | R::PostcopyAdvise(_)
            | R::PostcopyListen(_)
            | R::PostcopyEnd(_)
            | R::GpuSetSocket(_)
            | R::VringKick(_)
            | R::GetSharedObject(_)
            | R::GetShmemConfig(_)
            | R::Unknown { .. } => false,
        }
    }

    /// Does what a request left to do. Returns a descriptor that goes with the
    /// reply, if there is one.
    pub(super) fn fulfil(
        &mut self,
        then: Then,
        reply: &mut Reply,
        on: &mut Resources<'_>,
    ) -> Result<Option<OwnedFd>, Fault> {
        match then {
            Then::Nothing => {}
            Then::Settle(ticket, on_refusal) => {
                memory::settle_as_answered(ticket, on_refusal, reply, on)?;
            }
            Then::ShowLog(ticket, area) => log::show_log(ticket, &area, reply, on),
            Then::MakeInflight => return inflight::make(reply, &self.reaper, on),
            Then::StopVring(vring) => self.stop_vring(vring, on)?,
            Then::ShowProtocolFeatures => {
                features::show_protocol_features(reply, &self.session);
            }
            Then::AnswerTransfer(number) => self.answer_transfer(number, reply),
            Then::AtMost(most) => features::check_limit(reply, most)?,
            Then::Lower(most) => features::lower_limit(reply, most),
        }
        Ok(None)
    }
}

/// What the request needs was negotiated (vhost-user, the section of each
/// message). That is asked of what this connection acknowledged, never of what
/// it was shown: a frontend may remember an offer.
fn check_gate(
    request: &FrontendRequest<ForeignFd>,
    session: &Session,
) -> Result<(), FrontendFault> {
    let Some(row) = request.row() else {
        return Ok(());
    };
    let refused = matches!(row.verdict, Verdict::Refuse(_));
    if refused || row.gate.is_open(session.context()) {
        return Ok(());
    }
    let name = RequestName(Channel::Main, row.code);
    Err(FrontendFault::WithoutFeature(name))
}

#[cfg(test)]
mod tests {
    use vhost_guest_msg::{Endian, Fds, Framer, Limits, Message, Progress, Row, FRONTEND_ROWS};

    use super::*;
    use crate::connection::carried;
    use crate::fd::Reaper;
    use crate::tests::rig::{connected, message};
    use crate::tests::siege::{sample, sample_fds, PLAIN};

    /// A correct request, as it comes from a socket.
    fn request(row: &Row, session: &Session, reaper: &Reaper) -> FrontendRequest<ForeignFd> {
        let fds = sample_fds(row).into_iter();
        let mut fds: Fds<_> = fds.map(|fd| ForeignFd::new(fd, reaper)).collect();
        let bytes = message(row.code, PLAIN, &sample(row));
        let mut bytes = bytes.as_slice();
        let mut framer = Framer::new(Endian::NATIVE, &Limits::default());
        loop {
            let space = framer.space();
            let (now, later) = bytes.split_at(space.len());
            space.copy_from_slice(now);
            bytes = later;
            match framer.advance(now.len(), std::mem::take(&mut fds)).unwrap() {
                Progress::More => {}
                Progress::Frame(frame) => {
                    let (limits, context) = (session.limits(), session.context());
                    let decoded = FrontendRequest::decode(frame, Endian::NATIVE, limits, context);
                    let Message { request, .. } = decoded.unwrap();
                    return request;
                }
            }
        }
    }

    #[test]
    fn every_request_takes_the_course_that_its_row_says() {
        let (rig, _frontend) = connected();
        let mut server = rig.device.server();
        let (connection, mut on, _) = server.connected(&rig.device.shared).unwrap();
        // With a descriptor, a log is shared.
        connection.session.set_protocol_features(carried());
        for row in FRONTEND_ROWS {
            let request = request(row, &connection.session, &connection.reaper);
            let course = connection.sort(request, &mut on);
            let told = match course {
                Course::Handled(_) | Course::Begun(_) => row.verdict == Verdict::Handle,
                Course::Passed(_) => row.verdict == Verdict::Forward,
                Course::Refused(_) => matches!(row.verdict, Verdict::Refuse(_)),
            };
            assert!(told, "{row:?}: {course:?}");
        }
    }
}
