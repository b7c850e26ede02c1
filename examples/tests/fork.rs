// Copyright 2026 The vhost-guest Authors. All rights reserved.
//
// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VMM that makes a device in one process and runs it in another, as those
//! do whose devices are jailed.
//!
//! This is a test binary of its own with only one test: threads of other tests
//! would be counted, and what they hold would be held for ever in a process
//! that is forked meanwhile.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::abort;
use std::sync::Arc;
use std::thread;

use vhost_guest_device::{Builder, Services, VhostGuest};
use vhost_guest_vmm_traits::test_utils::TestVmm;
use vm_memory::{GuestAddress, GuestMemoryMmap};

type Function = VhostGuest<Arc<GuestMemoryMmap>>;

const DEVICE_STATUS: u64 = 0x14;
const NEEDS_RESET: u8 = 0x40;
const UP: u64 = 0x2000 + 34;
/// Threads of an idle device: for messages, and for making others.
const THREADS: usize = 2;
/// After so many seconds the child is taken to hang. It takes some milliseconds.
const PATIENCE: u32 = 120;

fn prepare(address: &SocketAddr) -> Function {
    let vmm = Arc::new(TestVmm::new());
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
    let services = Services {
        interrupts: vmm.clone(),
        doorbells: Some(vmm.clone()),
        window: vmm,
        memory: Arc::new(memory),
        translator: None,
        notifier: None,
        thread_hook: None,
    };
    let listener = UnixListener::bind_addr(address).unwrap();
    let builder = Builder::new(listener).queues(1).device_type(2);
    builder.prepare(services).unwrap()
}

/// Threads of this process.
fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn read(function: &Function, offset: u64) -> u8 {
    let mut data = [0];
    function.bar_read(0, offset, &mut data);
    data[0]
}

fn wait_until(mut done: impl FnMut() -> bool) {
    while !done() {
        thread::yield_now();
    }
}

/// The other process: the device, and a guest that drives it.
fn run(function: &Function, mut report: File) {
    assert_eq!(threads(), 1);
    function.start().unwrap();
    assert_eq!(threads(), 1 + THREADS);
    report.write_all(b"s").unwrap();
    let _ = function.config_write(0x04, &[6, 0]);
    for status in [0, 1, 3] {
        function.bar_write(0, DEVICE_STATUS, &[status]);
    }
    function.bar_write(0, 0x08, &[1, 0, 0, 0]);
    function.bar_write(0, 0x0C, &[1, 0, 0, 0]);
    for status in [11, 15] {
        function.bar_write(0, DEVICE_STATUS, &[status]);
    }
    function.bar_write(0, UP, &[1]);
    wait_until(|| read(function, UP) == 3);
    report.write_all(b"u").unwrap();
    wait_until(|| read(function, DEVICE_STATUS) & NEEDS_RESET != 0);
    report.write_all(b"l").unwrap();
}

#[test]
fn runs_in_the_process_that_starts_it() {
    let name = format!("vhost-guest-fork-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let before = threads();
    let function = prepare(&address);
    assert_eq!(threads(), before, "a thread that a fork would lose");

    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // SAFETY: the other threads of this process wait in the test harness and
    // hold no lock that the child needs; it runs code of this file and of the
    // device, and ends without returning to the harness.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a number of seconds, for a process that has no handler.
        unsafe { libc::alarm(PATIENCE) };
        match catch_unwind(AssertUnwindSafe(|| run(&function, writer.into()))) {
            // SAFETY: nothing has to be cleaned up.
            Ok(()) => unsafe { libc::_exit(0) },
            Err(_) => abort(),
        }
    }
    assert!(child > 0);
    drop(writer);
    let mut reader = File::from(reader);
    let mut report = || {
        let mut byte = [0];
        reader.read_exact(&mut byte).map(|()| char::from(byte[0]))
    };
    assert_eq!(report().unwrap(), 's');
    let mut frontend = UnixStream::connect_addr(&address).unwrap();
    assert_eq!(report().unwrap(), 'u');
    // What the two have in common is the child's.
    drop(function);
    frontend.set_nonblocking(true).unwrap();
    let error = frontend.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(frontend);
    assert_eq!(report().unwrap(), 'l');
    let mut status = 0;
    // SAFETY: `status` is an integer to write to.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
}
