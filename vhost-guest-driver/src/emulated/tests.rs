// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::sync::Mutex;

use super::*;

/// A function with the given writable bits in its six BARs.
struct Bars {
    masks: [u32; 6],
    flags: [u32; 6],
    values: Mutex<[u32; 6]>,
}

impl Bars {
    fn new(masks: [u32; 6], flags: [u32; 6]) -> Arc<Self> {
        Arc::new(Self {
            masks,
            flags,
            values: Mutex::new([0; 6]),
        })
    }
}

impl Bus for Bars {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let i = usize::from((offset - BAR0) / 4);
        data.copy_from_slice(&(self.values.lock().unwrap()[i] | self.flags[i]).to_le_bytes());
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        if offset == COMMAND {
            return;
        }
        let i = usize::from((offset - BAR0) / 4);
        let value = u32::from_le_bytes(data.try_into().unwrap());
        self.values.lock().unwrap()[i] = value & self.masks[i];
    }

    fn bar_read(&self, _: u8, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&self, _: u8, _: u64, _: &[u8]) {}
}

struct NoInterrupts;

impl Interrupts for NoInterrupts {
    fn message(&self, vector: u16) -> MsiMessage {
        MsiMessage {
            address: 0xfee0_0000,
            data: u32::from(vector),
        }
    }

    fn wait(&self, _: Option<Duration>) -> VectorSet {
        VectorSet::new()
    }

    fn wake(&self) {}
}

fn platform(bus: Arc<Bars>) -> Platform {
    Platform {
        bus,
        interrupts: Arc::new(NoInterrupts),
        ram: Window::allocate(8 * 4096).unwrap(),
        ram_address: 0x1_0000,
        shared_memory: Window::allocate(0x1_0000).unwrap(),
        mmio_address: 0x1_2345_6000,
    }
}

#[test]
fn places_wide_bars_at_multiples_of_their_length() {
    let bus = Bars::new(
        [0xffff_c000, !0, 0xffff_0000, !0, 0xffff_0000, !0],
        [0x4, 0, 0x4, 0, 0xc, 0],
    );
    let transport = Emulated::new(platform(bus.clone())).unwrap();
    assert_eq!(
        [0, 2, 4].map(|b| transport.bar_len(b)),
        [0x4000, 0x1_0000, 0x1_0000]
    );
    assert_eq!([1, 3, 5, 6].map(|b| transport.bar_len(b)), [0; 4]);
    let values = *bus.values.lock().unwrap();
    assert_eq!(values, [0x2345_8000, 1, 0x2346_0000, 1, 0x2347_0000, 1]);
}

#[test]
fn rejects_bars_that_have_no_place() {
    let bus = Bars::new([0, 0, 0, 0, 0, 0xffff_0000], [0; 6]);
    assert_eq!(
        Emulated::new(platform(bus)).err(),
        Some(EmulatedError::NoAddress(5))
    );
    let bus = Bars::new([0, 0x8000_0000, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]);
    let mut high = platform(bus);
    high.mmio_address = 1 << 63 | 1;
    assert_eq!(Emulated::new(high).err(), Some(EmulatedError::NoAddress(0)));
}

#[test]
fn ignores_bars_with_senseless_bits() {
    let bus = Bars::new([0xf0f0_0000, 0xffff_f000, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]);
    let transport = Emulated::new(platform(bus)).unwrap();
    assert_eq!([0, 1].map(|b| transport.bar_len(b)), [0, 0]);
}

#[test]
fn allocates_pages_until_there_are_no_more() {
    let transport = Emulated::new(platform(Bars::new([0; 6], [0; 6]))).unwrap();
    assert_eq!(transport.allocate_dma(1).unwrap().address, 0x1_0000);
    let second = transport.allocate_dma(4097).unwrap();
    assert_eq!((second.address, second.memory.len()), (0x1_1000, 8192));
    assert!(transport.allocate_dma(usize::MAX).is_none());
    assert!(transport.allocate_dma(6 * 4096).is_none());
    assert!(transport.allocate_dma(5 * 4096).is_some());
    assert!(transport.allocate_dma(1).is_none());
}

#[test]
fn opens_windows_only_inside_the_shared_memory_bar() {
    let bus = Bars::new([0, 0, 0, 0, 0xffff_8000, !0], [0, 0, 0, 0, 0xc, 0]);
    let transport = Emulated::new(platform(bus)).unwrap();
    assert!(transport.window(4, 0, 0x8000).is_some());
    assert!(transport.window(4, 0, 0x8001).is_none());
    assert!(transport.window(4, 8, u64::MAX).is_none());
    assert!(transport.window(0, 0, 1).is_none());
}
