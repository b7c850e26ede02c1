// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The function, as a vfio-user client sees it.
//!
//! A client keeps MSI-X to itself, as it does with a physical function: the
//! guest's table and pending bits are the client's, and the function learns
//! which vectors have an eventfd now. Its own table is written here, to match.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::Range;
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
use vhost_guest_device::{BarKind, Builder, MemoryPolicy, Services, VhostGuest};
use vm_memory::{
    FileOffset, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap,
    GuestMemoryRegion,
};

use super::adapter::{map, Access, Interrupts, Window};

/// The guest's memory, as far as the client has shared it. It comes and goes.
type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Bytes of configuration space of a conventional PCI function.
const CONFIG_SIZE: u64 = 256;
const COMMAND: u16 = 0x04;
const MEMORY_SPACE: u8 = 1 << 1;
const CAPABILITIES: u16 = 0x34;
const MSIX: u8 = 0x11;
const ADVANCED_FEATURES: u8 = 0x13;
/// Bytes of an entry of an MSI-X table.
const ENTRY: u64 = 16;
/// Offset of the control register in the advanced features capability.
const ADVANCED_CONTROL: u16 = 4;
const INITIATE_RESET: u8 = 1;

/// A vhost-guest device behind a vfio-user socket.
pub struct Function {
    device: VhostGuest<Memory>,
    memory: Memory,
    interrupts: Arc<Interrupts>,
    window: Arc<Window>,
    vectors: u16,
    table_bar: u8,
    table: Range<u64>,
    reset_register: u16,
}

