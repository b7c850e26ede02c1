// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machine: what there is, and where.
//!
//! | guest physical address | what |
//! |---|---|
//! | 0 | RAM, up to 3 GiB of it |
//! | 0xF_FFF0 | in RAM: where firmware is entered |
//! | 0xC000_0000 | registers and doorbells of PCI devices |
//! | 0xFEC0_0000 | I/O APIC |
//! | 0xFEE0_0000 | local APIC |
//! | 4 GiB | the rest of RAM; then the windows of PCI devices |

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1 as RoutingUnion,
    kvm_irq_routing_irqchip, kvm_pit_config, kvm_userspace_memory_region, KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQ_ROUTING_IRQCHIP, KVM_PIT_SPEAKER_DUMMY,
};
use kvm_ioctls::{Kvm, VmFd};
use vhost_guest_device::{Builder, Services};
use vhost_guest_vmm_traits::InterruptManager;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::adapter::{Doorbells, Interrupts, Window};
use super::bus::{Bus, KEYBOARD, PULL_RESET, SERIAL_LINE};
use super::vcpu::Vcpu;
use super::{long_mode, userspace, Error, Function, Memory};

/// Where RAM below 4 GiB ends at the latest, and BARs begin.
pub const LOW_RAM_END: u64 = 0xC000_0000;
const HIGH_RAM: u64 = 1 << 32;
/// Where a guest jumps, in real mode, that leaves its reset to the firmware. A
/// Linux without EFI does if ACPI's hardware is reduced, whatever ACPI says of
/// a register for it.
const FIRMWARE: u64 = 0xF_FFF0;
/// `mov al, PULL_RESET; out KEYBOARD, al; hlt; jmp -3`.
const RESET: [u8; 7] = [0xB0, PULL_RESET, 0xE6, KEYBOARD as u8, 0xF4, 0xEB, 0xFD];
/// The I/O APIC.
pub(super) const IO_APIC: u64 = 0xFEC0_0000;
/// The local APIC.
pub(super) const LOCAL_APIC: u64 = 0xFEE0_0000;
/// Three pages that KVM wants on some Intel processors.
const TSS: usize = 0xFFFB_D000;
/// One more of them.
const IDENTITY_MAP: u64 = 0xFFFB_C000;
/// Interrupt lines of the I/O APIC.
const LINES: u32 = 24;
/// Memory slots for one window: as many as it can have mappings.
const WINDOW_SLOTS: u32 = 6 * (509 + 2);

/// A machine with one vCPU.
pub struct Machine {
    kvm: Kvm,
    vm: Arc<VmFd>,
    memory: Memory,
    bus: Arc<Bus>,
    interrupts: Arc<dyn InterruptManager>,
    doorbells: Option<Arc<Doorbells>>,
    next_slot: u32,
    next_register_bar: u64,
    next_window: u64,
    /// What firmware writes to BAR registers: device, register, value.
    firmware: Vec<(usize, u16, [u8; 4])>,
}

impl Machine {
    /// A machine with `size` bytes of RAM.
    pub fn new(size: u64) -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(Error::NoKvm)?;
        let vm = kvm.create_vm().map_err(Error::kvm("create a VM"))?;
        let outcome = vm.set_tss_address(TSS);
        outcome.map_err(Error::kvm("TSS address"))?;
        let outcome = vm.set_identity_map_address(IDENTITY_MAP);
        outcome.map_err(Error::kvm("identity map address"))?;
        vm.create_irq_chip()
            .map_err(Error::kvm("interrupt controllers"))?;
        let timer = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.create_pit2(timer).map_err(Error::kvm("timer"))?;

