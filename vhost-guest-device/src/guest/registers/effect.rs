// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What follows from an access, for the device's core to carry out.

use crate::error::RegisterFault;
use crate::guest::interrupts::ArmFailure;
use crate::guest::pci::BarMove;

/// One consequence of a register access.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The driver asked for a device reset. It is done when the core calls
    /// [`Registers::reset`](super::Registers::reset); `device_status` reads
    /// non-zero until then.
    Reset,
    /// The function is reset, by the guest or by the VMM. The PCI side of it is
    /// done; the rest is a device reset, done as for [`Effect::Reset`].
    FunctionReset,
    /// The driver has set `DRIVER_OK`: the queues may be used.
    DriverOk,
    /// The driver has enabled a queue, possibly before `DRIVER_OK`.
    QueueEnabled(u16),
    /// The driver asked for the reset of a queue. It is done when the core
    /// calls [`Registers::queue_reset_done`](super::Registers::queue_reset_done).
    QueueReset(u16),
    /// A queue notification has reached userspace.
    QueueNotified(u16),
    /// The driver has changed `BACKEND_UP`.
    BackendUp(bool),
    /// The function has been allowed or forbidden to access memory.
    BusMaster,
    /// BARs are decoded elsewhere now.
    BarMoves(Vec<BarMove>),
    /// A doorbell was rung through userspace.
    DoorbellRung,
    /// The guest broke a rule.
    GuestFault(RegisterFault),
    /// Interrupts that should be armed are not. They are tried again at the
    /// next change of a mask.
    InterruptsFailed(Vec<ArmFailure>),
}
