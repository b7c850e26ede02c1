// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Who wants to be notified of what, by flags or by event indices
//! (virtio 1.2 §2.7.7, §2.7.10).

use core::sync::atomic::{fence, Ordering};

use super::{RingFault, Vring};
use crate::queue::need_event;

pub(super) const NO_NOTIFY: u16 = 1;
pub(super) const NO_INTERRUPT: u16 = 1;

impl Vring {
    /// Asks the frontend's guest not to kick: somebody is looking.
    pub fn suppress_kicks(&mut self) {
        if !self.event_idx() {
            let result = self.store_used(0, NO_NOTIFY);
            self.note(result);
        }
    }

    /// Asks the frontend's guest to kick from now on; `true` if a request
    /// came in before it could know, so that nobody will kick for it.
    pub fn request_kicks(&mut self) -> bool {
        let result = self.try_request_kicks();
        self.note(result).unwrap_or(false)
    }

    fn try_request_kicks(&self) -> Result<bool, RingFault> {
        if self.event_idx() {
            self.store_used(4 + 8 * u64::from(self.num), self.next_avail)?;
        } else {
            self.store_used(0, 0u16)?;
        }
        // The wish before the look.
        fence(Ordering::SeqCst);
        self.pending()
    }

    /// Whether the frontend's guest wants to be called for what was used
    /// since the last call.
    pub fn take_call(&mut self) -> bool {
        let result = self.wants_call();
        let wants = self.note(result).unwrap_or(false);
        self.called_idx = Some(self.used_idx);
        wants && self.call
    }

    /// SET_VRING_CALL. Calls that went nowhere before are made up for.
    pub fn set_call(&mut self, call: bool) {
        self.call = call;
        self.called_idx = None;
    }

    fn wants_call(&self) -> Result<bool, RingFault> {
        let Some((window, parts)) = self.memory() else {
            return Ok(false);
        };
        if self.called_idx == Some(self.used_idx) {
            return Ok(false);
        }
        // The used index before the wishes.
        fence(Ordering::SeqCst);
        if !self.event_idx() {
            let flags: u16 = window.load_le(parts.available)?;
            return Ok(flags & NO_INTERRUPT == 0);
        }
        let event = parts.available + 4 + 2 * u64::from(self.num);
        let event: u16 = window.load_le(event)?;
        Ok(match self.called_idx {
            Some(called) => need_event(event, self.used_idx, called),
            None => true,
        })
    }
}
