// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The whole function, as a guest sees it through configuration space and BARs.

mod hostile;
mod resets;

use vhost_guest_vmm_traits::test_utils::TestVmm;

use super::testing::{take, wait, Peer};
use super::*;
use crate::fd::EventFd;
use crate::guest::doorbells::Doorbell;
use crate::guest::pci::BarMove;
use crate::guest::virtio::{feature, NO_VECTOR};
use crate::sync::Epochs;

const BARS: [u64; 3] = [0xE000_0000, 0xE001_0000, 0x40_0000_0000];
const VRINGS: u16 = 8;

fn setup() -> Setup {
    Setup {
        properties: Properties {
            max_vhost_queues: VRINGS,
            max_message_size: 4096,
            max_migration_message_size: 0,
            max_chained_rx_descriptors: 1,
            max_chained_tx_descriptors: 1,
            uuid: [7; 16],
            device_type: 0,
        },
        virtqueues: 4,
        max_queue_size: 64,
        window_size: 1 << 30,
        features: feature::offered(false),
    }
}

struct Guest {
    vmm: Arc<TestVmm>,
    peer: Peer,
    registers: Registers,
}

impl Guest {
    /// After power-up.
    fn new() -> Self {
        let vmm = Arc::new(TestVmm::new());
        let peer = Peer::new();
        let signaller = Arc::clone(&peer.signaller);
        let registers =
            Registers::new(&setup(), vmm.clone(), Some(vmm.clone()), signaller).unwrap();
        Guest {
            vmm,
            peer,
            registers,
        }
    }

    /// BARs placed, bus master, MSI-X on with each vector unmasked and its
    /// number as data.
    fn placed() -> Self {
        let mut guest = Self::new();
        for (n, address) in (0..).zip(BARS) {
            let address = u64::to_le_bytes(address);
            for half in 0..2 {
                let data = &address[usize::from(half) * 4..][..4];
                let offset = 0x10 + n * 8 + half * 4;
                assert!(guest.registers.config_write(offset, data).is_empty());
            }
        }
        guest.config(0x04, 2, 0b110);
        guest.config(0xD6, 2, 0x8000);
        for vector in 0..u64::from(bars::vectors(VRINGS)) {
            guest.write(0, MSIX_TABLE + vector * 16 + 8, 4, vector);
            guest.write(0, MSIX_TABLE + vector * 16 + 12, 4, 0);
        }
        guest
    }

    /// Placed, features accepted, `DRIVER_OK`.
    fn running() -> Self {
        let mut guest = Self::placed();
        for half in 0..2 {
            guest.write(0, COMMON + 0x08, 4, half);
            let features = feature::offered(false) >> (32 * half) & 0xFFFF_FFFF;
            guest.write(0, COMMON + 0x0C, 4, features);
        }
        guest.write(0, COMMON + 0x14, 1, 11);
        let effect = guest.write(0, COMMON + 0x14, 1, 15);
        assert!(matches!(effect, Some(Effect::Look)));
        assert!(guest.registers.is_running());
        guest
    }

    /// Writes configuration space and moves BARs as a VMM does.
    fn config(&mut self, offset: u16, length: usize, value: u32) -> Vec<Effect> {
        let data = value.to_le_bytes();
        let effects = self.registers.config_write(offset, &data[..length]);
        for moved in moves(&effects) {
            self.registers.moved(moved.bar, moved.address).unwrap();
        }
        assert!(self.registers.sync_all_interrupts().is_empty());
        effects
    }

    fn config_dword(&mut self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.registers.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, bar: u8, offset: u64, length: usize, value: u64) -> Option<Effect> {
        let data = value.to_le_bytes();
        let effect = self.registers.bar_write(bar, offset, &data[..length]);
        assert!(self.registers.sync_all_interrupts().is_empty());
        effect
    }

    fn read(&mut self, bar: u8, offset: u64, length: usize) -> u64 {
        let mut data = [0; 8];
        self.registers.bar_read(bar, offset, &mut data[..length]);
        u64::from_le_bytes(data)
    }

    /// The data of the messages that are armed, ascending.
    fn armed(&self) -> Vec<u32> {
        let mut armed: Vec<u32> = self.vmm.armed().iter().map(|(_, m)| m.data).collect();
        armed.sort_unstable();
        armed
    }

