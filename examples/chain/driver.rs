// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The thread that drives the device, as its driver.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::Arc;

use vhost_guest_driver::emulated::Emulated;
use vhost_guest_driver::{Device, Error, Inbound, Outbound};
use vhost_guest_msg::Limits;

use super::wires::{signal, Wires};

/// What the thread is told to do.
pub type Command = Box<dyn FnOnce(&mut Driver) + Send>;

/// A device, and what its file shows of it.
pub struct Driver {
    pub device: Device<Emulated>,
    lanes: [Lane; 2],
    news: OwnedFd,
    wires: Arc<Wires>,
}

/// One kind of messages in both directions: a queue for each, and a socket whose
/// other end the relay has.
struct Lane {
    socket: OwnedFd,
    inbound: Inbound,
    outbound: Outbound,
    /// What the socket has no room for.
    to_relay: Option<Vec<u8>>,
    /// What the queue has no room for.
    to_device: Option<Vec<u8>>,
}

/// Takes all that has come.
pub fn drain(socket: &OwnedFd) {
    while rustix::io::read(socket, &mut [0; 8]).is_ok_and(|length| length > 0) {}
}

impl Lane {
    fn new(socket: OwnedFd, inbound: Inbound, outbound: Outbound) -> Self {
        Self {
            socket,
            inbound,
            outbound,
            to_relay: None,
            to_device: None,
        }
    }

    /// Moves what can be moved.
    fn step(&mut self, device: &mut Device<Emulated>) -> Result<(), Error> {
        while self.take_from_device(device)? && self.give_to_relay() {}
        while self.take_from_relay() && self.give_to_device(device)? {}
        Ok(())
    }

    fn take_from_device(&mut self, device: &mut Device<Emulated>) -> Result<bool, Error> {
        if self.to_relay.is_none() {
            let mut message = Vec::new();
            if device.receive(self.inbound, &mut message)? {
                self.to_relay = Some(message);
            }
        }
        Ok(self.to_relay.is_some())
    }

    fn give_to_relay(&mut self) -> bool {
        let message = self.to_relay.take_if(|message| {
            // Whatever it lacks, room in most cases, the next try may have.
            rustix::io::write(&self.socket, message).is_ok()
        });
        message.is_some()
    }

    fn take_from_relay(&mut self) -> bool {
        if self.to_device.is_none() {
            let mut message = vec![0; Limits::default().max_message_size];
            let length = rustix::io::read(&self.socket, &mut message).unwrap_or(0);
            message.truncate(length);
            self.to_device = Some(message).filter(|message| !message.is_empty());
        }
        self.to_device.is_some()
    }

    fn give_to_device(&mut self, device: &mut Device<Emulated>) -> Result<bool, Error> {
        let Some(message) = &self.to_device else {
            return Ok(false);
        };
        let sent = device.send(self.outbound, message)?;
        if sent {
            self.to_device = None;
        }
        Ok(sent)
    }
}

impl Driver {
    /// Drives a device. Messages go through the first of the sockets, those of the
    /// backend's own through the second; `news` tells of a new status.
    pub fn new(
        device: Device<Emulated>,
        [messages, requests]: [OwnedFd; 2],
        news: OwnedFd,
        wires: Arc<Wires>,
    ) -> Self {
        let lanes = [
            Lane::new(messages, Inbound::Requests, Outbound::Replies),
            Lane::new(requests, Inbound::Replies, Outbound::Requests),
        ];
        Self {
            device,
            lanes,
            news,
            wires,
        }
    }

    /// Runs until nobody has commands any more, or the device breaks a rule: the
    /// file of a device without a driver is at its end.
    pub fn run(mut self, commands: &Receiver<Command>) {
        if let Err(error) = self.drive(commands) {
            log::error!("the device: {error}");
        }
        signal(&self.news);
    }

    fn drive(&mut self, commands: &Receiver<Command>) -> Result<(), Error> {
        loop {
            let events = self.device.wait(None);
            loop {
                match commands.try_recv() {
                    Ok(command) => command(self),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            if events.config {
                signal(&self.news);
            }
            for vring in 0..self.device.max_queues() {
                if self.device.kicked(&events, vring) {
                    self.wires.kick(vring);
                }
            }
            self.wires.ring(&self.device);
            for lane in &mut self.lanes {
                lane.step(&mut self.device)?;
            }
        }
    }

    /// Resets the device, and forgets what was on its way.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.wires.disconnect_all();
        self.device.reset()?;
        for lane in &mut self.lanes {
            (lane.to_relay, lane.to_device) = (None, None);
            drain(&lane.socket);
        }
        Ok(())
    }
}
