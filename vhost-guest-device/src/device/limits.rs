// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Time limits: for a guest that keeps its frontend waiting, and for memory of
//! a frontend that is gone.

use std::io;

use vm_memory::GuestAddressSpace;

use super::Device;
use crate::connection::Connection;
use crate::error::GuestFault;
use crate::event_loop::poller::{Interest, Ready, Token};

/// What the memory limit waits for: there is only one thing.
const MEMORY: u64 = 0;

impl<M: GuestAddressSpace> Device<M> {
    /// Waits for the time limits, if there are any.
    pub(super) fn watch_limits(&mut self) -> io::Result<()> {
        let limits = [
            (Token::ReplyLimit, self.reply_limit.fd()),
            (Token::MemoryLimit, self.memory_limit.fd()),
        ];
        for (token, timer) in limits {
            if let Some(timer) = timer {
                self.poller.watch(token, timer, Interest::READ)?;
            }
        }
        Ok(())
    }

    /// Looks whether time is up, after everything that was there has been
    /// taken note of.
    pub(super) fn check_limits(&mut self, ready: &[Ready]) {
        let rang = |token| ready.iter().any(|event| event.token == token);
        if rang(Token::MemoryLimit) && self.memory_limit.is_over(MEMORY) {
            self.journal.warn(format_args!(
                "guest: did not reset in time, memory is taken"
            ));
            if let Err(error) = self.revoke_memory() {
                self.die(io::Error::other(error));
            }
        }
        let progress = self.progress();
        let over = rang(Token::ReplyLimit) && self.reply_limit.is_over(progress);
        let connection = self.connection.as_ref();
        if over && connection.is_some_and(Connection::is_kept_waiting) {
            self.fail(GuestFault::Late.into());
        }
        let connection = self.connection.as_ref();
        let may_wait = connection.is_some_and(Connection::may_wait_for_guest);
        self.reply_limit.run(may_wait, progress);
    }

    /// Moves whenever the guest has answered something.
    fn progress(&self) -> u64 {
        let done = &self.statistics;
        let counts = [done.replies, done.own_messages, done.state_bytes];
        counts.into_iter().fold(0, u64::wrapping_add)
    }

    /// A frontend is gone, and its memory is still there.
    pub(super) fn limit_orphaned_memory(&mut self, orphaned: bool) {
        self.memory_limit.run(orphaned, MEMORY);
    }
}
