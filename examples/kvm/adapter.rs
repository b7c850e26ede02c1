// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The traits of `vhost-guest-vmm-traits` on KVM: all that a VMM has to lend.
//!
//! This file is meant to be copied into a VMM. What it needs of one is the VM's
//! descriptor, a range of GSIs, and a range of memory slots for each window.

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1 as RoutingUnion,
    kvm_irq_routing_msi, kvm_userspace_memory_region, KvmIrqRouting, KVM_IRQ_ROUTING_MSI,
    KVM_MAX_IRQ_ROUTES,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use rustix::mm::{madvise, mmap, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};
use vhost_guest_vmm_traits::{
    Arming, InterruptManager, IoEventFdRegistrar, MsiMessage, RangeId, SharedMemoryMapper, SourceId,
};
use vmm_sys_util::eventfd::EventFd;

/// A borrowed descriptor as the type that kvm-ioctls wants. KVM itself checks
/// that it is an eventfd.
fn eventfd(fd: BorrowedFd<'_>) -> ManuallyDrop<EventFd> {
    // SAFETY: the descriptor is open for as long as it is borrowed, which is
    // longer than any use below, and `ManuallyDrop` leaves it to its owner to
    // close it.
    ManuallyDrop::new(unsafe { EventFd::from_raw_fd(fd.as_raw_fd()) })
}

/// Takes a lock. What it guards is consistent between calls, so a thread that
/// panicked with it did no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Eventfds that raise MSIs, by irqfds. One object serves a whole VM: its table
/// of routes is the VM's.
///
/// A source is a GSI, with a route of its own: so any number of sources may
/// raise the same message, and changing one does not touch another.
pub struct Interrupts {
    vm: Arc<VmFd>,
    /// Routes of the VMM's own, for the pins of interrupt controllers.
    fixed: Vec<kvm_irq_routing_entry>,
    /// GSIs that sources may have.
    gsis: Range<u32>,
    /// The message that KVM's table has for each source. The route stays when
    /// its source is disarmed: without an irqfd it does nothing, and a vector
    /// that is masked and unmasked costs no new table.
    routes: Mutex<BTreeMap<u32, Option<MsiMessage>>>,
}

impl Interrupts {
    /// For a VM with KVM's local APICs. Whatever else is to be in its table of
    /// routes is in `fixed`; the other GSIs from `first` on are for sources.
    pub fn new(vm: Arc<VmFd>, fixed: Vec<kvm_irq_routing_entry>, first: u32) -> Self {
        let gsis = first..KVM_MAX_IRQ_ROUTES.saturating_sub(fixed.len()) as u32;
        Self {
            vm,
            fixed,
            gsis,
            routes: Mutex::default(),
        }
    }

    /// Makes sure that KVM knows the messages of the sources to be armed.
    ///
    /// There is no call to change a part of KVM's table, and writing it waits
    /// until no vCPU uses the old one: so once for all sources, if at all.
    fn route(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        let mut routes = lock(&self.routes);
        let mut wanted = routes.clone();
        for arming in sources {
            let route = wanted.get_mut(&arming.source.0);
            *route.ok_or(io::ErrorKind::NotFound)? = Some(arming.message);
        }
        if wanted != *routes {
            let messages = wanted.iter();
            let messages = messages.filter_map(|(gsi, message)| Some(msi_route(*gsi, (*message)?)));
            let entries: Vec<_> = self.fixed.iter().copied().chain(messages).collect();
            let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
            self.vm.set_gsi_routing(&table)?;
            *routes = wanted;
        }
        Ok(())
    }
}

impl InterruptManager for Interrupts {
    fn create_source(&self) -> io::Result<SourceId> {
        let mut routes = lock(&self.routes);
        let gsi = self.gsis.clone().find(|gsi| !routes.contains_key(gsi));
        let gsi = gsi.ok_or(io::ErrorKind::OutOfMemory)?;
        routes.insert(gsi, None);
        Ok(SourceId(gsi))
    }

