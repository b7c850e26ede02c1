// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What follows from an access, for the device to carry out.

use crate::error::RegisterFault;
use crate::guest::interrupts::ArmFailure;
use crate::guest::pci::BarMove;

/// One consequence of a register access.
#[derive(Debug)]
pub(crate) enum Effect {
    /// A device reset was asked for, by itself or with the whole function. It is
    /// done by [`Registers::reset`](super::Registers::reset); `device_status` reads
    /// non-zero until then.
    Reset,
    /// Whoever serves the frontend has to look at the registers: at the status, at
    /// queues that were enabled or are to be reset, at `BACKEND_UP` or Bus Master.
    Look,
    /// The guest has ended the connection: it has to reset the device.
    Lost,
    /// Interrupts may have to be armed or disarmed
    /// ([`Registers::sync_some_interrupts`](super::Registers::sync_some_interrupts)).
    Interrupts,
    /// An interrupt that should be armed is not. It is tried again at the
    /// next change of a mask.
    NotArmed(ArmFailure),
    /// A queue notification has reached userspace.
    QueueNotified(u16),
    /// BARs are decoded elsewhere now.
    BarMoves(Vec<BarMove>),
    /// A doorbell was rung through userspace.
    DoorbellRung,
    /// The guest broke a rule.
    GuestFault(RegisterFault),
}
