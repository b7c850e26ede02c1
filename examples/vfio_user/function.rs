// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The function, as a vfio-user client sees it.
//!
//! A client keeps MSI-X to itself, as it does with a physical function: the
//! guest's table and pending bits are the client's, and the function learns
//! which vectors have an eventfd now.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, PoisonError};

use vfio_bindings::bindings::vfio::{
    vfio_region_info, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
    VFIO_IRQ_SET_DATA_TYPE_MASK, VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion};
use vhost_guest_device::{BarKind, BarMove, Builder, MemoryPolicy, Services, VhostGuest};
use vhost_guest_vmm_traits::{Access as DmaAccess, AddressTranslator, Translation};
use vm_memory::{
    FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend,
    GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

use super::adapter::{map, Access, Triggers, Window};
use crate::vmm::Forwarder;

/// The guest's memory, as far as the client has shared it. It comes and goes.
type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Bytes of configuration space of a conventional PCI function.
const CONFIG_SIZE: u64 = 256;

/// Addresses as the function uses them are those that the client shared the
/// memory at: with an IOMMU, it has translated them already. So the device may
/// offer `VIRTIO_F_ACCESS_PLATFORM`, without which a driver must not take it for
/// one that an IOMMU is in front of.
struct Translated;

impl AddressTranslator for Translated {
    fn translate(&self, iova: u64, length: u64, _: DmaAccess) -> io::Result<Translation> {
        Ok(Translation {
            guest_address: iova,
            length,
        })
    }
}

/// A vhost-guest device behind a vfio-user socket.
pub struct Function {
    device: VhostGuest<Memory>,
    memory: Memory,
    triggers: Triggers,
    forwarder: Arc<Forwarder>,
    window: Arc<Window>,
}

impl Function {
    /// A device whose frontends connect to `listener`.
    pub fn new(listener: UnixListener, queues: u16, window_size: u64) -> io::Result<Self> {
        let triggers = Triggers::default();
        let forwarder = Arc::new(triggers.forwarder()?);
        let window = Arc::new(Window::default());
        let memory = Memory::new(GuestMemoryMmap::new());
        let services = Services {
            interrupts: forwarder.clone(),
            doorbells: None,
            window: window.clone(),
            memory: memory.clone(),
            translator: Some(Arc::new(Translated)),
            notifier: None,
            thread_hook: None,
        };
        let policy = MemoryPolicy {
            sealed_size: true,
            ..MemoryPolicy::default()
        };
        let device = Builder::new(listener)
            .queues(queues)
            .window_size(window_size)
            .memory_policy(policy)
            .build(services)
            .map_err(io::Error::other)?;
        // From now on the guest has no say in what is in the table.
        device.set_vector(0, None);
        Ok(Self {
            device,
            memory,
            triggers,
            forwarder,
            window,
        })
    }

    /// What the client may access: BARs and configuration space. Nothing can
    /// be mapped.
    pub fn regions(&self) -> Vec<ServerRegion> {
        let bars = self.device.bars();
        let size = |index| match index {
            VFIO_PCI_CONFIG_REGION_INDEX => CONFIG_SIZE,
            index => {
                let bar = bars.iter().find(|bar| u32::from(bar.index) == index);
                bar.map_or(0, |bar| bar.size)
            }
        };
        let region = |index| ServerRegion {
            region_info: vfio_region_info {
                argsz: size_of::<vfio_region_info>() as u32,
                flags: match size(index) {
                    0 => 0,
                    _ => VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                },
                index,
                size: size(index),
                ..Default::default()
            },
            sparse_areas: Vec::new(),
            mmap_fd: None,
        };
        (0..VFIO_PCI_NUM_REGIONS).map(region).collect()
    }

    /// The interrupts that there are: MSI-X.
    pub fn irqs(&self) -> Vec<IrqInfo> {
        let irq = |index| IrqInfo {
            index,
            flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE,
            count: match index {
                VFIO_PCI_MSIX_IRQ_INDEX => self.device.vectors().into(),
                _ => 0,
            },
        };
        (0..VFIO_PCI_NUM_IRQS).map(irq).collect()
    }

    /// The client is gone, and with it the guest.
    pub fn unplugged(&mut self) {
        self.device.revoke();
        for vector in 0..self.device.vectors() {
            self.set_trigger(vector, None);
        }
        self.move_bars(self.device.reset());
        self.replace_memory(GuestMemoryMmap::new());
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        self.move_bars(self.device.config_write(offset, data));
    }

    fn move_bars(&self, moves: Vec<BarMove>) {
        for moved in moves {
            // Nothing of ours depends on where a BAR is, so nothing can fail.
            let _ = self.device.bar_moved(moved.bar, moved.address);
        }
    }

    /// The client gives an eventfd for a vector, or takes it back. A vector
    /// without one, or between two of them, is masked, so that its events wait.
    fn set_trigger(&self, vector: u16, trigger: Option<File>) {
        let message = trigger.as_ref().map(|_| Triggers::message(vector));
        self.device.set_vector(vector, None);
        self.triggers.set(vector, trigger);
        self.device.set_vector(vector, message);
    }

    /// Lets the device see other memory than before. When this returns, it
    /// does not touch the memory before any more.
    fn replace_memory(&self, memory: GuestMemoryMmap) {
        let guard = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        guard.replace(memory);
        self.device.memory_changed();
    }
}

fn bad_input() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}

