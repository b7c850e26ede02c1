// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Device state on its way from or to the backend (vhost-user, migrating
//! back-end state; vhost-guest specification, migration).

use alloc::vec::Vec;

use vhost_guest_msg::Transfer;

use crate::backend::{Backend, State};
use crate::device::{Inbound, Outbound};
use crate::error::Error;
use crate::port::Port;
use crate::queue::QUEUE_SIZE;

/// Pieces moved in one turn, before vrings and messages have theirs.
const PIECES: usize = 16;
/// Bytes saved in one piece, however long the device lets it be.
const MAX_PIECE: usize = 1 << 16;

/// How far the transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    None,
    /// Whether all has been right so far; so in the next two.
    Saving(bool),
    Loading(bool),
    Done(bool),
    /// What is in the queues may be of several transfers.
    Confused,
}

/// The transfer of a frontend's, one at a time.
#[derive(Debug, Default)]
pub(super) struct StateTransfer {
    progress: Progress,
    /// What there was no room for, or what has come.
    piece: Vec<u8>,
    /// `piece` waits for room.
    waiting: bool,
}

impl StateTransfer {
    /// SET_DEVICE_STATE_FD; whether there is a transfer now.
    ///
    /// Queues do not say which transfer their contents belong to. So if one
    /// begins before the other is over, neither can be trusted, nor any that
    /// comes after them.
    pub fn begin(&mut self, direction: Transfer, state: Option<&mut dyn State>) -> bool {
        let over = matches!(self.progress, Progress::None | Progress::Done(_));
        if !over {
            self.progress = Progress::Confused;
            return false;
        }
        if !state.is_some_and(|state| state.begin(direction)) {
            // A load may have begun on the way here.
            self.progress = match direction {
                Transfer::Save => Progress::Done(false),
                Transfer::Load => Progress::Confused,
            };
            return false;
        }
        self.progress = match direction {
            Transfer::Save => Progress::Saving(true),
            Transfer::Load => Progress::Loading(true),
        };
        true
    }

    /// CHECK_DEVICE_STATE: whether the last transfer was complete.
    pub fn is_complete(&self) -> bool {
        self.progress == Progress::Done(true)
    }

    /// Moves what can be moved; whether there may be more.
    pub fn step(
        &mut self,
        device: &mut impl Port,
        backend: &mut impl Backend,
    ) -> Result<bool, Error> {
        for _ in 0..PIECES {
            let moved = match self.progress {
                Progress::Saving(good) => self.save(device, backend, good)?,
                Progress::Loading(good) => self.load(device, backend, good)?,
                _ => false,
            };
            if !moved {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Loads all that has come: the next message may be about it.
    pub fn catch_up(
        &mut self,
        device: &mut impl Port,
        backend: &mut impl Backend,
    ) -> Result<(), Error> {
        // No more than the queue holds came before that message.
        for _ in 0..QUEUE_SIZE {
            let Progress::Loading(good) = self.progress else {
                break;
            };
            if !self.load(device, backend, good)? {
                break;
            }
        }
        Ok(())
    }

    /// The backend is reset: what is under way cannot be complete.
    pub fn spoil(&mut self) {
        self.progress = match self.progress {
            Progress::None => Progress::None,
            Progress::Saving(_) => Progress::Saving(false),
            Progress::Loading(_) => Progress::Loading(false),
            Progress::Done(_) => Progress::Done(false),
            Progress::Confused => Progress::Confused,
        };
    }

    /// An empty piece is the last, also of a transfer that has failed: that,
    /// only the answer to CHECK_DEVICE_STATE says.
    fn save(
        &mut self,
        device: &mut impl Port,
        backend: &mut impl Backend,
        good: bool,
    ) -> Result<bool, Error> {
        if !self.waiting {
            self.piece.clear();
            self.piece.resize(device.state_piece().min(MAX_PIECE), 0);
            let state = backend.state().filter(|_| good);
            let saved = state.and_then(|state| state.save(&mut self.piece));
            let most = self.piece.len();
            self.piece.truncate(saved.unwrap_or(0).min(most));
            self.progress = Progress::Saving(saved.is_some());
        }
        self.waiting = !device.send(Outbound::State, &self.piece)?;
        if self.waiting {
            // An interrupt tells when there is room.
            return Ok(false);
        }
        if let (true, Progress::Saving(good)) = (self.piece.is_empty(), self.progress) {
            self.progress = Progress::Done(good);
        }
        Ok(true)
    }

    fn load(
        &mut self,
        device: &mut impl Port,
        backend: &mut impl Backend,
        good: bool,
    ) -> Result<bool, Error> {
        if !device.receive(Inbound::State, &mut self.piece)? {
            return Ok(false);
        }
        let state = backend.state().filter(|_| good);
        self.progress = match self.piece.is_empty() {
            true => Progress::Done(state.is_some_and(|state| state.loaded())),
            // What follows something wrong is taken and dropped.
            false => Progress::Loading(state.is_some_and(|state| state.load(&self.piece))),
        };
        Ok(true)
    }
}
