// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vCPU's state when it starts: 64-bit mode, no interrupts, the lowest 4 GiB
//! mapped one to one. It is what Linux wants to find at its 64-bit entry
//! (Documentation/arch/x86/boot.rst), and as good for any other code.

use kvm_bindings::{kvm_msr_entry, kvm_regs, kvm_segment, CpuId, Msrs, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vm_memory::{Bytes, GuestAddress};

use super::{Error, Memory};

const GDT: u64 = 0x500;
const PAGE_TABLES: u64 = 0x9000;
/// Memory below this is the VMM's until the guest has tables of its own.
pub const FIRST_FREE: u64 = 0x1_0000;

/// Selector of the code segment.
pub const CODE: u16 = 0x10;
/// Selector of the data segment.
pub const DATA: u16 = 0x18;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// CPUID: the processor is virtual, so that it pays to look for KVM's clock.
const HYPERVISOR: u32 = 1 << 31;
/// CPUID: the local APIC's timer can wait for a time stamp.
const DEADLINE_TIMER: u32 = 1 << 24;

/// Default memory type: enabled, write-back.
const MTRR_DEFAULT: kvm_msr_entry = kvm_msr_entry {
    index: 0x2FF,
    reserved: 0,
    data: 1 << 11 | 6,
};

const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const DELIVER_EXTINT: u32 = 0x700;
const DELIVER_NMI: u32 = 0x400;

fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector,
        type_,
        present: 1,
        s: 1,
        l: long.into(),
        db: (!long).into(),
        g: 1,
        ..Default::default()
    }
}

fn write_tables(memory: &Memory) -> Result<(), Error> {
    let gdt: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
    let write = |address: u64, entry: u64| {
        let outcome = memory.write_obj(entry, GuestAddress(address));
        outcome.map_err(Error::memory("page tables"))
    };
    for (at, entry) in (GDT..).step_by(8).zip(gdt) {
        write(at, entry)?;
    }
    // One table of each of the upper levels, and four with pages of 2 MiB.
    let (directories, pages) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    write(PAGE_TABLES, directories | PRESENT_WRITABLE)?;
    for gib in 0..4 {
        write(
            directories + 8 * gib,
            (pages + 0x1000 * gib) | PRESENT_WRITABLE,
        )?;
    }
    for page in 0..4 * 512 {
        write(pages + 8 * page, page << 21 | LARGE | PRESENT_WRITABLE)?;
    }
    Ok(())
}

/// Puts the vCPU into its initial state, to start at `entry` with `rsi` and
/// `rsp`.
pub fn set_up(
    kvm: &Kvm,
    vcpu: &VcpuFd,
    memory: &Memory,
    entry: u64,
    [rsi, rsp]: [u64; 2],
) -> Result<(), Error> {
    write_tables(memory)?;
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let mut cpuid = supported.map_err(Error::kvm("CPUID"))?;
    adapt(&mut cpuid, kvm.check_extension(Cap::TscDeadlineTimer));
    vcpu.set_cpuid2(&cpuid).map_err(Error::kvm("CPUID"))?;

    let mut registers = vcpu.get_sregs().map_err(Error::kvm("registers"))?;
    registers.cs = segment(CODE, 0xB, true);
    let data = segment(DATA, 0x3, false);
    registers.ds = data;
    registers.es = data;
    registers.fs = data;
    registers.gs = data;
    registers.ss = data;
    registers.gdt.base = GDT;
    registers.gdt.limit = 4 * 8 - 1;
    registers.idt.limit = 0;
    registers.cr0 = CR0_PE | CR0_ET | CR0_PG;
    registers.cr3 = PAGE_TABLES;
    registers.cr4 |= CR4_PAE;
    registers.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&registers)
        .map_err(Error::kvm("registers"))?;
    let registers = kvm_regs {
        rip: entry,
        rsi,
        rsp,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&registers).map_err(Error::kvm("registers"))?;
    // Without it Linux takes all of memory for uncached. Other guests do not
    // care, and nor does a KVM that has no such register.
    if let Ok(msrs) = Msrs::from_entries(&[MTRR_DEFAULT]) {
        let _ = vcpu.set_msrs(&msrs);
    }
    wire_local_apic(vcpu)
}

/// One processor, number 0, whatever the host's has; with what KVM does not
/// list, because a VMM has to agree to it.
fn adapt(cpuid: &mut CpuId, deadline_timer: bool) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // APIC number and logical processors.
                entry.ebx = entry.ebx & 0xFFFF | 1 << 16;
                entry.ecx |= HYPERVISOR;
                if deadline_timer {
                    entry.ecx |= DEADLINE_TIMER;
                }
            }
            // Topology: the number again.
            0xB | 0x1F => entry.edx = 0,
            _ => {}
        }
    }
}

/// "Virtual wire": the PICs reach the processor through its local APIC.
fn wire_local_apic(vcpu: &VcpuFd) -> Result<(), Error> {
    let mut apic = vcpu.get_lapic().map_err(Error::kvm("local APIC"))?;
    for (register, delivery) in [(APIC_LVT0, DELIVER_EXTINT), (APIC_LVT1, DELIVER_NMI)] {
        let bytes = delivery
            .to_le_bytes()
            .map(|byte| byte as std::os::raw::c_char);
        if let Some(to) = apic.regs.get_mut(register..register + 4) {
            to.copy_from_slice(&bytes);
        }
    }
    vcpu.set_lapic(&apic).map_err(Error::kvm("local APIC"))
}
