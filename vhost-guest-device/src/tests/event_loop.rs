// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device in an event loop of the VMM's.

use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::rig::NEEDS_RESET;
use crate::error::BuildError;
use crate::function::Builder;
use crate::function::VhostGuest;
use crate::guest::pci::bars::{COMMON, DEVICE, NOTIFY};
use crate::vmm::services::Services;

pub(super) type Function = VhostGuest<Arc<GuestMemoryMmap>>;

const STATUS: u64 = COMMON + 0x14;

pub(super) struct Vmm {
    pub(super) function: Function,
    pub(super) vmm: Arc<TestVmm>,
    pub(super) address: SocketAddr,
}

/// One whose event loop has the device's work to do.
fn vmm(name: &str) -> Vmm {
    plug(name, Builder::build_without_thread)
}

/// One that leaves it to the device's thread.
fn threaded(name: &str) -> Vmm {
    plug(name, Builder::build)
}

type Lent = Services<Arc<GuestMemoryMmap>>;

pub(super) fn plug(
    name: &str,
    make: impl FnOnce(Builder, Lent) -> Result<Function, BuildError>,
) -> Vmm {
    let name = format!("vhost-guest-{}-{name}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let vmm = Arc::new(TestVmm::new());
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let services = Services {
        interrupts: vmm.clone(),
        doorbells: Some(vmm.clone()),
        window: vmm.clone(),
        memory: Arc::new(memory),
        translator: None,
        notifier: None,
        thread_hook: Some(vmm.clone()),
    };
    let builder = Builder::new(listener).queues(1).device_type(2);
    let function = make(builder, services).unwrap();
    Vmm {
        function,
        vmm,
        address,
    }
}

pub(super) fn is_ready(function: &Function) -> bool {
    let event_fd = function.event_fd();
    let mut fds = [PollFd::new(&event_fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

/// What a VMM's event loop does.
pub(super) fn run(function: &Function) {
    while is_ready(function) {
        function.process_events();
    }
}

pub(super) fn read(function: &Function, offset: u64) -> u8 {
    let mut data = [0];
    function.bar_read(0, offset, &mut data);
    data[0]
}

/// A driver without queues, which is enough to be connected.
pub(super) fn start(function: &Function) {
    let _ = function.config_write(0x04, &6u16.to_le_bytes());
    function.bar_write(0, STATUS, &[0]);
    run(function);
    for status in [1, 3] {
        function.bar_write(0, STATUS, &[status]);
    }
    function.bar_write(0, COMMON + 8, &1u32.to_le_bytes());
    function.bar_write(0, COMMON + 12, &1u32.to_le_bytes());
    function.bar_write(0, STATUS, &[11]);
    function.bar_write(0, STATUS, &[15]);
    function.bar_write(0, DEVICE + 34, &[1]);
}

#[test]
fn works_when_it_is_told_to_and_not_before() {
    let Vmm {
        function, address, ..
    } = vmm("loop");
    assert!(!is_ready(&function));
    function.process_events();
    for _ in 0..2 {
        start(&function);
        run(&function);
        let frontend = UnixStream::connect_addr(&address).unwrap();
        assert!(is_ready(&function));
        assert_eq!(read(&function, DEVICE + 34), 1, "a thread was there");
        run(&function);
        assert_eq!(read(&function, DEVICE + 34), 3);
        drop(frontend);
        assert!(is_ready(&function));
        run(&function);
        assert_ne!(read(&function, STATUS) & NEEDS_RESET, 0);
    }
}

#[test]
fn is_not_ready_in_a_pause() {
    let Vmm {
        function, address, ..
    } = vmm("pause");
    start(&function);
    run(&function);
    function.pause();
    let _frontend = UnixStream::connect_addr(&address).unwrap();
    assert!(!is_ready(&function));
    function.process_events();
    assert_eq!(read(&function, DEVICE + 34), 1);
    function.resume();
    assert!(is_ready(&function));
    run(&function);
    assert_eq!(read(&function, DEVICE + 34), 3);
}

#[test]
fn a_reset_is_the_loops_work_or_the_threads() {
    let Vmm { function, .. } = vmm("reset-loop");
    start(&function);
    function.bar_write(0, STATUS, &[0]);
    assert_ne!(read(&function, STATUS), 0, "who has closed the queues?");
    run(&function);
    assert_eq!(read(&function, STATUS), 0);
    let Vmm { function, .. } = threaded("reset-thread");
    start(&function);
    function.bar_write(0, STATUS, &[0]);
    // What every driver does.
    while read(&function, STATUS) != 0 {
        std::thread::yield_now();
    }
    drop(function);
}

#[test]
fn a_thread_that_never_rests_is_paused_and_stopped() {
    let Vmm { function, vmm, .. } = threaded("busy");
    start(&function);
    function.bar_moved(0, Some(0xE010_0000)).unwrap();
    let notify = vmm.doorbell(0xE010_0000 + NOTIFY).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                rustix::io::write(&notify, &1u64.to_ne_bytes()).unwrap();
            }
        });
        for _ in 0..100 {
            function.pause();
            let turns = function.statistics().turns;
            std::thread::yield_now();
            assert_eq!(function.statistics().turns, turns);
            function.resume();
        }
        function.pause();
        drop(function);
        stop.store(true, Ordering::Relaxed);
        guest.join().unwrap();
    });
}

#[test]
fn has_threads_only_for_what_can_block() {
    let Vmm { vmm, .. } = vmm("threads");
    let worker = Call::ThreadStarted {
        name: crate::vmm::threads::WORKER.name.to_owned(),
    };
    let calls = vmm.calls();
    assert!(!calls.contains(&worker), "{calls:?}");
    assert!(!calls.is_empty());
}

#[test]
fn a_jail_keeps_the_event_descriptor_and_all_eventfds() {
    let Vmm { function, .. } = vmm("jail");
    let event_fd = function.event_fd().as_raw_fd();
    let kept = function.fds_to_keep();
    assert!(kept.contains(&event_fd));
    let is_eventfd = |fd: &RawFd| {
        let file = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        file.as_os_str() == "anon_inode:[eventfd]"
    };
    // The device's own, one for each queue's doorbell, and those of the
    // interrupts: of the queues and of the configuration.
    let eventfds = kept.iter().filter(|fd| is_eventfd(fd)).count();
    assert_eq!(eventfds, 1 + 4 + (4 + 1));
}