    fn connect(&mut self, vring: u16) -> [EventFd; 2] {
        let fds = [self.peer.eventfd(), self.peer.eventfd()];
        let [kick, call] = fds.clone();
        self.registers.set_kick(vring, Some(kick)).unwrap();
        let doorbell = Doorbell::Call(vring);
        self.registers.set_doorbell(doorbell, Some(call)).unwrap();
        fds
    }

    /// How often the configuration change interrupt, on vector 0, was raised.
    fn config_changes(&self) -> u64 {
        let armed = self
            .vmm
            .armed_with(vhost_guest_vmm_traits::MsiMessage::default());
        armed.iter().map(take).sum()
    }
}

/// What the rest of the device does in pieces.
impl Registers {
    /// A BAR moves, with all that is in it.
    fn moved(&mut self, bar: u8, address: Option<u64>) -> Result<(), ServiceError> {
        self.bar_moved(bar, address);
        let mut outcome = Ok(());
        loop {
            match self.move_some_eventfds(Deadline::passed()) {
                Ok(true) => {}
                Ok(false) => return outcome,
                Err(error @ ServiceError::Dead(_)) => return Err(error),
                Err(error) => outcome = Err(error),
            }
        }
    }

    fn sync_all_interrupts(&mut self) -> Vec<ArmFailure> {
        let mut all = Vec::new();
        loop {
            let (failures, more) = self.sync_some_interrupts();
            all.extend(failures);
            if !more {
                return all;
            }
        }
    }

    /// The frontend is gone.
    fn detach_frontend(&mut self) -> Result<(), ServiceError> {
        let epochs = Epochs::default();
        self.frontend = Some(epochs.current());
        let now = epochs.raise();
        while self.detach_some(now, Deadline::passed())? {}
        Ok(())
    }
}

fn moves(effects: &[Effect]) -> Vec<BarMove> {
    let mut all = Vec::new();
    for effect in effects {
        if let Effect::BarMoves(moves) = effect {
            all.extend(moves);
        }
    }
    all
}

/// Queue notification addresses of the placed device.
fn notify_addresses() -> Vec<u64> {
    (0..4).map(|queue| BARS[0] + NOTIFY + queue * 4).collect()
}

#[test]
fn decodes_nothing_while_memory_space_is_off() {
    let mut guest = Guest::new();
    assert_eq!(guest.read(0, COMMON, 4), 0xFFFF_FFFF);
    assert!(guest.write(0, COMMON + 0x14, 1, 0).is_none());
    guest.config(0x04, 2, 2);
    assert_eq!(guest.read(0, COMMON + 0x12, 2), 4);
    guest.write(0, COMMON + 0x14, 1, 1);
    assert_eq!(guest.read(0, COMMON + 0x14, 1), 1);
}

#[test]
fn moves_doorbells_and_notifications_with_their_bars() {
    let mut guest = Guest::placed();
    guest.connect(1);
    let at = |notify: Vec<u64>, bell: u64| [notify, vec![bell]].concat();
    assert_eq!(guest.vmm.doorbells(), at(notify_addresses(), BARS[1] + 4));
    let effects = guest.config(0x04, 2, 0);
    assert_eq!(moves(&effects).len(), 3);
    assert!(guest.vmm.doorbells().is_empty());
    assert!(guest.config(0x18, 4, 0xF000_0000).is_empty());
    guest.connect(1);
    assert!(guest.vmm.doorbells().is_empty());
    guest.config(0x04, 2, 2);
    assert_eq!(guest.vmm.doorbells(), at(notify_addresses(), 0xF000_0004));
}

#[test]
fn follows_a_vmm_that_assigns_addresses_itself() {
    let mut guest = Guest::new();
    guest.registers.moved(2, Some(BARS[1])).unwrap();
    guest.registers.moved(7, Some(BARS[1])).unwrap();
    assert_eq!(guest.config_dword(0x18), BARS[1] as u32 | 4);
    guest.connect(0);
    assert!(guest.vmm.doorbells().is_empty());
    let effects = guest.config(0x04, 2, 2);
    let expected = BarMove {
        bar: 2,
        address: Some(BARS[1]),
    };
    assert_eq!(moves(&effects), [expected]);
    assert_eq!(guest.vmm.doorbells(), [BARS[1]]);
}

#[test]
fn raises_nothing_while_not_a_bus_master() {
    let mut guest = Guest::running();
    guest.write(0, COMMON + 0x10, 2, 0);
    guest.write(0, DRIVER_AUX, 4, 3 << 16 | 1);
    guest.connect(1);
    assert_eq!(guest.armed(), [0, 3]);
    let effects = guest.config(0x04, 2, 2);
    assert!(matches!(effects[..], [Effect::Interrupts, Effect::Look]));
    assert!(!guest.registers.bus_master());
    assert!(guest.armed().is_empty());
    guest.config(0x04, 2, 6);
    assert_eq!(guest.armed(), [0, 3]);
}

