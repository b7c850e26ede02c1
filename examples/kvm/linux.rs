// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Loads a Linux kernel and its initramfs, by the 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst).
//!
//! | guest physical address | what |
//! |---|---|
//! | 0x1_0000 | boot parameters ("zero page") |
//! | 0x2_0000 | command line |
//! | 0xE_0000 | ACPI tables |
//! | 0x10_0000 | kernel |
//! | as high as it may be | initramfs |

use std::fs::File;
use std::path::Path;

use linux_loader::cmdline::Cmdline;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{load_cmdline, BzImage, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, ReadVolatile};

use super::long_mode::FIRST_FREE;
use super::machine::LOW_RAM_END;
use super::vcpu::Vcpu;
use super::{acpi, Error, Machine, Memory};

const BOOT_PARAMS: u64 = FIRST_FREE;
const CMDLINE: u64 = 0x2_0000;
const CMDLINE_MAX: usize = 2048;
const KERNEL: u64 = 0x10_0000;
/// Where 64-bit code starts, from the start of the kernel.
const ENTRY: u64 = 0x200;
/// The kernel has a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;
/// "Some other boot loader".
const LOADER: u8 = 0xFF;
const E820_RAM: u32 = 1;
const PAGE: u64 = 4096;
/// Where memory below 640 KiB ends: the BIOS has its data behind it.
const LOW_MEMORY_END: u64 = 0x9_FC00;

/// Always there: the console, and the end of a kernel that panics.
const OWN_CMDLINE: &str = "console=ttyS0 panic=-1";

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| Error::File {
        path: path.to_owned(),
        error,
    })
}

/// Loads a kernel, with `cmdline` behind what this VMM needs on it, and starts
/// the vCPU.
pub fn boot(
    machine: &Machine,
    kernel: &Path,
    initramfs: Option<&Path>,
    cmdline: &str,
) -> Result<Vcpu, Error> {
    let memory = machine.memory();
    let unusable = |reason: String| Error::Kernel {
        path: kernel.to_owned(),
        reason,
    };
    let at = Some(GuestAddress(KERNEL));
    let loaded = BzImage::load(&**memory, at, &mut open(kernel)?, None);
    let loaded = loaded.map_err(|error| unusable(error.to_string()))?;
    let mut header = loaded.setup_header.unwrap_or_default();
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(unusable("it has no 64-bit entry".to_owned()));
    }
    let cmdline = Cmdline::try_from(&format!("{OWN_CMDLINE} {cmdline}"), CMDLINE_MAX);
    let cmdline = cmdline.map_err(Error::memory("command line"))?;
    let outcome = load_cmdline(&**memory, GuestAddress(CMDLINE), &cmdline);
    outcome.map_err(Error::memory("command line"))?;
    header.type_of_loader = LOADER;
    header.cmd_line_ptr = CMDLINE as u32;
    if let Some(path) = initramfs {
        // The kernel unpacks itself into the memory behind it.
        let first = KERNEL + u64::from(header.init_size).max(loaded.kernel_end - KERNEL);
        load_initramfs(memory, path, first, &mut header)?;
    }
    let tables = acpi::write(memory, machine.windows())?;
    write_parameters(memory, header, tables)?;
    machine.start(loaded.kernel_load.0 + ENTRY, [BOOT_PARAMS, 0])
}

/// Puts the initramfs at the end of the memory that the kernel can reach.
fn load_initramfs(
    memory: &Memory,
    path: &Path,
    first: u64,
    header: &mut setup_header,
) -> Result<(), Error> {
    let mut file = open(path)?;
    let size = file.metadata()?.len();
    let end = low_ram_end(memory).min(u64::from(header.initrd_addr_max) + 1);
    let start = end.checked_sub(size).map(|start| start & !(PAGE - 1));
    let start = start
        .filter(|start| *start >= first)
        .ok_or_else(|| Error::Memory(format!("no room for {} of {size} bytes", path.display())))?;
    let mut slice = memory
        .get_slice(GuestAddress(start), size as usize)
        .map_err(Error::memory("initramfs"))?;
    let outcome = file.read_exact_volatile(&mut slice);
    outcome.map_err(Error::memory("initramfs"))?;
    header.ramdisk_image = start as u32;
    header.ramdisk_size = size as u32;
    Ok(())
}

fn low_ram_end(memory: &Memory) -> u64 {
    LOW_RAM_END.min(memory.last_addr().0 + 1)
}

fn write_parameters(memory: &Memory, header: setup_header, tables: u64) -> Result<(), Error> {
    let ram = |addr: u64, end: u64| boot_e820_entry {
        addr,
        size: end - addr,
        r#type: E820_RAM,
    };
    let mut map = vec![ram(0, LOW_MEMORY_END), ram(KERNEL, low_ram_end(memory))];
    for region in memory.iter().skip(1) {
        let start = region.start_addr().0;
        map.push(ram(start, start + region.len()));
    }
    let mut parameters = boot_params {
        hdr: header,
        acpi_rsdp_addr: tables,
        e820_entries: map.len() as u8,
        ..Default::default()
    };
    for (to, from) in parameters.e820_table.iter_mut().zip(map) {
        *to = from;
    }
    let parameters = BootParams::new(&parameters, GuestAddress(BOOT_PARAMS));
    let outcome = LinuxBootConfigurator::write_bootparams(&parameters, &**memory);
    outcome.map_err(Error::memory("boot parameters"))
}