    fn arm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        // Routes come first: an eventfd that is readable uses its own at once.
        self.route(sources)?;
        for arming in sources {
            let fd = eventfd(arming.eventfd);
            self.vm.register_irqfd(&fd, arming.source.0)?;
        }
        Ok(())
    }

    fn disarm(&self, sources: &[Arming<'_>]) -> io::Result<()> {
        // When KVM lets go of an eventfd it reads it, and has raised what was
        // in it when the call returns. It does not mind those that it does not
        // have; what is no eventfd (EINVAL) it does not have either.
        let disarm = |arming: &Arming<'_>| {
            let fd = eventfd(arming.eventfd);
            let outcome = self.vm.unregister_irqfd(&fd, arming.source.0);
            outcome.or_else(|error| match error.errno() {
                libc::EINVAL => Ok(()),
                _ => Err(error),
            })
        };
        Ok(sources.iter().map(disarm).fold(Ok(()), Result::and)?)
    }

    fn destroy_source(&self, source: SourceId) {
        // Its route goes with the next table.
        lock(&self.routes).remove(&source.0);
    }

    fn fds_to_keep(&self) -> Vec<RawFd> {
        vec![self.vm.as_raw_fd()]
    }
}

fn msi_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: RoutingUnion { msi },
        ..Default::default()
    }
}

/// Guest stores that signal eventfds, by ioeventfds. One object serves a VM.
pub struct Doorbells(pub Arc<VmFd>);

impl IoEventFdRegistrar for Doorbells {
    // Without a data match kvm-ioctls passes a length of 0, which KVM takes as
    // "any width". It is also KVM's fastest path: it need not look at the
    // instruction.
    fn register(&self, fd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        let (Self(vm), address) = (self, IoEventAddress::Mmio(address));
        Ok(vm.register_ioevent(&eventfd(fd), &address, NoDatamatch)?)
    }

    fn unregister(&self, fd: BorrowedFd<'_>, address: u64) -> io::Result<()> {
        let (Self(vm), address) = (self, IoEventAddress::Mmio(address));
        Ok(vm.unregister_ioevent(&eventfd(fd), &address, NoDatamatch)?)
    }

    fn fds_to_keep(&self) -> Vec<RawFd> {
        vec![self.0.as_raw_fd()]
    }
}

/// A part of a file that is mapped in this process, for the guest and not for us.
struct Mapping {
    reserved: (usize, usize), // address and length: more than is mapped
    address: usize,
    bytes: usize,
}

impl Mapping {
    /// Maps it at an address that is congruent to its place in the file modulo the
    /// largest page that it can have, so that pages of that size are used.
    fn new(fd: BorrowedFd<'_>, fd_offset: u64, length: u64) -> io::Result<Self> {
        let bytes = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let page = [1 << 30, 2 << 20, 4096]
            .into_iter()
            .find(|page| *page <= bytes);
        let page = page.ok_or(io::ErrorKind::InvalidInput)?;
        let length = bytes.checked_add(page).ok_or(io::ErrorKind::OutOfMemory)?;
        let (nowhere, nothing) = (std::ptr::null_mut(), ProtFlags::empty());
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice
        // replaces nothing.
        let start = unsafe { mmap_anonymous(nowhere, length, nothing, flags) }? as usize;
        let ahead = (fd_offset as usize).wrapping_sub(start) % page;
        let mapping = Self {
            reserved: (start, length),
            address: start + ahead,
            bytes,
        };
        let pointer = std::ptr::with_exposed_provenance_mut(mapping.address);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the range is in what was reserved just now, and nothing in this
        // process has references into it: only the guest's accesses go here.
        unsafe { mmap(pointer, bytes, protection, flags, fd, fd_offset) }?;
        for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
            // SAFETY: the range was mapped just now, and no advice changes it.
            unsafe { madvise(pointer, bytes, advice) }?;
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let pointer = std::ptr::with_exposed_provenance_mut(self.reserved.0);
        // SAFETY: the range is this object's, and nothing refers to it: the guest
        // has no slot with it.
        let _ = unsafe { munmap(pointer, self.reserved.1) };
    }
}

/// An opened range. One that is attached has a memory slot of its own, so that
/// what is not attached is no memory for the guest: accesses are MMIO exits.
struct Region {
    mapping: Mapping,
    attached: Option<(u64, u32)>, // window offset and slot
    guest_address: Option<u64>,   // where the guest has it, if anywhere
}

#[derive(Default)]
struct Contents {
    guest_address: Option<u64>, // where the guest has the window, if anywhere
    regions: BTreeMap<RangeId, Region>,
    next: u32,
}

/// The window of one device.
///
/// Memory slots are the VM's, so this is also where other devices of the VM
/// (a passthrough NIC) would learn what they may access.
pub struct Window {
    vm: Arc<VmFd>,
    size: u64,
    slots: Range<u32>,
    contents: Mutex<Contents>,
}

