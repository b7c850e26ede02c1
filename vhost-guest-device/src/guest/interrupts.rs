// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which eventfd raises which interrupt, and when.
//!
//! Each event of the device (a configuration change, a queue, a kick) is a
//! *line*: an eventfd, a vector, and a source of the VMM's. Any event may be
//! mapped to any vector, several to one (vhost-guest specification, PCI
//! layout). A line's source exists while the line has a vector, and it is
//! armed exactly while all of these hold:
//!
//! ```text
//!   the function is a bus master ─┐
//!   MSI-X is enabled ─────────────┤
//!   the function is not masked ───┼─▶ armed: eventfd ──▶ message of the vector
//!   the vector is not masked ─────┤
//!   the line has a vector ────────┤
//!   the line has an eventfd ──────┤  (a kick's comes and goes)
//!   the device is not paused ─────┘
//! ```
//!
//! Whatever changes one of them for many lines is followed by calls of
//! [`Interrupts::sync_some`], which compares what is armed with what should be,
//! and makes the difference, for a batch of lines at a time: whoever has a use
//! for the registers' lock need not wait for all of them.
//! What could not be armed is tried again at the next occasion.
//!
//! A masked line keeps its events in its eventfd. That makes the pending bits:
//! a masked vector is pending if one of its eventfds is readable. Arming
//! raises what waited, disarming drains it: each event is delivered once.

mod event;
mod line;
mod saved;
mod wires;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use rustix::event::{eventfd, EventfdFlags};
use vhost_guest_vmm_traits::{InterruptManager, MsiMessage};

use crate::fd::{EventFd, Signaller};
use crate::guest::pci::bars;
use crate::guest::pci::msix::Msix;
use crate::guest::virtio::NO_VECTOR;
use crate::host;
use crate::vmm::services::ServiceError;
pub(crate) use event::{ArmFailure, Event};
use line::{readable, Line, LineFd};
pub(crate) use saved::SavedInterrupts;
use wires::{Broken, Wires};

/// Lines that are armed or disarmed in one step. A VMM may have one message to
/// its main process for all of them, or a system call for each.
const BATCH: usize = 32;

/// ISR status: a queue has changed.
const ISR_QUEUE: u8 = 1;
/// ISR status: the configuration has changed.
const ISR_CONFIG: u8 = 2;

/// All interrupts of the device, with the MSI-X table that steers them.
pub(crate) struct Interrupts {
    wires: Wires,
    signaller: Arc<Signaller>,
    msix: Msix,
    bus_master: bool,
    paused: bool,
    isr: u8,
    virtqueues: u16,
    /// Configuration change, then virtqueues, then kicks.
    lines: Vec<Line>,
}

