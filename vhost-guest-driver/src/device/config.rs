// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device configuration structure (vhost-guest specification, device
//! configuration).
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | le32 | max_vhost_queues |
//! | 4 | le32 | max_message_size |
//! | 8 | le32 | max_migration_message_size |
//! | 16 | u8\[16\] | uuid |
//! | 32 | le16 | vhost_user_device_type |
//! | 34 | le16 | status |

use super::{Device, MESSAGE_QUEUES};
use crate::common;
use crate::error::Error;
use crate::queue::BUFFER_LEN;
use crate::transport::Transport;

const MAX_VHOST_QUEUES: u64 = 0;
const MAX_MESSAGE_SIZE: u64 = 4;
const MAX_MIGRATION_MESSAGE_SIZE: u64 = 8;
const UUID: u64 = 16;
const DEVICE_TYPE: u64 = 32;
const STATUS: u64 = 34;

const STATUS_BACKEND_UP: u16 = 1 << 0;
const STATUS_FRONTEND_UP: u16 = 1 << 1;

/// The kick, call and err messages have 8 bits for the index of a vring.
const MOST_QUEUES: u32 = 256;
/// What the specification promises at least.
const LEAST_MESSAGE_SIZE: u32 = 512;
/// A configuration that never holds still is not worth waiting for.
const GENERATION_TRIES: u32 = 64;

/// Where the device stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// DEVICE_NEEDS_RESET: the frontend was lost, or the device gave up.
    pub needs_reset: bool,
    /// BACKEND_UP: the device accepts a frontend, or has one.
    pub backend_up: bool,
    /// FRONTEND_UP: a frontend is connected.
    pub frontend_up: bool,
}

impl<T: Transport> Device<T> {
    fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        self.capabilities.device.read(&self.transport, offset)
    }

    pub(super) fn read_limits(&mut self) -> Result<(), Error> {
        let max_queues = u32::from_le_bytes(self.config(MAX_VHOST_QUEUES));
        let max_message_size = u32::from_le_bytes(self.config(MAX_MESSAGE_SIZE));
        let bad = |field, value: u32| Error::BadConfiguration {
            field,
            value: value.into(),
        };
        if max_queues == 0 || max_queues > MOST_QUEUES {
            return Err(bad("max_vhost_queues", max_queues));
        }
        if max_message_size < LEAST_MESSAGE_SIZE {
            return Err(bad("max_message_size", max_message_size));
        }
        self.max_queues = max_queues as u16;
        self.max_message_size = max_message_size.min(BUFFER_LEN) as usize;
        let state_piece = u32::from_le_bytes(self.config(MAX_MIGRATION_MESSAGE_SIZE));
        self.state_piece = match self.queues.len() > MESSAGE_QUEUES {
            true => state_piece.min(BUFFER_LEN) as usize,
            false => 0,
        };
        // The last doorbell is that of the log.
        if !self.capabilities.doorbells.has(2 * self.max_queues) {
            return Err(Error::BadCapability("doorbells"));
        }
        Ok(())
    }

    /// Reads DEVICE_NEEDS_RESET and the status field.
    ///
    /// These are register accesses, which leave the virtual machine: look
    /// when [`Events::config`](super::Events::config) says so.
    pub fn status(&self) -> Status {
        let needs_reset = self.common().status() & common::NEEDS_RESET != 0;
        let status = u16::from_le_bytes(self.config(STATUS));
        Status {
            needs_reset,
            backend_up: status & STATUS_BACKEND_UP != 0,
            frontend_up: status & STATUS_FRONTEND_UP != 0,
        }
    }

    /// Sets BACKEND_UP: the device accepts a frontend from now on. With
    /// `false`, a frontend that is connected is disconnected, and the device
    /// needs a reset.
    ///
    /// Returns whether the device took it; it does not while it needs a reset
    /// or has no [device type](Self::set_device_type).
    pub fn set_backend_up(&self, up: bool) -> bool {
        let status = if up { STATUS_BACKEND_UP } else { 0 };
        let device = &self.capabilities.device;
        device.write(&self.transport, STATUS, status.to_le_bytes());
        self.status().backend_up == up
    }

    /// The virtio type of the device that the frontend's guest sees, or 0 if
    /// any will do.
    pub fn device_type(&self) -> u16 {
        u16::from_le_bytes(self.config(DEVICE_TYPE))
    }

    /// States that the backend is a device of `device_type`; to be done
    /// after each reset, before [`set_backend_up`](Self::set_backend_up).
    ///
    /// # Errors
    ///
    /// If the device is meant for another type.
    pub fn set_device_type(&self, device_type: u16) -> Result<(), Error> {
        if self.device_type() == 0 {
            let device = &self.capabilities.device;
            device.write(&self.transport, DEVICE_TYPE, device_type.to_le_bytes());
        }
        match self.device_type() {
            device if device == device_type => Ok(()),
            device => Err(Error::WrongDeviceType {
                device,
                backend: device_type,
            }),
        }
    }

    /// Names the service that the device is for; nil if it has no name.
    pub fn uuid(&self) -> Result<[u8; 16], Error> {
        for _ in 0..GENERATION_TRIES {
            let before = self.common().generation();
            let mut uuid = [0; 16];
            for (offset, word) in (UUID..).step_by(4).zip(uuid.chunks_exact_mut(4)) {
                word.copy_from_slice(&self.config::<4>(offset));
            }
            if self.common().generation() == before {
                return Ok(uuid);
            }
        }
        Err(Error::BadConfiguration {
            field: "config_generation",
            value: self.common().generation().into(),
        })
    }
}
