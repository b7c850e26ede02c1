// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Turns: what the server does when something is ready.

use std::os::fd::{AsFd, OwnedFd};

use vm_memory::GuestAddressSpace;

use super::Server;
use crate::connection::{carried, carried_with_migration, Connection, Session};
use crate::error::Fault;
use crate::event_loop::deadline::Deadline;
use crate::event_loop::poller::{Interest, Ready, Token};
use crate::fd::{ForeignFd, Launcher};
use crate::shared::{Condition, Shared};

impl<M: GuestAddressSpace> Server<M> {
    /// One turn: takes note of what is ready, moves what can be moved, and
    /// says what to wait for next. Nothing in it blocks.
    ///
    /// It ends when a piece of time is over, with the message that is under way: a
    /// pause, and whoever shares the VMM's event loop, wait for neither a chatty
    /// frontend nor a chatty guest.
    pub(crate) fn turn(&mut self, shared: &Shared, ready: &[Ready]) {
        if ready.iter().any(|event| event.token == Token::Wake) {
            // Before anything is looked at: what changes from here on comes with
            // another wake.
            drain(&shared.wakes());
        }
        if self.is_paused() {
            // The turn that was asked for comes with the end of the pause.
            return;
        }
        shared.counters.turns.add(1);
        if shared.registers.lock().reset_pending() {
            self.continue_reset(shared);
        } else {
            if let Err(fault) = self.try_turn(shared, ready) {
                self.fail(shared, fault);
            }
            self.check_limits(shared, ready);
        }
        if let Err(fault) = self.wait_for_frontend(shared) {
            // Without a frontend there is nothing of a peer's to wait for.
            self.fail(shared, fault);
        }
        self.wait_for_next_frontend(shared);
        if let Some(error) = self.launcher.as_ref().and_then(Launcher::take_failure) {
            // What peers have left to do waits for it. It is tried again.
            shared
                .journal
                .warn(format_args!("environment: cannot make a thread: {error}"));
        }
    }

    fn try_turn(&mut self, shared: &Shared, ready: &[Ready]) -> Result<(), Fault> {
        let hung_up = self.take_note(shared, ready);
        // The guest must not touch what files have lost.
        if let Some(lost) = self.memory.lost() {
            shared.withdraw(&lost);
        }
        self.look(shared)?;
        self.accept(shared);
        if !may_use_queues(shared) {
            return self.check_hang_up(shared, hung_up);
        }
        let deadline = Deadline::of_a_piece();
        while !deadline.is_over() {
            if !self.step(shared)? {
                return self.check_hang_up(shared, hung_up);
            }
        }
        shared.wake();
        Ok(())
    }

    /// Takes note of what is ready. Tells whether the frontend has hung up.
    fn take_note(&mut self, shared: &Shared, ready: &[Ready]) -> bool {
        let mut hung_up = false;
        for event in ready {
            match event.token {
                Token::Wake => {}
                Token::Timer => self.listener.resume(),
                Token::Queue(queue) => {
                    if let Some(eventfd) = shared.registers.lock().queue_eventfd(queue) {
                        drain(&eventfd);
                    }
                }
                // Looked at when everything else has been.
                Token::ReplyLimit | Token::MemoryLimit => {}
                Token::Listener => {}
                Token::Memory => self.memory.take_changes(),
                // It may be news of one that is gone already.
                Token::Frontend => hung_up |= event.hung_up && self.connection.is_some(),
            }
        }
        hung_up
    }

    /// Moves at most one message in each direction. `false` if none moved.
    fn step(&mut self, shared: &Shared) -> Result<bool, Fault> {
        match self.connected(shared) {
            Some((connection, mut on, mut queues)) => connection.step(&mut on, &mut queues),
            None => Ok(false),
        }
    }

