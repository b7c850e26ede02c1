// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest: bare-metal code for general registers only.
//!
//! It sleeps until there is a program for it, and executes it one operation
//! after the other. An interrupt is counted by its vector, and then rings the
//! doorbell of that vector, if it has one.
//!
//! | guest physical address | what |
//! |---|---|
//! | 0x10_0000 | code |
//! | 0x11_0000 | entry points of the interrupt handlers, 16 bytes each |
//! | 0x12_0000 | interrupt descriptor table |
//! | 0x13_0000 | mailbox |
//! | 0x13_1000 | number of interrupts, for each vector |
//! | 0x13_2000 | address of the doorbell, for each vector |
//! | 0x13_3000 | register of the interrupt descriptor table |
//! | 0x13_4000 | variables of programs |
//! | 0x14_0000 | the program |
//! | 0x1F_0000 | end of the stack |

use std::arch::global_asm;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::kvm_msi;
use vhost_guest_examples::kvm::long_mode;
use vhost_guest_examples::kvm::vcpu::Vcpu;
use vhost_guest_examples::kvm::{Machine, Memory};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::rig::settle;

const CODE: u64 = 0x10_0000;
const HANDLERS: u64 = 0x11_0000;
const IDT: u64 = 0x12_0000;
const MAILBOX: u64 = 0x13_0000;
const COUNTS: u64 = 0x13_1000;
const BELLS: u64 = 0x13_2000;
const IDT_REGISTER: u64 = 0x13_3000;
const VARIABLES: u64 = 0x13_4000;
const PROGRAM: u64 = 0x14_0000;
const STACK: u64 = 0x1F_0000;

const NUMBER: u64 = MAILBOX;
const DONE: u64 = MAILBOX + 0x08;
const REPEATS: u64 = MAILBOX + 0x10;
const STOP: u64 = MAILBOX + 0x18;
const EXCEPTION: u64 = MAILBOX + 0x20;

/// The vector that ends the guest's sleep: of the lowest priority, so that all
/// others that wait are served before it.
const WAKE: u8 = 0x20;

// A KVM without hardware behind it holds on to tables for as long as the guest
// runs: whoever wants to change them waits. So loops leave it now and then, by a
// write to a port that nobody has.
//
// Registers: rsi = MAILBOX, r15 = number of the program, r14 = repeats left,
// rbx = next operation; rax = operation, rdx and rcx = its operands.
global_asm!(
    ".pushsection .rodata.bare_metal_guest, \"a\"",
    ".global bare_metal_guest_start",
    ".global bare_metal_guest_interrupt",
    ".global bare_metal_guest_exception",
    ".global bare_metal_guest_end",
    "bare_metal_guest_start:",
    "    lidt [rsi + 0x3000]",
    "    mov edi, 0xFEE00000",               // local APIC
    "    mov dword ptr [rdi + 0xF0], 0x1FF", // on, spurious vector 0xFF
    "    mov dword ptr [rdi + 0x80], 0",     // all priorities
    "2:  cli",
    "    mov r15, [rsi]",
    "    cmp r15, [rsi + 0x08]",
    "    jne 3f",
    "    sti",
    "    hlt",
    "    jmp 2b",
    "3:  sti",
    "    mov r14, [rsi + 0x10]",
    "4:  mov ebx, 0x140000",
    "5:  mov rax, [rbx]",
    "    mov rdx, [rbx + 8]",
    "    mov rcx, [rbx + 16]",
    "    add rbx, 24",
    "    cmp eax, 0",
    "    je 10f",
    "    cmp eax, 1",
    "    je 11f",
    "    cmp eax, 2",
    "    je 12f",
    "    cmp eax, 3",
    "    je 13f",
    "    cmp eax, 4",
    "    je 14f",
    "    cmp eax, 5",
    "    je 15f",
    "    cmp eax, 6",
    "    je 16f",
    "    cmp eax, 7",
    "    je 17f",
    "    cmp eax, 8",
    "    je 18f",
    "    cmp eax, 9",
    "    je 19f",
    "    cmp eax, 10",
    "    je 20f",
    "    cmp eax, 11",
    "    je 21f",
    "    cmp eax, 12",
    "    je 22f",
    "    ud2",
    // End: again, unless that was often enough.
    "10: out 0x80, al",
    "    dec r14",
    "    jz 6f",
    "    cmp qword ptr [rsi + 0x18], 0",
    "    je 4b",
    "6:  mov [rsi + 0x08], r15",
    "    jmp 2b",
    "11: mov [rdx], cl",
    "    jmp 5b", // Store8
    "12: mov [rdx], cx",
    "    jmp 5b", // Store16
    "13: mov [rdx], ecx",
    "    jmp 5b", // Store32
    "14: mov [rdx], rcx",
    "    jmp 5b",         // Store64
    "15: mov eax, [rdx]", // Load32
    "    mov [rcx], rax",
    "    jmp 5b",
    "16: mov rax, [rdx]", // Load64
    "    mov [rcx], rax",
    "    jmp 5b",
    "17: mov eax, ecx", // Out32
    "    out dx, eax",
    "    jmp 5b",
    "18: cli",
    "    jmp 5b", // Cli
    "19: sti",
    "    jmp 5b", // Sti
    "20: inc qword ptr [rdx]",
    "    jmp 5b", // Increment
    // Await: until two variables are equal, or the program is stopped.
    "21: mov rax, [rdx]",
    "    cmp rax, [rcx]",
    "    je 5b",
    "    cmp qword ptr [rsi + 0x18], 0",
    "    jne 5b",
    "    out 0x80, al",
    "    jmp 21b",
    // Watch: reads at rdx; rcx has a flag, a count of reads, and a count of
    // reads after the flag was set that found anything but all ones.
    "22: mov r8, [rcx]",
    "    mov eax, [rdx]",
    "    inc qword ptr [rcx + 8]",
    "    test r8, r8",
    "    jz 5b",
    "    cmp eax, -1",
    "    je 5b",
    "    inc qword ptr [rcx + 16]",
    "    jmp 5b",
    // The handlers get here with their vector on the stack.
    "bare_metal_guest_interrupt:",
    "    push rax",
    "    push rdx",
    "    mov eax, [rsp + 16]",
    "    inc qword ptr [rax * 8 + 0x131000]",
    "    mov rdx, [rax * 8 + 0x132000]",
    "    test rdx, rdx",
    "    jz 7f",
    "    mov [rdx], ax",
    "7:  mov edx, 0xFEE000B0", // end of interrupt
    "    mov dword ptr [rdx], 0",
    "    pop rdx",
    "    pop rax",
    "    add rsp, 8",
    "    iretq",
    // An exception is the end: of the machine, by a reset.
    "bare_metal_guest_exception:",
    "    pop rax",
    "    mov [0x130020], eax",
    "    mov al, 0xFE",
    "    out 0x64, al",
    "    hlt",
    "bare_metal_guest_end:",
    ".popsection",
);

