// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The end of a frontend: its sockets close, its notifications end, the guest
//! learns of it. Its memory stays until the driver has reset the device.

use std::fmt;
use std::io;

use vm_memory::GuestAddressSpace;

use super::Server;
use crate::error::Fault;
use crate::event_loop::deadline::Deadline;
use crate::event_loop::poller::Token;
use crate::shared::Shared;
use crate::sync::Epoch;

impl<M: GuestAddressSpace> Server<M> {
    /// Answers a fault of a turn's (see [`crate::error`]).
    pub(super) fn fail(&mut self, shared: &Shared, fault: Fault) {
        match fault {
            // Whoever ended it has said why.
            Fault::Over => {}
            // It is told as the device's end.
            Fault::Dead(error) => shared.die(io::Error::other(error)),
            fault => {
                if matches!(fault, Fault::Environment(_)) {
                    // The next frontend would meet the same limit.
                    self.listener.rest();
                }
                self.tell(shared, &fault);
                // A guest that sees that it has to reset the device hears nothing more.
                self.close_connection(shared);
                if let Err(error) = shared.detach_notifications() {
                    shared.die(error);
                }
                let new = shared.registers.lock().set_needs_reset();
                return shared.tell_needs_reset(new);
            }
        }
        self.close_connection(shared);
    }

    /// Says what happened, and where the connection is that it ends.
    pub(super) fn tell(&self, shared: &Shared, fault: &Fault) {
        let line = self.told(fault);
        match fault {
            Fault::HungUp | Fault::BackendDown | Fault::Revoked | Fault::Reset => {
                shared.journal.info(format_args!("{line}"));
            }
            _ => shared.journal.warn(format_args!("{line}")),
        }
    }

    /// What happened, and where the connection is that it ends.
    pub(crate) fn told(&self, what: &dyn fmt::Display) -> String {
        match &self.connection {
            Some(connection) => format!("{what}; {}", connection.account()),
            None => what.to_string(),
        }
    }

    /// Closes the sockets, and disconnects kicks and doorbells.
    pub(super) fn close_connection(&mut self, shared: &Shared) {
        if let Some((connection, mut on, _)) = self.connected(shared) {
            connection.close_channel(&mut on);
            on.poller
                .unwatch(Token::Frontend, connection.socket.as_fd());
        }
        if self.connection.take().is_some() {
            // What is connected is of an epoch that is over.
            shared.epochs.raise();
        }
        self.detach_some(shared);
    }

    /// What is in the window now is for this epoch: there is nothing of another in
    /// it, or nobody needs to know what.
    pub(super) fn renew_memory(&mut self, epoch: Epoch) {
        if let Some(changes) = self.memory.changes() {
            self.poller.unwatch(Token::Memory, changes);
        }
        self.memory.renew(epoch);
    }

    /// Disconnects kicks and doorbells of a frontend that is gone, for as long as a
    /// piece may take. The next turn goes on.
    pub(super) fn detach_some(&mut self, shared: &Shared) {
        let now = shared.epochs.current();
        let deadline = Deadline::of_a_piece();
        let more = shared.registers.lock().detach_some(now, deadline);
        match more {
            Ok(true) => shared.wake(),
            Ok(false) => {}
            Err(error) => shared.die(io::Error::other(error)),
        }
    }
}
