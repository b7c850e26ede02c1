// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pauses: the VMM stops the VM, and the device stands still.
//!
//! Nothing waits for anybody here. A pause begins when the turn that is under
//! way is over, and turns are bounded; from then on the worker waits for
//! nothing but the end of the pause, whatever the frontend sends.

use std::os::fd::AsFd;

use vm_memory::GuestAddressSpace;

use super::Server;
use crate::event_loop::poller::Token;
use crate::guest::snapshot::SnapshotError;
use crate::shared::Shared;

impl<M: GuestAddressSpace> Server<M> {
    /// Whether the device stands still.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Stands still until [`resume`](Self::resume). Idempotent.
    pub(crate) fn pause(&mut self, shared: &Shared) {
        if self.paused {
            return;
        }
        self.paused = true;
        self.reply_limit.pause();
        self.memory_limit.pause();
        self.unwatch_all(shared);
        shared.pause_interrupts(true);
    }

    /// Goes on where the pause began: what came meanwhile is there. Idempotent.
    pub(crate) fn resume(&mut self, shared: &Shared) {
        if !self.paused {
            return;
        }
        self.paused = false;
        shared.pause_interrupts(false);
        self.reply_limit.resume();
        self.memory_limit.resume();
        // What is in the poller's set already cannot be missing.
        if let Err(error) = self.watch_own(shared) {
            shared.die(error);
        }
        if let Some(changes) = self.memory.changes() {
            self.poller.unmute(Token::Memory, changes);
        }
        // Sockets are waited for from the next turn on, which opens queues that
        // were restored: the guest's memory is there, and translates.
        shared.wake();
    }

    /// Waits for nothing but to be woken. It is not enough to ignore what is
    /// ready: a VMM's event loop would be told of it for ever.
    fn unwatch_all(&mut self, shared: &Shared) {
        let poller = &mut self.poller;
        poller.mute(Token::Timer, self.listener.timer());
        poller.mute(Token::Listener, self.listener.as_fd());
        if let Some(changes) = self.memory.changes() {
            poller.mute(Token::Memory, changes);
        }
        for (queue, eventfd) in (0..).zip(shared.registers.lock().queue_eventfds()) {
            poller.mute(Token::Queue(queue), eventfd.as_fd());
        }
        let limits = [
            (Token::ReplyLimit, self.reply_limit.fd()),
            (Token::MemoryLimit, self.memory_limit.fd()),
        ];
        for (token, timer) in limits {
            if let Some(timer) = timer {
                poller.mute(token, timer);
            }
        }
        if let Some(connection) = &self.connection {
            poller.unwatch(Token::Frontend, connection.socket.as_fd());
        }
    }

    /// The paused device as bytes.
    pub(crate) fn snapshot(&mut self, shared: &Shared) -> Result<Vec<u8>, SnapshotError> {
        if !self.paused {
            return Err(SnapshotError::NotPaused);
        }
        self.close_queues(shared);
        let position = |queue| {
            let unopened = self.unopened.get(&queue).copied();
            unopened.or(self.queues.position(queue)).unwrap_or_default()
        };
        let bytes = shared.registers.lock().save(position);
        Ok(bytes)
    }

    /// Queues were restored that are so far, to be opened when the pause is over.
    pub(crate) fn restored(&mut self, positions: Vec<(u16, u16)>) {
        self.unopened = (0..).zip(positions).collect();
    }
}
