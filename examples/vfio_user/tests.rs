// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The server, against the client of the `vfio_user` crate.

mod guest;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::SealFlags;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, ServerBackend};
use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vhost_guest_vmm_traits::{Arming, InterruptManager, SharedMemoryMapper};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::tempdir::TempDir;

use super::adapter::{Triggers, Window};
use super::function::Function;
use guest::{memory_file, Guest, Program, Vmm, KICK_VECTOR, MIB, QUEUES, VECTORS, WINDOW_SIZE};

const CONFIG: u32 = VFIO_PCI_CONFIG_REGION_INDEX;
const VERSION_1: u64 = 1 << 32;
/// Where the frontend's guest has its memory, and a mark in it.
const MEMORY_SIZE: u64 = 2 * MIB;
const MARK: (u64, [u8; 8]) = (MIB, *b"a marker");

/// A frontend that has shared memory and started its first vring.
struct StartedFrontend {
    connection: Frontend,
    memory: GuestMemoryMmap,
    kick: EventFd,
    call: EventFd,
}

/// Connects and negotiates, up to the memory.
fn connect(socket: &Path) -> Frontend {
    let mut frontend = Frontend::connect(socket, QUEUES.into()).unwrap();
    frontend.set_owner().unwrap();
    let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let offered = frontend.get_features().unwrap();
    assert_eq!(offered & (protocol | VERSION_1), protocol | VERSION_1);
    let acknowledged = VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ;
    assert!(frontend
        .get_protocol_features()
        .unwrap()
        .contains(acknowledged));
    frontend.set_protocol_features(acknowledged).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    assert_eq!(frontend.get_queue_num().unwrap(), u64::from(QUEUES));
    frontend.set_features(protocol | VERSION_1).unwrap();
    frontend
}

fn share(frontend: &Frontend, file: File) -> vhost::Result<GuestMemoryMmap> {
    use vm_memory::Bytes;

    let file = Some(FileOffset::new(file, 0));
    let ranges = [(GuestAddress(0), MEMORY_SIZE as usize, file)];
    let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
    let (offset, mark) = MARK;
    memory.write_slice(&mark, GuestAddress(offset)).unwrap();
    let regions: Result<Vec<_>, _> = memory
        .iter()
        .map(VhostUserMemoryRegionInfo::from_guest_region)
        .collect();
    frontend.set_mem_table(&regions?)?;
    Ok(memory)
}

fn start_frontend(socket: &Path) -> StartedFrontend {
    let mut frontend = connect(socket);
    let memory = share(&frontend, memory_file(MEMORY_SIZE, SealFlags::SHRINK)).unwrap();
    let ring = memory.get_host_address(GuestAddress(0)).unwrap() as u64;
    let [kick, call] = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
    let addresses = VringConfigData {
        queue_max_size: 16,
        queue_size: 16,
        flags: 0,
        desc_table_addr: ring,
        avail_ring_addr: ring + 0x1000,
        used_ring_addr: ring + 0x2000,
        log_addr: None,
    };
    frontend.set_vring_num(0, 16).unwrap();
    frontend.set_vring_addr(0, &addresses).unwrap();
    frontend.set_vring_base(0, 0).unwrap();
    frontend.set_vring_call(0, &call).unwrap();
    frontend.set_vring_kick(0, &kick).unwrap();
    frontend.set_vring_enable(0, true).unwrap();
    StartedFrontend {
        connection: frontend,
        memory,
        kick,
        call,
    }
}

/// Where the frontend's memory appears in the window.
fn find_memory(vmm: &Vmm) -> Option<u64> {
    let (offset, mark) = MARK;
    let mut places = (0..WINDOW_SIZE).step_by(MEMORY_SIZE as usize);
    places.find(|place| vmm.read(4, place + offset) == mark)
}

