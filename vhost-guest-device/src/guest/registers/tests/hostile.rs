// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any accesses in any order: no panic, and what is armed and registered is
//! always what the registers, read back, say it should be.

use std::collections::BTreeSet;

use proptest::prelude::*;
use vhost_guest_vmm_traits::MsiMessage;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    ConfigRead(u16, usize),
    ConfigWrite(u16, Vec<u8>),
    Read(u8, u64, usize),
    Write(u8, u64, Vec<u8>),
    Kick(u16, bool),
    Doorbell(u16, bool),
    FrontendLost,
    NeedsReset,
    FrontendUp(bool),
    QueueResetDone(u16),
    Signal(u16),
    /// Makes the n-th call to the VMM from here fail.
    Fail(usize),
}

/// Values that mean something in some register, besides any value.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        0_u64..20,
        Just(0xFFFF_FFFF_FFFF_FFFF),
        Just(0xE000_0000),
        Just(0x8000),
        any::<u64>(),
    ];
    let width =
        prop_oneof![4 => Just(2_usize), 4 => Just(4), 2 => Just(1), 1 => Just(8), 1 => 0..9_usize];
    (value, width).prop_map(|(value, width)| value.to_le_bytes()[..width].to_vec())
}

/// Places near registers, besides any place.
fn place() -> impl Strategy<Value = u64> {
    let start = prop::sample::select(vec![
        COMMON,
        ISR,
        DEVICE,
        NOTIFY,
        DRIVER_AUX,
        MSIX_TABLE,
        MSIX_PENDING,
    ]);
    prop_oneof![
        20 => (start, 0..0x40_u64).prop_map(|(start, at)| start + at),
        10 => (0..16_u64, 0..4_u64).prop_map(|(vector, word)| MSIX_TABLE + vector * 16 + word * 4),
        10 => prop::sample::select(vec![DRIVER_AUX, DRIVER_AUX + 2, DEVICE + 32, DEVICE + 34]),
        10 => prop::sample::select(vec![0x10, 0x14, 0x16, 0x1A, 0x1C, 0x3A_u64]),
        1 => any::<u64>(),
    ]
}