extern "C" {
    static bare_metal_guest_start: u8;
    static bare_metal_guest_interrupt: u8;
    static bare_metal_guest_exception: u8;
    static bare_metal_guest_end: u8;
}

/// One operation of a program.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Stores at an address.
    Store8(u64, u8),
    /// Stores at an address.
    Store16(u64, u16),
    /// Stores at an address.
    Store32(u64, u32),
    /// Stores at an address.
    Store64(u64, u64),
    /// Loads from an address, into a variable.
    Load32(u64, Variable),
    /// Loads from an address, into a variable.
    Load64(u64, Variable),
    /// Writes to a port.
    Out32(u16, u32),
    /// No interrupts from here on.
    Cli,
    /// Interrupts again.
    Sti,
    /// Adds 1 to a variable.
    Increment(Variable),
    /// Waits until two variables are equal, or the program is stopped.
    Await(Variable, Variable),
    /// Loads 4 bytes from an address. Variables from the given one on: a flag
    /// of the test's, the number of loads, and the number of loads begun after
    /// the flag was set that found anything but all ones.
    Watch(u64, Variable),
}

impl Op {
    fn encode(self) -> [u64; 3] {
        match self {
            Op::Store8(address, value) => [1, address, value.into()],
            Op::Store16(address, value) => [2, address, value.into()],
            Op::Store32(address, value) => [3, address, value.into()],
            Op::Store64(address, value) => [4, address, value],
            Op::Load32(address, to) => [5, address, to.address()],
            Op::Load64(address, to) => [6, address, to.address()],
            Op::Out32(port, value) => [7, port.into(), value.into()],
            Op::Cli => [8, 0, 0],
            Op::Sti => [9, 0, 0],
            Op::Increment(variable) => [10, variable.address(), 0],
            Op::Await(one, other) => [11, one.address(), other.address()],
            Op::Watch(address, block) => [12, address, block.address()],
        }
    }
}

/// A 64-bit variable in guest memory, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable(pub u64);

impl Variable {
    fn address(self) -> u64 {
        VARIABLES + 8 * self.0
    }
}

/// The guest, seen from outside. Clones are of the same guest.
#[derive(Clone)]
pub struct Guest {
    memory: Memory,
}

fn bytes(from: *const u8, to: *const u8) -> Vec<u8> {
    let length = to as usize - from as usize;
    // SAFETY: both are labels in one read-only section, in this order.
    unsafe { std::slice::from_raw_parts(from, length) }.to_vec()
}

