// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ends of a guest: each way in which Linux resets or powers off a machine.

use std::sync::Arc;

use vhost_guest_examples::kvm::vcpu::{Ending, Vcpu};
use vhost_guest_examples::kvm::Machine;
use vm_memory::{Bytes, GuestAddress};

use crate::rig::{machine, settle};

const CODE: u64 = 0x10_0000;
/// What stays behind the code: a processor that gets there does not end.
const HALT: [u8; 3] = [0xF4, 0xEB, 0xFD];

/// The vCPU has to end by itself.
fn expect_end(vcpu: Vcpu, what: &str) {
    settle(what, || vcpu.has_ended());
    assert_eq!(vcpu.wait().unwrap(), Ending::Guest, "{what}");
}

/// Runs code in 64-bit mode.
fn run(machine: &Machine, code: &[u8], what: &str) {
    let code = [code, &HALT].concat();
    let at = GuestAddress(CODE);
    machine.memory().write_slice(&code, at).unwrap();
    expect_end(machine.start(CODE, [0, 0]).unwrap(), what);
}

#[test]
fn a_guest_ends_by_the_keyboard_controller() {
    let Some(machine) = machine() else { return };
    let code = [
        0xE4, 0x64, // wait: in al, 0x64
        0xA8, 0x02, // test al, 2
        0x75, 0xFA, // jnz wait
        0xB0, 0xFE, // mov al, 0xFE
        0xE6, 0x64, // out 0x64, al
    ];
    run(&machine, &code, "the keyboard controller");
}

#[test]
fn a_guest_ends_by_the_reset_control_register() {
    let Some(machine) = machine() else { return };
    let code = [
        0x66, 0xBA, 0xF9, 0x0C, // mov dx, 0xCF9
        0xEC, // in al, dx
        0x24, 0xF1, // and al, ~0xE
        0x0C, 0x02, // or al, 2
        0xEE, // out dx, al
        0x0C, 0x0E, // or al, 0xE
        0xEE, // out dx, al
    ];
    run(&machine, &code, "the reset control register");
}

#[test]
fn a_guest_ends_by_a_triple_fault() {
    let Some(machine) = machine() else { return };
    // It has no interrupt descriptors.
    run(&machine, &[0x0F, 0x0B], "a triple fault");
}

#[test]
fn a_guest_ends_by_the_sleep_control_register() {
    let Some(machine) = machine() else { return };
    let code = [
        0x66, 0xBA, 0x00, 0x06, // mov dx, 0x600
        0xB0, 0x34, // mov al, SLP_EN | 5 << 2
        0xEE, // out dx, al
    ];
    run(&machine, &code, "the sleep control register");
}

/// In real mode, as `reboot=bios` does; and so does a Linux without EFI that is
/// told nothing.
#[test]
fn a_guest_ends_by_its_firmware() {
    let Some(machine) = machine() else { return };
    let vcpu = machine.vm().create_vcpu(0).unwrap();
    // As after a reset, but for the base: firmware would jump there.
    let mut registers = vcpu.get_sregs().unwrap();
    (registers.cs.selector, registers.cs.base) = (0xF000, 0xF_0000);
    vcpu.set_sregs(&registers).unwrap();
    let mut registers = vcpu.get_regs().unwrap();
    registers.rip = 0xFFF0;
    vcpu.set_regs(&registers).unwrap();
    let (bus, memory) = (Arc::clone(machine.bus()), Arc::clone(machine.memory()));
    expect_end(Vcpu::start(vcpu, bus, memory).unwrap(), "firmware");
}