    /// A hang-up is noticed by reading up to the end of the stream. Where
    /// nothing is read, for lack of a guest buffer or because queues may not
    /// be used, it counts at once: it would be reported for ever.
    fn check_hang_up(&self, shared: &Shared, hung_up: bool) -> Result<(), Fault> {
        let busy = may_use_queues(shared);
        let connection = self.connection.as_ref();
        let reads = busy && connection.is_some_and(Connection::wants_request);
        match hung_up && connection.is_some() && !reads {
            true => Err(Fault::HungUp),
            false => Ok(()),
        }
    }

    /// Takes a frontend, if the driver wants one and one is there.
    fn accept(&mut self, shared: &Shared) {
        if !self.wants_frontend(shared) || self.listener.is_resting() {
            return;
        }
        if self.reaper.is_full() || self.memory.is_full() {
            // The frontends before left more descriptors and memory than can be
            // closed.
            shared
                .journal
                .warn(format_args!("environment: too many descriptors to close"));
            return self.listener.rest();
        }
        match self.listener.accept() {
            Ok(Some(socket)) => self.greet(shared, socket),
            Ok(None) => {}
            Err(error) => shared
                .journal
                .warn(format_args!("environment: accept: {error}")),
        }
    }

    /// A frontend has connected, for which the driver may not wait any more.
    fn greet(&mut self, shared: &Shared, socket: OwnedFd) {
        let reaper = self.reaper.for_frontend();
        let channels = self.channels.for_frontend();
        let socket = ForeignFd::new(socket, &reaper);
        let epoch = {
            let mut registers = shared.registers.lock();
            if !(registers.is_running() && registers.backend_up()) {
                return;
            }
            let epoch = shared.epochs.current();
            registers.frontend_came(epoch);
            epoch
        };
        self.renew_memory(epoch);
        shared.journal.info(format_args!("a frontend connected"));
        shared.counters.frontends.add(1);
        let connection = Connection::new(socket, reaper, channels, self.session(), epoch);
        self.connection = Some(connection);
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
    pub(crate) fn wants_frontend(&self, shared: &Shared) -> bool {
        if shared.condition() != Condition::Alive || self.connection.is_some() {
            return false;
        }
        let registers = shared.registers.lock();
        registers.is_running() && registers.backend_up()
    }

    /// Waits for what the frontend that is there may do next.
    ///
    /// # Errors
    ///
    /// What one of its sockets is connected to lets nobody wait; or a limit of
    /// the host's, which this frontend may have exhausted.
    fn wait_for_frontend(&mut self, shared: &Shared) -> Result<(), Fault> {
        let busy = may_use_queues(shared);
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        if connection.is_overloaded() {
            // Nothing tells when it is over.
            self.listener.rest();
        }
        let interest = Interest {
            read: busy && connection.wants_request(),
            write: busy && connection.socket.is_sending(),
        };
        self.poller
            .watch(Token::Frontend, connection.socket.as_fd(), interest)?;
        Ok(())
    }

    /// Waits for a frontend, if the driver wants one. If a limit of the host's
    /// forbids it, it is tried again later.
    fn wait_for_next_frontend(&mut self, shared: &Shared) {
        let listener = self.listener.as_fd();
        if !self.wants_frontend(shared) || self.listener.is_resting() {
            return self.poller.unwatch(Token::Listener, listener);
        }
        let watched = self.poller.watch(Token::Listener, listener, Interest::READ);
        if let Err(error) = watched {
            shared.journal.warn(format_args!("environment: {error}"));
            self.listener.rest();
        }
    }
}

/// Queues are used while the driver is running and the function may
/// access memory (PCI Local Bus 3.0 §6.2.2, Bus Master).
fn may_use_queues(shared: &Shared) -> bool {
    let registers = shared.registers.lock();
    registers.is_running() && registers.bus_master()
}

/// Takes the events that wait in an eventfd of the device's own.
fn drain(eventfd: &impl AsFd) {
    // It is non-blocking; nothing to read is nothing to do.
    let _ = rustix::io::read(eventfd, &mut [0u8; 8]);
}
