// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where accesses that leave KVM go.

use std::io::{self, Write};
use std::sync::Mutex;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::lock;
use super::pci::{PciBus, CONFIG_ADDRESS, CONFIG_DATA};

/// First port of the serial console, COM1.
pub(super) const SERIAL: u16 = 0x3F8;
/// Interrupt line of COM1.
pub(super) const SERIAL_LINE: u32 = 4;
/// Command and status port of a keyboard controller; this VMM has one only to
/// be reset.
pub(super) const KEYBOARD: u16 = 0x64;
/// The keyboard controller's command that pulls the reset line.
pub(super) const PULL_RESET: u8 = 0xFE;
/// Status of a keyboard controller that takes a command.
const READY: u8 = 0;
/// Reset control register of chipsets, beside the PCI address register.
const RESET_CONTROL: u16 = 0xCF9;
/// Its bit that resets the processor.
const RESET_PROCESSOR: u8 = 1 << 2;
/// Sleep control and status registers, as the ACPI tables describe them.
pub(super) const POWER: u16 = 0x600;
/// `SLP_EN` of the sleep control register: whatever the type, it is power-off.
const SLEEP: u8 = 1 << 5;

/// The serial console's interrupt.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The serial console, and where it prints.
type Console = Serial<Line, NoEvents, Box<dyn Write + Send>>;

/// What a guest access means beyond itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest resets the machine or powers it off; either is the end.
    End,
}

/// I/O ports and memory-mapped registers.
#[derive(Default)]
pub struct Bus {
    pci: Mutex<PciBus>,
    serial: Mutex<Option<Console>>,
}

impl Bus {
    /// The PCI bus.
    pub fn pci(&self) -> impl std::ops::DerefMut<Target = PciBus> + '_ {
        lock(&self.pci)
    }

    /// Adds a serial console that prints to `output`.
    pub fn add_serial(&self, line: EventFd, output: Box<dyn Write + Send>) {
        *lock(&self.serial) = Some(Serial::new(Line(line), output));
    }

    /// Types something on the serial console. Returns how much of it fits.
    pub fn type_in(&self, input: &[u8]) -> usize {
        let mut serial = lock(&self.serial);
        let typed = serial.as_mut().map(|serial| {
            let room = serial.fifo_capacity().min(input.len());
            let input = input.get(..room).unwrap_or_default();
            serial.enqueue_raw_bytes(input).unwrap_or(0)
        });
        typed.unwrap_or(input.len())
    }

    /// The guest reads a port; all ones where nothing is.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xFF);
        match port {
            SERIAL..0x400 => {
                if let (Some(serial), [byte, ..]) = (&mut *lock(&self.serial), data) {
                    *byte = serial.read((port - SERIAL) as u8);
                }
            }
            CONFIG_ADDRESS if data.len() == 4 => {
                data.copy_from_slice(&self.pci().address_register().to_le_bytes());
            }
            CONFIG_DATA..0xD00 => self.pci().read_data(port - CONFIG_DATA, data),
            // Linux waits for it, ten times and 65536 exits each, before it
            // resets the machine.
            KEYBOARD => data.fill(READY),
            _ => {}
        }
    }

    /// The guest writes a port.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Effect {
        match (port, data) {
            (SERIAL..0x400, data) => {
                if let Some(serial) = &mut *lock(&self.serial) {
                    for byte in data {
                        // What cannot be printed is lost, as on a wire.
                        let _ = serial.write((port - SERIAL) as u8, *byte);
                    }
                }
            }
            (CONFIG_ADDRESS, &[a, b, c, d]) => {
                *self.pci().address_register() = u32::from_le_bytes([a, b, c, d]);
            }
            (CONFIG_DATA..0xD00, data) => self.pci().write_data(port - CONFIG_DATA, data),
            (KEYBOARD, &[PULL_RESET]) => return Effect::End,
            (RESET_CONTROL, &[value]) if value & RESET_PROCESSOR != 0 => return Effect::End,
            (POWER, &[value]) if value & SLEEP != 0 => return Effect::End,
            _ => {}
        }
        Effect::None
    }

    /// The guest reads where there is no memory; all ones where nothing is.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        // Found first, asked then: other vCPUs can use the bus meanwhile.
        let hit = self.pci().find(address);
        match hit {
            Some(hit) => hit.function.bar_read(hit.bar, hit.offset, data),
            None => data.fill(0xFF),
        }
    }

    /// The guest writes where there is no memory.
    pub fn write(&self, address: u64, data: &[u8]) {
        let hit = self.pci().find(address);
        if let Some(hit) = hit {
            hit.function.bar_write(hit.bar, hit.offset, data);
        }
    }

    /// A vCPU could not access memory that should be there. Tells whether a
    /// device has taken it away: then the vCPU can try again.
    pub fn memory_fault(&self, address: Option<u64>) -> bool {
        let functions: Vec<_> = self.pci().functions().cloned().collect();
        // Whose file has become shorter is known; who else it may have been is not.
        let mut truncated = false;
        for function in &functions {
            truncated |= function.memory_truncated();
        }
        truncated || functions.iter().any(|f| f.memory_fault(address))
    }
}