#[test]
fn selects_kicks_and_maps_their_vectors() {
    let mut guest = Guest::running();
    assert_eq!(guest.read(0, DRIVER_AUX, 4), 0xFFFF_0000);
    guest.write(0, DRIVER_AUX, 2, 7);
    guest.write(0, DRIVER_AUX + 2, 2, 14);
    assert_eq!(guest.read(0, DRIVER_AUX, 4), 14 << 16 | 7);
    guest.write(0, DRIVER_AUX, 4, 2 << 16 | 6);
    assert_eq!(guest.read(0, DRIVER_AUX + 2, 2), 2);
    guest.write(0, DRIVER_AUX, 2, 7);
    assert_eq!(guest.read(0, DRIVER_AUX + 2, 2), 14);
    // There are 1 + 6 + 8 vectors.
    guest.write(0, DRIVER_AUX + 2, 2, 15);
    assert_eq!(guest.read(0, DRIVER_AUX + 2, 2), 0xFFFF);
}

#[test]
fn reads_no_vector_and_ignores_writes_with_an_invalid_kick_select() {
    let mut guest = Guest::running();
    for select in [8, 9, 0x8000, 0xFFFF] {
        guest.write(0, DRIVER_AUX, 4, 1 << 16 | select);
        assert_eq!(guest.read(0, DRIVER_AUX, 4), 0xFFFF_0000 | select);
        guest.write(0, DRIVER_AUX + 2, 2, 1);
        assert_eq!(guest.read(0, DRIVER_AUX + 2, 2), 0xFFFF);
    }
    assert_eq!(guest.vmm.source_count(), 0);
    // Bytes and odd places are no registers.
    guest.write(0, DRIVER_AUX, 2, 1);
    guest.write(0, DRIVER_AUX + 2, 1, 1);
    guest.write(0, DRIVER_AUX + 1, 2, 1);
    guest.write(0, DRIVER_AUX, 8, 1);
    assert_eq!(guest.read(0, DRIVER_AUX, 4), 0xFFFF_0001);
}

#[test]
fn notices_queue_notifications_in_userspace() {
    let mut guest = Guest::running();
    for queue in 0..4 {
        for length in [1, 2, 4, 8] {
            let effect = guest.write(0, NOTIFY + queue * 4, length, 99);
            let expected = queue as u16;
            assert!(matches!(effect, Some(Effect::QueueNotified(q)) if q == expected));
        }
        guest.registers.notify_queue(queue as u16);
        assert_eq!(take(&guest.registers.queue_eventfds()[queue as usize]), 1);
    }
    assert!(guest.write(0, NOTIFY + 2, 2, 0).is_none());
    assert!(guest.write(0, NOTIFY + 16, 2, 0).is_none());
    assert_eq!(guest.read(0, NOTIFY, 2), 0);
}

#[test]
fn rings_doorbells_in_userspace() {
    let mut guest = Guest::running();
    let [_, call] = guest.connect(2);
    assert!(matches!(
        guest.write(2, 8, 2, 0),
        Some(Effect::DoorbellRung)
    ));
    assert_eq!(wait(&call), 1);
    assert!(guest.write(2, 9, 2, 0).is_none());
    assert!(guest.write(2, 12, 2, 0).is_none());
    assert_eq!(guest.read(2, 8, 4), 0);
}

#[test]
fn keeps_out_of_the_window() {
    let mut guest = Guest::running();
    assert_eq!(guest.read(4, 0x1000, 4), 0xFFFF_FFFF);
    assert!(guest.write(4, 0x1000, 4, 1).is_none());
    assert_eq!(guest.read(1, 0, 4), 0xFFFF_FFFF);
    assert_eq!(guest.read(9, 0, 4), 0xFFFF_FFFF);
}