#[test]
fn shows_the_whole_function_to_a_client() {
    let program = Program::start();
    let mut client = program.client();
    let size = |region| client.region(region).unwrap().size;
    let sizes = [0, 1, 2, 3, 4, 5, 6, CONFIG].map(size);
    assert_eq!(sizes, [0x10000, 0, 0x10000, 0, WINDOW_SIZE, 0, 0, 256]);
    let msix = client.get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX).unwrap();
    assert_eq!(msix.count, u32::from(VECTORS));
    assert_eq!(
        client.get_irq_info(VFIO_PCI_INTX_IRQ_INDEX).unwrap().count,
        0
    );

    let mut space = [0; 256];
    client.region_read(CONFIG, 0, &mut space).unwrap();
    assert_eq!(space[..4], [0xF4, 0x1A, 0x75, 0x10]);
    let mut found = Vec::new();
    let mut at = usize::from(space[0x34]);
    while at != 0 {
        found.push(space[at]);
        at = usize::from(space[at + 1]);
    }
    // Virtio structures, MSI-X, advanced features.
    assert!(
        found.contains(&0x09) && found.ends_with(&[0x11, 0x13]),
        "{found:x?}"
    );

    for (bar, flags, size) in [(0, 4, 0x10000), (2, 4, 0x10000), (4, 12, WINDOW_SIZE)] {
        let register = 0x10 + 4 * bar;
        let mut value = 0;
        for half in [0, 4] {
            let mut bits = [0; 4];
            client
                .region_write(CONFIG, register + half, &[0xFF; 4])
                .unwrap();
            client
                .region_read(CONFIG, register + half, &mut bits)
                .unwrap();
            value |= u64::from(u32::from_le_bytes(bits)) << (8 * half);
        }
        assert_eq!(value, size.wrapping_neg() | flags, "BAR {bar}");
    }
    drop(client);
    program.join();
}

#[test]
fn carries_a_frontend_into_the_guest_of_a_client() {
    let program = Program::start();
    let vmm = Vmm::new(program.client());
    let guest = Guest::boot(&vmm);
    let frontend = start_frontend(&program.frontend_socket());

    // Memory: both see what the other writes; holes are all ones.
    let place = find_memory(&vmm).expect("the memory is not in the window");
    vmm.write(4, place + 0x1800, &[1, 2, 3, 4]);
    let mut seen = [0; 4];
    let seen = {
        use vm_memory::Bytes;
        frontend
            .memory
            .read_slice(&mut seen, GuestAddress(0x1800))
            .unwrap();
        seen
    };
    assert_eq!(seen, [1, 2, 3, 4]);
    assert_eq!(vmm.read(4, 0), [0xFF; 8]);
    vmm.write(4, 0, &[0; 8]);

    // A kick arrives at the client's eventfd of the vector that it is on.
    let before = vmm.raised(KICK_VECTOR);
    frontend.kick.write(1).unwrap();
    vmm.expect_raised(KICK_VECTOR, before + 1);

    // A doorbell store arrives at the frontend's eventfd.
    while frontend.call.read().is_err() {
        vmm.write(2, 0, &[0, 0]);
    }

    drop(frontend);
    guest.shut_down();
    drop(vmm);
    assert!(program.join().forwarded() > 0);
}

#[test]
fn keeps_a_kick_while_its_vector_has_no_eventfd() {
    let program = Program::start();
    let vmm = Vmm::new(program.client());
    let guest = Guest::boot(&vmm);
    let frontend = start_frontend(&program.frontend_socket());
    frontend.kick.write(1).unwrap();
    vmm.expect_raised(KICK_VECTOR, 1);

    // What the vector raised before it is taken back has arrived.
    vmm.connect(KICK_VECTOR, false);
    let before = vmm.raised(KICK_VECTOR);
    frontend.kick.write(1).unwrap();
    // A guest that looks at its own table, which is the client's, or writes
    // to it, changes nothing.
    vmm.write(0, 0x8000 + 16 * u64::from(KICK_VECTOR), &[0; 16]);
    assert_eq!(vmm.raised(KICK_VECTOR), before);
    assert_eq!(frontend.kick.read().unwrap(), 1);
    frontend.kick.write(1).unwrap();
    vmm.connect(KICK_VECTOR, true);
    vmm.expect_raised(KICK_VECTOR, before + 1);

    drop(frontend);
    guest.shut_down();
    drop(vmm);
    program.join();
}

#[test]
fn takes_everything_from_the_guest_at_a_reset() {
    let program = Program::start();
    let vmm = Vmm::new(program.client());
    let guest = Guest::boot(&vmm);
    let frontend = start_frontend(&program.frontend_socket());
    assert!(find_memory(&vmm).is_some());

    vmm.client().reset().unwrap();
    assert_eq!(find_memory(&vmm), None);
    // Nothing is decoded, and no driver is there any more.
    assert_eq!(vmm.read(CONFIG, 4), [0; 2]);
    assert_eq!(vmm.read(0, 0x14), [0xFF]);
    vmm.write(CONFIG, 4, &[2, 0]);
    assert_eq!(vmm.read(0, 0x14), [0]);
    assert!(frontend.connection.get_features().is_err());
    // The client still has its eventfds, and gets interrupts again when the
    // guest has set up the device once more.
    guest.shut_down();
    drop(frontend);
    let guest = Guest::boot_again(&vmm);
    let frontend = start_frontend(&program.frontend_socket());
    let before = vmm.raised(KICK_VECTOR);
    frontend.kick.write(1).unwrap();
    vmm.expect_raised(KICK_VECTOR, before + 1);

    drop(frontend);
    guest.shut_down();
    drop(vmm);
    program.join();
}

