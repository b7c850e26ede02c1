// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device that is made first, and started later.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::thread;

use vhost_guest_vmm_traits::test_utils::{Call, TestVmm};

use super::event_loop::{is_ready, plug, read, run, start as drive, Vmm};
use crate::function::Builder;
use crate::guest::pci::bars::DEVICE;

/// The `status` of the device configuration: a backend is up, and a frontend.
const UP: u64 = DEVICE + 34;

fn prepared(name: &str) -> Vmm {
    plug(name, Builder::prepare)
}

/// Threads that have begun.
fn threads(vmm: &TestVmm) -> Vec<String> {
    let calls = vmm.calls().into_iter();
    let names = calls.filter_map(|call| match call {
        Call::ThreadStarted { name } => Some(name),
        _ => None,
    });
    names.collect()
}

/// The threads of an idle device without its worker: the one that makes threads.
const CREW: [&str; 1] = ["vhost-guest-new"];

#[test]
fn has_no_thread_and_accepts_nobody_before_the_start() {
    let Vmm {
        function,
        vmm,
        address,
    } = prepared("prepared");
    // All that a VMM asks before it knows where the device will run.
    assert_eq!(function.bars()[1].size, 1 << 16);
    assert!(!function.fds_to_keep().is_empty());
    let mut id = [0; 4];
    function.config_read(0, &mut id);
    assert_eq!(id, [0xF4, 0x1A, 0x75, 0x10]);
    assert!(function.config_write(0x20, &[0, 0, 0, 0x40]).is_empty());
    // Even a driver that is faster than the VMM, and its event loop.
    drive(&function);
    let mut frontend = UnixStream::connect_addr(&address).unwrap();
    run(&function);
    assert_eq!(read(&function, UP), 1);
    frontend.set_nonblocking(true).unwrap();
    let error = frontend.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(threads(&vmm), [""; 0]);
    // Who waited is accepted then.
    function.start_without_thread().unwrap();
    assert!(is_ready(&function));
    run(&function);
    assert_eq!(read(&function, UP), 3);
    assert_eq!(threads(&vmm), CREW);
}

#[test]
fn starts_once_and_the_thread_for_messages_when_it_is_wanted() {
    let Vmm {
        function,
        vmm,
        address,
    } = prepared("once");
    for _ in 0..2 {
        function.start_without_thread().unwrap();
        assert_eq!(threads(&vmm), CREW);
    }
    for _ in 0..2 {
        function.start().unwrap();
        assert_eq!(
            threads(&vmm)[CREW.len()..],
            [crate::vmm::threads::WORKER.name]
        );
    }
    drive(&function);
    let _frontend = UnixStream::connect_addr(&address).unwrap();
    while read(&function, UP) != 3 {
        thread::yield_now();
    }
}

#[test]
fn can_be_tried_again_when_a_thread_does_not_start() {
    for nth in 0..=CREW.len() {
        let name = format!("again-{nth}");
        let Vmm {
            function,
            vmm,
            address,
        } = prepared(&name);
        vmm.fail_nth(nth, ErrorKind::PermissionDenied);
        let error = function.start().unwrap_err();
        assert!(error.to_string().contains("permission denied"), "{error}");
        assert_eq!(threads(&vmm).len(), nth);
        function.start().unwrap();
        assert_eq!(threads(&vmm).len(), CREW.len() + 1);
        drive(&function);
        let _frontend = UnixStream::connect_addr(&address).unwrap();
        while read(&function, UP) != 3 {
            thread::yield_now();
        }
    }
}

#[test]
fn leaves_nothing_when_it_is_dropped_before_the_start() {
    let Vmm {
        function,
        vmm,
        address,
    } = prepared("dropped");
    drive(&function);
    let mut waiting = UnixStream::connect_addr(&address).unwrap();
    drop(function);
    assert_eq!(waiting.read(&mut [0]).unwrap_or(0), 0);
    assert!(UnixStream::connect_addr(&address).is_err());
    assert_eq!(vmm.source_count(), 0);
    assert!(vmm.doorbells().is_empty());
    assert_eq!(threads(&vmm), [""; 0]);
}

#[test]
fn a_device_that_is_dead_already_stays_dead() {
    let Vmm {
        function,
        vmm,
        address,
    } = prepared("dead");
    let _ = function.config_write(0x04, &[2, 0]);
    vmm.fail_nth(0, ErrorKind::Other);
    // The VMM cannot say that the window is nowhere.
    assert!(function.bar_moved(4, None).is_err());
    function.start_without_thread().unwrap();
    drive(&function);
    let _frontend = UnixStream::connect_addr(&address).unwrap();
    run(&function);
    assert_eq!(read(&function, UP), 1);
}

#[test]
fn can_be_restored_before_the_start() {
    let Vmm { function, .. } = prepared("saved");
    drive(&function);
    function.pause();
    let snapshot = function.snapshot().unwrap();
    drop(function);
    let Vmm {
        function, address, ..
    } = prepared("restored");
    function.pause();
    for moved in function.restore(&snapshot).unwrap() {
        function.bar_moved(moved.bar, moved.address).unwrap();
    }
    let frontend = UnixStream::connect_addr(&address).unwrap();
    function.resume();
    run(&function);
    assert_eq!(read(&function, UP), 1);
    function.start_without_thread().unwrap();
    run(&function);
    assert_eq!(read(&function, UP), 3);
    drop(frontend);
}