fn config_place() -> impl Strategy<Value = u16> {
    prop_oneof![
        prop::sample::select(vec![0x04, 0xD6, 0xC4, 0xC8, 0xCC, 0xD0, 0xE4_u16]),
        0x10..0x28_u16,
        0..0x110_u16,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let bar = prop_oneof![8 => Just(0_u8), 2 => Just(2), 1 => any::<u8>()];
    prop_oneof![
        1 => (config_place(), 0..9_usize).prop_map(|(at, n)| Step::ConfigRead(at, n)),
        6 => (config_place(), data()).prop_map(|(at, data)| Step::ConfigWrite(at, data)),
        // Without these two little would happen.
        3 => Just(Step::ConfigWrite(0x04, vec![6, 0])),
        3 => Just(Step::ConfigWrite(0xD6, vec![0, 0x80])),
        2 => (bar.clone(), place(), 0..9_usize).prop_map(|(bar, at, n)| Step::Read(bar, at, n)),
        20 => (bar, place(), data()).prop_map(|(bar, at, data)| Step::Write(bar, at, data)),
        6 => (0..10_u16, 0..16_u64).prop_map(|(kick, vector)| {
            let data = [kick.to_le_bytes(), (vector as u16).to_le_bytes()].concat();
            Step::Write(0, DRIVER_AUX, data)
        }),
        6 => (0..16_u64).prop_map(|v| Step::Write(0, MSIX_TABLE + v * 16 + 12, vec![0; 4])),
        6 => (0..10_u16, any::<bool>()).prop_map(|(kick, fd)| Step::Kick(kick, fd)),
        6 => (0..20_u16, any::<bool>()).prop_map(|(bell, fd)| Step::Doorbell(bell, fd)),
        1 => Just(Step::FrontendLost),
        1 => Just(Step::NeedsReset),
        1 => any::<bool>().prop_map(Step::FrontendUp),
        1 => (0..5_u16).prop_map(Step::QueueResetDone),
        1 => (0..5_u16).prop_map(Step::Signal),
        1 => (0..4_usize).prop_map(Step::Fail),
    ]
}

/// A guest and a frontend that do anything, and what they have set up.
struct World {
    guest: Guest,
    kicks: BTreeSet<u16>,
    bells: BTreeSet<u64>,
    /// Where the doorbells and the queue notifications are.
    bell_base: Option<u64>,
    notify_base: Option<u64>,
    /// A failure was ordered: what is armed may be less than it should be.
    failed: bool,
    /// Something is still connected that should not be. The core declares the
    /// device dead, and resets it.
    dead: bool,
}

fn bell(index: u16) -> Doorbell {
    match index {
        0..8 => Doorbell::Call(index),
        8..16 => Doorbell::Err(index - 8),
        16 => Doorbell::Log,
        _ => Doorbell::Call(index),
    }
}

impl World {
    fn new() -> Self {
        World {
            guest: Guest::placed(),
            kicks: BTreeSet::new(),
            bells: BTreeSet::new(),
            bell_base: Some(BARS[1]),
            notify_base: Some(BARS[0] + NOTIFY),
            failed: false,
            dead: false,
        }
    }

    fn frontend_gone(&mut self) {
        self.kicks.clear();
        self.bells.clear();
    }

    /// The outcome of something that must not fail.
    fn promised(&mut self, outcome: Result<(), ServiceError>) {
        assert!(outcome.is_ok() || self.failed);
        self.dead |= outcome.is_err();
    }

    /// Does what the core does.
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reset => {
                    let outcome = self.guest.registers.reset();
                    self.frontend_gone();
                    self.promised(outcome);
                }
                Effect::BarMoves(moves) => moves.into_iter().for_each(|moved| self.moved(moved)),
                Effect::Interrupts => {
                    let failures = self.guest.registers.sync_all_interrupts();
                    assert!(failures.is_empty() || self.failed);
                }
                Effect::NotArmed(_) => assert!(self.failed),
                _ => {}
            }
        }
    }

    fn moved(&mut self, moved: BarMove) {
        let outcome = self.guest.registers.moved(moved.bar, moved.address);
        assert!(outcome.is_ok() || self.failed);
        let address = moved.address.filter(|_| outcome.is_ok());
        match moved.bar {
            0 => self.notify_base = address.map(|address| address + NOTIFY),
            2 => self.bell_base = address,
            bar => assert_eq!(bar, 4),
        }
    }

    fn step(&mut self, step: Step) {
        let mut data = [0; 16];
        let eventfd = |fd: bool| fd.then(|| self.guest.peer.eventfd());
        match step {
            Step::ConfigRead(at, n) => self.guest.registers.config_read(at, &mut data[..n]),
            Step::ConfigWrite(at, data) => {
                let effects = self.guest.registers.config_write(at, &data);
                self.carry_out(effects);
            }
            Step::Read(bar, at, n) => self.guest.registers.bar_read(bar, at, &mut data[..n]),
            Step::Write(bar, at, data) => {
                let resets = (bar, at) == (0, COMMON + 0x14) && data == [0];
                if resets && self.guest.registers.is_untouched() {
                    // It is done at once.
                    self.frontend_gone();
                }
                let effect = self.guest.registers.bar_write(bar, at, &data);
                self.carry_out(effect.into_iter().collect());
            }
            Step::Kick(kick, fd) => {
                let outcome = self.guest.registers.set_kick(kick, eventfd(fd));
                assert!(outcome.is_ok() || kick >= VRINGS || self.failed);
                match (outcome, fd) {
                    (Ok(()), true) => self.kicks.insert(kick),
                    (Ok(()), false) => self.kicks.remove(&kick),
                    (Err(_), _) => false,
                };
            }
            Step::Doorbell(index, fd) => {
                let outcome = self.guest.registers.set_doorbell(bell(index), eventfd(fd));
                assert!(outcome.is_ok() || index > 16 || self.failed);
                match (outcome, fd) {
                    (Ok(()), true) => self.bells.insert(u64::from(index)),
                    (Ok(()), false) => self.bells.remove(&u64::from(index)),
                    (Err(_), _) => false,
                };
            }
            Step::FrontendLost => {
                let outcome = self.guest.registers.detach_frontend();
                self.frontend_gone();
                self.promised(outcome);
            }
            Step::NeedsReset => drop(self.guest.registers.set_needs_reset()),
            Step::FrontendUp(up) => self.guest.registers.set_frontend_up(up),
            Step::QueueResetDone(queue) => self.guest.registers.queue_reset_done(queue),
            Step::Signal(queue) => self.guest.registers.signal_queue(queue),
            Step::Fail(n) => {
                self.failed = true;
                self.guest.vmm.fail_nth(n, io::ErrorKind::OutOfMemory);
            }
        }
    }

    /// What should be armed, from what the guest reads back.
    fn expected_interrupts(&mut self) -> Vec<MsiMessage> {
        let registers = &mut self.guest.registers;
        let mut config = [0; 0x100];
        // Not the access window: reading it has effects.
        registers.config_read(0, &mut config[..0xD0]);
        registers.config_read(0xD4, &mut config[0xD4..]);
        let (command, control) = (config[0x04], config[0xD7]);
        let mut table = [0; 15 * 16];
        registers.read_bar(0, MSIX_TABLE, &mut table);
        let mut events = vec![Event::Config];
        events.extend((0..4).map(Event::Queue));
        events.extend(self.kicks.iter().map(|kick| Event::Kick(*kick)));
        let vectors = events
            .iter()
            .map(|event| registers.interrupts.vector(*event));
        let message = |vector: u16| -> Option<MsiMessage> {
            let entry = table.get(usize::from(vector) * 16..)?.get(..16)?;
            let live = command & 4 != 0 && control & 0xC0 == 0x80 && entry[12] == 0;
            live.then(|| MsiMessage {
                address: u64::from_le_bytes(entry[..8].try_into().unwrap()),
                data: u32::from_le_bytes(entry[8..12].try_into().unwrap()),
            })
        };
        vectors.filter_map(message).collect()
    }

    fn expected_doorbells(&self) -> Vec<u64> {
        let bells = self.bell_base.into_iter();
        let bells = bells.flat_map(|base| self.bells.iter().map(move |index| base + index * 4));
        let notify = self.notify_base.into_iter();
        let notify = notify.flat_map(|base| (0..4).map(move |queue| base + queue * 4));
        let mut all: Vec<u64> = bells.chain(notify).collect();
        all.sort_unstable();
        all
    }

    fn check(&mut self) {
        let key = |message: &MsiMessage| (message.address, message.data);
        let mut expected = self.expected_interrupts();
        let armed = self.guest.vmm.armed();
        let mut armed: Vec<MsiMessage> = armed.into_iter().map(|(_, m)| m).collect();
        expected.sort_by_key(key);
        armed.sort_by_key(key);
        let doorbells = self.guest.vmm.doorbells();
        if self.failed {
            // Never more than there should be.
            for message in armed {
                let at = expected.iter().position(|m| *m == message);
                expected.remove(at.expect("armed, and should be"));
            }
        } else {
            assert_eq!(armed, expected);
            assert_eq!(doorbells, self.expected_doorbells());
        }
        let registers = &self.guest.registers;
        assert!(!registers.backend_up() || !registers.needs_reset());
        assert!(registers.features() & !feature::offered(false) == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keeps_what_is_armed_in_step_with_the_registers(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            let interrupts = world.guest.registers.check_interrupts();
            if world.dead || interrupts.is_err() {
                break;
            }
            world.check();
        }
        // Whatever has failed, a reset ends everything.
        let vmm = Arc::clone(&world.guest.vmm);
        vmm.clear_failure();
        world.guest.registers.reset().unwrap();
        assert_eq!((vmm.source_count(), vmm.armed().len()), (0, 0));
        drop(world);
        assert!(vmm.doorbells().is_empty());
    }
}