#[test]
fn takes_everything_back_when_the_client_leaves() {
    let program = Program::start();
    let vmm = Vmm::new(program.client());
    let guest = Guest::boot(&vmm);
    let frontend = start_frontend(&program.frontend_socket());
    let place = find_memory(&vmm).unwrap();
    // Without a word, as when it crashes: nobody resets the device.
    vmm.client().shutdown().unwrap();
    let mut function = program.join();
    assert!(frontend.connection.get_features().is_err());
    assert_eq!(function.memory_regions(), 0);
    function.region_write(CONFIG, 4, &[2, 0]).unwrap();
    let mut seen = [0; 8];
    function.region_read(4, place + MARK.0, &mut seen).unwrap();
    assert_eq!(seen, [0xFF; 8]);
    drop(guest);
}

#[test]
fn refuses_frontend_memory_that_could_be_truncated() {
    let program = Program::start();
    let vmm = Vmm::new(program.client());
    let guest = Guest::boot(&vmm);
    let frontend = connect(&program.frontend_socket());
    let error = share(&frontend, memory_file(MEMORY_SIZE, SealFlags::empty()));
    assert!(error.is_err());
    assert_eq!(find_memory(&vmm), None);
    drop(frontend);
    guest.shut_down();
    drop(vmm);
    program.join();
}

fn function() -> Function {
    let directory = TempDir::new().unwrap();
    let listener = UnixListener::bind(directory.as_path().join("s")).unwrap();
    Function::new(listener, QUEUES, WINDOW_SIZE).unwrap()
}

/// Whoever drives the device from behind an IOMMU insists on it.
#[test]
fn offers_addresses_that_an_iommu_translates() {
    let mut function = function();
    function.region_write(CONFIG, 4, &[6, 0]).unwrap();
    // device_feature_select, and the upper half of device_feature.
    function.region_write(0, 0, &1u32.to_le_bytes()).unwrap();
    let mut features = [0; 4];
    function.region_read(0, 4, &mut features).unwrap();
    assert_eq!(u32::from_le_bytes(features) & 3, 3);
}

#[test]
fn follows_the_memory_of_the_guest() {
    let mut function = function();
    let file = || Some(memory_file(MIB, SealFlags::empty()));
    let both = DmaMapFlags::READ_WRITE;
    function.dma_map(both, 0, 0, MIB, file()).unwrap();
    function
        .dma_map(DmaMapFlags::READ, 0, MIB, MIB, file())
        .unwrap();
    assert_eq!(function.memory_regions(), 2);
    // What is no file, or no memory, has no queue in it.
    function.dma_map(both, 0, 8 * MIB, MIB, None).unwrap();
    let device = File::open("/dev/null").unwrap();
    function
        .dma_map(both, 0, 8 * MIB, MIB, Some(device))
        .unwrap();
    assert_eq!(function.memory_regions(), 2);

    // Overlapping, longer than the file, beyond all addresses.
    assert!(function.dma_map(both, 0, 4096, MIB, file()).is_err());
    assert!(function.dma_map(both, 4096, 4 * MIB, MIB, file()).is_err());
    assert!(function
        .dma_map(both, u64::MAX, 4 * MIB, MIB, file())
        .is_err());
    assert!(function
        .dma_map(both, 0, u64::MAX - 4095, MIB, file())
        .is_err());
    assert!(function.dma_map(both, 0, 4 * MIB, 0, file()).is_err());
    assert_eq!(function.memory_regions(), 2);

    let one = DmaUnmapFlags::empty();
    function.dma_unmap(one, MIB, MIB).unwrap();
    assert_eq!(function.memory_regions(), 1);
    function.dma_unmap(one, 4096, MIB).unwrap();
    assert_eq!(function.memory_regions(), 1);
    function.dma_map(both, 0, 2 * MIB, MIB, file()).unwrap();
    function.dma_unmap(one, 2 * MIB, 0).unwrap();
    assert_eq!(function.memory_regions(), 2);
    // Up to the end of all addresses, as a client with an IOMMU does; but not
    // beyond.
    assert!(function.dma_unmap(one, MIB, u64::MAX).is_err());
    function.dma_unmap(one, MIB, u64::MAX - MIB + 1).unwrap();
    assert_eq!(function.memory_regions(), 1);
    function.dma_unmap(DmaUnmapFlags::UNMAP_ALL, 0, 0).unwrap();
    assert_eq!(function.memory_regions(), 0);
}