impl Window {
    /// A window of `size` bytes that uses memory slots out of `slots`.
    pub fn new(vm: Arc<VmFd>, size: u64, slots: Range<u32>) -> Self {
        Self {
            vm,
            size,
            slots,
            contents: Mutex::default(),
        }
    }

    /// Takes a region from where the guest has it, and shows it where it is
    /// attached in a window at `window`.
    ///
    /// KVM removes a slot when no vCPU uses it any more, and not before.
    fn show(&self, region: &mut Region, window: Option<u64>) -> io::Result<()> {
        let (offset, slot) = region.attached.ok_or(io::ErrorKind::NotFound)?;
        let set = |guest_phys_addr, memory_size| {
            let slot = kvm_userspace_memory_region {
                slot,
                guest_phys_addr,
                memory_size,
                userspace_addr: region.mapping.address as u64,
                flags: 0,
            };
            // SAFETY: the range stays mapped for as long as the VM has the slot:
            // a region is closed when it is not attached. This process has no
            // references into it.
            unsafe { self.vm.set_user_memory_region(slot) }
        };
        if let Some(before) = region.guest_address {
            set(before, 0)?;
            region.guest_address = None;
        }
        if let Some(window) = window {
            let address = window.checked_add(offset);
            let address = address.ok_or(io::ErrorKind::InvalidInput)?;
            set(address, region.mapping.bytes as u64)?;
            region.guest_address = Some(address);
        }
        Ok(())
    }
}

impl SharedMemoryMapper for Window {
    fn open(&self, fd: BorrowedFd<'_>, fd_offset: u64, length: u64) -> io::Result<RangeId> {
        // Without the lock: this may take as long as the file's owner likes.
        let region = Region {
            mapping: Mapping::new(fd, fd_offset, length)?,
            attached: None,
            guest_address: None,
        };
        let mut contents = lock(&self.contents);
        let id = RangeId(contents.next);
        contents.next = contents.next.wrapping_add(1);
        contents.regions.insert(id, region);
        Ok(id)
    }

    fn attach(&self, range: RangeId, window_offset: u64) -> io::Result<()> {
        let contents = &mut *lock(&self.contents);
        let regions = contents.regions.values();
        let used: Vec<_> = regions.filter_map(|region| region.attached).collect();
        let used = |slot: &u32| used.iter().any(|(_, used)| used == slot);
        let slot = self.slots.clone().find(|slot| !used(slot));
        let slot = slot.ok_or(io::ErrorKind::OutOfMemory)?;
        let region = contents.regions.get_mut(&range);
        let region = region.filter(|region| region.attached.is_none());
        let region = region.ok_or(io::ErrorKind::NotFound)?;
        let end = window_offset.checked_add(region.mapping.bytes as u64);
        let end = end.filter(|end| *end <= self.size);
        end.ok_or(io::ErrorKind::InvalidInput)?;
        region.attached = Some((window_offset, slot));
        let outcome = self.show(region, contents.guest_address);
        if outcome.is_err() {
            region.attached = None;
        }
        outcome
    }

    fn detach(&self, range: RangeId) -> io::Result<()> {
        let mut contents = lock(&self.contents);
        let region = contents.regions.get_mut(&range);
        let region = region.ok_or(io::ErrorKind::NotFound)?;
        self.show(region, None)?;
        region.attached = None;
        Ok(())
    }

    fn close(&self, range: RangeId) {
        let region = lock(&self.contents).regions.remove(&range);
        drop(region); // unmapped without the lock, for the same reason
    }

    fn place(&self, guest_address: Option<u64>) -> io::Result<()> {
        let mut contents = lock(&self.contents);
        contents.guest_address = guest_address;
        let mut outcome = Ok(());
        let regions = contents.regions.values_mut();
        for region in regions.filter(|region| region.attached.is_some()) {
            // Each has its turn, whatever becomes of those before.
            outcome = outcome.and(self.show(region, guest_address));
        }
        outcome
    }

    fn fds_to_keep(&self) -> Vec<RawFd> {
        vec![self.vm.as_raw_fd()]
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if self.place(None).is_err() {
            // Slots must not outlive what they point to: leave that alone.
            std::mem::forget(std::mem::take(&mut lock(&self.contents).regions));
        }
    }
}
