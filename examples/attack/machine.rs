// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machine that is attacked: the small VMM of the examples, with what an
//! attack needs of a VMM.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use kvm_ioctls::{Kvm, VmFd};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use vhost_guest_device::Services;
use vhost_guest_driver::emulated::{Bus, Interrupts, Platform};
use vhost_guest_driver::{MsiMessage, VectorSet, Window};
use vhost_guest_vmm_traits::{Access, AddressTranslator, DeviceNotifier, Translation};

use super::victim::Victim;
use crate::kvm::adapter;
use crate::vmm::{self, Config, PciBus, Ram, Slots};

/// Most memory that a frontend can share.
pub const WINDOW: u64 = 1 << 30;
/// Registers, in BAR 0 (vhost-guest specification, PCI layout).
pub const DEVICE_STATUS: u64 = 0x14;
/// Notifications of queue 0.
pub const NOTIFY: u64 = 0x3000;
/// BARs.
const DOORBELLS: u8 = 2;
const MEMORY: u8 = 4;
/// Where the first memory of a frontend's is, in the window.
pub const FIRST: u64 = 2 << 20;
/// Address bit in which the two places of a BAR differ.
const PLACE: u32 = 1 << 31;
/// Capabilities of a PCI function, and MSI-X.
const CAPABILITIES: u16 = 0x34;
const MSIX: u8 = 0x11;
const MSIX_ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Interrupts of the emulated guest on KVM, which has no vCPU for them.
const POLL: Duration = Duration::from_millis(1);
/// Lines of KVM's interrupt controllers, and memory slots for the window.
const LINES: u32 = 24;
const SLOTS: u32 = 4000;
/// What a virtual IOMMU translates at a time.
const PAGE: u64 = 4096;

/// What an attack needs of a VMM.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Vrings.
    pub vrings: u16,
    /// Interrupts, doorbells and memory are KVM's.
    pub kvm: bool,
    /// The device runs in the VMM's event loop.
    pub event_loop: bool,
    /// The VMM has ioeventfds.
    pub ioeventfds: bool,
    /// A virtual IOMMU is in front of the device.
    pub iommu: bool,
}

impl Setup {
    /// What most attacks need.
    pub const PLAIN: Self = Self {
        vrings: 4,
        kvm: false,
        event_loop: false,
        ioeventfds: true,
        iommu: false,
    };
}

/// A machine with a device.
pub struct Machine {
    vm: vmm::Machine,
    setup: Setup,
    notes: Arc<Notes>,
    /// The message control register of MSI-X.
    msix_control: u16,
}

impl Machine {
    /// A machine whose device serves the frontends of `listener`.
    pub fn new(listener: UnixListener, setup: &Setup) -> io::Result<Self> {
        let notes = Arc::<Notes>::default();
        let config = Config {
            queues: setup.vrings,
            window_size: WINDOW as usize,
            device_type: 2,
            irqfd: true,
            ioeventfd: setup.ioeventfds,
            state_piece: None,
        };
        let on_kvm = setup.kvm.then(OnKvm::new).transpose()?;
        let vm = vmm::Machine::with(listener, &config, |builder, mut services| {
            services.notifier = Some(notes.clone());
            if setup.iommu {
                services.translator = Some(Arc::new(PageByPage::default()));
            }
            if let Some(kvm) = on_kvm {
                kvm.lend(&mut services);
            }
            match setup.event_loop {
                true => builder.build_without_thread(services),
                false => builder.build(services),
            }
        })?;
        let msix_control = find_msix(vm.bus()) + 2;
        Ok(Self {
            vm,
            setup: *setup,
            notes,
            msix_control,
        })
    }

    /// What the VMM was told that it is made for.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What is in the window, where it is not KVM's.
    pub fn slots(&self) -> Option<Arc<Slots>> {
        let slots = self.vm.slots();
        (!self.setup.kvm).then(|| slots.clone())
    }

    /// What the guest sees of the machine.
    pub fn platform(&self) -> io::Result<Platform> {
        let mut platform = self.vm.platform()?;
        if self.setup.kvm {
            platform.interrupts = Arc::new(Polled);
            // The real window is where no thread of this process may look.
            let window = Window::allocate(WINDOW as usize);
            platform.shared_memory = window.ok_or(io::ErrorKind::OutOfMemory)?;
        }
        Ok(platform)
    }

    fn bar(&self, bar: u8) -> u64 {
        let mut address = [0; 8];
        let (low, high) = address.split_at_mut(4);
        let register = 0x10 + 4 * u16::from(bar);
        self.vm.bus().config_read(register, low);
        self.vm.bus().config_read(register + 4, high);
        u64::from_le_bytes(address) & !0xf
    }
}

/// What KVM does in place of the emulated machine.
pub struct OnKvm {
    vm: Arc<VmFd>,
    /// The window, in memory slots.
    pub window: adapter::Window,
}

impl OnKvm {
    /// Of a VM that nothing else is in.
    pub fn new() -> io::Result<Self> {
        let vm = Arc::new(Kvm::new()?.create_vm()?);
        vm.create_irq_chip()?;
        let window = adapter::Window::new(vm.clone(), WINDOW, 0..SLOTS);
        Ok(Self { vm, window })
    }

