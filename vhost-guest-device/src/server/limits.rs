// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Time limits: for a guest that keeps its frontend waiting, and for memory of
//! a frontend that is gone.

use std::io;

use vm_memory::GuestAddressSpace;

use super::Server;
use crate::connection::Connection;
use crate::error::{FrontendFault, GuestFault};
use crate::event_loop::poller::{Interest, Ready, Token};
use crate::shared::Shared;
use crate::vmm::statistics::{Counter, Counters};

/// What the memory limit waits for: there is only one thing.
const MEMORY: u64 = 0;

impl<M: GuestAddressSpace> Server<M> {
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

    /// Lets time run while a frontend is gone whose memory is still there.
    pub(super) fn limit_orphaned_memory(&mut self, shared: &Shared) {
        let orphaned = self.connection.is_none() && !shared.window.lock().is_empty();
        self.memory_limit.run(orphaned, MEMORY);
    }

    /// Looks whether time is up, after everything that was there has been
    /// taken note of.
    pub(super) fn check_limits(&mut self, shared: &Shared, ready: &[Ready]) {
        self.limit_orphaned_memory(shared);
        let rang = |token| ready.iter().any(|event| event.token == token);
        if rang(Token::MemoryLimit) && self.memory_limit.is_over(MEMORY) {
            shared.journal.warn(format_args!(
                "guest: did not reset in time, memory is taken"
            ));
            shared.revoke();
        }
        let progress = progress(&shared.counters);
        let over = rang(Token::ReplyLimit) && self.reply_limit.is_over(progress);
        let connection = self.connection.as_ref();
        if over && connection.is_some_and(Connection::is_kept_waiting) {
            self.fail(shared, GuestFault::Late.into());
        } else if over && connection.is_some_and(Connection::waits_for_files) {
            self.fail(shared, FrontendFault::Late.into());
        }
        let connection = self.connection.as_ref();
        let may_wait = connection.is_some_and(Connection::may_wait);
        self.reply_limit.run(may_wait, progress);
    }
}

/// Moves whenever the guest has answered something.
fn progress(done: &Counters) -> u64 {
    let counts = [&done.replies, &done.own_messages, &done.state_bytes];
    let counts = counts.map(Counter::read);
    counts.into_iter().fold(0, u64::wrapping_add)
}