#[test]
fn reaches_the_bars_by_way_of_pci_cfg() {
    // Firmware uses it before the BARs have addresses.
    let mut guest = Guest::new();
    let access = |guest: &mut Guest, bar, offset, length| {
        guest.config(0xC4, 1, bar);
        guest.config(0xC8, 4, offset);
        guest.config(0xCC, 4, length);
    };
    access(&mut guest, 0, 0x12, 2);
    assert_eq!(guest.config_dword(0xD0) & 0xFFFF, 4);
    access(&mut guest, 0, 0x2010, 4);
    assert_eq!(guest.config_dword(0xD0), 0x0707_0707);
    access(&mut guest, 0, 0x3008, 2);
    let effects = guest.config(0xD0, 4, 2);
    assert!(matches!(effects[..], [Effect::QueueNotified(2)]));
    let [_, call] = guest.connect(0);
    access(&mut guest, 2, 0, 2);
    assert!(matches!(
        guest.config(0xD0, 2, 0)[..],
        [Effect::DoorbellRung]
    ));
    assert_eq!(wait(&call), 1);
    // The window is not for it, nor is what it does not allow.
    for (bar, offset, length) in [(4, 0, 4), (5, 0, 4), (0, 1, 2), (0, 0, 3), (0, 0, 0)] {
        access(&mut guest, bar, offset, length);
        assert_eq!(guest.config_dword(0xD0), 0xFFFF_FFFF);
        assert!(guest.config(0xD0, 4, 0).is_empty());
    }
}

#[test]
fn follows_backend_and_frontend_through_their_life() {
    let mut guest = Guest::running();
    guest.write(0, COMMON + 0x10, 2, 0);
    let up = guest.write(0, DEVICE + 32, 4, 0x0001_0002);
    assert!(matches!(up, Some(Effect::Look)));
    assert_eq!(
        (guest.registers.device_type(), guest.config_changes()),
        (2, 0)
    );
    guest.registers.set_frontend_up(true);
    guest.registers.set_frontend_up(true);
    assert_eq!(
        (guest.read(0, DEVICE + 34, 2), guest.config_changes()),
        (3, 1)
    );
    // The frontend is lost.
    assert!(guest.registers.set_needs_reset());
    assert!(!guest.registers.set_needs_reset());
    assert_eq!(
        (guest.read(0, DEVICE + 34, 2), guest.config_changes()),
        (0, 1)
    );
    assert_eq!(guest.read(0, COMMON + 0x14, 1), 0x4F);
    assert!(!guest.registers.is_running() && guest.registers.needs_reset());
    assert!(guest.write(0, DEVICE + 34, 1, 1).is_none());
    assert!(!guest.registers.backend_up());
}

#[test]
fn raises_no_interrupt_before_driver_ok() {
    let mut guest = Guest::placed();
    guest.write(0, COMMON + 0x10, 2, 0);
    guest.write(0, DEVICE + 32, 4, 0x0001_0002);
    guest.registers.set_frontend_up(true);
    guest.registers.set_needs_reset();
    assert_eq!(guest.config_changes(), 0);
}

#[test]
fn raises_an_interrupt_when_the_drivers_own_write_ends_in_a_loss() {
    let mut guest = Guest::running();
    guest.write(0, COMMON + 0x10, 2, 0);
    guest.write(0, DEVICE + 32, 4, 0x0001_0002);
    let down = guest.write(0, DEVICE + 34, 1, 0);
    assert!(matches!(down, Some(Effect::Look)));
    assert_eq!(guest.config_changes(), 0);
    guest.registers.set_needs_reset();
    assert_eq!(guest.config_changes(), 1);
}

#[test]
fn shows_a_new_generation_after_a_change_that_could_be_torn() {
    let mut guest = Guest::running();
    let before = guest.read(0, COMMON + 0x15, 1);
    guest.read(0, DEVICE + 32, 2);
    guest.registers.set_frontend_up(true);
    assert_ne!(guest.read(0, COMMON + 0x15, 1), before);
}

#[test]
fn signals_queues_and_shows_what_waits() {
    let mut guest = Guest::running();
    guest.write(0, COMMON + 0x16, 2, 1);
    guest.write(0, COMMON + 0x1A, 2, 9);
    guest.write(0, MSIX_TABLE + 9 * 16 + 12, 4, 1);
    guest.registers.signal_queue(1);
    assert_eq!(guest.read(0, MSIX_PENDING, 8), 1 << 9);
    assert_eq!(guest.read(0, MSIX_PENDING + 1, 1), 2);
    guest.write(0, MSIX_TABLE + 9 * 16 + 12, 4, 0);
    assert_eq!(guest.read(0, MSIX_PENDING, 8), 0);
    guest.config(0xD6, 2, 0);
    guest.registers.signal_queue(1);
    assert_eq!((guest.read(0, ISR, 1), guest.read(0, ISR, 4)), (1, 0));
}
