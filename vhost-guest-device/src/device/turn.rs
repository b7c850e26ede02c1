// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Turns: what the device does when something is ready.

use std::os::fd::AsFd;

use vm_memory::GuestAddressSpace;

use super::{Condition, Device};
use crate::connection::{carried, carried_with_migration, Connection, Session};
use crate::error::Fault;
use crate::event_loop::poller::{Interest, Ready, Token};
use crate::memory::Missing;

/// Messages moved in one turn, so that neither a chatty frontend nor a chatty
/// guest keeps the lock from a vCPU.
const TURN: usize = 64;

/// Accesses to the guest's memory in one turn, for the same reason. A message in
/// an ordinary buffer takes a dozen; where each page is translated, a buffer can
/// take hundreds. What is under way when they are used up is done.
const TURN_ACCESSES: usize = 4096;

impl<M: GuestAddressSpace> Device<M> {
    /// One turn: takes note of what is ready, moves what can be moved, and
    /// says what to wait for next. Nothing in it blocks.
    pub(crate) fn turn(&mut self, ready: &[Ready]) {
        if self.is_paused() {
            // The turn that was asked for comes with the end of the pause.
            return drain(&self.wake);
        }
        self.statistics.turns += 1;
        if self.registers.reset_pending() {
            drain(&self.wake);
            self.continue_reset();
        } else {
            if let Err(fault) = self.try_turn(ready) {
                self.fail(fault);
            }
            self.check_limits(ready);
        }
        if let Err(fault) = self.wait_for_frontend() {
            if matches!(fault, Fault::Environment(_)) {
                // The next frontend would meet the same limit.
                self.listener.rest();
            }
            // Without a frontend there is nothing of a peer's to wait for.
            self.fail(fault);
        }
        self.wait_for_next_frontend();
    }

    fn try_turn(&mut self, ready: &[Ready]) -> Result<(), Fault> {
        let (mut frontend_hung_up, mut channel_hung_up) = (false, false);
        for event in ready {
            match event.token {
                Token::Wake => drain(&self.wake),
                Token::Timer => self.listener.resume(),
                Token::Queue(queue) => {
                    if let Some(eventfd) = self.registers.queue_eventfds().get(usize::from(queue)) {
                        drain(eventfd);
                    }
                }
                // Looked at when everything else has been.
                Token::ReplyLimit | Token::MemoryLimit => {}
                Token::Listener => {}
                Token::Memory => self.check_memory(),
                // It may be news of one that is gone already.
                Token::Frontend => {
                    frontend_hung_up |= event.hung_up && self.connection.is_some();
                }
                Token::Channel => channel_hung_up |= event.hung_up,
            }
        }
        self.accept();
        if !self.may_use_queues() {
            return self.check_hang_up(frontend_hung_up, channel_hung_up);
        }
        let mut accesses = 0;
        for _ in 0..TURN {
            if !self.step()? {
                return self.check_hang_up(frontend_hung_up, channel_hung_up);
            }
            accesses += self.guest.take_work();
            if accesses > TURN_ACCESSES {
                break;
            }
        }
        self.wake();
        Ok(())
    }

    /// A file of the frontend's memory has changed. If it shrank, the guest
    /// must not touch what is missing.
    fn check_memory(&mut self) {
        self.memory.take_changes();
        self.withdraw(Missing::Truncated);
    }

    /// Queues are used while the driver is running and the function may
    /// access memory (PCI Local Bus 3.0 §6.2.2, Bus Master).
    fn may_use_queues(&self) -> bool {
        self.registers.is_running() && self.registers.bus_master()
    }

    /// Moves at most one message in each direction. `false` if none moved.
    fn step(&mut self) -> Result<bool, Fault> {
        match self.connected() {
            Some((connection, mut on, mut queues)) => connection.step(&mut on, &mut queues),
            None => Ok(false),
        }
    }

    /// A hang-up is noticed by reading up to the end of the stream. Where
    /// nothing is read, for lack of a guest buffer or because queues may not
    /// be used, it counts at once: it would be reported for ever.
    fn check_hang_up(&mut self, frontend: bool, channel: bool) -> Result<(), Fault> {
        let busy = self.may_use_queues();
        let reads = busy && !self.reaper.is_overloaded();
        let Some((connection, mut on, _)) = self.connected() else {
            return Ok(());
        };
        if frontend && !(reads && connection.wants_request()) {
            return Err(Fault::HungUp);
        }
        if channel && !(busy && connection.wants_channel_reply()) {
            connection.close_channel(&mut on);
        }
        Ok(())
    }

    /// Takes a frontend, if the driver wants one and one is there.
    fn accept(&mut self) {
        if !self.wants_frontend() || self.listener.is_resting() {
            return;
        }
        if self.reaper.is_overloaded() {
            // The frontends before left more descriptors than can be closed.
            self.journal
                .warn(format_args!("environment: too many descriptors to close"));
            return self.listener.rest();
        }
        match self.listener.accept() {
            Ok(Some(socket)) => {
                self.journal.info(format_args!("a frontend connected"));
                self.statistics.frontends += 1;
                self.connection = Some(Connection::new(socket, &self.reaper, self.session()));
                self.registers.set_frontend_up(true);
            }
            Ok(None) => {}
            Err(error) => self
                .journal
                .warn(format_args!("environment: accept: {error}")),
        }
    }

    /// What a frontend that has just connected finds.
    fn session(&self) -> Session {
        let carried = match self.pump {
            Some(_) => carried_with_migration(),
            None => carried(),
        };
        Session::new(self.limits, carried)
    }

    /// Whether a frontend may connect now.
    pub(super) fn wants_frontend(&self) -> bool {
        self.condition == Condition::Alive
            && self.connection.is_none()
            && self.registers.is_running()
            && self.registers.backend_up()
    }

    /// Waits for what the frontend that is there may do next.
    ///
    /// # Errors
    ///
    /// What one of its sockets is connected to lets nobody wait; or a limit of
    /// the host's, which this frontend may have exhausted.
    fn wait_for_frontend(&mut self) -> Result<(), Fault> {
        let busy = self.may_use_queues();
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        let overloaded = self.reaper.is_overloaded();
        if overloaded {
            // Nothing tells when it is over.
            self.listener.rest();
        }
        let interest = Interest {
            read: busy && !overloaded && connection.wants_request(),
            write: busy && connection.socket.is_sending(),
        };
        self.poller
            .watch(Token::Frontend, connection.socket.as_fd(), interest)?;
        let read = busy && connection.wants_channel_reply();
        if let Some((channel, is_sending)) = connection.channel_fd() {
            let interest = Interest {
                read,
                write: busy && is_sending,
            };
            self.poller.watch(Token::Channel, channel, interest)?;
        }
        Ok(())
    }

    /// Waits for a frontend, if the driver wants one. If a limit of the host's
    /// forbids it, it is tried again later.
    fn wait_for_next_frontend(&mut self) {
        let listener = self.listener.as_fd();
        if !self.wants_frontend() || self.listener.is_resting() {
            return self.poller.unwatch(Token::Listener, listener);
        }
        let watched = self.poller.watch(Token::Listener, listener, Interest::READ);
        if let Err(error) = watched {
            self.journal.warn(format_args!("environment: {error}"));
            self.listener.rest();
        }
    }
}

/// Takes the events that wait in an eventfd of the device's own.
fn drain(eventfd: &impl AsFd) {
    // It is non-blocking; nothing to read is nothing to do.
    let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
}