    fn lend(self, services: &mut Services<Ram>) {
        let interrupts = adapter::Interrupts::new(self.vm.clone(), Vec::new(), LINES);
        services.interrupts = Arc::new(interrupts);
        services.doorbells = Some(Arc::new(adapter::Doorbells(self.vm)));
        services.window = Arc::new(self.window);
    }
}

fn find_msix(bus: &PciBus) -> u16 {
    let read = |at: u16| {
        let mut byte = [0];
        bus.config_read(at, &mut byte);
        byte[0]
    };
    let mut at = read(CAPABILITIES);
    while at != 0 && read(at.into()) != MSIX {
        at = read(u16::from(at) + 1);
    }
    at.into()
}

impl Victim for Machine {
    fn read_register(&self) {
        self.vm.bus().bar_read(0, DEVICE_STATUS, &mut [0]);
    }

    fn write_register(&self, turn: u64) {
        let bus = self.vm.bus();
        match turn % 3 {
            0 => bus.bar_write(0, NOTIFY, &[0; 2]),
            1 => bus.bar_write(DOORBELLS, 4 * (turn / 3 % 4), &[0; 4]),
            _ => {
                let mut control = [0; 2];
                bus.config_read(self.msix_control, &mut control);
                let control = u16::from_le_bytes(control);
                // The driver may be in the middle of switching it on.
                if control & MSIX_ENABLE != 0 {
                    for control in [control | FUNCTION_MASK, control & !FUNCTION_MASK] {
                        bus.config_write(self.msix_control, &control.to_le_bytes());
                    }
                }
            }
        }
    }

    fn statistics(&self) {
        let _ = self.vm.device().statistics();
    }

    fn move_bar(&self, turn: u64) {
        let bar = match turn % 2 {
            0 => MEMORY,
            _ => DOORBELLS,
        };
        let moved = self.bar(bar) as u32 ^ PLACE;
        let register = 0x10 + 4 * u16::from(bar);
        self.vm.bus().config_write(register, &moved.to_le_bytes());
    }

    fn innocent_fault(&self) {
        let device = self.vm.device();
        // Nobody has truncated anything, and 0 is not in the window.
        let _ = device.memory_truncated() || device.memory_fault(Some(0));
    }

    fn fault(&self, known: bool) -> bool {
        let address = known.then(|| self.bar(MEMORY) + FIRST);
        self.vm.device().memory_fault(address)
    }

    fn revoke(&self) {
        self.vm.device().revoke();
    }

    fn is_dead(&self) -> bool {
        self.notes.dead.load(Ordering::SeqCst)
    }
}

/// What the device tells the VMM.
#[derive(Default)]
struct Notes {
    dead: AtomicBool,
}

impl DeviceNotifier for Notes {
    fn dead(&self, error: &io::Error) {
        eprintln!("attack: the device is dead: {error}");
        self.dead.store(true, Ordering::SeqCst);
    }
}

/// A virtual IOMMU that has all of the guest's memory at the guest's own
/// addresses, and a part of it at others again and again.
pub struct PageByPage {
    /// Guest addresses of the pages of that part.
    repeated: RwLock<BTreeMap<u64, u64>>,
}

/// Addresses from here on are the same part of the guest's memory, over and
/// over.
pub const REPEATED: u64 = 1 << 40;
/// A part of the guest's memory that nothing else is in.
const SPARE: u64 = 2 << 20;
const SPARE_PAGES: u64 = 256;

impl Default for PageByPage {
    fn default() -> Self {
        let pages = (0..SPARE_PAGES).map(|page| (page, SPARE + page * PAGE));
        Self {
            repeated: RwLock::new(pages.collect()),
        }
    }
}

impl AddressTranslator for PageByPage {
    fn translate(&self, iova: u64, length: u64, _: Access) -> io::Result<Translation> {
        let guest_address = match iova.checked_sub(REPEATED) {
            Some(offset) => {
                let pages = self.repeated.read();
                let pages = pages.unwrap_or_else(PoisonError::into_inner);
                let page = pages.get(&(offset / PAGE % SPARE_PAGES));
                page.ok_or(io::ErrorKind::NotFound)? + offset % PAGE
            }
            None => iova,
        };
        let length = length.min(PAGE - iova % PAGE);
        Ok(Translation {
            guest_address,
            length,
        })
    }
}

/// The interrupts of a guest that looks for itself.
struct Polled;

impl Interrupts for Polled {
    fn message(&self, vector: u16) -> MsiMessage {
        MsiMessage {
            address: 0xfee0_0000,
            data: vector.into(),
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> VectorSet {
        thread::sleep(timeout.unwrap_or(POLL).min(POLL));
        let mut all = VectorSet::new();
        (0..vhost_guest_driver::MAX_VECTORS).for_each(|vector| all.insert(vector));
        all
    }

    fn wake(&self) {}
}

/// The VMM's event loop, in which the device is one of many; for as long as the
/// process runs.
pub fn start_event_loop(machine: &Arc<Machine>) -> io::Result<()> {
    let all = epoll::create(CreateFlags::CLOEXEC)?;
    let events = machine.vm.device().event_fd();
    epoll::add(&all, events, EventData::new_u64(0), EventFlags::IN)?;
    let machine = machine.clone();
    thread::spawn(move || loop {
        let mut ready = Vec::with_capacity(4);
        let buffer = rustix::buffer::spare_capacity(&mut ready);
        let _ = epoll::wait(&all, buffer, None);
        machine.vm.device().process_events();
    });
    Ok(())
}