impl Guest {
    /// Loads the code and starts the vCPU. Returns when interrupts can come.
    pub fn start(machine: &Machine) -> (Self, Vcpu) {
        let guest = Self {
            memory: machine.memory().clone(),
        };
        let start = &raw const bare_metal_guest_start;
        let write = |bytes: &[u8], at: u64| {
            guest.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        };
        write(&bytes(start, &raw const bare_metal_guest_end), CODE);
        let address = |label: *const u8| CODE + (label as usize - start as usize) as u64;
        let interrupt = address(&raw const bare_metal_guest_interrupt);
        let exception = address(&raw const bare_metal_guest_exception);
        for vector in 0..256_u64 {
            let handler = HANDLERS + 16 * vector;
            let target = if vector < 32 { exception } else { interrupt };
            // push imm32; jmp rel32
            let mut code = vec![0x68];
            code.extend((vector as u32).to_le_bytes());
            code.push(0xE9);
            code.extend((target.wrapping_sub(handler + 10) as u32).to_le_bytes());
            write(&code, handler);
            // An interrupt gate: present, of the code segment.
            let low = handler & 0xFFFF
                | u64::from(long_mode::CODE) << 16
                | 0x8E00 << 32
                | handler >> 16 << 48;
            write(&low.to_le_bytes(), IDT + 16 * vector);
            write(&[0; 8], IDT + 16 * vector + 8);
        }
        write(&(256_u16 * 16 - 1).to_le_bytes(), IDT_REGISTER);
        write(&IDT.to_le_bytes(), IDT_REGISTER + 2);
        let vcpu = machine.start(CODE, [MAILBOX, STACK]).unwrap();
        // Before it has switched its local APIC on, interrupts are lost.
        guest.give(machine, &[], 1);
        settle("the guest's start", || guest.is_done());
        (guest, vcpu)
    }

    fn cell(&self, address: u64) -> &AtomicU64 {
        let host = self.memory.get_host_address(GuestAddress(address)).unwrap();
        // SAFETY: the address is in guest memory, which lives as long as this
        // object, and is a multiple of 8. The guest's accesses are atomic.
        unsafe { AtomicU64::from_ptr(host.cast()) }
    }

    /// Reads a variable.
    pub fn get(&self, variable: Variable) -> u64 {
        self.cell(variable.address()).load(Ordering::SeqCst)
    }

    /// Writes a variable.
    pub fn set(&self, variable: Variable, value: u64) {
        self.cell(variable.address()).store(value, Ordering::SeqCst);
    }

    /// How often an interrupt vector was raised.
    pub fn interrupts(&self, vector: u8) -> u64 {
        self.cell(COUNTS + 8 * u64::from(vector))
            .load(Ordering::SeqCst)
    }

    /// Has the handler of a vector ring the doorbell at an address, or none.
    pub fn set_bell(&self, vector: u8, address: Option<u64>) {
        let cell = self.cell(BELLS + 8 * u64::from(vector));
        cell.store(address.unwrap_or(0), Ordering::SeqCst);
    }

    /// The address of the variable in which the doorbell of a vector is: a
    /// program can store there.
    pub fn bell_cell(vector: u8) -> u64 {
        BELLS + 8 * u64::from(vector)
    }

    /// Whether the guest has done its last program.
    pub fn is_done(&self) -> bool {
        self.cell(DONE).load(Ordering::SeqCst) == self.cell(NUMBER).load(Ordering::SeqCst)
    }

    /// Gives the guest a program to execute so many times. It has to be done
    /// with the one before.
    pub fn give(&self, machine: &Machine, program: &[Op], repeats: u64) {
        assert!(self.is_done(), "the guest is busy");
        let end = [0; 3];
        let words = program.iter().map(|op| op.encode()).chain([end]).flatten();
        for (at, word) in (PROGRAM..).step_by(8).zip(words) {
            self.cell(at).store(word, Ordering::SeqCst);
        }
        self.cell(REPEATS).store(repeats, Ordering::SeqCst);
        self.cell(STOP).store(0, Ordering::SeqCst);
        self.cell(NUMBER).fetch_add(1, Ordering::SeqCst);
        let wake = kvm_msi {
            address_lo: 0xFEE0_0000,
            data: WAKE.into(),
            ..Default::default()
        };
        machine.vm().signal_msi(wake).unwrap();
    }

    /// Ends the program after the repetition that is under way.
    pub fn ask_to_stop(&self) {
        self.cell(STOP).store(1, Ordering::SeqCst);
    }

    /// The exception that ended the guest.
    pub fn exception(&self) -> u64 {
        self.cell(EXCEPTION).load(Ordering::SeqCst)
    }
}
