// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a backend sees of a vring.

use super::{Chain, RingFault, Vring};
use crate::memory::Memory;

/// Bytes of requests that are handed out in one turn, and no more than one
/// request beyond: what a message of the frontend's may have to wait for.
pub(crate) const TURN_BYTES: u64 = 4 << 20;

/// How much may be done in a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub requests: u16,
    pub bytes: u64,
}

/// The requests of a vring, for one turn of
/// [`Backend::process`](crate::Backend::process).
///
/// A turn has a budget, so that a busy vring does not keep others, or
/// messages of the frontend, waiting: so many requests, and so many bytes of
/// them, since one alone may have gigabytes.
#[derive(Debug)]
pub struct Ring<'m> {
    vring: &'m mut Vring,
    memory: &'m Memory,
    budget: Budget,
    completed: u32,
}

impl<'m> Ring<'m> {
    pub(crate) fn new(vring: &'m mut Vring, memory: &'m Memory, budget: Budget) -> Self {
        Self {
            vring,
            memory,
            budget,
            completed: 0,
        }
    }

    /// Takes the next request; `None` if there is none, or if the turn is
    /// over.
    ///
    /// If the frontend wants requests to be recorded (`INFLIGHT_SHMFD`), a
    /// request that is taken and not completed comes again after a crash.
    pub fn next_chain(&mut self) -> Option<Chain<'m>> {
        if self.is_exhausted() || !self.vring.is_active() {
            return None;
        }
        let (mut request, again) = match self.vring.resubmit.pop_front() {
            Some(request) => (request, true),
            None => {
                let request = self.vring.peek();
                (self.vring.note(request)??, false)
            }
        };
        let mut chain = match Chain::walk(self.vring, self.memory, &request) {
            Ok(chain) => chain,
            Err(halt) => {
                self.vring.halt(halt, request, again);
                return None;
            }
        };
        if !again {
            self.vring.advance(&request);
            if let Some(record) = &mut self.vring.record {
                let taken = record.take(&mut request).map_err(RingFault::from);
                self.vring.note(taken)?;
            }
        }
        chain.request = request;
        self.budget.requests -= 1;
        self.budget.bytes = self.budget.bytes.saturating_sub(chain.work());
        Some(chain)
    }

    /// Gives a request back to the frontend's guest, of which the first
    /// `written` writable bytes have been written.
    pub fn complete(&mut self, chain: Chain<'_>, written: u32) {
        let result = self.vring.push(&chain.request, written);
        self.vring.note(result);
        self.vring.spare = chain.segments;
        self.vring.spare_descriptors = chain.request.descriptors;
        self.completed += 1;
    }

    /// Takes work from the turn that the length of a request does not show:
    /// a few bytes can ask for as many to be discarded as there are.
    pub fn spend(&mut self, bytes: u64) {
        self.budget.bytes = self.budget.bytes.saturating_sub(bytes);
    }

    /// How many requests were completed in this turn.
    pub fn completed(&self) -> u32 {
        self.completed
    }

    /// Whether the budget ended the turn: there may be more requests.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.budget.requests == 0 || self.budget.bytes == 0
    }

    /// What is left of the budget.
    pub(crate) fn budget(&self) -> Budget {
        self.budget
    }
}
