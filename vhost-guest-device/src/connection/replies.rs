// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest → frontend: replies.
//!
//! A reply is matched with the oldest request that it can answer. What the
//! request left to do is done before the reply goes to the frontend: memory
//! that it took away is off the guest when the frontend hears of it.

use std::os::fd::OwnedFd;

use vhost_guest_msg::{decode_whole, Accepted, Endian, HeaderFlags, LogReply, Reply};
use vm_memory::GuestAddressSpace;

use crate::connection::handlers::{OnRefusal, Then};
use crate::connection::{Connection, Duty, Step, REPLIES};
use crate::device::Device;
use crate::doorbells::Doorbell;
use crate::error::Fault;
use crate::inflight::InflightError;
use crate::memory::{Area, Outcome, Ticket};

impl<M: GuestAddressSpace> Device<M> {
    /// Moves one reply to the frontend: the device's own whose turn has come,
    /// or the guest's next one.
    pub(crate) fn step_reply(&mut self) -> Result<Step, Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(Step::Idle);
        };
        connection.socket.flush()?;
        if connection.socket.is_sending() {
            return Ok(Step::Idle);
        }
        if let Some((code, reply)) = connection.replies.pop_local() {
            send(connection, code, &reply, false, None)?;
            return Ok(Step::Moved);
        }
        let mut message = Vec::new();
        let memory = self.guest.view(self.registers.features());
        let limit = self.limits.max_message_size;
        let taken = self.queues.take(REPLIES, &memory, limit, &mut message)?;
        let Some(interrupt) = taken else {
            return Ok(Step::Idle);
        };
        if interrupt {
            self.registers.signal_queue(REPLIES);
        }
        self.take_reply(&message)?;
        Ok(Step::Moved)
    }

    /// Matches a reply of the guest's, does what it is for, and passes it on.
    fn take_reply(&mut self, message: &[u8]) -> Result<(), Fault> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let frame = decode_whole(message, Endian::NATIVE, &self.limits);
        let frame = frame.map_err(Fault::guest)?;
        let (header, limits) = (frame.header, &self.limits);
        let accepted = connection
            .replies
            .accept(&header, frame.body, Endian::NATIVE, limits);
        let Accepted {
            mut reply, ticket, ..
        } = accepted.map_err(Fault::guest)?;
        connection.session.observe_reply(&reply);
        let Duty { pass, then } = ticket;
        let fd = self.fulfil(then, &mut reply)?;
        if !pass {
            self.statistics.own_messages += 1;
            return Ok(());
        }
        self.statistics.replies += 1;
        let need_reply = header.flags.contains(HeaderFlags::NEED_REPLY);
        match &mut self.connection {
            Some(connection) => send(connection, header.code, &reply, need_reply, fd),
            None => Ok(()),
        }
    }

    /// Does what a request left to do. Returns a descriptor that goes with the
    /// reply, if there is one.
    fn fulfil(&mut self, then: Then, reply: &mut Reply) -> Result<Option<OwnedFd>, Fault> {
        let done = match then {
            Then::Nothing => Ok(()),
            Then::Settle(ticket, on_refusal) => self.settle(ticket, on_refusal, reply),
            // A log without a size is a refusal, and passed on as such.
            Then::ShowLog(ticket, _)
                if matches!(reply, Reply::Log(LogReply::Echo { size: 0, .. })) =>
            {
                self.settle_memory(ticket, Outcome::Refused)
            }
            Then::ShowLog(ticket, area) => {
                // libvhost-user and DPDK answer with less than the payload,
                // and rust-vmm's backend with an offset that is the guest's.
                *reply = Reply::Log(LogReply::to(&area));
                self.settle_memory(ticket, Outcome::Done)
            }
            Then::MakeInflight => return self.make_inflight(reply),
            Then::StopVring(vring) => self.stop_vring(vring),
            Then::ShowProtocolFeatures => {
                if let (Reply::ProtocolFeatures(offered), Some(connection)) =
                    (reply, &mut self.connection)
                {
                    *offered = connection.session.show(*offered);
                }
                Ok(())
            }
            Then::AnswerTransfer(number) => {
                if let Reply::DeviceState(reply) = reply {
                    self.answer_transfer(number, reply);
                }
                Ok(())
            }
            Then::AtMost(most) => match reply {
                Reply::U64(value) if *value > most => Err(Fault::guest(format_args!(
                    "announces {value}, the device carries {most}"
                ))),
                _ => Ok(()),
            },
        };
        done.map(|()| None)
    }

    /// The guest said how much memory its record of requests needs: the reply
    /// goes on with a file of that size. No size means no record.
    fn make_inflight(&mut self, reply: &mut Reply) -> Result<Option<OwnedFd>, Fault> {
        let Reply::Inflight(record) = reply else {
            return Ok(None);
        };
        let size = record.mmap_size();
        if size == 0 {
            return Ok(None);
        }
        let memory = match self.inflight.make(size, &self.reaper) {
            Ok(memory) => memory,
            Err(InflightError::Environment(error)) => return Err(Fault::Environment(error)),
            Err(error) => return Err(Fault::guest(error)),
        };
        *record = record.with_offset(0).map_err(Fault::guest)?;
        Ok(Some(memory))
    }

    /// The guest has processed a memory message.
    fn settle(
        &mut self,
        ticket: Ticket,
        on_refusal: OnRefusal,
        reply: &Reply,
    ) -> Result<(), Fault> {
        let refused = matches!(reply, Reply::Ack(value) if *value != 0);
        if refused && on_refusal == OnRefusal::Disconnect {
            // The ticket is dropped with the connection; the memory stays
            // mapped until the driver has reset the device.
            return Err(Fault::guest("refused a memory table"));
        }
        let outcome = if refused {
            Outcome::Refused
        } else {
            Outcome::Done
        };
        self.settle_memory(ticket, outcome)
    }

    /// The guest has processed a change of the window, or refused it.
    pub(super) fn settle_memory(&mut self, ticket: Ticket, outcome: Outcome) -> Result<(), Fault> {
        self.memory.settle(ticket, outcome)?;
        let record = self.memory.file_of(Area::Inflight);
        self.inflight.settle(record, &self.reaper);
        Ok(())
    }

    /// The guest has stopped a ring: nothing of it fires any more.
    fn stop_vring(&mut self, vring: u8) -> Result<(), Fault> {
        if let Some(connection) = &mut self.connection {
            connection.session.forget_ring(vring);
        }
        self.registers.set_kick(vring.into(), None)?;
        self.registers
            .set_doorbell(Doorbell::Call(vring.into()), None)?;
        Ok(())
    }
}

/// Sends a reply to the frontend.
fn send(
    connection: &mut Connection,
    code: u32,
    reply: &Reply,
    need_reply: bool,
    fd: Option<OwnedFd>,
) -> Result<(), Fault> {
    let mut message = [0; 4096];
    let length = reply.encode(code, need_reply, Endian::NATIVE, &mut message);
    // A reply is no longer than the message that it was decoded from.
    let length = length.map_err(Fault::guest)?;
    connection
        .socket
        .send(message.get(..length).unwrap_or_default(), fd)
}