/// The requests of the client. Whom it serves decides it, but what it sends is
/// checked: a mistake of the client's must not look like one of ours.
impl ServerBackend for Function {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => {
                let offset = u16::try_from(offset).map_err(|_| bad_input())?;
                self.device.config_read(offset, data);
            }
            bar @ ..=VFIO_PCI_BAR5_REGION_INDEX => {
                if !(self.is_window(bar) && self.window.read(offset, data)) {
                    self.device.bar_read(bar as u8, offset, data);
                }
            }
            _ => data.fill(0xFF),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => {
                let offset = u16::try_from(offset).map_err(|_| bad_input())?;
                self.config_write(offset, data);
            }
            bar @ ..=VFIO_PCI_BAR5_REGION_INDEX => {
                let done = self.is_window(bar) && self.window.write(offset, data);
                if !done {
                    self.device.bar_write(bar as u8, offset, data);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The client shares memory of the guest. Addresses are what the function
    /// uses: with an IOMMU, the client has translated them.
    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        // ROMs and other devices: no queue is in them. They could be had by
        // messages, one for each access.
        let Some(file) = fd else { return Ok(()) };
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(());
        }
        let end = offset.checked_add(size).ok_or_else(bad_input)?;
        if found.len() < end {
            return Err(bad_input());
        }
        let access = match flags.contains(DmaMapFlags::WRITE) {
            true => Access::ReadWrite,
            false => Access::ReadOnly,
        };
        let mapping = map(FileOffset::new(file, offset), size, access)?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(address));
        let region = Arc::new(region.ok_or_else(bad_input)?);
        let memory = self.memory.memory().insert_region(region);
        self.replace_memory(memory.map_err(io::Error::other)?);
        Ok(())
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        let all = flags.contains(DmaUnmapFlags::UNMAP_ALL);
        // The end of the range may be the end of all addresses.
        let last = address.checked_add(size.saturating_sub(1));
        let last = last.ok_or_else(bad_input)?;
        let mut memory = GuestMemoryMmap::clone(&self.memory.memory());
        for region in self.memory.memory().iter() {
            let (start, length) = (region.start_addr(), region.len());
            let inside = start >= GuestAddress(address) && region.last_addr().0 <= last;
            if all || size != 0 && inside {
                let removed = memory.remove_region(start, length);
                (memory, _) = removed.map_err(io::Error::other)?;
            }
        }
        self.replace_memory(memory);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.move_bars(self.device.reset());
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let end = start.checked_add(count).ok_or_else(bad_input)?;
        let known = index == VFIO_PCI_MSIX_IRQ_INDEX && end <= self.device.vectors().into();
        let trigger = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK == VFIO_IRQ_SET_ACTION_TRIGGER;
        let (mut vectors, all) = (start as u16..end as u16, 0..self.device.vectors());
        match flags & VFIO_IRQ_SET_DATA_TYPE_MASK {
            // "No vectors" takes back all of them.
            VFIO_IRQ_SET_DATA_NONE if trigger && count == 0 => {
                if index == VFIO_PCI_MSIX_IRQ_INDEX {
                    all.into_iter().for_each(|v| self.set_trigger(v, None));
                }
                Ok(())
            }
            // As does a message without descriptors, for those that it names.
            VFIO_IRQ_SET_DATA_EVENTFD if trigger && known && fds.is_empty() => {
                vectors.for_each(|vector| self.set_trigger(vector, None));
                Ok(())
            }
            VFIO_IRQ_SET_DATA_EVENTFD if trigger && known && fds.len() == vectors.len() => {
                fds.into_iter()
                    .zip(&mut vectors)
                    .for_each(|(fd, vector)| self.set_trigger(vector, Some(fd)));
                Ok(())
            }
            _ => Err(bad_input()),
        }
    }
}

impl Function {
    fn is_window(&self, bar: u32) -> bool {
        let mut bars = self.device.bars().into_iter();
        bars.any(|spec| spec.kind == BarKind::SharedMemory && u32::from(spec.index) == bar)
    }

    /// How many pieces of memory the client has shared.
    #[cfg(test)]
    pub(super) fn memory_regions(&self) -> usize {
        self.memory.memory().num_regions()
    }

    /// Signals that a thread had to carry to the client.
    pub fn forwarded(&self) -> u64 {
        self.forwarder.forwarded()
    }
}
