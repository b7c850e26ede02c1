// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts of the device, and the wait for them.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;

use super::Device;
use crate::common::NO_VECTOR;
use crate::transport::{InterruptMode, Transport};
use crate::vectors::{VectorSet, MAX_VECTORS};

/// Vectors of the configuration change and of the queues; those of the kicks
/// come behind.
const CONFIG_VECTOR: u16 = 0;
const QUEUE_VECTORS: u16 = 1;

/// How many waits pass between two looks at the status of a device that does
/// not interrupt. Queues and vrings are memory; but the status is a register,
/// and to read one takes an exit to the VMM.
const STATUS_WAITS: u8 = 31;

/// Which vector each event of the device raises.
#[derive(Default)]
pub(super) struct Vectors {
    /// How many vectors there are.
    count: u16,
    kicks: Vec<u16>,
    /// Some events raise no interrupt.
    pub polling: bool,
    /// Waits that are left until the status is polled again.
    waits: AtomicU8,
}

impl Vectors {
    /// Whether it is time to poll the status of the device again.
    fn status_is_due(&self) -> bool {
        let waits = self.waits.load(Ordering::Relaxed);
        let due = waits == 0;
        let next = if due { STATUS_WAITS } else { waits - 1 };
        self.waits.store(next, Ordering::Relaxed);
        due
    }

    /// The vector for an event; the last one is shared by all that have none
    /// of their own.
    fn vector(&self, wanted: u16) -> u16 {
        match self.count.checked_sub(1) {
            Some(last) => wanted.min(last),
            None => NO_VECTOR,
        }
    }

    pub fn queue(&self, queue: u16) -> u16 {
        self.vector(QUEUE_VECTORS + queue)
    }
}

/// What may have happened since the last [`Device::wait`].
///
/// Events that share a vector, or have none, come together: look and see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// The status may have changed.
    pub config: bool,
    /// There may be messages or device state, or room for some.
    pub messages: bool,
    raised: VectorSet,
    all: bool,
}

impl Events {
    /// Everything may have happened.
    pub const fn all() -> Self {
        Self {
            config: true,
            messages: true,
            raised: VectorSet::new(),
            all: true,
        }
    }

    /// What is named may have happened, and the kicks of the vrings in
    /// `kicks`; for a [`Port`](crate::Port) that numbers them so.
    pub const fn new(config: bool, messages: bool, kicks: VectorSet) -> Self {
        Self {
            config,
            messages,
            raised: kicks,
            all: false,
        }
    }

    /// Whether everything may have happened.
    pub const fn are_all(&self) -> bool {
        self.all
    }

    /// The kicks, or whatever the [`Port`](crate::Port) numbers.
    pub const fn raised(&self) -> &VectorSet {
        &self.raised
    }
}

impl<T: Transport> Device<T> {
    fn queue_count(&self) -> u16 {
        // Six at most.
        self.queues.len() as u16
    }

    /// Maps the events of the device to vectors.
    ///
    /// Too few vectors are shared; a vector that the device does not take
    /// means polling. Neither is an error.
    pub(super) fn set_up_vectors(&mut self) {
        let kicks = self.max_queues;
        let kick_vectors = QUEUE_VECTORS + self.queue_count();
        let table = self.capabilities.msix.map_or(0, |msix| msix.vectors());
        let wanted = (kick_vectors + kicks).min(table).min(MAX_VECTORS);
        let mode = match wanted {
            0 => InterruptMode::Polling,
            wanted => self.transport.interrupts(wanted),
        };
        let count = match mode {
            InterruptMode::Polling => 0,
            InterruptMode::Table { vectors }
            | InterruptMode::Platform { vectors }
            | InterruptMode::Unheard { vectors } => vectors.min(wanted),
        };
        let unheard = matches!(mode, InterruptMode::Unheard { .. });
        let mut vectors = Vectors {
            count,
            kicks: Vec::new(),
            polling: count == 0 || unheard,
            waits: AtomicU8::new(0),
        };
        let written = unheard || matches!(mode, InterruptMode::Table { .. });
        if let Some(msix) = self.capabilities.msix.filter(|_| written) {
            let transport = &self.transport;
            msix.enable(transport, (0..count).map(|v| transport.msi_message(v)));
        }
        let config = vectors.vector(CONFIG_VECTOR);
        vectors.polling |= !self.common().set_config_vector(config);
        for kick in 0..kicks {
            let vector = vectors.vector(kick_vectors + kick);
            vectors.polling |= !self.set_kick_vector(kick, vector);
            vectors.kicks.push(vector);
        }
        self.vectors = vectors;
    }

    /// Maps the kick of a vring to a vector; whether the device took it.
    /// One 32-bit write selects and maps (vhost-guest specification, driver
    /// auxiliary notifications: { le16 select; le16 msix_vector }).
    fn set_kick_vector(&self, kick: u16, vector: u16) -> bool {
        let kicks = &self.capabilities.kicks;
        let value = u32::from(kick) | u32::from(vector) << 16;
        kicks.write(&self.transport, 0, value.to_le_bytes());
        u16::from_le_bytes(kicks.read(&self.transport, 2)) == vector
    }

    /// Waits until something may have happened, somebody
    /// [woke](crate::Wake) the driver, or `timeout` (`None`: for ever) has
    /// passed.
    pub fn wait(&self, timeout: Option<Duration>) -> Events {
        if self.vectors.polling {
            let interval = self.transport.poll_interval();
            let timeout = timeout.map_or(interval, |timeout| timeout.min(interval));
            let raised = self.transport.wait(Some(timeout));
            let told = raised.contains(self.vectors.vector(CONFIG_VECTOR));
            return Events {
                config: self.vectors.status_is_due() || told,
                ..Events::all()
            };
        }
        let raised = self.transport.wait(timeout);
        Events {
            config: raised.contains(self.vectors.vector(CONFIG_VECTOR)),
            messages: (0..self.queue_count())
                .any(|queue| raised.contains(self.vectors.queue(queue))),
            raised,
            all: false,
        }
    }

    /// Whether vring `index` may have been kicked.
    pub fn kicked(&self, events: &Events, index: u16) -> bool {
        let vector = self.vectors.kicks.get(usize::from(index));
        events.all || vector.is_some_and(|vector| events.raised.contains(*vector))
    }

    /// Whether the driver must look at the device from time to time because
    /// some of its events raise no interrupt.
    pub fn is_polling(&self) -> bool {
        self.vectors.polling
    }
}
