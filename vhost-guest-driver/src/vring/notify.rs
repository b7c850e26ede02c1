// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Who wants to be notified of what, by flags or by event indices
//! (virtio 1.2 §2.7.7, §2.7.10, §2.8.14).
//!
//! An event area of a packed ring:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | le16 | a position, if the flags say so |
//! | 2 | le16 | flags: 0 always, 1 never, 2 at that position |

use core::sync::atomic::{fence, Ordering};

use super::{RingFault, Vring, WRAP};
use crate::queue::need_event;

pub(super) const NO_NOTIFY: u16 = 1;
pub(super) const NO_INTERRUPT: u16 = 1;

const EVENT_FLAGS: u64 = 2;
pub(super) const ALWAYS: u16 = 0;
pub(super) const NEVER: u16 = 1;
pub(super) const AT_POSITION: u16 = 2;

impl Vring {
    /// Asks the frontend's guest not to kick: somebody is looking.
    pub fn suppress_kicks(&mut self) {
        let result = if self.packed {
            self.store_used(EVENT_FLAGS, NEVER)
        } else if !self.event_idx() {
            self.store_used(0, NO_NOTIFY)
        } else {
            Ok(())
        };
        self.note(result);
    }

    /// Asks the frontend's guest to kick from now on; `true` if a request
    /// came in before it could know, so that nobody will kick for it.
    pub fn request_kicks(&mut self) -> bool {
        let result = self.try_request_kicks();
        self.note(result).unwrap_or(false)
    }

    fn try_request_kicks(&self) -> Result<bool, RingFault> {
        match (self.packed, self.event_idx()) {
            (false, true) => self.store_used(4 + 8 * u64::from(self.num), self.next_avail)?,
            (false, false) => self.store_used(0, 0u16)?,
            (true, true) => {
                self.store_used(0, self.next_avail)?;
                // The position before the flags.
                fence(Ordering::SeqCst);
                self.store_used(EVENT_FLAGS, AT_POSITION)?;
            }
            (true, false) => self.store_used(EVENT_FLAGS, ALWAYS)?,
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
        (self.called_idx, self.uncalled) = (Some(self.used_idx), 0);
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
        if self.called_idx == Some(self.used_idx) && self.uncalled == 0 {
            return Ok(false);
        }
        // What was used before the wishes.
        fence(Ordering::SeqCst);
        if self.packed {
            let flags: u16 = window.load_le(parts.available + EVENT_FLAGS)?;
            if flags != AT_POSITION || !self.event_idx() {
                return Ok(flags != NEVER);
            }
            // The flags before the position.
            fence(Ordering::SeqCst);
            let event = window.load_le(parts.available)?;
            return Ok(self.passed(event));
        }
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

    /// Whether a packed ring has used the descriptor at position `event`
    /// since the last call.
    fn passed(&self, event: u16) -> bool {
        if self.called_idx.is_none() || self.uncalled >= self.num.into() {
            return true;
        }
        let used = self.used_idx;
        let round = if (event ^ used) & WRAP == 0 {
            0
        } else {
            self.num
        };
        let ahead = (round + (used & !WRAP)).wrapping_sub(event & !WRAP);
        ahead != 0 && u32::from(ahead) <= self.uncalled
    }
}