        let vm = Arc::new(vm);
        let memory = make_ram(&vm, size)?;
        let outcome = memory.write_slice(&RESET, GuestAddress(FIRMWARE));
        outcome.map_err(Error::memory("firmware"))?;
        let last = memory.last_addr().0;
        Ok(Self {
            interrupts: Arc::new(Interrupts::new(Arc::clone(&vm), lines(), LINES)),
            doorbells: Some(Arc::new(Doorbells(Arc::clone(&vm)))),
            bus: Arc::default(),
            next_slot: memory.num_regions() as u32,
            next_register_bar: LOW_RAM_END,
            next_window: HIGH_RAM.max(last + 1),
            firmware: Vec::new(),
            kvm,
            vm,
            memory,
        })
    }

    /// Where the windows of PCI devices may be: behind RAM, with room for the
    /// guest to move them.
    pub fn windows(&self) -> (u64, u64) {
        let first = HIGH_RAM.max(self.memory.last_addr().0 + 1);
        (first, self.next_window.next_power_of_two() * 2)
    }

    /// Has doorbells of devices that are plugged in from now on exit to
    /// userspace: the control that shows what measures of the data path see
    /// when the VMM takes part in it.
    pub fn use_userspace_doorbells(&mut self) {
        self.doorbells = None;
    }

    /// Has a thread raise the interrupts of devices that are plugged in from
    /// now on.
    pub fn use_userspace_interrupts(&mut self) -> Result<(), Error> {
        self.interrupts = Arc::new(userspace::interrupts(Arc::clone(&self.vm))?);
        Ok(())
    }

    /// The VM.
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Guest memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// I/O ports and memory-mapped registers.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Adds a serial console that prints to `output`.
    pub fn add_serial(&self, output: Box<dyn Write + Send>) -> Result<(), Error> {
        let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let registered = self.vm.register_irqfd(&line, SERIAL_LINE);
        registered.map_err(Error::kvm("serial interrupt"))?;
        self.bus.add_serial(line, output);
        Ok(())
    }

    /// Makes a vhost-guest device with `queues` vrings and a window of `window`
    /// bytes, whose frontends connect to `listener`, and plugs it in.
    ///
    /// Its BARs get addresses, as firmware would give them; the guest has to
    /// switch them on, and is free to move them.
    pub fn plug(
        &mut self,
        listener: UnixListener,
        queues: u16,
        window: u64,
    ) -> Result<Function, Error> {
        self.plug_built(Builder::new(listener).queues(queues), window)
    }

    /// As [`plug`](Self::plug), for a device of which more is to be said.
    pub fn plug_built(&mut self, builder: Builder, window: u64) -> Result<Function, Error> {
        let slots = self.next_slot..self.next_slot + WINDOW_SLOTS;
        self.next_slot = slots.end;
        let services = Services {
            interrupts: self.interrupts.clone(),
            doorbells: self.doorbells.clone().map(|doorbells| doorbells as _),
            window: Arc::new(Window::new(Arc::clone(&self.vm), window, slots)),
            memory: Arc::clone(&self.memory),
            translator: None,
            notifier: None,
            thread_hook: None,
        };
        let device = builder.window_size(window).build(services)?;
        let function = Function::new(device);
        let mut pci = self.bus.pci();
        let device = pci.plug(Function::clone(&function));
        let device = device.ok_or_else(|| std::io::Error::other("no PCI slot is left"))?;
        for bar in function.bars() {
            let next = match bar.prefetchable {
                true => &mut self.next_window,
                false => &mut self.next_register_bar,
            };
            let address = next.next_multiple_of(bar.size);
            *next = address + bar.size;
            let register = 0x10 + 4 * u16::from(bar.index);
            for (register, half) in [(register, address), (register + 4, address >> 32)] {
                let half = (half as u32).to_le_bytes();
                pci.config_write(device.into(), register, &half);
                self.firmware.push((device.into(), register, half));
            }
        }
        drop(pci);
        Ok(function)
    }

    /// Resets the devices, as the machine's reset line does, and gives BARs
    /// the addresses that firmware gives them: for a guest that starts anew.
    /// vCPUs are the caller's business.
    pub fn reset(&self) {
        let mut pci = self.bus.pci();
        pci.reset();
        for (device, register, value) in &self.firmware {
            pci.config_write(*device, *register, value);
        }
    }

    /// Unplugs a device, whatever the guest is doing with it. First everything
    /// of the frontend's goes, then the device leaves the bus; the rest goes
    /// with the last owner of the function.
    pub fn unplug(&self, function: &Function) {
        function.revoke();
        self.bus.pci().unplug(function);
    }

    /// Starts the vCPU at `entry`, with `rsi` and `rsp`.
    pub fn start(&self, entry: u64, [rsi, rsp]: [u64; 2]) -> Result<Vcpu, Error> {
        let vcpu = self
            .vm
            .create_vcpu(0)
            .map_err(Error::kvm("create a vCPU"))?;
        long_mode::set_up(&self.kvm, &vcpu, &self.memory, entry, [rsi, rsp])?;
        Vcpu::start(vcpu, Arc::clone(&self.bus), Arc::clone(&self.memory))
    }
}

fn make_ram(vm: &VmFd, size: u64) -> Result<Memory, Error> {
    let low = size.min(LOW_RAM_END) as usize;
    let high = size.saturating_sub(LOW_RAM_END) as usize;
    let mut ranges = vec![(GuestAddress(0), low)];
    if high > 0 {
        ranges.push((GuestAddress(HIGH_RAM), high));
    }
    let memory = GuestMemoryMmap::from_ranges(&ranges).map_err(Error::memory("allocation"))?;
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: `memory` stays mapped for as long as the machine or its
        // vCPU has it, and is only accessed as memory that changes any time.
        unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("RAM"))?;
    }
    Ok(Arc::new(memory))
}

/// The routes of the interrupt lines: each to its pin of the I/O APIC, the
/// first 16 to the two PICs as well.
fn lines() -> Vec<kvm_irq_routing_entry> {
    let pin = |gsi, irqchip, pin| {
        let irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            u: RoutingUnion { irqchip },
            ..Default::default()
        }
    };
    let ioapic = (0..LINES).map(move |line| pin(line, KVM_IRQCHIP_IOAPIC, line));
    let master = (0..8).map(move |line| pin(line, KVM_IRQCHIP_PIC_MASTER, line));
    let slave = (8..16).map(move |line| pin(line, KVM_IRQCHIP_PIC_SLAVE, line - 8));
    ioapic.chain(master).chain(slave).collect()
}
