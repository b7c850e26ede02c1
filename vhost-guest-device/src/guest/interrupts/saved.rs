// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts in a snapshot (see [`crate::guest::snapshot`]).
//!
//! An event of the device's own that nobody was told of waits in its eventfd,
//! and is part of it. A kick is not: the frontend that made it is gone.

use std::io;

use super::{Event, Interrupts, Line, LineFd, ISR_CONFIG, ISR_QUEUE};
use crate::guest::pci::msix::Table;
use crate::guest::snapshot::{ensure, flag, Damage, EventRecord};
use crate::guest::virtio::NO_VECTOR;

/// Interrupts that were read from a snapshot.
pub(crate) struct SavedInterrupts {
    isr: u8,
    table: Table,
    /// The vector of each event, and whether it waits to be raised.
    events: Vec<(u16, bool)>,
}

impl Interrupts {
    /// The ISR status, which stays as it is.
    pub(crate) fn isr(&self) -> u8 {
        self.isr
    }

    /// Events and MSI-X table.
    pub(crate) fn save(&self) -> (Vec<EventRecord>, Vec<u8>) {
        let event = |line: &Line| EventRecord {
            vector: line.vector.into(),
            pending: u8::from(!line.is_kick() && line.is_pending()),
            zero: 0,
        };
        let events = self.lines.iter().map(event).collect();
        (events, self.msix.save())
    }

    /// Checks what a snapshot says.
    pub(crate) fn parse(
        &self,
        events: &[EventRecord],
        table: &[u8],
        isr: u8,
    ) -> Result<SavedInterrupts, Damage> {
        ensure(isr & !(ISR_QUEUE | ISR_CONFIG) == 0, Damage::IsrStatus)?;
        let mut parsed = Vec::with_capacity(events.len());
        for (line, record) in self.lines.iter().zip(events) {
            let vector = record.vector.get();
            let mapped = vector < self.msix.vectors();
            ensure(mapped || vector == NO_VECTOR, Damage::Vector)?;
            let pending = flag(record.pending, Damage::Pending)?;
            let possible = mapped && !line.is_kick();
            ensure(possible || !pending, Damage::Pending)?;
            ensure(record.zero == 0, Damage::EventReserved)?;
            parsed.push((vector, pending));
        }
        ensure(parsed.len() == self.lines.len(), Damage::Events)?;
        Ok(SavedInterrupts {
            isr,
            table: self.msix.parse(table)?,
            events: parsed,
        })
    }

    /// Takes over what a snapshot says. Nothing has a vector before this, and
    /// interrupts are held back.
    ///
    /// # Errors
    ///
    /// The VMM has not enough sources.
    pub(crate) fn restore(
        &mut self,
        saved: SavedInterrupts,
        control: u16,
        bus_master: bool,
    ) -> io::Result<()> {
        self.isr = saved.isr;
        self.msix.restore(saved.table);
        self.msix.set_control(control);
        self.bus_master = bus_master;
        for (at, (vector, pending)) in saved.events.into_iter().enumerate() {
            let Some(line) = self.lines.get_mut(at).filter(|_| vector != NO_VECTOR) else {
                continue;
            };
            line.source = Some(self.wires.create_source()?);
            line.vector = vector;
            if let (true, Some(LineFd::Own(fd))) = (pending, &line.eventfd) {
                rustix::io::write(fd, &1_u64.to_ne_bytes())?;
            }
        }
        Ok(())
    }
}

impl Line {
    fn is_kick(&self) -> bool {
        matches!(self.event, Event::Kick(_))
    }
}