impl Function {
    /// A device whose frontends connect to `listener`.
    pub fn new(listener: UnixListener, queues: u16, window_size: u64) -> io::Result<Self> {
        let interrupts = Arc::new(Interrupts::new()?);
        let window = Arc::new(Window::default());
        let memory = Memory::new(GuestMemoryMmap::new());
        let services = Services {
            interrupts: interrupts.clone(),
            doorbells: None,
            window: window.clone(),
            memory: memory.clone(),
            translator: None,
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
        let missing = || io::Error::other("the function lacks a capability");
        let msix = capability(&device, MSIX).ok_or_else(missing)?;
        let advanced = capability(&device, ADVANCED_FEATURES).ok_or_else(missing)?;
        let mut register = [0; 4];
        device.config_read(msix, &mut register);
        let vectors = (u16::from_le_bytes([register[2], register[3]]) & 0x7FF) + 1;
        device.config_read(msix + 4, &mut register);
        let table = u32::from_le_bytes(register);
        let start = u64::from(table & !7);
        Ok(Self {
            device,
            memory,
            interrupts,
            window,
            vectors,
            table_bar: (table & 7) as u8,
            table: start..start + u64::from(vectors) * ENTRY,
            reset_register: advanced + ADVANCED_CONTROL,
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
                VFIO_PCI_MSIX_IRQ_INDEX => self.vectors.into(),
                _ => 0,
            },
        };
        (0..VFIO_PCI_NUM_IRQS).map(irq).collect()
    }

    /// The client is gone, and with it the guest.
    pub fn unplugged(&mut self) {
        self.device.revoke();
        for vector in 0..self.vectors {
            self.set_trigger(vector, None);
        }
        self.reset_function();
        self.replace_memory(GuestMemoryMmap::new());
    }

    /// A function level reset, by the register that a guest would use.
    fn reset_function(&self) {
        self.config_write(self.reset_register, &[INITIATE_RESET]);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        for moved in self.device.config_write(offset, data) {
            // Nothing of ours depends on where a BAR is, so nothing can fail.
            let _ = self.device.bar_moved(moved.bar, moved.address);
        }
        let end = usize::from(offset) + data.len();
        if offset <= self.reset_register && usize::from(self.reset_register) < end {
            // A reset masks all vectors, of which the client knows nothing.
            self.write_table(0..self.vectors, |vector| {
                !self.interrupts.has_trigger(vector)
            });
        }
    }

    /// The client gives an eventfd for a vector, or takes it back. A vector
    /// without one is masked, so that its events wait.
    fn set_trigger(&self, vector: u16, trigger: Option<File>) {
        let masked = trigger.is_none();
        if masked {
            self.write_table(vector..vector + 1, |_| masked);
        }
        self.interrupts.set_trigger(vector, trigger);
        self.write_table(vector..vector + 1, |_| masked);
    }

    /// Writes entries of the device's MSI-X table, as the kernel does for a
    /// physical function: with memory space on, if only for the moment.
    fn write_table(&self, vectors: Range<u16>, masked: impl Fn(u16) -> bool) {
        let mut command = [0];
        self.device.config_read(COMMAND, &mut command);
        let decoding = [command[0] | MEMORY_SPACE];
        if decoding != command {
            self.config_write(COMMAND, &decoding);
        }
        for vector in vectors {
            let message = Interrupts::message(vector);
            let at = self.table.start + u64::from(vector) * ENTRY;
            let rest = u64::from(message.data) | u64::from(masked(vector)) << 32;
            for (offset, value) in [(at, message.address), (at + 8, rest)] {
                let value = value.to_le_bytes();
                self.device.bar_write(self.table_bar, offset, &value);
            }
        }
        if decoding != command {
            self.config_write(COMMAND, &command);
        }
    }

    /// Lets the device see other memory than before. When this returns, it
    /// does not touch the memory before any more.
    fn replace_memory(&self, memory: GuestMemoryMmap) {
        let guard = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        guard.replace(memory);
        // What the device is doing ends before it answers anything, and what
        // it does next begins with a look at the map.
        let _ = self.device.statistics();
    }
}

/// Finds a capability in configuration space.
fn capability(device: &VhostGuest<Memory>, id: u8) -> Option<u16> {
    let mut pointer = [0];
    device.config_read(CAPABILITIES, &mut pointer);
    // No more than fit, should they go round in circles.
    for _ in 0..CONFIG_SIZE / 4 {
        let at = u16::from(pointer[0] & !3);
        let mut header = [0; 2];
        device.config_read(at, &mut header);
        match header {
            _ if at == 0 => return None,
            [found, _] if found == id => return Some(at),
            [_, next] => pointer = [next],
        }
    }
    None
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
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or_else(bad_input)?;
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => {
                let offset = u16::try_from(offset).map_err(|_| bad_input())?;
                self.config_write(offset, data);
            }
            bar @ ..=VFIO_PCI_BAR5_REGION_INDEX => {
                let in_table = offset < self.table.end && end > self.table.start;
                let ours = in_table && bar == u32::from(self.table_bar);
                let done = ours || self.is_window(bar) && self.window.write(offset, data);
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
        let region = map(FileOffset::new(file, offset), size, address, access)?;
        let memory = self.memory.memory().insert_region(region);
        self.replace_memory(memory.map_err(io::Error::other)?);
        Ok(())
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        let all = flags.contains(DmaUnmapFlags::UNMAP_ALL);
        let end = address.checked_add(size).ok_or_else(bad_input)?;
        let mut memory = GuestMemoryMmap::clone(&self.memory.memory());
        for region in self.memory.memory().iter() {
            let (start, length) = (region.start_addr(), region.len());
            if all || start.0 >= address && start.0 + length <= end {
                let removed = memory.remove_region(start, length);
                (memory, _) = removed.map_err(io::Error::other)?;
            }
        }
        self.replace_memory(memory);
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.reset_function();
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
        let known = index == VFIO_PCI_MSIX_IRQ_INDEX && end <= self.vectors.into();
        let trigger = flags & VFIO_IRQ_SET_ACTION_TYPE_MASK == VFIO_IRQ_SET_ACTION_TRIGGER;
        let (mut vectors, all) = (start as u16..end as u16, 0..self.vectors);
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
    pub fn pumped(&self) -> u64 {
        self.interrupts.pumped()
    }
}
