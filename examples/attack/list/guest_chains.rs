// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest, behind a virtual IOMMU, posts chains of 16 descriptors of 4 MiB,
//! all of whose pages have to be translated one by one, and its frontend sends
//! as much as it can.

use std::io;
use std::thread;
use std::time::Duration;

use vhost_guest_driver::emulated::Platform;
use vhost_guest_driver::{Window, WindowError};
use vhost_guest_msg::frontend as code;

use super::Attack;
use crate::attack::attacker::{Attacker, Kept, Strike};
use crate::attack::frontend::PLAIN;
use crate::attack::guest::Guest;
use crate::attack::machine::{Setup, DEVICE_STATUS, NOTIFY, REPEATED};
use crate::attack::stage::Stage;
use crate::loopback::failure::{Context, Failure};
use crate::wire::{message, send};

pub const ATTACK: Attack = Attack {
    name: "guest-chains",
    what: "a guest whose buffers are a million pages to translate",
    unprivileged: false,
    knob: None,
    setup: Setup {
        iommu: true,
        ..Setup::PLAIN
    },
    guest: posts_chains,
    prepare: |_| Ok(Box::new(Flood)),
};

/// Messages in one piece.
const BATCH: usize = 64;

/// A frontend that sends what needs no answer, as fast as it goes.
struct Flood;

impl Strike for Flood {
    fn strike(&mut self, attacker: &Attacker) -> io::Result<Kept> {
        let frontend = attacker.connect()?;
        frontend.socket.set_nonblocking(true)?;
        let batch = message(code::SET_OWNER, PLAIN, &[]).repeat(BATCH);
        let mut rest: &[u8] = &[];
        attacker.arm();
        while !attacker.is_told() {
            if rest.is_empty() {
                rest = &batch;
            }
            match send(&frontend.socket, rest, &[]) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }
}

/// Entries of queue 0, and of one chain.
const QUEUE_SIZE: u16 = 64;
const CHAIN: u16 = 16;
/// Length of each descriptor.
const LENGTH: u32 = 4 << 20;
/// Length of each descriptor of a guest that behaves: one page in all.
const MODEST: u32 = 256;
/// Where the parts of queue 0 are, in the guest's memory.
const DESCRIPTORS: u64 = 0;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Registers of the common configuration (virtio 1.2 §4.1.4.3), in BAR 0.
const FEATURE_SELECT: u64 = 0x08;
const FEATURES: u64 = 0x0C;
const QUEUE_SELECT: u64 = 0x16;
const SIZE: u64 = 0x18;
const ENABLE: u64 = 0x1C;
const ADDRESSES: [u64; 3] = [0x20, 0x28, 0x30];
/// VERSION_1 and ACCESS_PLATFORM, in the upper half.
const UPPER: u32 = 3;
/// `BACKEND_UP` is in this register.
const UP: u64 = 0x2000 + 34;
/// Configuration space: command register, memory space and bus master.
const COMMAND: u16 = 0x04;
const ON: [u8; 2] = [6, 0];
const BAR0: u16 = 0x10;
const NEEDS_RESET: u8 = 64;
const PAUSE: Duration = Duration::from_micros(50);

/// A guest that only posts chains.
fn posts_chains(stage: &Stage, mut guest: Guest, hostile: bool) -> Result<Guest, Failure> {
    let machine = match stage {
        Stage::Device(machine) => machine,
        Stage::Double(double) => {
            let double = double.clone();
            guest.add_vcpu(move |_| {
                if hostile {
                    double.translate_chains();
                }
                thread::sleep(PAUSE);
            });
            return Ok(guest);
        }
    };
    // Its driver does it no longer.
    guest.end();
    let platform = machine.platform().context("memory of the guest")?;
    place_bars(&platform);
    let mut driver = Driver {
        platform,
        length: match hostile {
            true => LENGTH,
            false => MODEST,
        },
        avail_idx: 0,
    };
    driver.start().map_err(|e| Failure::Guest(e.to_string()))?;
    let mut guest = Guest::without_driver(false);
    guest.add_vcpu(move |faults| {
        if let Err(error) = driver.post() {
            faults.add(error.to_string());
        }
        thread::sleep(PAUSE);
    });
    Ok(guest)
}

/// What firmware does.
fn place_bars(platform: &Platform) {
    let bus = &platform.bus;
    for (number, address) in (0_u16..).zip([1_u64 << 40, 1 << 41, 1 << 42]) {
        let register = BAR0 + 8 * number;
        bus.config_write(register, &(address as u32).to_le_bytes());
        bus.config_write(register + 4, &((address >> 32) as u32).to_le_bytes());
    }
    bus.config_write(COMMAND, &ON);
}

struct Driver {
    platform: Platform,
    length: u32,
    avail_idx: u16,
}

impl Driver {
    fn write(&self, register: u64, value: &[u8]) {
        self.platform.bus.bar_write(0, register, value);
    }

    fn start(&mut self) -> Result<(), WindowError> {
        for status in [0_u8, 1, 3] {
            self.write(DEVICE_STATUS, &[status]);
        }
        self.write(FEATURE_SELECT, &1_u32.to_le_bytes());
        self.write(FEATURES, &UPPER.to_le_bytes());
        self.write(DEVICE_STATUS, &[11]);
        self.avail_idx = 0;
        // The others are enabled, and empty.
        for queue in 0..4_u16 {
            self.enable(queue)?;
        }
        self.write(DEVICE_STATUS, &[15]);
        self.write(UP, &[1]);
        Ok(())
    }

    fn enable(&self, queue: u16) -> Result<(), WindowError> {
        let (ram, base) = (&self.platform.ram, 0x1_0000 * u64::from(queue));
        for offset in (0..0x3000).step_by(8) {
            ram.store_le(base + offset, 0_u64)?;
        }
        if queue == 0 {
            self.chain(ram)?;
        }
        self.write(QUEUE_SELECT, &queue.to_le_bytes());
        self.write(SIZE, &QUEUE_SIZE.to_le_bytes());
        let parts = [DESCRIPTORS, AVAIL, USED];
        for (register, part) in ADDRESSES.iter().zip(parts) {
            let address = self.platform.ram_address + base + part;
            self.write(*register, &(address as u32).to_le_bytes());
            self.write(register + 4, &((address >> 32) as u32).to_le_bytes());
        }
        self.write(ENABLE, &1_u16.to_le_bytes());
        Ok(())
    }

    /// One chain, which all entries of the available ring name.
    fn chain(&self, ram: &Window) -> Result<(), WindowError> {
        for index in 0..CHAIN {
            let at = DESCRIPTORS + 16 * u64::from(index);
            let more = if index + 1 < CHAIN { NEXT } else { 0 };
            ram.store_le(at, REPEATED)?;
            ram.store_le(at + 8, self.length)?;
            ram.store_le(at + 12, WRITE | more)?;
            ram.store_le(at + 14, index + 1)?;
        }
        Ok(())
    }

    /// All buffers that were used are available again.
    fn post(&mut self) -> Result<(), WindowError> {
        let mut status = [0];
        self.platform.bus.bar_read(0, DEVICE_STATUS, &mut status);
        if status[0] & NEEDS_RESET != 0 {
            return self.start();
        }
        let used_idx: u16 = self.platform.ram.load_le(USED + 2)?;
        let avail_idx = used_idx.wrapping_add(QUEUE_SIZE - 1);
        if avail_idx != self.avail_idx {
            self.avail_idx = avail_idx;
            self.platform.ram.store_le(AVAIL + 2, avail_idx)?;
            self.write(NOTIFY, &[0; 2]);
        }
        Ok(())
    }
}