#[test]
fn refuses_interrupts_that_there_are_not() {
    let mut function = function();
    let eventfds = |count: usize| {
        let fd = || eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        (0..count).map(|_| File::from(fd())).collect::<Vec<_>>()
    };
    let msix = VFIO_PCI_MSIX_IRQ_INDEX;
    let fds = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    let none = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
    let last = u32::from(VECTORS) - 1;
    function.set_irqs(msix, fds, last, 1, eventfds(1)).unwrap();
    function.set_irqs(msix, none, 0, 0, Vec::new()).unwrap();
    function
        .set_irqs(VFIO_PCI_INTX_IRQ_INDEX, none, 0, 0, Vec::new())
        .unwrap();
    for (index, flags, start, count, given) in [
        (VFIO_PCI_INTX_IRQ_INDEX, fds, 0, 1, 1),
        (msix, fds, last, 2, 2),
        (msix, fds, u32::MAX, 1, 1),
        (msix, fds, 0, u32::MAX, 0),
        (msix, fds, 0, 2, 1),
        (msix, none, 0, 1, 0),
        (
            msix,
            VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK,
            0,
            1,
            0,
        ),
        (msix, 0, 0, 0, 0),
    ] {
        let outcome = function.set_irqs(index, flags, start, count, eventfds(given));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn survives_accesses_of_any_place_and_width() {
    let mut function = function();
    function.region_write(CONFIG, 4, &[6, 0]).unwrap();
    for region in 0..12 {
        for offset in [
            0,
            1,
            0xFF,
            0x8000,
            0xFFFF,
            WINDOW_SIZE - 1,
            u64::MAX - 2,
            u64::MAX,
        ] {
            for width in [0, 1, 2, 3, 8, 4096] {
                let mut data = vec![0; width];
                // Errors are fine, too.
                let _ = function.region_read(region, offset, &mut data);
                let _ = function.region_write(region, offset, &data);
            }
        }
    }
    function.reset().unwrap();
}

#[test]
fn carries_signals_to_the_eventfd_of_the_vector() {
    let triggers = Triggers::default();
    let interrupts = triggers.forwarder().unwrap();
    let source = interrupts.create_source().unwrap();
    let own = eventfd(0, EventfdFlags::empty()).unwrap();
    let client = EventFd::new(0).unwrap();
    triggers.set(3, Some(File::from(eventfd_of(&client))));
    let arming = Arming {
        source,
        eventfd: own.as_fd(),
        message: Triggers::message(3),
    };
    interrupts.arm(&[arming]).unwrap();
    rustix::io::write(&own, &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(client.read().unwrap(), 1);
    // What was signalled before it is disarmed arrives, by whoever sees it.
    rustix::io::write(&own, &1_u64.to_ne_bytes()).unwrap();
    interrupts.disarm(&[arming]).unwrap();
    assert_eq!(client.read().unwrap(), 1);
    interrupts.destroy_source(source);
}

fn eventfd_of(fd: &EventFd) -> std::os::fd::OwnedFd {
    use std::os::fd::{FromRawFd, IntoRawFd};

    // SAFETY: the duplicate is nobody else's.
    unsafe { FromRawFd::from_raw_fd(fd.try_clone().unwrap().into_raw_fd()) }
}

#[test]
fn shows_files_in_the_window_and_holes_elsewhere() {
    let window = Window::default();
    let file = memory_file(MIB, SealFlags::empty());
    let range = window.open(file.as_fd(), 4096, 8192).unwrap();
    let other = window.open(file.as_fd(), 0, 4096).unwrap();
    assert!(!window.read(2 * MIB, &mut [0; 4]));
    window.attach(range, 2 * MIB).unwrap();
    assert!(window.attach(range, 0).is_err());
    assert!(window.attach(other, 2 * MIB + 4096).is_err());
    assert!(window.write(2 * MIB + 4096, b"here"));
    let mut seen = [0; 4];
    rustix::io::pread(&file, &mut seen, 8192).unwrap();
    assert_eq!(seen, *b"here");
    assert!(window.read(2 * MIB + 4096, &mut seen));
    for outside in [0, 2 * MIB - 2, 2 * MIB + 8190, u64::MAX] {
        assert!(!window.read(outside, &mut seen));
    }
    assert!(window.detach(other).is_err());
    window.detach(range).unwrap();
    assert!(window.detach(range).is_err());
    window.close(range);
    assert!(window.attach(range, 0).is_err());
    assert!(!window.read(2 * MIB + 4096, &mut seen));

    let sealed = memory_file(MIB, SealFlags::FUTURE_WRITE);
    let error = window.open(sealed.as_fd(), 0, 4096).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}