impl Interrupts {
    /// Interrupts of a device with so many virtqueues and vrings.
    ///
    /// # Errors
    ///
    /// No descriptor is left for the device's own eventfds.
    pub(crate) fn new(
        manager: Arc<dyn InterruptManager>,
        signaller: Arc<Signaller>,
        virtqueues: u16,
        vrings: u16,
    ) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let own = |event| -> io::Result<Line> {
            Ok(Line::new(
                event,
                Some(LineFd::Own(host::ask(|| eventfd(0, flags))?)),
            ))
        };
        let mut lines = vec![own(Event::Config)?];
        for queue in 0..virtqueues {
            lines.push(own(Event::Queue(queue))?);
        }
        lines.extend((0..vrings).map(|vring| Line::new(Event::Kick(vring), None)));
        Ok(Interrupts {
            wires: Wires::new(manager),
            signaller,
            msix: Msix::new(bars::vectors(vrings)),
            bus_master: false,
            paused: false,
            isr: 0,
            virtqueues,
            lines,
        })
    }

    /// The eventfds that the device signals itself.
    pub(crate) fn own_eventfds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.lines.iter().filter_map(|line| match &line.eventfd {
            Some(LineFd::Own(fd)) => Some(fd.as_raw_fd()),
            _ => None,
        })
    }

    fn index(&self, event: Event) -> Option<usize> {
        let index = match event {
            Event::Config => 0,
            Event::Queue(queue) if queue < self.virtqueues => 1 + usize::from(queue),
            Event::Queue(_) => return None,
            Event::Kick(vring) => 1 + usize::from(self.virtqueues) + usize::from(vring),
        };
        (index < self.lines.len()).then_some(index)
    }

    /// The vector of an event; `NO_VECTOR` if it has none or does not exist.
    pub(crate) fn vector(&self, event: Event) -> u16 {
        self.index(event)
            .map_or(NO_VECTOR, |at| self.lines[at].vector)
    }

    /// The message that a line should raise now.
    fn wanted(&self, line: &Line) -> Option<MsiMessage> {
        let live = self.bus_master && !self.paused;
        let ready = live && line.eventfd.is_some() && line.source.is_some();
        self.msix.message(line.vector).filter(|_| ready)
    }

    /// Maps an event to a vector. Returns what the driver reads back: the
    /// vector, or `NO_VECTOR` if that is what was asked for, if there is no
    /// such vector or event, or if the VMM cannot do it.
    pub(crate) fn set_vector(&mut self, event: Event, vector: u16) -> u16 {
        self.map(event, vector);
        self.vector(event)
    }

    /// The same for the kick of a vring. That a frontend's eventfd cannot be
    /// armed is not the driver's affair: the vector stays, and the failure is
    /// returned.
    #[must_use]
    pub(crate) fn set_kick_vector(&mut self, vring: u16, vector: u16) -> Option<ArmFailure> {
        self.map(Event::Kick(vring), vector)
    }

    fn map(&mut self, event: Event, vector: u16) -> Option<ArmFailure> {
        let at = self.index(event)?;
        if vector >= self.msix.vectors() {
            self.unmap(at);
            return None;
        }
        if self.lines[at].source.is_none() {
            self.lines[at].source = self.wires.create_source().ok();
        }
        self.lines[at].source?;
        self.lines[at].vector = vector;
        let error = self.sync_line(at).err()?;
        let failure = ArmFailure { event, error };
        if failure.bad_kick().is_some() {
            return Some(failure);
        }
        self.unmap(at);
        None
    }

    /// Takes a line's vector away, and what waited for it.
    fn unmap(&mut self, at: usize) {
        let line = &mut self.lines[at];
        line.vector = NO_VECTOR;
        if line.source.is_none() {
            return;
        }
        let disarmed = self.wires.disarm(line.armed().as_slice());
        // Even what may be armed still has nothing to tell any more.
        line.drain();
        if disarmed.is_err() {
            return;
        }
        line.armed = None;
        if let Some(source) = line.source.take() {
            self.wires.destroy_source(source);
        }
    }

    /// Makes one line what it should be; on an error it is not armed.
    fn sync_line(&mut self, at: usize) -> io::Result<()> {
        let wanted = self.wanted(&self.lines[at]);
        let line = &mut self.lines[at];
        if line.armed == wanted {
            return Ok(());
        }
        self.wires.disarm(line.armed().as_slice())?;
        let arming = wanted.and_then(|message| line.arming(message));
        let outcome = self.wires.arm(arming.as_slice());
        line.armed = wanted.filter(|_| outcome.is_ok());
        outcome
    }

    /// All lines may be something else than what they should be.
    fn changed(&mut self) {
        for at in 0..self.lines.len() {
            let wanted = self.wanted(&self.lines[at]);
            let line = &mut self.lines[at];
            line.unsettled = line.armed != wanted;
        }
    }

    /// Makes a batch of lines what they should be. Tells which could not be
    /// armed, and whether there are more.
    ///
    /// A line that the VMM refuses must not take the others with it: it may be
    /// a frontend's eventfd that is at fault. Then each is tried by itself.
    #[must_use]
    pub(crate) fn sync_some(&mut self) -> (Vec<ArmFailure>, bool) {
        let unsettled = (0..self.lines.len()).filter(|at| self.lines[*at].unsettled);
        let batch: Vec<usize> = unsettled.take(BATCH).collect();
        for at in &batch {
            self.lines[*at].unsettled = false;
        }
        let more = self.lines.iter().any(|line| line.unsettled);
        (self.sync(&batch), more)
    }

    /// Makes some lines what they should be, in one step.
    fn sync(&mut self, lines: &[usize]) -> Vec<ArmFailure> {
        let mut wrong = Vec::new();
        let (mut disarm, mut arm) = (Vec::new(), Vec::new());
        for at in lines.iter().copied() {
            let line = &self.lines[at];
            let wanted = self.wanted(line);
            if line.armed != wanted {
                wrong.push((at, wanted));
                disarm.extend(line.armed());
                arm.extend(wanted.and_then(|message| line.arming(message)));
            }
        }
        if self.wires.disarm(&disarm).is_err() {
            return Vec::new();
        }
        let outcome = self.wires.arm(&arm);
        drop((disarm, arm));
        let mut failures = Vec::new();
        for (at, wanted) in wrong {
            self.lines[at].armed = wanted.filter(|_| outcome.is_ok());
            // Disarmed now in any case; what is left is to arm.
            if let Err(error) = self.sync_line(at) {
                let event = self.lines[at].event;
                failures.push(ArmFailure { event, error });
            }
        }
        failures
    }

    /// Bus master bit of the command register: without it the function raises
    /// no interrupt.
    pub(crate) fn set_bus_master(&mut self, bus_master: bool) {
        self.bus_master = bus_master;
        self.changed();
    }

    /// While the VMM has paused the device, what happens waits in the
    /// eventfds: the VMM may save its interrupt controller at any time.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.changed();
    }

    /// MSI-X message control.
    pub(crate) fn set_control(&mut self, control: u16) {
        self.msix.set_control(control);
        self.changed();
    }

    /// Reads from the MSI-X table.
    pub(crate) fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.msix.read_table(offset, data);
    }

    /// Writes to the MSI-X table. Tells whether that can make a difference.
    pub(crate) fn write_table(&mut self, offset: u64, data: &[u8]) -> bool {
        let written = self.msix.write_table(offset, data);
        if written {
            self.changed();
        }
        written
    }

    /// The number of vectors.
    pub(crate) fn vectors(&self) -> u16 {
        self.msix.vectors()
    }

    /// An entry of the MSI-X table, from a VMM that keeps the table itself.
    pub(crate) fn set_entry(&mut self, vector: u16, message: Option<MsiMessage>) {
        self.msix.set_entry(vector, message);
        self.changed();
    }

    /// Reads from the MSI-X pending bits.
    pub(crate) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let masked = |line: &&Line| self.msix.masked(line.vector) && line.armed.is_none();
        let (vectors, eventfds): (Vec<u16>, Vec<BorrowedFd<'_>>) = self
            .lines
            .iter()
            .filter(masked)
            .filter_map(|line| Some((line.vector, line.eventfd.as_ref()?.as_fd())))
            .filter(|(vector, _)| *vector != NO_VECTOR)
            .unzip();
        let readable = readable(&eventfds);
        let pending: Vec<u16> = vectors
            .into_iter()
            .zip(readable)
            .filter_map(|(vector, readable)| readable.then_some(vector))
            .collect();
        self.msix
            .read_pending(offset, data, |vector| pending.contains(&vector));
    }

    /// Whether any event has a vector, or waits to be read from the ISR status.
    pub(crate) fn has_vectors(&self) -> bool {
        self.isr != 0 || self.lines.iter().any(|line| line.source.is_some())
    }

    /// Reads the ISR status, which clears it.
    pub(crate) fn take_isr(&mut self) -> u8 {
        std::mem::take(&mut self.isr)
    }

    /// Raises one of the device's own interrupts: now, or when it is unmasked.
    ///
    /// Without MSI-X there is only the ISR status to look at: the function
    /// has no interrupt pin. A configuration change shows in it in any case
    /// (virtio 1.2 §4.1.4.5.1).
    pub(crate) fn signal(&mut self, event: Event) {
        let msix = self.msix.enabled();
        self.isr |= match event {
            Event::Config => ISR_CONFIG,
            Event::Queue(_) if !msix => ISR_QUEUE,
            Event::Queue(_) | Event::Kick(_) => 0,
        };
        if !msix {
            return;
        }
        let line = self.index(event).map(|at| &self.lines[at]);
        let mapped = line.filter(|line| line.vector != NO_VECTOR);
        if let Some(LineFd::Own(fd)) = mapped.and_then(|line| line.eventfd.as_ref()) {
            // Fails if the counter is full: then it is signalled already.
            let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
        }
    }

    /// Connects the kick of a vring to an eventfd of the frontend's, in place
    /// of the one before, or disconnects it. Kicks that waited behind a mask
    /// move to the new eventfd.
    ///
    /// # Errors
    ///
    /// There is no such vring, or the VMM cannot do it. Then the eventfd
    /// before is still connected.
    pub(crate) fn attach_kick(
        &mut self,
        vring: u16,
        kick: Option<EventFd>,
    ) -> Result<(), ServiceError> {
        let missing = || ServiceError::Refused(io::ErrorKind::InvalidInput.into());
        let at = self.index(Event::Kick(vring)).ok_or_else(missing)?;
        let old = &self.lines[at];
        let mut new = Line {
            eventfd: kick.clone().map(LineFd::Foreign),
            vector: old.vector,
            source: old.source,
            owed: old.owed || old.is_pending(),
            ..Line::new(old.event, None)
        };
        new.armed = self.wanted(&new);
        if let Err(broken) = self.wires.disarm(old.armed().as_slice()) {
            return Err(ServiceError::Dead(broken.into()));
        }
        let arming = new.armed.and_then(|message| new.arming(message));
        if let Err(error) = self.wires.arm(arming.as_slice()) {
            self.lines[at].armed = None;
            // If not even this succeeds, the next sync tries again.
            let _ = self.sync_line(at);
            return Err(ServiceError::Refused(error));
        }
        let old = std::mem::replace(&mut self.lines[at], new);
        self.forget(&old);
        match kick {
            Some(kick) if self.lines[at].owed => {
                self.signaller.signal(&kick);
            }
            Some(_) => {}
            None => self.lines[at].owed = false,
        }
        Ok(())
    }

    fn forget(&self, line: &Line) {
        if let Some(LineFd::Foreign(fd)) = &line.eventfd {
            self.signaller.forget(fd);
        }
    }

    /// Disconnects a batch of kicks: their frontend is gone. Tells whether there
    /// were any.
    ///
    /// # Errors
    ///
    /// They may be armed still. They are kept, to be tried again.
    pub(crate) fn detach_some_kicks(&mut self) -> Result<bool, Broken> {
        let first = 1 + usize::from(self.virtqueues);
        let connected = (first..self.lines.len()).filter(|at| self.lines[*at].eventfd.is_some());
        let batch: Vec<usize> = connected.take(BATCH).collect();
        self.disarm(&batch)?;
        for at in batch.iter().copied() {
            self.forget(&self.lines[at]);
            self.lines[at].eventfd = None;
            self.lines[at].owed = false;
        }
        Ok(!batch.is_empty())
    }

    /// Disarms some lines, in one step.
    fn disarm(&mut self, lines: &[usize]) -> Result<(), Broken> {
        let armed = lines.iter().filter_map(|at| self.lines[*at].armed());
        let armed: Vec<_> = armed.collect();
        self.wires.disarm(&armed)?;
        drop(armed);
        for at in lines {
            self.lines[*at].armed = None;
        }
        Ok(())
    }

    /// What went wrong beyond repair since the last call: an eventfd may still
    /// raise interrupts that it should not raise. The device is dead.
    pub(crate) fn take_broken(&self) -> Option<io::Error> {
        self.wires.take_broken()
    }

    /// Takes the vectors of a batch of events. Tells whether there were any, and
    /// the VMM did it.
    pub(crate) fn unmap_some(&mut self) -> bool {
        let mapped = (0..self.lines.len()).filter(|at| self.lines[*at].source.is_some());
        let batch: Vec<usize> = mapped.take(BATCH).collect();
        let disarmed = self.disarm(&batch).is_ok();
        for at in batch.iter().filter(|_| disarmed) {
            self.unmap(*at);
        }
        disarmed && !batch.is_empty()
    }

    /// Device reset: no event has a vector, no kick is connected, nothing
    /// waits. The MSI-X table is the function's and stays.
    pub(crate) fn reset(&mut self) {
        while self.unmap_some() {}
        for at in 0..self.lines.len() {
            self.unmap(at);
        }
        while let Ok(true) = self.detach_some_kicks() {}
        self.isr = 0;
    }

    /// Function level reset: MSI-X and bus mastering are off.
    pub(crate) fn function_reset(&mut self) {
        self.msix.reset();
        self.bus_master = false;
        self.changed();
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests;
